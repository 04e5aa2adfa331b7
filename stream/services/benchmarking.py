"""`isthmus benchmark` as a whole: prepare the examples, train and evaluate every system, write rows, report and plot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from stream.errors import IsthmusError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from stream.core.ranking import Ranker
    from stream.services.dataset_cache import Prepared
    from stream.settings import Settings
    from training.evaluation.benchmark import Run, RunStore, Splits, Train
    from training.evaluation.unseen_items import Draw

_BESIDE: Final = (".runs.jsonl", ".md", ".png")


class BenchmarkOptions(NamedTuple):
    """What one call of the benchmark was asked for.

    Attributes:
        data: The folder of tables.
        out: The file for results, FILE.json; others of the same name are written beside it.
        systems: "all", or names of systems, comma-separated.
        seeds: How many times each system is trained.
        thin: Whether to measure modality ablation instead of the paper's comparison.
        unseen: How many items each draw takes out of training; 0: the paper's comparison.
    """

    data: Path
    out: Path
    systems: str
    seeds: int
    thin: bool
    unseen: int = 0

    @property
    def command(self) -> str:
        """The command line that repeats this call, without paths of this machine."""
        more = " --thin" if self.thin else f" --unseen {self.unseen}" if self.unseen else ""
        return f"isthmus benchmark --data {self.data.name} --systems {self.systems} --seeds {self.seeds}{more}"


class Report(NamedTuple):
    """What is written of a comparison.

    Attributes:
        title: The heading of the page.
        text: The page in Markdown.
        rows: The results, as JSON.
        plot: Draws the plot into a file; None where there is nothing to draw.
    """

    title: str
    text: str
    rows: bytes
    plot: Callable[[Path], None] | None


def run_benchmark(settings: Settings, options: BenchmarkOptions, say: Callable[[str], None]) -> str:
    """Trains and compares the systems, and writes the results. Returns the report with the names of the files.

    Raises:
        IsthmusError: unknown systems, an unusable place for results, or tables that are unusable or too small.
    """
    from stream.services.dataset_cache import prepare
    from training.datasets.synthetic.answer_key import read_in_mind
    from training.evaluation.benchmark import TooSmallError, split_examples

    if options.thin and options.unseen:
        raise IsthmusError("--thin and --unseen are two comparisons: choose one")
    chosen = _chosen_systems(options.systems, joint=options.thin, unseen=bool(options.unseen))
    out = _checked_place(options.out)
    prepared = prepare(settings, options.data, say)
    try:
        parts = split_examples(prepared.examples, read_in_mind(options.data))
    except TooSmallError as error:
        raise IsthmusError(f"{options.data}: {error}") from None
    compare = _compare_thinned if options.thin else _compare_unseen if options.unseen else _compare_systems
    report = compare(options._replace(out=out), chosen, prepared, parts, say)
    return _write(report, out)


def _compare_systems(
    options: BenchmarkOptions, systems: list[str], prepared: Prepared, parts: Splits, say: Callable[[str], None]
) -> Report:
    """The paper's comparison: HR@3 and MAP@3 of every system."""
    import msgspec

    from training.evaluation.benchmark import compare, result_rows
    from training.evaluation.benchmark_report import markdown, plot

    runs = compare(systems, range(options.seeds), parts, _trainer(prepared), _known_runs(options, prepared), say)
    rows = result_rows(runs, parts.types)
    title = f"{options.data.name}: MAP@3 by purchase events' type"
    return Report(
        "Benchmark",
        markdown(runs, parts.types, _facts(options, prepared)),
        msgspec.json.encode(rows),
        (lambda file: plot(rows, title, file)) if rows else None,
    )


def _compare_thinned(
    options: BenchmarkOptions, systems: list[str], prepared: Prepared, parts: Splits, say: Callable[[str], None]
) -> Report:
    """The modality ablation: each joint system, trained with less and less of one modality and evaluated on the other."""
    import msgspec

    from training.evaluation.benchmark import compare
    from training.evaluation.modality_ablation import ablation_rows, plot, points_of, report, variant_trainer, variants_of

    names = list(dict.fromkeys(variant.name for variant in variants_of(systems, parts.types)))
    if not names:
        raise IsthmusError(f"{options.data}: all events to judge on are of both modalities: --thin needs some of one alone")
    train = variant_trainer(_trainer(prepared), systems)
    runs: Sequence[Run] = compare(names, range(options.seeds), parts, train, _known_runs(options, prepared), say)
    points = points_of(runs, systems, parts.types)
    title = f"{options.data.name}: one modality thinned out, judged on the other"
    return Report(
        "Does one modality help the other?",
        report(points, runs, _facts(options, prepared)),
        msgspec.json.encode(ablation_rows(runs, systems, parts.types)),
        (lambda file: plot(points, title, file)) if points else None,
    )


def _compare_unseen(
    options: BenchmarkOptions, systems: list[str], prepared: Prepared, parts: Splits, say: Callable[[str], None]
) -> Report:
    """Items that training has not seen: each system trained without and with them, beside the likeness of texts."""
    import msgspec

    from training.evaluation import text_similarity, unseen_items
    from training.evaluation.benchmark import TooSmallError

    texts = prepared.texts()
    if texts is None or not texts.items:
        raise IsthmusError(f"{options.data}: --unseen needs transcripts, and names or texts of items (items.csv, item_texts.csv)")
    try:
        draws = [unseen_items.draw_items(parts, prepared.items, options.unseen, seed) for seed in range(options.seeds)]
    except TooSmallError as error:
        raise IsthmusError(f"{options.data}: {error}") from None
    trained = _trainer(prepared)
    width = len(next(iter(texts.items.values())))

    def train(system: str, seed: int, part: Splits) -> Ranker:
        if system == text_similarity.NAME:
            return text_similarity.TextSimilarity(tuple(prepared.items), texts, width)
        return trained(system, seed, part)

    names = [text_similarity.NAME, *systems]
    comparison = unseen_items.Comparison(names, draws, parts, _keywords_left(options.data))
    runs = unseen_items.compare(comparison, train, _known_runs(options, prepared), say)
    rows = unseen_items.unseen_rows(runs, {draw.seed: draw for draw in draws})
    text = unseen_items.report(rows, runs, _facts(options, prepared))
    return Report("Items that training has not seen", text, msgspec.json.encode(rows), None)


def _keywords_left(data: Path) -> Callable[[Draw], frozenset[str]]:
    """Which of the keywords the calls list that a draw leaves. Examples are not encoded again for each draw."""
    from stream.services.dataset_cache import training_keywords
    from training.datasets.tables.reader import read_tables

    tables = read_tables(data)
    return lambda draw: frozenset(training_keywords(tables, draw.items).listed)


def _known_runs(options: BenchmarkOptions, prepared: Prepared) -> RunStore:
    """The runs that an earlier call finished on the same data with the same code; new ones are appended."""
    from stream.services.dataset_cache import training_code
    from training.evaluation.benchmark import RunStore

    code = training_code(_versions(), "thin" if options.thin else "unseen" if options.unseen else "")
    return RunStore(options.out.with_suffix(".runs.jsonl"), prepared.fingerprint, code)


def _checked_place(out: Path) -> Path:
    """FILE.json, if it and the files beside it can be written: better known before hours of training than after them."""
    if out.is_dir():
        raise IsthmusError(f"--out {out} is a folder: name a file in it, as {out / 'results.json'}")
    if out.suffix not in {"", ".json"}:
        raise IsthmusError(
            f"--out {out}: the results are JSON, with a page and a plot of the same name beside it: name it FILE.json"
        )
    out = out.with_suffix(".json")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for path in (out, *(out.with_suffix(suffix) for suffix in _BESIDE)):
            existed = path.exists()
            path.open("ab").close()
            if not existed:
                path.unlink()
    except OSError as error:
        raise IsthmusError(f"--out {out}: {error.filename} cannot be written ({error.strerror}): choose another place") from None
    return out


def _chosen_systems(wanted: str, *, joint: bool, unseen: bool) -> list[str]:
    from models.systems import DEFAULT, JOINT, POPULAR, SYSTEMS

    if wanted == "all" and unseen:
        return [POPULAR, DEFAULT]
    if wanted == "all":
        return [name for name in SYSTEMS if not joint or name in JOINT]
    chosen = list(dict.fromkeys(name.strip() for name in wanted.split(",") if name.strip()))
    if unknown := [name for name in chosen if name not in SYSTEMS]:
        raise IsthmusError(f"there is no system {unknown[0]}: choose among {', '.join(SYSTEMS)}, or all")
    if not chosen:
        raise IsthmusError(f"--systems names none: choose among {', '.join(SYSTEMS)}, or all")
    return chosen


def _trainer(prepared: Prepared) -> Train:
    from training.evaluation.benchmark import TooSmallError
    from training.loop import TrainingConfig
    from training.progress import progress_bar
    from training.stages import NothingToLearnError
    from training.train_system import train_system

    texts = prepared.texts()

    def train(system: str, seed: int, parts: Splits) -> Ranker:
        config = TrainingConfig(seed=seed)
        try:
            with progress_bar(lambda _: None) as reporter:
                trained = train_system(
                    system, parts.training, parts.validation, prepared.items, config, progress=reporter, texts=texts
                )
                return trained.ranker
        except NothingToLearnError as error:  # the comparison leaves such a system out
            raise TooSmallError(str(error)) from None

    return train


def _facts(options: BenchmarkOptions, prepared: Prepared) -> dict[str, str]:
    """What a reader must know to reproduce the numbers; no path of this machine."""
    from datetime import UTC, datetime

    from stream.text.model import described
    from training.example_arrays import newest_text_model

    named = newest_text_model(prepared.examples) or "none"
    count = len(prepared.examples)
    return {
        "data": f"{options.data.name}, {count} purchase events with interactions, fingerprint {prepared.fingerprint}",
        "text model": named if prepared.text_model is None else described(prepared.text_model),
        "command": options.command,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": _versions(),
    }


def _versions() -> str:
    import platform
    from importlib.metadata import version

    return f"isthmus {version('isthmus')}, torch {version('torch')}, Python {platform.python_version()}"


def _write(report: Report, out: Path) -> str:
    import msgspec

    page, plot = out.with_suffix(".md"), out.with_suffix(".png")
    out.write_bytes(msgspec.json.format(report.rows) + b"\n")
    page.write_text(f"# {report.title}\n\n{report.text}")
    if report.plot is not None:
        report.plot(plot)
    files = [out, page, *([] if report.plot is None else [plot])]
    return f"\n{report.text}\nwritten: {', '.join(map(str, files))}"
