"""`isthmus benchmark`: the paper's comparison on a data set, and its second finding put to the test."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stream.core.ranking import Ranker
    from stream.services.dataset_cache import Prepared
    from training.evaluation.benchmark import Run, Splits, Train

app = typer.Typer(add_completion=False, rich_markup_mode=None)
_BESIDE = (".runs.jsonl", ".md", ".png")


@app.command()
def benchmark(
    data: Annotated[Path, typer.Option(help="tables in the paper's layout")],
    out: Annotated[Path, typer.Option(help="results: FILE.json, or FILE; FILE.md, FILE.png and FILE.runs.jsonl beside it")],
    systems: Annotated[str, typer.Option(help="all, or names, comma-separated; with --thin all means the joint systems")] = "all",
    seeds: Annotated[int, typer.Option(min=1, help="train each system so many times, with seeds 0, 1, ...")] = 5,
    thin: Annotated[
        bool,
        typer.Option(
            "--thin",
            help="train with 0, 25, 50 and 100 % of the session-only events and judge on the conversation-only ones, and the "
            "other way round: does one modality help to learn from the other?",
        ),
    ] = False,
) -> None:
    """Train and compare systems on a data set, as in the paper: HR@3 and MAP@3 by event type, with errors over seeds and paired
    differences to Late fusion.

    The last 10 % of the purchase events are the test set, the last 10 % of the rest validation. Keywords come from the training
    part's calls alone. What is finished is kept in FILE.runs.jsonl: the same call goes on where an interrupted one stopped. What
    other data or other training code made is left alone and made again.

    Example: isthmus benchmark --data my-tables --systems popular,late_fusion,isthmus --seeds 1 --out build/results.json
    """
    from stream.cli.settings_overrides import settings_with
    from stream.errors import IsthmusError
    from stream.services.dataset_cache import prepare, training_code
    from training.evaluation.benchmark import Runs, TooSmallError, compare, parts_of
    from training.evaluation.modality_ablation import trainer_of, variants_of

    chosen = _systems(systems, joint=thin)
    out = _place(out)
    prepared = prepare(settings_with(), data, typer.echo)
    try:
        parts = parts_of(prepared.examples)
    except TooSmallError as error:
        raise IsthmusError(f"{data}: {error}") from None
    train = _trainer(prepared.items)
    names = list(dict.fromkeys(variant.name for variant in variants_of(chosen, parts.types))) if thin else chosen
    if not names:
        raise IsthmusError(f"{data}: all events to judge on are of both modalities: --thin needs some of one alone")
    runs = compare(
        names,
        range(seeds),
        parts,
        trainer_of(train, chosen) if thin else train,
        Runs(out.with_suffix(".runs.jsonl"), prepared.fingerprint, training_code(_versions(), thin=thin)),
        typer.echo,
    )
    asked = f"isthmus benchmark --data {data.name} --systems {systems} --seeds {seeds}{' --thin' if thin else ''}"
    (_write_thin if thin else _write)(out, data, chosen, runs, parts, _facts(data, prepared, asked))


def _place(out: Path) -> Path:
    """FILE.json, where it and what comes beside it can be written: known before hours of training, not after them."""
    from stream.errors import IsthmusError

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
            known = path.exists()
            path.open("ab").close()
            if not known:
                path.unlink()
    except OSError as error:
        raise IsthmusError(f"--out {out}: {error.filename} cannot be written ({error.strerror}): choose another place") from None
    return out


def _systems(wanted: str, *, joint: bool) -> list[str]:
    from models.systems import SYSTEMS
    from stream.errors import IsthmusError
    from training.evaluation.modality_ablation import JOINT

    if wanted == "all":
        return [name for name in SYSTEMS if not joint or name in JOINT]
    chosen = list(dict.fromkeys(name.strip() for name in wanted.split(",") if name.strip()))
    if unknown := [name for name in chosen if name not in SYSTEMS]:
        raise IsthmusError(f"there is no system {unknown[0]}: choose among {', '.join(SYSTEMS)}, or all")
    if not chosen:
        raise IsthmusError(f"--systems names none: choose among {', '.join(SYSTEMS)}, or all")
    return chosen


def _trainer(items: Sequence[str]) -> Train:
    from training.evaluation.benchmark import TooSmallError
    from training.loop import TrainingConfig
    from training.progress import shown
    from training.stages import NothingToLearnError
    from training.train_system import train_system

    def train(system: str, seed: int, parts: Splits) -> Ranker:
        config = TrainingConfig(seed=seed)
        try:
            with shown(lambda _: None) as watch:
                return train_system(system, parts.training, parts.validation, items, config, watch=watch).ranker
        except NothingToLearnError as error:
            raise TooSmallError(str(error)) from None

    return train


def _facts(data: Path, prepared: Prepared, command: str) -> dict[str, str]:
    """What a reader must know to make the numbers again; no path of this machine."""
    from datetime import UTC, datetime

    from stream.text.model import described
    from training.example_arrays import newest_text_model

    theirs = newest_text_model(prepared.examples) or "none"
    return {
        "data": f"{data.name}, {len(prepared.examples)} purchase events with interactions, fingerprint {prepared.fingerprint}",
        "text model": theirs if prepared.text_model is None else described(prepared.text_model),
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": _versions(),
    }


def _versions() -> str:
    import platform
    from importlib.metadata import version

    return f"isthmus {version('isthmus')}, torch {version('torch')}, Python {platform.python_version()}"


def _write(out: Path, data: Path, systems: list[str], runs: Sequence[Run], parts: Splits, facts: dict[str, str]) -> None:
    import msgspec

    from training.evaluation.benchmark import rows_of
    from training.evaluation.benchmark_report import markdown, plot

    del systems
    rows = rows_of(runs, parts.types)
    text = markdown(runs, parts.types, facts)
    out.write_bytes(msgspec.json.format(msgspec.json.encode(rows)) + b"\n")
    out.with_suffix(".md").write_text(f"# Benchmark\n\n{text}")
    if rows:
        plot(rows, f"{data.name}: MAP@3 by purchase events' type", out.with_suffix(".png"))
    typer.echo(f"\n{text}\nwritten: {out}, {out.with_suffix('.md')}, {out.with_suffix('.png')}")


def _write_thin(out: Path, data: Path, systems: list[str], runs: Sequence[Run], parts: Splits, facts: dict[str, str]) -> None:
    import msgspec

    from training.evaluation.modality_ablation import plot, points_of, report, thin_rows

    points = points_of(runs, systems, parts.types)
    text = report(points, runs, facts)
    out.write_bytes(msgspec.json.format(msgspec.json.encode(thin_rows(runs, systems, parts.types))) + b"\n")
    out.with_suffix(".md").write_text(f"# Does one modality help the other?\n\n{text}")
    if points:
        plot(points, f"{data.name}: one modality thinned out, judged on the other", out.with_suffix(".png"))
    typer.echo(f"\n{text}\nwritten: {out}, {out.with_suffix('.md')}, {out.with_suffix('.png')}")
