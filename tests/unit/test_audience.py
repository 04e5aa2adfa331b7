"""The audience of an item: scores and filters are those of the step's lists."""

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from pyarrow import parquet

from stream.core.events import Click, Eligibility, Item, Purchase, Source
from stream.core.outputs import Fallback, Recommendation
from stream.core.ranking import Catalogue, Ranker
from stream.core.state import HEAD_PREFIX, decode_head
from stream.errors import IsthmusError
from stream.kafka.embedded.log_reader import EmbeddedLogReader
from stream.services.audience import TemporaryStates, cleaning_up_at_signals, restore, write_audience
from stream.sinks.audience import Audience, Member, best, chunks
from tests import api
from tests.rankers import random_ranker
from tests.world import ITEMS, NOW, OrderRanker, Store, batch_of, catalogue, run, settings

ITEM = ITEMS[2]


def network() -> Ranker:
    """The default system's, with random weights."""
    tags = [f"tag-{number}" for number in range(7)]
    return random_ranker("isthmus", ITEMS, np.full(len(ITEMS), 0.1, dtype=np.float32), tags=tags, clicks=tags)


def world(ranker: Ranker) -> Store:
    """Users with clicks, one of each who owns the item, may not be offered it, or has no history that the model reads."""
    store, whole = Store(), settings(list_length=len(ITEMS))
    clicks = [
        (number, Click(f"u{number % 40}", NOW - 700_000_000 + number * 3_000_000, (f"tag-{number % 7}",))) for number in range(200)
    ]
    run(store, batch_of(Source.CLICK, clicks), ranker, config=whole)
    lists = [(0, Eligibility("u1", NOW, (ITEM,))), (1, Eligibility("none", NOW, ("x",)))]
    run(store, batch_of(Source.ELIGIBILITY, lists), ranker, config=whole)
    run(store, batch_of(Source.PURCHASE, [(0, Purchase("u2", NOW, (ITEM,), "p"))]), ranker, config=whole)
    return store


def found(store: Store, ranker: Ranker) -> dict[str, Member]:
    audience = Audience(ITEM, ranker, catalogue(), NOW)
    heads = [(key, value) for key, value in store.records.items() if key.startswith(HEAD_PREFIX)]
    return {one.user_id: one for chunk in chunks(heads) for one in audience.members(chunk, store)}


def listed(store: Store) -> dict[str, float]:
    lists = [msgspec.json.decode(value, type=Recommendation) for value in store.recommendations.values() if value]
    return {one.user_id: ranked.score for one in lists for ranked in one.items if ranked.item == ITEM}


@pytest.mark.parametrize("make", [OrderRanker, network])
def test_scores_and_filters_are_those_of_the_lists(make: Callable[[], Ranker]) -> None:
    """Of every user, within 1e-3; who owns the item or is not eligible is not there."""
    ranker = make()
    store = world(ranker)
    members, lists = found(store, ranker), listed(store)
    assert members.keys() == lists.keys()
    assert len(members) > 30
    assert "u1" not in members
    assert np.ptp([one.score for one in members.values()]) > 0.005
    assert max(abs(members[user].score - lists[user]) for user in lists) < 1e-3
    assert members["none"].fallback == "popularity"


def test_a_new_champion_scores_states_of_the_former_one() -> None:
    """Their cached representations are another model's."""
    store, new = world(OrderRanker()), OrderRanker(seed=2, version="2")
    fresh = found(world(new), new)
    again = found(store, new)
    assert again.keys() == fresh.keys()
    assert max(abs(again[user].score - fresh[user].score) for user in fresh) < 1e-3


def test_an_item_that_nobody_may_be_offered_is_refused() -> None:
    """Withdrawn, or unknown to the champion."""
    withdrawn = Catalogue([Item(ITEMS[0], "x")])
    with pytest.raises(IsthmusError, match="not on offer"):
        Audience(ITEM, OrderRanker(), withdrawn, NOW)
    with pytest.raises(IsthmusError, match="does not know"):
        Audience("other", OrderRanker(), catalogue(), NOW)


def test_the_best_come_first_and_no_more_than_asked_for() -> None:
    """Ties by user id; nobody below the lowest score."""
    members = [Member(0.5, "b", None), Member(0.9, "c", None), Member(0.5, "a", None), Member(0.1, "d", None)]
    assert [one.user_id for one in best(members, 10, 0.2)] == ["c", "a", "b"]
    assert [one.user_id for one in best(members, 2, 0.0)] == ["c", "a"]


def test_both_formats_hold_the_same(tmp_path: Path) -> None:
    """Each user, score and fallback; texts of every kind as they are."""
    users = ['a,"b"', "=1+1", "line\nbreak\r\n", "日本\u202e", "nul\0", " ", "None"]
    fallbacks: list[Fallback | None] = [None, "popularity"]
    members = [Member(round(0.99991 / (number + 1), 4), user, fallbacks[number % 2]) for number, user in enumerate(users)]
    for form in ("csv", "parquet"):
        write_audience(members, form, tmp_path / f"a.{form}")
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    written = [(float(row["score"]), row["user_id"], row["fallback"] or None) for row in rows]
    table = parquet.read_table(tmp_path / "a.parquet").to_pylist()
    assert written == [(row["score"], row["user_id"], row["fallback"]) for row in table] == members
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.parquet"]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_file_that_cannot_be_written_whole_is_not_left_in_part(tmp_path: Path, form: str) -> None:
    """It would be a copy of personal data under a hidden name."""
    members: list[Any] = [Member(0.5, "a", None), Member("no score", "b", None)]  # type: ignore[arg-type]
    with pytest.raises((ValueError, TypeError)):
        write_audience(members, form, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


STOPPED = """
import asyncio, sys
from stream.cli.main import main
from stream.kafka.cluster import owners
from stream.services import audience
from tests.world import ITEMS, OrderRanker, catalogue

async def restore(reader, changelog, states, say):
    states.put(b"ha", b"a state")
    print("restoring", flush=True)
    await asyncio.Event().wait()

owners.require_access = lambda *_: None
audience._champion, audience._catalogue, audience.restore = lambda _: OrderRanker(), lambda _: catalogue(), restore
sys.argv = ["isthmus", "audience", ITEMS[2]]
main()
"""


def test_a_signal_removes_the_copy_of_the_states(tmp_path: Path) -> None:
    """It is large, and personal data of every user. The exit code says which signal it was."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"restoring\n"
        assert [one.name.startswith("isthmus-audience-") for one in tmp_path.iterdir()] == [True]
        process.send_signal(signal.SIGTERM)
    assert (process.returncode, list(tmp_path.iterdir())) == (128 + signal.SIGTERM, [])


@pytest.fixture
def defaults() -> Iterator[None]:
    """Signals do what they do by default, also under nohup or in a shell's background, where some are ignored."""
    former = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.usefixtures("defaults")
def test_a_second_signal_does_not_interrupt_the_removal(number: signal.Signals) -> None:
    """Somebody who waits for the end of a large removal presses Ctrl-C again."""
    removed: list[str] = []

    def work() -> None:
        try:
            signal.raise_signal(number)
        finally:
            signal.raise_signal(number)
            signal.raise_signal(signal.SIGTERM)
            removed.append("everything")

    with pytest.raises(SystemExit) as ended, cleaning_up_at_signals():
        work()
    assert (ended.value.code, removed) == (128 + number, ["everything"])
    assert signal.getsignal(number) is signal.SIG_DFL


@pytest.mark.usefixtures("defaults")
def test_a_signal_that_the_parent_ignores_stays_ignored() -> None:
    """A command under nohup outlives its terminal."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with cleaning_up_at_signals():
        signal.raise_signal(signal.SIGHUP)


async def test_states_are_restored_as_a_worker_restores_them(tmp_path: Path) -> None:
    """The newest of each user, without erased ones and without what an earlier owner of the partition wrote late."""
    log = api.new_log()
    for user in ("a", "erased"):
        api.put_state(log, user, owned=["old"], term=1)
    api.put_state(log, "a", owned=["new"], term=3)
    api.put_state(log, "a", owned=["late"], term=2)
    api.erase(log, "erased", term=3)
    states = TemporaryStates(str(tmp_path / "states"))
    await restore(EmbeddedLogReader(log), api.CHANGELOG, states, print)
    assert {key: decode_head(value).owned for key, value in states.heads()} == {b"ha": ("new",)}
    states.close()
