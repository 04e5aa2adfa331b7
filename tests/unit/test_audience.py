"""The audience of an item: scores and filters are those of the step's lists."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from stream.core.events import Click, Eligibility, Item, Purchase, Source
from stream.core.outputs import Recommendation
from stream.core.ranking import Catalogue, Ranker
from stream.core.state import HEAD_PREFIX, decode_head
from stream.errors import IsthmusError
from stream.kafka.embedded.log_reader import EmbeddedLogReader
from stream.services.audience import TemporaryStates, restore, write_audience
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
    """Texts as they are."""
    from pyarrow import parquet

    members = [Member(0.25, 'a,"b"', None), Member(0.125, "c", "popularity")]
    write_audience(members, "csv", tmp_path / "a.csv")
    write_audience(members, "parquet", tmp_path / "a.parquet")
    assert (tmp_path / "a.csv").read_text().splitlines() == ["user_id,score,fallback", '"a,""b""",0.2500,', "c,0.1250,popularity"]
    table = parquet.read_table(tmp_path / "a.parquet").to_pylist()
    assert table[0] == {"user_id": 'a,"b"', "score": 0.25, "fallback": None}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.parquet"]


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
