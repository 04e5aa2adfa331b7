"""The results page, written from what `isthmus benchmark` left in a folder.

`python -m training.evaluation.results_page build/results` writes it.

Files are named after the data: `sgd0.runs.jsonl`, `world.runs.jsonl` ..., `sgd0-thin.json` for the thinned ones. Draws of one
corpus (`sgd0`, `sgd1` ...) are put together event by event. No number stands on the page that these files do not hold.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from training.evaluation.benchmark import BASELINE, EVENT_TYPES, PairedDifference, Run, paired_difference, read_runs, types_of
from training.evaluation.benchmark_report import TEST, difference_cell
from training.evaluation.modality_ablation import ThinRow
from training.markdown import aligned

PAGE: Final = Path(__file__).parents[1] / "RESULTS.md"
SHARED: Final = ("keyword", "latent_feature", "relative_representation")
ROBUST: Final = ("latent_feature", "relative_representation")
_SURE: Final = 0.05
_FRAME: Final = """# Results

Written by `python -m training.evaluation.results_page FOLDER` from what `isthmus benchmark` left in the folder (`make results
SGD=DIR` does it all); not edited by hand. HR@3 / MAP@3 with the post filter on the last 10 % of the purchase events, ± their
standard error over the training seeds. A system of one modality answers events of the other one alone by popularity.
"""
_LIMITS: Final = {
    "sgd": "Limits: the wording is human, the flow simulated; no real user identity, so no user has two purchase events; "
    "modalities are missing at random; no drift over time. Made from the Schema-Guided Dialogue corpus (Rastogi et al. 2020, "
    "CC BY-SA 4.0).",
    "world": "Limits: invented users with planted tastes, calibrated on aggregates of the paper's tables; a score shows that a "
    "system finds what was planted and is no forecast.",
}


class Corpus(NamedTuple):
    """One corpus, event by event over its draws: types (n,); by system its seeds, and hits and precisions at 3, (seeds, n);
    why a system is missing. `facts` are what the draws' reports say of data, command and versions.
    """

    name: str
    draws: tuple[str, ...]
    types: NDArray[np.str_]
    seeds: dict[str, list[int]]
    hits: dict[str, NDArray[np.float64]]
    precisions: dict[str, NDArray[np.float64]]
    left_out: dict[str, str]
    facts: dict[str, list[str]]


def read_corpora(folder: Path) -> list[Corpus]:
    """The corpora of a folder, by name."""
    found: dict[str, dict[Path, list[Run]]] = {}
    for path in sorted(folder.glob("*.runs.jsonl")):
        name = path.name.removesuffix(".runs.jsonl")
        if not name.endswith("-thin") and (runs := read_runs(path)):
            found.setdefault(re.sub(r"\d+$", "", name), {})[path] = runs
    return [_corpus(name, draws) for name, draws in found.items()]


def _corpus(name: str, draws: Mapping[Path, Sequence[Run]]) -> Corpus:
    """Systems and seeds that every draw has, of the data and code of its last run."""
    paths = list(draws)
    newest = [_newest(runs) for runs in draws.values()]
    complete = [{run.system for run in runs if run.left_out is None} for runs in newest]
    systems = [system for system in dict.fromkeys(run.system for run in newest[0]) if all(system in known for known in complete)]
    types = np.concatenate([types_of(runs) for runs in newest])
    seeds, hits, precisions = {}, {}, {}
    for system in systems:
        own = [{run.seed: run for run in runs if run.system == system} for runs in newest]
        both = seeds[system] = sorted(set.intersection(*(set(known) for known in own)))
        hits[system] = np.array([np.concatenate([known[seed].hits for known in own]) for seed in both], dtype=np.float64)
        precisions[system] = np.array([np.concatenate([known[seed].average_precisions for known in own]) for seed in both])
    left_out = {run.system: run.left_out for runs in newest for run in runs if run.left_out is not None}
    names = tuple(path.name.removesuffix(".runs.jsonl") for path in paths)
    facts = {draw: _facts(path.with_name(f"{draw}.md")) for draw, path in zip(names, paths, strict=True)}
    return Corpus(name, names, types, seeds, hits, precisions, left_out, facts)


def _newest(runs: Sequence[Run]) -> list[Run]:
    """Those of the last one's data and code that judge all of its events."""
    own = [run for run in runs if (run.data, run.code) == (runs[-1].data, runs[-1].code)]
    events = max(len(run.hits) for run in own)
    return [run for run in own if run.left_out is not None or len(run.hits) == events]


def _facts(report: Path) -> list[str]:
    return [line for line in report.read_text().splitlines() if line.startswith("- ")] if report.exists() else []


def page(corpora: Sequence[Corpus], thin: Sequence[tuple[str, str]]) -> str:
    """The page; `thin` are (name, report) of the comparisons with one modality thinned out."""
    parts = [_FRAME, *("\n".join(_section(corpus)) for corpus in corpora)]
    for name, report in thin:
        body = report.partition("\n")[2].strip()
        parts.append(f"## Does one modality help the other? {name}\n\n{body}")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _section(corpus: Corpus) -> list[str]:
    counts = ", ".join(f"{int((corpus.types == kind).sum())} {kind}" for kind in EVENT_TYPES[:3])
    several = f"; {len(corpus.draws)} draws put together" if len(corpus.draws) > 1 else ""
    lines = [f"## {corpus.name}", "", f"{len(corpus.types)} test events ({counts}){several}.", "", *_results(corpus)]
    if BASELINE in corpus.precisions:
        lines += ["", f"MAP@3 less {BASELINE}'s:", "", *_compared(corpus), "", TEST]
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
    cells = {system: [difference_cell(_difference(corpus, system, BASELINE, kind)) for kind in EVENT_TYPES] for system in others}
    return aligned([*table, *([system, *own] for system, own in cells.items())])


def _of(corpus: Corpus, kind: str) -> NDArray[np.bool_]:
    return np.ones(len(corpus.types), dtype=bool) if kind == "union" else np.asarray(corpus.types == kind)


def _difference(corpus: Corpus, system: str, other: str, kind: str) -> PairedDifference | None:
    """Paired by purchase event and seed: over the seeds that both have."""
    chosen = _of(corpus, kind)
    shared = set(corpus.seeds[system]) & set(corpus.seeds[other])
    ours, theirs = (corpus.precisions[one][[seed in shared for seed in corpus.seeds[one]]] for one in (system, other))
    return paired_difference((ours - theirs).mean(axis=0)[chosen]) if chosen.sum() > 1 and shared else None


def findings(corpus: Corpus) -> list[str]:
    """The paper's qualitative findings (its section 6.1), each with whether it holds here and by which numbers."""
    return [_shared_space(corpus), _robust(corpus)]


def _shared_space(corpus: Corpus) -> str:
    claim = "Models with a shared space beat the uni-modal ones, each on its own events"
    told, won = [], []
    for system in SHARED:
        for kind in ("session", "conversation"):
            if system in corpus.precisions and kind in corpus.precisions:
                found = _difference(corpus, system, kind, kind)
                if found is not None:
                    won.append(found.mean > 0 and found.p < _SURE)
                    told.append(f"{system} on {kind} events {difference_cell(found)}")
    return f"{claim}: {_verdict(won)}" + (f" ({'; '.join(told)})." if told else ".")


def _robust(corpus: Corpus) -> str:
    claim = "Latent Feature and Relative Representation are robust: among the better half of the systems on every type of event"
    told, won = [], []
    systems = len(corpus.precisions)
    for system in ROBUST:
        if system in corpus.precisions:
            ranks = {kind: _rank(corpus, system, kind) for kind in EVENT_TYPES[:3] if _of(corpus, kind).any()}
            won.append(all(rank <= (systems + 1) // 2 for rank in ranks.values()))
            told.append(f"{system} is " + ", ".join(f"{rank}. on {kind}" for kind, rank in ranks.items()) + f" of {systems}")
    return f"{claim}: {_verdict(won)}" + (f" ({'; '.join(told)})." if told else ".")


def _rank(corpus: Corpus, system: str, kind: str) -> int:
    """Its place among the systems by MAP@3 on a type, the best first."""
    means = {other: float(values[:, _of(corpus, kind)].mean()) for other, values in corpus.precisions.items()}
    return 1 + sum(value > means[system] for value in means.values())


def _verdict(won: Sequence[bool]) -> str:
    if not won:
        return "not tried, for a system is missing"
    return "holds" if all(won) else f"holds in {sum(won)} of {len(won)} comparisons" if any(won) else "fails"


def crossing(rows: Sequence[ThinRow]) -> str:
    """Keyword is best at crossing modalities (the paper's section 6.2): it gains most from the other modality's events."""
    claim = "Keyword crosses modalities best, that is, gains most from the other modality's events"
    won, told = [], []
    for kind in dict.fromkeys(row.thinned for row in rows):
        gains = {}
        for system in dict.fromkeys(row.system for row in rows):
            own = [row for row in rows if (row.system, row.thinned) == (system, kind)]
            with_all, without = ([row.map3 for row in own if row.share == share] for share in (100, 0))
            if with_all and without:
                gains[system] = float(np.mean(with_all) - np.mean(without))
        if "keyword" in gains and len(gains) > 1:
            won.append(gains["keyword"] == max(gains.values()))
            told.append(f"{kind}-only events: " + ", ".join(f"{system} {gain:+.4f}" for system, gain in gains.items()))
    return f"{claim}: {_verdict(won)}" + (f" ({'; '.join(told)})." if told else ".")


def main(folder: Path) -> None:
    corpora = read_corpora(folder)
    if not corpora:
        raise SystemExit(f"{folder} holds no *.runs.jsonl: run `isthmus benchmark --data DIR --out {folder}/NAME.json` first")
    thin = []
    for path in sorted(folder.glob("*-thin.json")):
        rows = msgspec.json.decode(path.read_bytes(), type=list[ThinRow])
        report = path.with_suffix(".md").read_text()
        thin.append((path.stem.removesuffix("-thin"), f"{report.rstrip()}\n- {crossing(rows)}\n"))
    PAGE.write_text(page(corpora, thin))
    print(f"{PAGE}: {', '.join(corpus.name for corpus in corpora)}")  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
