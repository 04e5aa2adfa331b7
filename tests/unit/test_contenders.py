"""The benchmark's other contenders do the work that they are compared on: their fold gives the step's lists."""

from pathlib import Path

import msgspec
import pytest

from models.artifact import load_ranker
from stream.core import limits
from stream.core.events import Source
from stream.core.records import Batch, PlainRecord
from stream.core.step import StepConfig, step
from tests.benchmarks.bare import Bare, BareClick, BareState, decode_click, decode_state, encode_state
from tests.benchmarks.contenders import CATALOGUE
from tests.benchmarks.job import Clock, Job
from tests.benchmarks.lists import disagreement, list_in
from tests.benchmarks.load import ITEMS, NOW_MS, START_MS, TAGS, after
from tests.benchmarks.network import write_network
from tests.benchmarks.table import with_ratios
from tests.world import Store

USERS, PAST = 3, 130
"""130 clicks are 13 sessions: the window of 10 has slid."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("network") / "model"
    write_network(folder)
    return folder


@pytest.mark.parametrize("scored", [False, True])
def test_the_bare_fold_ends_with_the_steps_own_lists(model: Path, scored: bool) -> None:
    """After every click of thirteen sessions, state written and read again each time, the items are those of our step."""
    ranker = load_ranker(str(model)) if scored else None
    bare, store, states = Bare(str(model) if scored else ""), Store(), dict.fromkeys(range(USERS), encode_state(BareState()))
    wanted: dict[str, list[str]] = {}
    found: dict[str, list[str]] = {}
    for number, event in enumerate(after(PAST, USERS, 0)):
        record = PlainRecord(number, NOW_MS, event.key.encode(), event.value)
        outcome = step(Batch(Source.CLICK, "web-clicks", 1, 0, [record]), store, ranker, CATALOGUE, StepConfig(partitions=1))
        store.records.update((key, value) for key, value in outcome.writes.items() if value is not None)
        wanted.update(list_in(output.value) for output in outcome.recommendations if output.value is not None)
        state = decode_state(states[number % USERS])
        bare.fold(state, decode_click(event.value))
        ranked = bare.lists([state])[0]
        states[number % USERS] = encode_state(state)
        if ranked is not None:
            found[event.key] = [ITEMS[place] for place, _ in ranked]
        assert found == wanted


def test_many_states_at_once_give_the_lists_of_one_at_a_time(model: Path) -> None:
    bare = Bare(str(model))
    one, many = [BareState() for _ in range(5)], [BareState() for _ in range(5)]
    for turn in range(3):
        for states in (one, many):
            for user, state in enumerate(states):
                tags = [TAGS[(turn * 31 + user * 7) % len(TAGS)], TAGS[user]]
                bare.fold(state, BareClick("e", str(user), START_MS + turn * limits.HOUR_MS, tags))
        alone = [bare.lists([state])[0] for state in one]
        for apart, together in zip(alone, bare.lists(many), strict=True):
            assert [place for place, _ in apart or []] == [place for place, _ in together or []]


def test_a_contender_with_other_lists_or_other_users_is_found_out() -> None:
    wanted = {f"user-{number}": ["1", "2"] for number in range(100)}
    assert disagreement(dict(wanted), wanted) is None
    assert disagreement({**wanted, "user-7": ["2", "1"]}, wanted) is not None
    assert disagreement({user: items for user, items in wanted.items() if user != "user-7"}, wanted) is not None


def test_a_ratio_is_taken_to_ours_under_the_same_load_and_model() -> None:
    common = {"part": "throughput", "users": "new users"}
    rows = [
        {**common, "contender": "ours", "scored": True, "events_per_s": 100.0},
        {**common, "contender": "ours", "scored": False, "events_per_s": 400.0},
        {**common, "contender": "other", "scored": True, "events_per_s": 50.0},
        {**common, "contender": "other", "scored": True, "p50_ms": 1.0},
    ]
    assert [row.get("ratio") for row in with_ratios(rows)] == [1.0, 1.0, 0.5, None]


def test_the_loads_clicks_are_ones_that_the_step_takes() -> None:
    events = list(after(20, 2, 10))
    assert len(events) == 50
    assert all(msgspec.json.decode(event.value)["user_id"] == event.key for event in events)


def test_events_that_all_came_at_once_are_not_timed() -> None:
    """Then there is no rate; the contender ends with an error instead of a figure."""
    clock = Clock(Job(bootstrap="", folder="", partitions=1, skip=5, count=10))
    assert not clock.look(15)
    with pytest.raises(ValueError, match="too few"):
        clock.look(15)
