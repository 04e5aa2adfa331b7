"""A list is empty only if nothing may be offered, and never holds what must not be offered."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from stream.core.events import Click, Eligibility, Item, Purchase, Source
from stream.core.ranking import Catalogue, Ranker
from tests import world
from tests.world import MINUTE, NOW, OrderRanker

NAMES = tuple(f"i{number}" for number in range(8))
subsets = st.lists(st.sampled_from(NAMES), max_size=8, unique=True).map(tuple)
offers = st.tuples(st.sampled_from([None, NOW - MINUTE, NOW + MINUTE]), st.sampled_from([None, NOW - MINUTE, NOW + MINUTE]))
catalogues = st.dictionaries(st.sampled_from(NAMES), st.tuples(offers, st.booleans()), max_size=8).map(
    lambda entries: [
        Item(item, item, offered_from=start, offered_until=end, repeatable=again) for item, ((start, end), again) in entries.items()
    ]
)
rankers = st.one_of(
    st.none(), st.builds(OrderRanker, items=subsets, text_model=st.sampled_from([None, "text-1"]), reads_sessions=st.booleans())
)


def is_on_offer(item: Item) -> bool:
    times: dict[object, int] = {NOW - MINUTE: -1, NOW + MINUTE: 1}
    return times.get(item.offered_from, -1) < 0 and times.get(item.offered_until, 1) > 0


def may_be_offered(catalogue: list[Item], ranker: Ranker | None, owned: tuple[str, ...], excluded: tuple[str, ...]) -> set[str]:
    """The items on offer now, or those of the model if there is no catalogue, without the user's own and the excluded ones."""
    if not catalogue:
        return set(() if ranker is None else ranker.items) - set(excluded) - set(owned)
    offered = {item.item_id for item in catalogue if is_on_offer(item)}
    repeatable = {item.item_id for item in catalogue if item.repeatable}
    return offered - set(excluded) - (set(owned) - repeatable)


@given(catalogues, rankers, subsets, subsets, st.lists(st.sampled_from("sc"), max_size=3), st.integers(1, 9), st.integers(0, 5))
def test_a_list_is_as_long_as_what_may_be_offered_allows(
    catalogue: list[Item],
    ranker: Ranker | None,
    owned: tuple[str, ...],
    excluded: tuple[str, ...],
    history: list[str],
    k: int,
    reserve: int,
) -> None:
    """Whatever the model knows. The event says what ranked the list and its items, and what it rests on."""
    store, items = world.Store(), Catalogue(catalogue)
    config = world.settings(list_length=k, reserve_length=reserve, explain=True)
    for number, kind in enumerate(history):
        at = NOW - (9 - number) * 45 * MINUTE
        if kind == "s":
            world.run(store, world.batch_of(Source.CLICK, [(number, Click("u", at, ("home",)))]), ranker, items, config)
        else:
            world.run(
                store, world.batch_of(Source.CALL, [(0, world.call(f"c{number}", at, at, offset=number))]), ranker, items, config
            )
    if owned:
        world.run(store, world.batch_of(Source.PURCHASE, [(0, Purchase("u", NOW, owned))]), ranker, items, config)
    last = world.batch_of(Source.ELIGIBILITY, [(0, Eligibility("u", NOW, excluded))])
    world.run(store, last._replace(notified_users=set()), ranker, items, config)  # never suppressed
    sent: dict[str, Any] = msgspec.json.decode(store.recommendations[b"u"] or b"")
    entries = [*sent["items"], *sent.get("reserve", ())]
    allowed = may_be_offered(catalogue, ranker, owned, excluded)
    assert len(sent["items"]) == min(k, len(allowed))
    assert len(entries) == min(k + reserve, len(allowed))
    assert {entry["item"] for entry in entries} <= allowed
    assert [entry["rank"] for entry in entries] == list(range(1, len(entries) + 1))
    assert len({entry["item"] for entry in entries}) == len(entries)
    assert_says_what_it_rests_on(sent, entries, ranker, history)


def assert_says_what_it_rests_on(
    sent: dict[str, Any], entries: list[dict[str, Any]], ranker: Ranker | None, history: list[str]
) -> None:
    known = [ranker is not None and entry["item"] in ranker.items for entry in entries]
    assert known == sorted(known, reverse=True)  # the model's own items first
    read = "" if ranker is None else "s" * ranker.reads_sessions + "c" * (ranker.text_model is not None)
    support = {"session": history.count("s") * ("s" in read), "conversation": history.count("c") * ("c" in read)}
    is_catalogue = ranker is None or (entries and not any(known))
    fallback = "catalogue" if is_catalogue else None if any(support.values()) else "popularity"
    filled = [None if own or is_catalogue else "catalogue" for own in known]
    assert sent.get("fallback") == fallback
    assert [entry.get("fallback") for entry in entries] == filled
    assert sent["modalities"] == (support if fallback is None else {"session": 0, "conversation": 0})
    assert ("because" in sent) == (fallback is None and bool(entries))
    for entry, own in zip(entries, known, strict=True):
        assert own or entry["score"] == 0
