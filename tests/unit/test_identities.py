"""What an id names: duplicates of every source, order lines, cancellations, parts of calls, and whole topics sent once more."""

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from stream.core import limits
from stream.core.events import Click, Eligibility, EncodedCall, Erasure, Purchase, Source, UserEvent
from stream.core.history import excluded_at
from stream.core.kept_interactions import ID_BYTES
from stream.core.outputs import decode_example, example_key
from stream.core.state import (
    EligibilityList,
    Facts,
    decode_facts,
    decode_head,
    encode_state,
    facts_key,
    former_event_id_hash,
    head_key,
)
from tests import world
from tests.world import MINUTE, NOW, OrderRanker, Store, batch_of, deliver, run

HOUR = 60 * MINUTE
BEGIN = NOW - 100 * MINUTE
Deliveries = Sequence[tuple[Source, UserEvent]]


def at(minute: int) -> int:
    return BEGIN + minute * MINUTE


def part(start: int, end: int, *, piece: int | None = None, event_id: str | None = None, seed: int = 0) -> EncodedCall:
    call = world.call("c", at(start), at(end), seed)
    return msgspec.structs.replace(
        call,
        event_id=event_id or call.event_id,
        has_event_id=event_id is not None,
        piece=msgspec.UNSET if piece is None else piece,
    )


def numbered(deliveries: Deliveries) -> Deliveries:
    """Encoded calls carry the offsets of their transcripts."""
    return [
        (source, msgspec.structs.replace(event, origin_offset=offset) if isinstance(event, EncodedCall) else event)
        for offset, (source, event) in enumerate(deliveries)
    ]


def after(*deliveries: tuple[Source, UserEvent]) -> Store:
    store = Store()
    deliver(store, numbered(deliveries), OrderRanker())
    return store


def kept_facts(store: Store) -> Facts:
    return decode_facts(store.records[facts_key(b"u")])


def example_items(store: Store, purchase_id: str) -> tuple[str, ...]:
    return decode_example(store.examples[example_key("u", purchase_id)] or b"").items


EVENTS: dict[str, tuple[Source, UserEvent]] = {
    "click": (Source.CLICK, Click("u", at(90), ("home",), "e1")),
    "click of a session": (Source.CLICK, Click("u", at(90), ("home",), "e1", "s1")),
    "call with an id": (Source.CALL, part(88, 90, event_id="e1")),
    "call with a number": (Source.CALL, part(88, 90, piece=3)),
    "call by its times": (Source.CALL, part(88, 90)),
    "purchase": (Source.PURCHASE, Purchase("u", at(90), ("item-1",), "e1")),
    "cancellation": (Source.PURCHASE, Purchase("u", at(90), ("item-1",), "e1", "cancelled")),
    "eligibility list": (Source.ELIGIBILITY, Eligibility("u", at(90), ("item-1",), "e1")),
}


@pytest.mark.parametrize("sent", EVENTS.values(), ids=EVENTS)
@pytest.mark.parametrize("erased", ["before", "between", "after", "never"])
def test_an_event_sent_twice_counts_once_wherever_an_erasure_lies(sent: tuple[Source, UserEvent], erased: str) -> None:
    """An erasure forgets the ids of what it covers and no others."""
    erasure = (Source.ERASURE, Erasure("u", at(60)))
    once = after(*([] if erased == "never" else [erasure]), sent)
    orders = {
        "before": [erasure, sent, sent],
        "between": [sent, erasure, sent],
        "after": [sent, sent, erasure],
        "never": [sent, sent],
    }
    store = Store()
    counts = deliver(store, numbered(orders[erased]), OrderRanker())
    assert world.history_of(store) == world.history_of(once)
    assert counts["events", sent[0], "duplicate_event"] == 1


@pytest.mark.parametrize("sent", EVENTS.values(), ids=EVENTS)
def test_what_an_erasure_covers_stays_out_when_it_is_sent_again(sent: tuple[Source, UserEvent]) -> None:
    store = after(sent, (Source.ERASURE, Erasure("u", at(95))), sent)
    assert world.history_of(store) == world.history_of(Store())


def test_a_click_sent_again_counts_once_after_the_gap_between_sessions_was_made_longer() -> None:
    """A session that a former gap ended holds it, and the next session would now take it."""
    store, clicks = Store(), [Click("u", at(minute), (f"t{minute}",), f"e{minute}") for minute in (0, 10, 45, 50)]
    for number, gap in enumerate((30, 60)):
        batch = batch_of(Source.CLICK, [(4 * number + index, click) for index, click in enumerate(clicks)])
        outcome = run(store, batch, config=world.settings(session_gap_ms=gap * MINUTE))
    assert outcome.counts["events", Source.CLICK, "duplicate_event"] == len(clicks)


def test_clicks_of_one_id_at_two_times_are_two_clicks() -> None:
    """In every order, also with an erasure between them; so do two sessions of one id and time."""
    early: tuple[Source, UserEvent] = (Source.CLICK, Click("u", at(50), ("home",), "e"))
    late: tuple[Source, UserEvent] = (Source.CLICK, Click("u", at(70), ("car",), "e"))
    erasure: tuple[Source, UserEvent] = (Source.ERASURE, Erasure("u", at(60)))
    both = world.history_of(after(early, late))
    assert both == world.history_of(after(late, early))
    left = world.history_of(after(erasure, late))
    for order in ([early, late, erasure], [early, erasure, late], [late, erasure, early], [late, early, erasure]):
        assert world.history_of(after(*order)) == left
    sessions: list[tuple[Source, UserEvent]] = [
        (Source.CLICK, Click("u", at(50), ("home",), "e", session_id)) for session_id in ("s1", "s2")
    ]
    assert len(world.history_of(after(*sessions))) == 2 + 4


def test_the_newest_part_of_one_identity_replaces_the_others() -> None:
    """A corrected piece counts once; the example that showed the older one is revised."""
    click, bought = Click("u", at(1), ("home",)), Purchase("u", at(50), ("item-1",), "p")
    first, corrected = part(10, 20, piece=1, seed=1), part(10, 60, piece=1, seed=2)
    store = after((Source.CLICK, click), (Source.PURCHASE, bought), (Source.CALL, first), (Source.CALL, corrected))
    other = after((Source.CALL, corrected), (Source.CALL, first), (Source.PURCHASE, bought), (Source.CLICK, click))
    assert world.history_of(store) == world.history_of(other)
    assert store.newest_examples() == other.newest_examples()
    assert decode_example(store.examples[example_key("u", "p")] or b"").type == "session"


def test_an_example_that_rested_on_a_replaced_part_alone_is_erased() -> None:
    """No interaction precedes the purchase any more."""
    first, corrected = part(10, 20, event_id="e"), part(15, 60, event_id="e")
    bought = Purchase("u", at(50), ("item-1",), "p")
    store = after((Source.CALL, first), (Source.PURCHASE, bought), (Source.CALL, corrected))
    assert store.examples[example_key("u", "p")] is None


def test_parts_with_other_numbers_ids_or_times_are_other_parts() -> None:
    """Also where everything else is the same."""
    for one, other in [
        (part(1, 2, piece=1), part(1, 2, piece=2)),
        (part(1, 2, event_id="a"), part(1, 2, event_id="b")),
        (part(1, 2), part(1, 3)),
        (part(1, 2, piece=1), part(1, 2, event_id="piece|1")),
    ]:
        (conversation,) = decode_head(after((Source.CALL, one), (Source.CALL, other)).records[head_key(b"u")]).tail
        assert len(conversation.parts) == 2  # type: ignore[union-attr]


def order_lines(*items: str, when: int = 50, action: str = "bought") -> list[tuple[Source, UserEvent]]:
    return [(Source.PURCHASE, Purchase("u", at(when), (item,), "order-1", action)) for item in items]  # type: ignore[arg-type]


def test_order_lines_of_one_id_and_time_are_one_purchase() -> None:
    """Three lines: three items owned, one example with all of them, one purchase counted."""
    store = Store()
    deliveries = [(Source.CLICK, Click("u", at(1), ("home",))), *order_lines("item-1", "item-2", "item-3", "item-2")]
    counts = deliver(store, deliveries, OrderRanker())
    assert decode_head(store.records[head_key(b"u")]).owned == ("item-1", "item-2", "item-3")
    assert example_items(store, "order-1") == ("item-1", "item-2", "item-3")
    assert counts["events", Source.PURCHASE, "applied"] == 3
    assert counts["events", Source.PURCHASE, "duplicate_event"] == 1
    assert sum(count for labels, count in counts.items() if labels[0] == "purchases") == 1


def test_a_cancellation_under_the_orders_id_is_an_event_of_its_own() -> None:
    """Before or after the order in its topic; also its lines unite, and the order's example stays."""
    click = (Source.CLICK, Click("u", at(1), ("home",)))
    lines = [*order_lines("item-1", "item-2"), *order_lines("item-2", "item-1", when=60, action="cancelled")]
    for order in (lines, lines[::-1]):
        store = after(click, *order)
        assert decode_head(store.records[head_key(b"u")]).owned == ()
        assert set(example_items(store, "order-1")) == {"item-1", "item-2"}
        assert len(kept_facts(store).purchases) == 2


def test_one_id_at_two_times_is_two_purchases_with_the_example_of_the_newest() -> None:
    """Both are owned, whichever came first; an erasure of the older one keeps the newest's example."""
    click = (Source.CLICK, Click("u", at(1), ("home",), session_id="s"))
    later = (Source.CLICK, Click("u", at(55), ("car",), session_id="s"))
    older, newest = order_lines("item-1"), order_lines("item-2", when=70)
    for order in ([*older, *newest], [*newest, *older]):
        store = after(click, later, *order)
        assert decode_head(store.records[head_key(b"u")]).owned == ("item-1", "item-2")
        assert example_items(store, "order-1") == ("item-2",)
        for repeated in ([], older):
            again = after(click, later, *order, (Source.ERASURE, Erasure("u", at(52))), *repeated)
            assert example_items(again, "order-1") == ("item-2",)
            assert decode_head(again.records[head_key(b"u")]).owned == ("item-2",)


def test_a_purchase_of_more_items_than_an_event_may_name_owns_them_all() -> None:
    """Its example names the first thousand; the rest is counted."""
    store = Store()
    events = [Purchase("u", at(50), tuple(f"{line}-{item}" for item in range(limits.ITEMS - 400)), "order-1") for line in range(2)]
    deliveries: Deliveries = [(Source.CLICK, Click("u", at(1), ("home",))), *((Source.PURCHASE, event) for event in events)]
    counts = deliver(store, deliveries)
    assert len(example_items(store, "order-1")) == limits.ITEMS
    assert len(decode_head(store.records[head_key(b"u")]).owned) == 2 * (limits.ITEMS - 400)
    assert counts["beyond_bounds", "item"] == 1


def test_a_late_line_of_a_purchase_that_left_the_state_is_owned() -> None:
    """Its example can no longer be revised and stays as it is."""
    store = Store()
    later = [(Source.PURCHASE, Purchase("u", at(60 + number), ("item-5",), f"p{number}")) for number in range(limits.PURCHASES)]
    deliver(store, [(Source.CLICK, Click("u", at(1), ("home",))), *order_lines("item-1"), *later])
    before = dict(store.examples)
    outcome = run(store, batch_of(Source.PURCHASE, [(20, order_lines("item-2")[0][1]), (21, order_lines("item-1")[0][1])]))
    assert decode_head(store.records[head_key(b"u")]).owned == ("item-1", "item-2", "item-5")
    assert outcome.counts["events", Source.PURCHASE, "duplicate_event"] == 1
    assert outcome.counts["beyond_bounds", "example"] == 1
    assert {key: store.examples[key] for key in before if key == example_key("u", "order-1")} == {
        example_key("u", "order-1"): before[example_key("u", "order-1")]
    }


def full_history(rng: np.random.Generator, *, surplus: int) -> list[tuple[Source, UserEvent]]:
    """Events beyond every bound by `surplus`: sessions that overlap calls, one of them with more clicks than are kept."""
    events: list[tuple[int, Source, UserEvent]] = []
    start = NOW - 40 * limits.DAY_MS
    for number in range(limits.INTERACTIONS // 2 + surplus):
        begin = start + number * limits.DAY_MS
        session_id = f"s{number}" if number % 3 == 0 else None
        clicks = limits.CLICKS + (10 * surplus if number % 4 == 1 else 0)
        for click in range(clicks):
            when = begin + click * MINUTE + (0 if session_id is None else click * HOUR // 2)
            tags = (f"tag-{rng.integers(20)}",)
            events.append((when, Source.CLICK, Click("u", when, tags, f"{number}-{click}", session_id)))
        for index in range(limits.PARTS + surplus):
            when = begin + 10 * MINUTE + index * MINUTE
            call = world.call(f"c{number}", when, when + MINUTE, int(rng.integers(9)))
            events.append((when + MINUTE, Source.CALL, msgspec.structs.replace(call, piece=index)))
    for number in range(limits.PURCHASES + surplus):
        when = start + number * 3 * limits.DAY_MS // 2 + HOUR
        event = Purchase("u", when, (f"item-{number % 6}",), f"p{number}", "cancelled" if number % 4 == 3 else "bought")
        events.append((when, Source.PURCHASE, event))
    for number in range(limits.ELIGIBILITY_LISTS + surplus):
        when = start + number * limits.DAY_MS + 2 * HOUR
        events.append((when, Source.ELIGIBILITY, Eligibility("u", when, (f"item-{number}",), f"l{number}")))
    events.sort(key=lambda event: event[0])
    return [(source, event) for _, source, event in events]


@pytest.mark.parametrize("surplus", [0, 2])
def test_a_whole_export_that_is_sent_again_changes_nothing_of_what_the_state_holds(surplus: int) -> None:
    """20 interactions of 64 clicks or 8 parts, 8 purchases and 4 lists, with more behind them that left the state; every source
    again, one after the other and under new offsets.
    """
    store = Store()
    deliveries = full_history(np.random.default_rng(surplus), surplus=surplus)
    applied = deliver(store, numbered(deliveries), OrderRanker())
    before, examples = world.history_of(store), store.newest_examples()
    assert len(before) == limits.INTERACTIONS + 4
    offset = len(deliveries)
    counts = applied - applied
    for source in Source:
        again = [event for other, event in numbered(deliveries) if other is source]
        for start in range(0, len(again), 100):
            batch = [
                (offset + index, msgspec.structs.replace(event, origin_offset=offset + index) if source is Source.CALL else event)
                for index, event in enumerate(again[start : start + 100])
            ]
            offset += len(batch)
            outcome = run(store, batch_of(source, batch), OrderRanker())
            assert not outcome.examples
            counts += outcome.counts
    assert world.history_of(store) == before
    assert store.newest_examples() == examples
    if not surplus:
        assert not any(count for labels, count in counts.items() if labels[0] == "events" and labels[2] == "applied")


def excluding(minute: int, *items: str, event_id: str | None = None) -> tuple[Source, UserEvent]:
    return Source.ELIGIBILITY, Eligibility("u", at(minute), items, event_id)


@pytest.mark.parametrize("rows", [4, 5, 40])
@pytest.mark.parametrize("with_ids", [False, True])
def test_what_a_file_excludes_row_by_row_under_one_time_is_never_offered(rows: int, with_ids: bool) -> None:
    """A nightly file may hold one row for each excluded item: its rows are one list, however many and in whatever order."""
    sent = [excluding(60, f"item-{row}", event_id=f"row-{row}" if with_ids else None) for row in range(rows)]
    store = Store()
    counts = deliver(store, [(Source.CLICK, Click("u", at(50), ("home",))), *sent], OrderRanker())
    assert not set(store.last_list()) & {f"item-{row}" for row in range(rows)}
    assert world.history_of(store) == world.history_of(after((Source.CLICK, Click("u", at(50), ("home",))), *reversed(sent)))
    assert not any(labels[0] == "beyond_bounds" for labels in counts)


@pytest.mark.parametrize("event_id", [None, "e"])
def test_a_list_sent_again_changes_nothing_with_or_without_an_id(event_id: str | None) -> None:
    """Its time names it. What it excludes is known, also if other lists of its time came between; an empty list too."""
    for items in (("item-1", "item-2"), ()):
        sent = excluding(60, *items, event_id=event_id)
        store = Store()
        counts = deliver(store, [sent, excluding(60, "item-3"), sent], OrderRanker())
        assert counts["events", Source.ELIGIBILITY, "duplicate_event"] == 1
        assert world.history_of(store) == world.history_of(after(excluding(60, "item-3", *items)))


def test_the_newest_time_replaces_the_lists_of_all_others() -> None:
    """Also where several lists make up the newest one, and in the examples of purchases between them."""
    lists = [excluding(20, "item-1"), excluding(60, "item-2"), excluding(60, "item-3")]
    bought = [(Source.PURCHASE, Purchase("u", at(minute), ("item-5",), f"p{minute}")) for minute in (40, 80)]
    events = [(Source.CLICK, Click("u", at(10), ("home",))), *lists, *bought]
    for order in (events, events[::-1]):
        store = after(*order)
        examples = [decode_example(store.examples[example_key("u", f"p{minute}")] or b"") for minute in (40, 80)]
        assert "item-1" in examples[0].excluded
        assert {"item-2", "item-3"} <= set(examples[1].excluded)
        assert "item-1" not in examples[1].excluded
        assert decode_head(store.records[head_key(b"u")]).excluded == ("item-2", "item-3")


def test_lists_of_one_time_that_an_earlier_version_kept_apart_unite_with_the_next_one() -> None:
    """They exclude together before that too, and count as one of the four times."""
    store = after((Source.CLICK, Click("u", at(5), ("home",))), *(excluding(minute, "item-0") for minute in (10, 20, 30)))
    facts = kept_facts(store)
    facts.eligibility = [*facts.eligibility, *(EligibilityList(at(60), (f"item-{row}",), b"former") for row in (3, 2))]
    store.records[facts_key(b"u")] = encode_state(facts)
    assert excluded_at(facts.eligibility) == ("item-3", "item-2")
    counts = run(store, batch_of(Source.ELIGIBILITY, [(9, excluding(60, "item-1")[1])]), OrderRanker()).counts
    kept = kept_facts(store).eligibility
    assert [(one.occurred_at, one.excluded) for one in kept[2:]] == [
        (at(30), ("item-0",)),
        (at(60), ("item-1", "item-2", "item-3")),
    ]
    assert not counts["beyond_bounds", "eligibility"]


def test_each_list_that_leaves_the_state_is_counted() -> None:
    """A list that is older than the last four, and one that a newer one pushes out."""
    store = after(*(excluding(minute, "item-0") for minute in (10, 20, 30, 40)))
    for number, minute in enumerate((50, 5)):
        counts = run(store, batch_of(Source.ELIGIBILITY, [(4 + number, excluding(minute, "item-1")[1])]), OrderRanker()).counts
        assert counts["beyond_bounds", "eligibility"] == 1
    kept = kept_facts(store).eligibility
    assert [one.occurred_at for one in kept] == [at(minute) for minute in (20, 30, 40, 50)]


def test_of_more_items_than_a_list_keeps_the_same_stay_in_every_order_and_each_event_is_counted() -> None:
    """Two files of 1,000 items each: the first 1,000 by name."""
    halves = [excluding(60, *(f"{half}-{number:03}" for number in range(limits.ITEMS))) for half in "ab"]
    stores = []
    for order in (halves, halves[::-1]):
        stores.append(Store())
        counts = deliver(stores[-1], order, OrderRanker())
        assert counts["beyond_bounds", "item"] == 1
    kept, other = (kept_facts(store).eligibility for store in stores)
    assert kept == other
    assert [len(one.excluded) for one in kept] == [limits.ITEMS]
    assert kept[0].excluded[0] == "a-000"


def test_an_id_costs_a_few_bytes_and_none_where_the_producer_gives_none() -> None:
    """Per click 6 bytes, beside its time and tags."""
    sizes = []
    for event_ids in ([None] * 10, ["with an id"] * 10):
        clicks = [(Source.CLICK, Click("u", at(number), ("home",), event_id)) for number, event_id in enumerate(event_ids)]
        sizes.append(len(encode_state(decode_head(after(*clicks).records[head_key(b"u")]))))
    assert sizes[1] - sizes[0] == 10 * ID_BYTES


def test_a_click_without_an_id_is_never_a_duplicate() -> None:
    """Its neighbours in the session may have ids."""
    plain, identified = Click("u", at(1), ("home",)), Click("u", at(1), ("home",), "e")
    store = after((Source.CLICK, plain), (Source.CLICK, identified), (Source.CLICK, plain), (Source.CLICK, identified))
    (session, *_) = world.history_of(store)
    assert len(session[3]) == 3  # type: ignore[index]


def test_ids_in_states_of_earlier_versions_are_still_recognised() -> None:
    """The head held the last 32; each new id replaces one of them."""
    store = after((Source.CLICK, Click("u", at(1), ("home",))))
    head = decode_head(store.records[head_key(b"u")])
    head.event_ids = b"".join(former_event_id_hash(Source.CLICK, event_id) for event_id in ("e1", "e2"))
    store.records[head_key(b"u")] = encode_state(head)
    for offset, (event_id, outcome) in enumerate([("e2", "duplicate_event"), ("e3", "applied"), ("e1", "applied")], start=1):
        click = Click("u", at(2), ("home",), event_id)
        counts = run(store, batch_of(Source.CLICK, [(offset, click)])).counts
        assert counts["events", Source.CLICK, outcome] == 1  # type: ignore[index]
