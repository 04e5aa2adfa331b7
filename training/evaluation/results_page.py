"""Writes the results page from a folder of `isthmus benchmark` results.

`python -m training.evaluation.results_page build/results` writes `training/RESULTS.md`, or the file that `--out` names.

Result files are named after the data: `sgd0.runs.jsonl`, `world.runs.jsonl` ..., and `sgd0-thin.json` for a modality ablation.
Draws of one corpus (`sgd0`, `sgd1` ...) are pooled event by event. Every number on the page comes from these files.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.errors import IsthmusError
from training.evaluation.benchmark import (
    BASELINE,
    EVENT_TYPES,
    PairedDifference,
    Run,
    event_types_of,
    holm,
    paired_difference,
    read_runs,
)
from training.evaluation.benchmark_report import TEST, difference_cell
from training.evaluation.modality_ablation import AblationRow
from training.evaluation.trust_tables import trust_tables
from training.markdown import aligned

PAGE: Final = Path("training/RESULTS.md")
"""In the repository's root, where `make results` runs."""
SHARED: Final = ("keyword", "latent_feature", "relative_representation")
ROBUST: Final = ("latent_feature", "relative_representation")
_SIGNIFICANT: Final = 0.05
_FRAME: Final = """# Results

Written by `python -m training.evaluation.results_page FOLDER` from the results of `isthmus benchmark` in the folder (`make results
SGD=DIR` runs both); not edited by hand. HR@3 / MAP@3 with the post filter on the last 10 % of the purchase events, ± their
standard error over the training seeds. A system of one modality ranks by popularity for users who have only the other one.
"""
_LIMITS: Final = {
    "sgd": "Limits: the wording is human, the flow simulated; no real user identity, so no user has two purchase events; "
    "modalities are missing at random; no drift over time. Made from the Schema-Guided Dialogue corpus (Rastogi et al. 2020, "
    "CC BY-SA 4.0).",
    "world": "Limits: invented users with planted tastes, calibrated on aggregates of the paper's tables; a score shows that a "
    "system finds what was planted and is not a forecast.",
}


class Corpus(NamedTuple):
    """One corpus, event by event over its draws.

    Attributes:
        name: without the number of a draw.
        draws: their names.
        types: (n,) the test events' types.
        seeds: by system.
        hits: by system, at 3, (seeds, n).
        precisions: by system, average precision at 3, (seeds, n).
        left_out: system -> why it has no result.
        facts: draw -> lines of its report on data, command and versions.
        trust: how true probabilities and reasons are, as tables.
    """

    name: str
    draws: tuple[str, ...]
    types: NDArray[np.str_]
    seeds: dict[str, list[int]]
    hits: dict[str, NDArray[np.float64]]
    precisions: dict[str, NDArray[np.float64]]
    left_out: dict[str, str]
    facts: dict[str, list[str]]
    trust: list[str]


def read_corpora(folder: Path) -> list[Corpus]:
    """Returns the corpora of a folder."""
    draws_by_name: dict[str, dict[Path, list[Run]]] = {}
    for path in sorted(folder.glob("*.runs.jsonl")):
        name = path.name.removesuffix(".runs.jsonl")
        if not name.endswith("-thin") and (runs := read_runs(path)):
            draws_by_name.setdefault(re.sub(r"\d+$", "", name), {})[path] = runs
    return [_corpus(name, draws) for name, draws in draws_by_name.items()]


def _corpus(name: str, draws: Mapping[Path, Sequence[Run]]) -> Corpus:
    """Returns the systems and seeds that every draw has, with the data and code of its last run."""
    paths = list(draws)
    newest = [_newest(runs) for runs in draws.values()]
    complete = [{run.system for run in runs if run.left_out is None} for runs in newest]
    systems = [
        system for system in dict.fromkeys(run.system for run in newest[0]) if all(system in present for present in complete)
    ]
    types = np.concatenate([event_types_of(runs) for runs in newest])
    seeds, hits, precisions = {}, {}, {}
    for system in systems:
        by_seed = [{run.seed: run for run in runs if run.system == system} for runs in newest]
        shared = seeds[system] = sorted(set.intersection(*map(set, by_seed)))
        hits[system] = np.array([np.concatenate([runs[seed].hits for runs in by_seed]) for seed in shared], dtype=np.float64)
        precisions[system] = np.array([np.concatenate([runs[seed].average_precisions for runs in by_seed]) for seed in shared])
    left_out = {run.system: run.left_out for runs in newest for run in runs if run.left_out is not None}
    names = tuple(path.name.removesuffix(".runs.jsonl") for path in paths)
    facts = {draw: _facts(path.with_name(f"{draw}.md")) for draw, path in zip(names, paths, strict=True)}
    trust = trust_tables([run for runs in newest for run in runs])
    return Corpus(name, names, types, seeds, hits, precisions, left_out, facts, trust)


def _newest(runs: Sequence[Run]) -> list[Run]:
    """Returns the runs with the last one's data and code that cover all of its events."""
    own = [run for run in runs if (run.data, run.code) == (runs[-1].data, runs[-1].code)]
    events = max(len(run.hits) for run in own)
    return [run for run in own if run.left_out is not None or len(run.hits) == events]


def _facts(report: Path) -> list[str]:
    return [line for line in report.read_text().splitlines() if line.startswith("- ")] if report.exists() else []


def page(corpora: Sequence[Corpus], ablations: Sequence[tuple[str, str]]) -> str:
    """Returns the page; `ablations` are the (name, report) of modality ablations."""
    parts = [_FRAME, *("\n".join(_section(corpus)) for corpus in corpora)]
    for name, report in ablations:
        body = report.partition("\n")[2].strip()
        parts.append(f"## Does one modality help the other? {name}\n\n{body}")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _section(corpus: Corpus) -> list[str]:
    counts = ", ".join(f"{int((corpus.types == kind).sum())} {kind}" for kind in EVENT_TYPES[:3])
    several = f"; {len(corpus.draws)} draws pooled" if len(corpus.draws) > 1 else ""
    lines = [f"## {corpus.name}", "", f"{len(corpus.types)} test events ({counts}){several}.", "", *_results(corpus)]
    if BASELINE in corpus.precisions:
        lines += ["", f"MAP@3 minus {BASELINE}'s:", "", *_compared(corpus), "", TEST]
    lines += corpus.trust
    lines += ["", *(f"Left out: {system} ({reason})." for system, reason in corpus.left_out.items())] if corpus.left_out else []
    lines += ["", "The paper's findings here:", "", *(f"- {sentence}" for sentence in findings(corpus))]
    if corpus.name in _LIMITS:
        lines += ["", _LIMITS[corpus.name]]
    lines += ["", "Made with:", ""]
    return lines + [f"- {draw}: " + "; ".join(fact[2:] for fact in facts) for draw, facts in corpus.facts.items()]


def _results(corpus: Corpus) -> list[str]:
    table = [["system", "seeds", *EVENT_TYPES]]
    for system, precisions in corpus.precisions.items():
        cells = []
        for kind in EVENT_TYPES:
            chosen = _of(corpus, kind)
            both = (corpus.hits[system][:, chosen], precisions[:, chosen])
            cells.append(" / ".join(_mean_cell(values.mean(axis=1)) for values in both) if chosen.any() else "")
        table.append([system, str(len(precisions)), *cells])
    return aligned(table)


def _mean_cell(by_seed: NDArray[np.float64]) -> str:
    error = f" ± {np.std(by_seed, ddof=1) / np.sqrt(len(by_seed)):.3f}".replace("0.", ".") if len(by_seed) > 1 else ""
    return f"{by_seed.mean():.3f}{error}"


def _compared(corpus: Corpus) -> list[str]:
    table = [["system", *EVENT_TYPES]]
    others = [system for system in corpus.precisions if system != BASELINE]
    found = {(system, kind): _difference(corpus, system, BASELINE, kind) for system in others for kind in EVENT_TYPES}
    compared = holm({key: difference for key, difference in found.items() if difference is not None})
    rows = ([system, *(difference_cell(compared.get((system, kind))) for kind in EVENT_TYPES)] for system in others)
    return aligned([*table, *rows])


def _of(corpus: Corpus, kind: str) -> NDArray[np.bool_]:
    return np.ones(len(corpus.types), dtype=bool) if kind == "union" else np.asarray(corpus.types == kind)


def _difference(corpus: Corpus, system: str, other: str, kind: str) -> PairedDifference | None:
    """Returns the difference paired by purchase event and seed, over the seeds that both systems have."""
    chosen = _of(corpus, kind)
    shared = set(corpus.seeds[system]) & set(corpus.seeds[other])
    ours, theirs = (corpus.precisions[name][[seed in shared for seed in corpus.seeds[name]]] for name in (system, other))
    return paired_difference((ours - theirs).mean(axis=0)[chosen]) if chosen.sum() > 1 and shared else None


def findings(corpus: Corpus) -> list[str]:
    """Returns the paper's qualitative findings (its section 6.1), each with whether it holds here and the numbers."""
    return [_shared_space(corpus), _robust(corpus)]


def _shared_space(corpus: Corpus) -> str:
    claim = "Models with a shared space beat the uni-modal ones, each on its own events"
    pairs = [(system, kind) for system in SHARED for kind in ("session", "conversation")]
    known = [(system, kind) for system, kind in pairs if system in corpus.precisions and kind in corpus.precisions]
    found = {(system, kind): _difference(corpus, system, kind, kind) for system, kind in known}
    compared = holm({key: difference for key, difference in found.items() if difference is not None})
    holds = [difference.mean > 0 and difference.p < _SIGNIFICANT for difference in compared.values()]
    comparisons = [f"{system} on {kind} events {difference_cell(one)}" for (system, kind), one in compared.items()]
    return _finding(claim, holds, comparisons)


def _robust(corpus: Corpus) -> str:
    claim = "Latent Feature and Relative Representation are robust: among the better half of the systems on every type of event"
    comparisons, holds = [], []
    systems = len(corpus.precisions)
    for system in ROBUST:
        if system in corpus.precisions:
            ranks = {kind: _rank(corpus, system, kind) for kind in EVENT_TYPES[:3] if _of(corpus, kind).any()}
            holds.append(all(rank <= (systems + 1) // 2 for rank in ranks.values()))
            comparisons.append(f"{system} is " + ", ".join(f"{rank}. on {kind}" for kind, rank in ranks.items()) + f" of {systems}")
    return _finding(claim, holds, comparisons)


def _rank(corpus: Corpus, system: str, kind: str) -> int:
    """Returns the system's rank by MAP@3 on a type of event; 1 is the best."""
    means = {other: float(values[:, _of(corpus, kind)].mean()) for other, values in corpus.precisions.items()}
    return 1 + sum(value > means[system] for value in means.values())


def _finding(claim: str, holds: Sequence[bool], comparisons: Sequence[str]) -> str:
    """Returns the claim with its verdict and the comparisons that it rests on."""
    if not holds:
        verdict = "not tested, because a system is missing"
    elif all(holds):
        verdict = "holds"
    else:
        verdict = f"holds in {sum(holds)} of {len(holds)} comparisons" if any(holds) else "fails"
    return f"{claim}: {verdict}" + (f" ({'; '.join(comparisons)})." if comparisons else ".")


def crossing(rows: Sequence[AblationRow]) -> str:
    """Returns whether Keyword gains most from the other modality's events (the paper's section 6.2)."""
    claim = "Keyword crosses modalities best, that is, gains most from the other modality's events"
    comparisons, holds = [], []
    for kind in dict.fromkeys(row.thinned for row in rows):
        gains = {}
        for system in dict.fromkeys(row.system for row in rows):
            of_system = [row for row in rows if (row.system, row.thinned) == (system, kind)]
            with_all, without = ([row.map3 for row in of_system if row.share == share] for share in (100, 0))
            if with_all and without:
                gains[system] = float(np.mean(with_all) - np.mean(without))
        if "keyword" in gains and len(gains) > 1:
            holds.append(gains["keyword"] == max(gains.values()))
            comparisons.append(f"{kind}-only events: " + ", ".join(f"{system} {gain:+.4f}" for system, gain in gains.items()))
    return _finding(claim, holds, comparisons)


def write_page(folder: Path, out: Path) -> list[str]:
    """Writes the page of a folder of results to `out`. Returns the names of its corpora.

    Raises:
        IsthmusError: the folder holds no results, or the folder of `out` does not exist.
    """
    if not out.parent.is_dir():
        raise IsthmusError(f"{out.parent} is not a folder: run this in the repository's root, or name the page with --out FILE")
    corpora = read_corpora(folder)
    if not corpora:
        raise IsthmusError(f"{folder} holds no *.runs.jsonl: run `isthmus benchmark --data DIR --out {folder}/NAME.json` first")
    ablations = []
    for path in sorted(folder.glob("*-thin.json")):
        rows = msgspec.json.decode(path.read_bytes(), type=list[AblationRow])
        report = path.with_suffix(".md").read_text()
        ablations.append((path.stem.removesuffix("-thin"), f"{report.rstrip()}\n- {crossing(rows)}\n"))
    out.write_text(page(corpora, ablations))
    return [corpus.name for corpus in corpora]


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the results page from a folder of `isthmus benchmark` results.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=PAGE, help=f"the page; default: {PAGE}")
    given = parser.parse_args()
    try:
        names = write_page(given.folder, given.out)
    except IsthmusError as error:
        raise SystemExit(str(error)) from None
    print(f"{given.out}: {', '.join(names)}")  # noqa: T201


if __name__ == "__main__":
    main()
