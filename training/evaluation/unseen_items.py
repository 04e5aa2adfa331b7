"""Items that training has not seen: what a system makes of them by their texts alone.

Each draw takes a few items out of training whole: the purchase events that contain them, the calls and sessions before these, and
what the others say of them. Their texts stay. Systems are judged on the test events that bought one of them, where only these items
count as bought, and on the others, where what the new items cost can be seen. The same system trained on everything is beside it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cache
from itertools import product
from time import perf_counter
from typing import Final, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET

from stream.core.examples import holdings_of
from stream.core.interactions import Conversation, Interaction
from stream.core.outputs import TrainingExample
from stream.core.ranking import Ranker, masked_top_k, positions_of, readable_by, score_rows
from training.evaluation.benchmark import Mean, ResultRow, Run, RunStore, Splits, TooSmallError, mean_of
from training.evaluation.benchmark_report import left_out
from training.markdown import aligned
from training.metrics import K, evaluate_one

UNSEEN: Final = "unseen"
SEEN: Final = "seen"
WHOLE: Final = "trained on all"
_CHUNK: Final = 1_000


class Draw(NamedTuple):
    """The items of one draw, and its seed."""

    seed: int
    items: frozenset[str]

    def has_bought(self, example: TrainingExample) -> bool:
        return not self.items.isdisjoint(example.items)


class UnseenRow(ResultRow, frozen=True):
    """One row of the results file.

    Attributes:
        system: its name; with "trained on all", it knew the drawn items.
        seed: of the draw; trainings share one.
        event_type: "unseen": the events that bought an item of the draw; "seen": the others.
        events: how many.
        hr3: of the drawn items on "unseen", of all items bought on "seen".
        map3: likewise.
        train_s: how long training took.
        items: the draw.
        place: on "unseen", the mean place of the best-ranked drawn item that was bought, from 1.
        map3_hidden: on "seen", what MAP@3 is if the drawn items are not shown: the difference is what they cost the others.
    """

    items: tuple[str, ...]
    place: float | None = None
    map3_hidden: float | None = None


def draw_items(splits: Splits, items: Sequence[str], count: int, seed: int) -> Draw:
    """Draws so many of the items that were bought in training and in test.

    Raises:
        TooSmallError: there are fewer, or nothing would be left.
    """
    known = {item for example in splits.training for item in example.items}
    judged = {item for example in splits.test for item in example.items}
    possible = [item for item in items if item in known and item in judged]
    if count >= len(possible):
        raise TooSmallError(f"{count} unseen items were asked for; {len(possible)} were bought both in training and in test")
    drawn = np.random.default_rng(seed).permutation(len(possible))[:count]
    return Draw(seed, frozenset(possible[index] for index in drawn))


def without(splits: Splits, draw: Draw, keywords: AbstractSet[str] | None = None) -> Splits:
    """Takes a draw's items out of training and validation.

    `keywords`: those that the calls which are left would list; the others are taken out of all calls, test included.
    """
    seen_before = {
        _identity(example, one)
        for part in (splits.training, splits.validation)
        for example in part
        if draw.has_bought(example)
        for one in example.interactions
    }
    training, validation = (_part_without(part, draw, seen_before) for part in (splits.training, splits.validation))
    if keywords is None:
        return splits._replace(training=training, validation=validation)
    return splits._replace(
        training=_with_keywords(training, keywords),
        validation=_with_keywords(validation, keywords),
        test=_with_keywords(splits.test, keywords),
    )


def _part_without(part: Sequence[TrainingExample], draw: Draw, gone: Collection[object]) -> list[TrainingExample]:
    kept = []
    for example in part:
        left = tuple(one for one in example.interactions if _identity(example, one) not in gone)
        if left and not draw.has_bought(example):
            owned, ineligible = (
                held if held is UNSET else tuple(item for item in held if item not in draw.items)
                for held in (example.owned, example.ineligible)
            )
            kept.append(msgspec.structs.replace(example, interactions=left, owned=owned, ineligible=ineligible))
    return kept


def _identity(example: TrainingExample, interaction: Interaction) -> tuple[str, str, int]:
    return example.user_id, interaction.modality, interaction.started_at


def _with_keywords(part: Sequence[TrainingExample], keywords: AbstractSet[str]) -> list[TrainingExample]:
    return [
        msgspec.structs.replace(example, interactions=tuple(_call_with(one, keywords) for one in example.interactions))
        for example in part
    ]


def _call_with(interaction: Interaction, keywords: AbstractSet[str]) -> Interaction:
    if not isinstance(interaction, Conversation):
        return interaction
    parts = tuple(
        msgspec.structs.replace(part, keyword_text=tuple(word for word in part.keywords if word in keywords))
        for part in interaction.parts
    )
    return msgspec.structs.replace(interaction, parts=parts)


class Judged(NamedTuple):
    """Results of the test events, in their order; `places` is 0 where none of the draw was bought, and `hidden` are the average
    precisions without the draw's items.
    """

    hits: list[float]
    average_precisions: list[float]
    places: list[int]
    hidden: list[float]


def judge(ranker: Ranker, test: Sequence[TrainingExample], draw: Draw) -> Judged:
    """Ranks what each user could be offered. Where an item of the draw was bought, only such items count."""
    judged = Judged([], [], [], [])
    positions = {item: position for position, item in enumerate(ranker.items)}
    for start in range(0, len(test), _CHUNK):
        chunk = test[start : start + _CHUNK]
        histories = [readable_by(ranker, example.interactions) for example in chunk]
        scores = score_rows(ranker, ranker.encode_many(histories), map(holdings_of, chunk)).copy()
        excluded = positions_of([example.excluded for example in chunk], positions)
        for example, ranked in zip(chunk, masked_top_k(scores, excluded, len(positions)), strict=True):
            order = [ranker.items[position] for position in ranked]
            bought = set(draw.items.intersection(example.items) or example.items)
            hit, precision = evaluate_one(order[:K], bought)
            judged.hits.append(hit)
            judged.average_precisions.append(precision)
            shown = [item for item in order if item not in draw.items]
            judged.hidden.append(evaluate_one(shown, set(example.items))[1])
            places = [place for place, item in enumerate(order, start=1) if item in bought]
            judged.places.append(min(places, default=len(order)) if draw.has_bought(example) else 0)
    return judged


Train = Callable[[str, int, Splits], Ranker]


class Comparison(NamedTuple):
    """What is compared.

    Attributes:
        systems: names that `train` knows.
        draws: one for each seed.
        splits: the whole data.
        keywords: returns those that a draw leaves; None where calls have none of ours.
    """

    systems: Sequence[str]
    draws: Sequence[Draw]
    splits: Splits
    keywords: Callable[[Draw], AbstractSet[str]] | None


class _Trained(NamedTuple):
    """A ranker, and how long its training took."""

    ranker: Ranker
    train_s: float


def compare(comparison: Comparison, train: Train, store: RunStore, say: Callable[[str], None] = lambda _: None) -> list[Run]:
    """Trains every system once on everything, and once without the items of each draw. A finished run is not repeated."""

    @cache
    def whole(system: str) -> _Trained:
        return _train(system, comparison.splits, train)

    runs = []
    for draw, system, of in product(comparison.draws, comparison.systems, ("", f", {WHOLE}")):
        label = f"{system}{of}, draw {draw.seed} ({', '.join(sorted(draw.items))})"
        run = store.get(f"{system}{of}", draw.seed)
        if run is None or (run.left_out is None and len(run.hidden_precisions) != len(comparison.splits.test)):
            say(f"{label} ...")
            try:
                trained = whole(system) if of else _train(system, _without(comparison, draw), train)
                run = _judged_run(f"{system}{of}", draw, comparison.splits.test, trained, store)
            except TooSmallError as error:
                run = Run(data=store.data, code=store.code, system=f"{system}{of}", seed=draw.seed, left_out=str(error))
            store.add(run)
        say(f"{label}: {_described(run)}")
        runs.append(run)
    return runs


def _without(comparison: Comparison, draw: Draw) -> Splits:
    return without(comparison.splits, draw, None if comparison.keywords is None else comparison.keywords(draw))


def _train(system: str, splits: Splits, train: Train) -> _Trained:
    """Trains with one seed, whatever the draw: the difference between two draws is theirs."""
    began = perf_counter()
    ranker = train(system, 0, splits)
    return _Trained(ranker, round(perf_counter() - began, 3))


def _judged_run(name: str, draw: Draw, test: Sequence[TrainingExample], trained: _Trained, store: RunStore) -> Run:
    judged = judge(trained.ranker, test, draw)
    return Run(
        data=store.data,
        code=store.code,
        system=name,
        seed=draw.seed,
        train_s=trained.train_s,
        event_types="".join(example.type[0] for example in test),
        hits=tuple(judged.hits),
        average_precisions=tuple(judged.average_precisions),
        places=tuple(judged.places),
        hidden_precisions=tuple(judged.hidden),
    )


def _described(run: Run) -> str:
    if run.left_out is not None:
        return f"left out: {run.left_out}"
    places = np.array(run.places)
    hits, precisions = np.array(run.hits), np.array(run.average_precisions)
    return (
        f"HR@3 unseen {hits[places > 0].mean():.3f}, MAP@3 seen {precisions[places == 0].mean():.4f}, "
        f"place {places[places > 0].mean():.1f}  ({run.train_s:.1f} s)"
    )


def unseen_rows(runs: Sequence[Run], draws: Mapping[int, Draw]) -> list[UnseenRow]:
    """Returns two rows for each run: the events that bought an unseen item, and the others."""
    rows = []
    for run in runs:
        places, hits, precisions = np.array(run.places), np.array(run.hits), np.array(run.average_precisions)
        for kind, chosen in ((UNSEEN, places > 0), (SEEN, places == 0)) if run.left_out is None else ():
            rows.append(
                UnseenRow(
                    system=run.system,
                    seed=run.seed,
                    event_type=kind,
                    events=int(chosen.sum()),
                    hr3=round(float(hits[chosen].mean()), 6),
                    map3=round(float(precisions[chosen].mean()), 6),
                    train_s=run.train_s,
                    items=tuple(sorted(draws[run.seed].items)),
                    place=round(float(places[chosen].mean()), 2) if kind == UNSEEN else None,
                    map3_hidden=round(float(np.array(run.hidden_precisions)[chosen].mean()), 6) if kind == SEEN else None,
                )
            )
    return rows


def report(rows: Sequence[UnseenRow], runs: Sequence[Run], facts: Mapping[str, str]) -> str:
    """Returns the report: facts, means over the draws with their standard errors, and what the others lose."""
    lines = [f"- {name}: {fact}" for name, fact in facts.items()]
    draws = len({row.seed for row in rows})
    lines += ["", f"Mean over {draws} draws ± standard error. `{UNSEEN}`: events that bought a drawn item, which alone counts."]
    table = [["system", "unseen HR@3", "unseen MAP@3", "place", "seen HR@3", "seen MAP@3", "- not shown", "- trained on all"]]
    for system in dict.fromkeys(row.system for row in rows):
        own = {kind: [row for row in rows if (row.system, row.event_type) == (system, kind)] for kind in (UNSEEN, SEEN)}
        places = [row.place for row in own[UNSEEN] if row.place is not None]
        values = (
            *([row.hr3 for row in own[UNSEEN]], [row.map3 for row in own[UNSEEN]], places),
            *([row.hr3 for row in own[SEEN]], [row.map3 for row in own[SEEN]]),
            *([row.map3 - (row.map3_hidden or 0.0) for row in own[SEEN]], _losses(rows, system)),
        )
        table.append([system, *(_cell(mean_of(one)) if one else "" for one in values)])
    return "\n".join([*lines, "", *aligned(table), *left_out(runs)]) + "\n"


def _losses(rows: Sequence[UnseenRow], system: str) -> list[float]:
    """What the other events' MAP@3 is above that of the same system trained on all, for each draw."""
    of = {(row.system, row.seed): row.map3 for row in rows if row.event_type == SEEN}
    pairs = [(map3, of.get((f"{name}, {WHOLE}", seed))) for (name, seed), map3 in of.items() if name == system]
    return [map3 - whole for map3, whole in pairs if whole is not None]


def _cell(mean: Mean) -> str:
    return f"{mean.value:.4f}" + ("" if mean.error is None else f" ± {mean.error:.4f}")
