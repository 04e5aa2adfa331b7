"""How true reasons are: curves of deletion, and whether the interaction that planted a taste is named."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from stream.core.interactions import Interaction, session_of
from stream.core.outputs import TrainingExample
from stream.core.ranking import Rows
from stream.core.records import Batch, PlainRecord
from tests.purchases import START_MS
from tests.unit.test_explain import TopicRanker
from training.datasets.examples_from_tables import examples_of
from training.datasets.synthetic.answer_key import read_in_mind
from training.datasets.synthetic.write_tables import write_tables
from training.datasets.tables.reader import read_tables
from training.evaluation.benchmark import Run
from training.evaluation.explanations import EVENTS, InMind, faithfulness
from training.evaluation.trust_tables import trust_tables


def example(number: int, *tags: str) -> TrainingExample:
    sessions = tuple(session_of([(START_MS + number * 10_000 + at, (tag,))]) for at, tag in enumerate(tags))
    return TrainingExample(
        user_id=f"u{number}",
        purchase_id=f"p{number}",
        occurred_at=START_MS + number * 10_000 + 9_000,
        revision=0,
        type="session",
        items=("boat",),
        excluded=(),
        interactions=sessions,
    )


def test_the_score_falls_with_the_named_interaction_and_rarely_with_a_random_one() -> None:
    """One of four interactions is about the first item; it alone is named, so the curve stays where its deletion leaves it."""
    judged = faithfulness(TopicRanker(), [example(number, "help", "boat", "news", "help") for number in range(EVENTS + 10)])
    assert judged is not None
    assert judged.events == EVENTS
    assert judged.named == pytest.approx([1 / 9] * 3, abs=1e-5)
    assert judged.random == pytest.approx([1 - 8 / 9 / 4] * 3, abs=0.05)


def test_of_repeated_interactions_both_are_named() -> None:
    """After one deletion nothing has changed, after the second the score falls."""
    judged = faithfulness(TopicRanker(), [example(number, "boat", "boat", "boat") for number in range(20)])
    assert judged is not None
    assert judged.named == pytest.approx([1, 1, 1 / 9], abs=1e-5)
    assert judged.repeated_named == pytest.approx([1, 1, 1])  # three of four are named


def test_short_histories_are_not_judged() -> None:
    assert faithfulness(TopicRanker(), [example(0, "boat", "help")]) is None


def test_the_strongest_reason_is_compared_with_what_the_user_had_in_mind() -> None:
    """Where one interaction of three was about the first item. Where all were, any reason would be right."""
    in_mind: InMind = {"p0": [None, "boat", "cat"], "p1": ["cat", "cat", "boat"], "p2": ["boat"] * 3, "p3": ["boat"]}
    examples = [example(number, "help", "boat", "news") for number in range(4)]
    judged = faithfulness(TopicRanker(), examples, in_mind)
    assert judged is not None
    assert (judged.planted, judged.found) == (2, 0.5)
    assert judged.found_by_chance == pytest.approx(1 / 3)


class NewestRanker(TopicRanker):
    """Reads the newest interaction alone."""

    def advance_many(self, representations: Rows, interactions: Sequence[Interaction]) -> Rows:
        return super().advance_many(np.zeros_like(representations), interactions)


def no_calls(_: Batch) -> list[PlainRecord]:
    return []


def test_the_answer_key_of_a_world_fits_its_examples(tmp_path: Path) -> None:
    """One item or none for each interaction, in their order; data without a key has none."""
    write_tables(tmp_path, 60, seed=3)
    in_mind = read_in_mind(tmp_path)
    tables = read_tables(tmp_path)
    rows = Counter(f"p{row.purchase_event_id}" for row in tables.interactions)
    assert {purchase: len(items) for purchase, items in in_mind.items()} == rows
    assert {one.purchase_id for one in examples_of(tables, no_calls)} <= rows.keys()
    assert {item for items in in_mind.values() for item in items} <= {None, *map(str, range(1, 25))}
    assert read_in_mind(tmp_path / "nowhere") == {}


def test_the_tables_hold_means_over_the_runs_and_leave_out_what_nothing_tells() -> None:
    judged = faithfulness(NewestRanker(), [example(number, "boat", "help", "boat") for number in range(8)])
    runs = [Run(data="d", system="a", seed=seed, faithfulness=judged) for seed in range(2)]
    text = "\n".join(trust_tables([*runs, Run(data="d", system="b", seed=0)]))
    assert "| a      | 16     | 0.111 0.111 0.111 |" in text
    assert "in mind" not in text
    assert "| b" not in text
    assert trust_tables([Run(data="d", system="b", seed=0)]) == []
