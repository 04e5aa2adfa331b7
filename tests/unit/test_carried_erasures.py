"""A marker that came before its erasure, as a backfill writes it: what the user's records hold meanwhile goes with the erasure."""

import msgspec

from stream.core.events import Click, Erasure, Feedback, Purchase, Source
from stream.core.feedback import hash_item
from stream.core.outputs import Outcome, decode_example
from stream.core.state import ErasureMarker, decode_erasure_marker, encode_state, erasure_marker_key, feedback_key
from tests import world
from tests.world import MINUTE, NOW, OrderRanker, Store

MARKER_KEY = erasure_marker_key(b"u", world.settings().erasure_key)
ERASED_AT = NOW - 30 * MINUTE
CARRIED = Erasure("u", ERASED_AT, "carried")


def shown(item: str, at: int) -> Feedback:
    return Feedback("u", at, "web", "shown", (item,), f"f-{at}")


def with_marker(store: Store, ids: bytes = b"") -> Store:
    store.records[MARKER_KEY] = encode_state(ErasureMarker(1, ERASED_AT, NOW, {}, ids))
    return store


def erase(store: Store, erasure: Erasure, offset: int) -> Outcome:
    return world.run(store, world.batch_of(Source.ERASURE, [(offset, erasure)]), OrderRanker())


def test_the_feedback_of_a_user_without_history_goes() -> None:
    """What was shown later stays, and no later example shows what went."""
    store = Store()
    world.deliver(store, [(Source.FEEDBACK, shown("item-1", ERASED_AT)), (Source.FEEDBACK, shown("item-2", ERASED_AT + 1))])
    erase(with_marker(store), CARRIED, 0)
    assert [mark.item for mark in world.feedback_of(store)] == ["item-2"]
    world.deliver(store, [(Source.CLICK, Click("u", NOW - 2, ("t",))), (Source.PURCHASE, Purchase("u", NOW - 1, ("item-1",), "p"))])
    (example,) = (decode_example(value) for value in store.examples.values() if value is not None)
    assert [one.item for one in example.shown or ()] == [hash_item("item-2")]


def test_feedback_of_which_nothing_is_left_has_no_record() -> None:
    """Redelivered, it stays out."""
    store = Store()
    events = [(Source.FEEDBACK, shown("item-1", ERASED_AT))]
    world.deliver(store, events)
    erase(with_marker(store), CARRIED, 0)
    assert feedback_key(b"u") not in store.records
    world.deliver(store, events)
    assert feedback_key(b"u") not in store.records


def test_a_list_without_a_state_goes() -> None:
    """A worker sent it and ended before the state was durable. The marker keeps its events out, so that no list replaces it."""
    store = with_marker(Store())
    store.recommendations[b"u"] = b"{}"
    assert [output.value for output in erase(store, CARRIED, 0).recommendations] == [None]
    world.deliver(store, [(Source.CLICK, Click("u", ERASED_AT, ("t",)))])
    assert store.recommendations == {b"u": None}


def test_history_goes_and_the_ids_that_the_marker_knows_stay_known() -> None:
    """Those of erasures without a time: such a one sent again erases nothing that came since."""
    first, store = Store(), Store()
    erase(first, Erasure("u", None, "request"), 0)
    world.deliver(store, [(Source.CLICK, Click("u", at, ("t",), str(at))) for at in (ERASED_AT, ERASED_AT + 1)])
    with_marker(store, decode_erasure_marker(first.records[MARKER_KEY]).erasure_ids)
    erase(store, CARRIED, 0)
    assert len(store.records) == 3
    again = erase(store, Erasure("u", None, "request"), 1)
    assert again.counts["events", Source.ERASURE, "duplicate_event"] == 1
    assert [at for at, _ in world.history_of(store)[0][3]] == [ERASED_AT + 1]  # type: ignore[index]


def test_once_it_is_erased_the_same_erasure_changes_nothing_more() -> None:
    """Of later feedback it stays known how often an item was shown."""
    store = Store()
    erase(store, CARRIED, 0)
    world.deliver(store, [(Source.FEEDBACK, shown("item-1", ERASED_AT + number)) for number in range(1, 60)])
    before = dict(store.records)
    outcome = erase(store, msgspec.structs.replace(CARRIED, event_id="again"), 1)
    assert outcome.counts["events", Source.ERASURE, "erased"] == 1
    assert store.records == before
