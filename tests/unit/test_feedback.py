"""Feedback: a record of its own, bounded, in which repetitions count once, and what it says of what was bought."""

from collections import Counter

import msgspec
import numpy as np

from stream.core import limits
from stream.core.events import Click, Erasure, Feedback, FeedbackAction, Purchase, Reason, Source, UserEvent
from stream.core.feedback import SHOWN, Mark, UserFeedback, decode_feedback, encode_feedback, hash_item
from stream.core.outputs import Count, decode_example
from stream.core.records import PlainRecord
from stream.core.state import decode_user_feedback, facts_key, feedback_key, head_key
from stream.metrics import MOST_VERSIONS, Metrics
from tests.world import MINUTE, NOW, OrderRanker, Store, batch_of, deliver, feedback_of, run, settings

DAY = limits.DAY_MS


def feedback(action: FeedbackAction, at: int, *items: str, **more: str | None) -> Feedback:
    named = {"placement": "hero", "model_version": "1", "channel": "web", **more}
    return Feedback("u", at, action=action, items=items, **named)  # type: ignore[arg-type]


def sent(*events: UserEvent) -> list[tuple[Source, UserEvent]]:
    sources = {Click: Source.CLICK, Purchase: Source.PURCHASE, Erasure: Source.ERASURE, Feedback: Source.FEEDBACK}
    return [(sources[type(event)], event) for event in events]


def items_counted(counts: Counter[Count], action: str) -> int:
    return sum(count for name, count in counts.items() if name[:2] == ("feedback_items", action))


def test_an_impression_that_comes_twice_within_a_minute_counts_once() -> None:
    """Without an id; with one, also if its producer sends the whole list again. Another minute or list is another impression."""
    store = Store()
    at = NOW - NOW % MINUTE
    counts = deliver(
        store,
        sent(
            feedback("shown", at, "item-1", "item-2", recommendation_id="r"),
            feedback("shown", at + 50_000, "item-1", "item-2", recommendation_id="r"),
            feedback("shown", at + MINUTE, "item-1", recommendation_id="r"),
            feedback("shown", at + MINUTE, "item-1", recommendation_id="other"),
            feedback("shown", at + MINUTE, "item-3", event_id="e"),
            feedback("shown", at + MINUTE, "item-3", event_id="e"),
        ),
    )
    assert items_counted(counts, "shown") == 5
    assert counts["events", Source.FEEDBACK, "duplicate_event"] == 1
    assert [mark.item for mark in feedback_of(store)].count("item-1") == 3


def test_feedback_touches_neither_head_nor_facts_and_causes_no_list() -> None:
    """Before and after clicks, whose records are byte for byte those of a user without feedback."""
    with_feedback, without = Store(), Store()
    click, later = Click("u", NOW - MINUTE, ("home",)), Click("u", NOW, ("car",))
    run(without, batch_of(Source.CLICK, [(0, click)]), OrderRanker())
    run(with_feedback, batch_of(Source.CLICK, [(0, click)]), OrderRanker())
    for number, action in enumerate(("shown", "selected", "accepted", "rejected", "dismissed")):
        event = feedback(action, NOW, "item-1")  # type: ignore[arg-type]
        outcome = run(with_feedback, batch_of(Source.FEEDBACK, [(number, event)]), OrderRanker())
        assert list(outcome.writes) == [feedback_key(b"u")]
        assert not outcome.recommendations
    for store in (with_feedback, without):
        outcome = run(store, batch_of(Source.CLICK, [(1, later)]), OrderRanker())
        assert list(outcome.writes) == [head_key(b"u"), facts_key(b"u")][: len(outcome.writes)]
    del with_feedback.records[feedback_key(b"u")]
    assert with_feedback.records == without.records
    assert with_feedback.recommendations == without.recommendations


def test_a_click_never_reads_feedback() -> None:
    """An unreadable record would stop it."""
    store = Store()
    store.records[feedback_key(b"u")] = b"\xc1"
    run(store, batch_of(Source.CLICK, [(0, Click("u", NOW, ("home",)))]), OrderRanker())
    assert store.last_list()


def test_the_record_stays_below_one_kilobyte_and_keeps_the_newest_items() -> None:
    """Whatever is sent, in any order; the number of older impressions of a kept item is remembered."""
    rng = np.random.default_rng(1)
    forms = ("shown", "selected", "accepted", "rejected", "dismissed")
    store, times = Store(), [NOW - int(minute) * MINUTE for minute in rng.permutation(400)]
    for number, at in enumerate(times):
        event = feedback(
            forms[number % 5],  # type: ignore[arg-type]
            at,
            *(f"item-{rng.integers(60)}-{'x' * 100}" for _ in range(20)),
            model_version=f"{number % 9:024}",
            event_id=f"e{number}",
        )
        run(store, batch_of(Source.FEEDBACK, [(number, event)]))
        assert len(store.records[feedback_key(b"u")]) <= 1_024
    kept = decode_user_feedback(store.records[feedback_key(b"u")])
    assert len({mark.item for mark in kept.marks}) <= limits.FEEDBACK_ITEMS
    newest = max(at for number, at in enumerate(times) if forms[number % 5] not in {"selected", "dismissed"})
    assert newest in {mark.at_ms for mark in kept.marks}


def test_the_last_impression_outlives_other_marks_of_its_item() -> None:
    """And the impressions that left are still counted, but for an erasure."""
    kept = UserFeedback((1, 0))
    for minute in range(100):
        kept.add([Mark(minute * MINUTE, hash_item("a"), SHOWN, 1, 0, 0, "", minute.to_bytes(4, "big"))])
    assert len(kept.marks) == limits.FEEDBACK_MARKS
    assert kept.older == {hash_item("a"): 100 - limits.FEEDBACK_MARKS}
    again = decode_feedback(encode_feedback(kept))
    assert (again.marks, again.older, again.evicted_at) == (kept.marks, kept.older, kept.evicted_at)
    late = Mark(5 * MINUTE, hash_item("b"), SHOWN, 1, 0, 0, "", b"late")
    assert kept.add([late]).beyond == 1
    kept.erase(95 * MINUTE)
    assert (len(kept.marks), kept.older, kept.evicted_at) == (4, {}, -1)


def test_more_model_versions_than_are_kept_change_nothing_twice() -> None:
    """What is kept depends neither on how batches are cut nor on the order of arrival, and events sent again change no example."""
    events = [feedback("shown", NOW - (10 - n) * MINUTE, f"item-{n}", event_id=f"f{n}", model_version=str(n)) for n in range(6)]
    events.append(feedback("shown", NOW - 11 * MINUTE, "item-0", event_id="back", model_version="5"))
    first = sent(Click("u", NOW - DAY, ("home",)), Purchase("u", NOW, ("item-1",), "p"))
    orders = [events, events[::-1], [*events[3:], *events[:3]]]
    stores = [Store() for _ in range(2 * len(orders))]
    for number, store in enumerate(stores):
        deliver(store, first)
        ordered, size = list(enumerate(orders[number // 2])), (1, len(events))[number % 2]
        for start in range(0, len(events), size):
            run(store, batch_of(Source.FEEDBACK, ordered[start : start + size]))
    assert [mark.model_version for mark in feedback_of(stores[0])] == ["", "", "", "2", "3", "4", "5"]
    for store in stores:
        assert feedback_of(store) == feedback_of(stores[0])
        (example,), (wanted,) = store.newest_examples().values(), stores[0].newest_examples().values()
        assert msgspec.structs.replace(example, revision=1) == msgspec.structs.replace(wanted, revision=1)
        outcome = run(store, batch_of(Source.FEEDBACK, [(number + 9, event) for number, event in enumerate(events)]))
        assert outcome.counts["events", Source.FEEDBACK, "duplicate_event"] == len(events)
        assert not outcome.examples


def test_feedback_reads_back_as_it_was_written() -> None:
    """Whatever was bounded away; a record without the newest field reads as if no version had left."""
    rng, kept = np.random.default_rng(2), UserFeedback((1, 0))
    for number in range(300):
        at, name = int(rng.integers(10_000)), number.to_bytes(4, "big")
        items = [hash_item(str(item)) for item in rng.integers(50, size=3)]
        kept.add([Mark(at, item, int(rng.integers(5)), 1, 0, 0, str(rng.integers(9)), name) for item in sorted(set(items))])
        again = decode_feedback(encode_feedback(kept))
        assert (again.marks, again.older, again.evicted_at, again.unversioned_to) == (
            kept.marks,
            kept.older,
            kept.evicted_at,
            kept.unversioned_to,
        )
    stored = msgspec.msgpack.decode(encode_feedback(kept))
    assert decode_feedback(msgspec.msgpack.encode(stored[:-1])).unversioned_to == -1


def test_an_answer_without_a_place_keeps_no_impression_out() -> None:
    """The last impression of an item, also of a new one, is kept in either order, and each event counts once."""
    full = [
        feedback("shown", NOW - 99 * MINUTE, *(f"i{number}" for number in range(32)), event_id="shown"),
        feedback("accepted", NOW - 98 * MINUTE, *(f"i{number}" for number in range(10)), event_id="accepted"),
    ]
    selected = feedback("selected", NOW, "i1", event_id="selected")
    for item, action in (("i2", "shown"), ("i20", "accepted"), ("new", "shown")):
        late = feedback(action, NOW - MINUTE, item, event_id="late")  # type: ignore[arg-type]
        for events in ([selected, late], [late, selected]):
            store = Store()
            counts = deliver(store, sent(*full, *events, *events))
            newest = feedback_of(store)[-1]
            assert (newest.at, newest.action) == (late.occurred_at, action)
            assert (items_counted(counts, action), items_counted(counts, "selected")) == (
                {"shown": 33, "accepted": 11}[action],
                1,
            )


def test_a_repetition_of_what_has_left_counts_no_second_time() -> None:
    """Also at a later second of its minute, without an id; whether the item left, came back, or lost only the mark."""
    at = NOW - NOW % MINUTE
    shown, later = (feedback("shown", at + second * 1_000, "x", recommendation_id="r") for second in (1, 50))
    others = [feedback("shown", at + 20_000 + n, *(f"y{n}-{m}" for m in range(10)), event_id=f"f{n}") for n in range(5)]
    newer = [feedback("shown", at + 20_000 + n, "x", event_id=f"f{n}") for n in range(50)]
    accepted = feedback("accepted", at, "x", event_id="accepted")
    for between, again in ((others, later), (newer, later), (newer, newer[0]), ([*others, newer[9]], accepted)):
        counts = deliver(Store(), sent(accepted, shown, *between, again))
        assert items_counted(counts, "shown") == 1 + sum(len(event.items) for event in between)
        assert items_counted(counts, "accepted") == 1
        assert counts["beyond_bounds", "feedback"] == 1


def test_impressions_push_no_purchase_out() -> None:
    """A purchase that is sent again after a thousand impressions is still a repetition."""
    store = Store()
    bought = Purchase("u", NOW - 10 * DAY, ("item-1",), "p")
    shown = [feedback("shown", NOW - 5 * DAY + number * MINUTE, f"i{number}", event_id=str(number)) for number in range(1_000)]
    counts = deliver(store, sent(bought, *shown, bought))
    assert counts["events", Source.PURCHASE, "duplicate_event"] == 1


def test_an_erasure_forgets_feedback_up_to_its_time() -> None:
    """What came later stays, whether or not the user has anything else; redelivered and late events stay out."""
    early, late = feedback("shown", NOW - 10 * MINUTE, "item-1"), feedback("accepted", NOW, "item-2")
    for events in ([early, late], [late]):
        store = Store()
        deliver(store, sent(*events, Erasure("u", NOW - 5 * MINUTE)))
        assert [(mark.item, mark.action) for mark in feedback_of(store)] == [("item-2", "accepted")]
        assert head_key(b"u") not in store.records
        counts = run(store, batch_of(Source.FEEDBACK, [(7, early)])).counts
        assert counts["events", Source.FEEDBACK, "erased"] == 1
    deliver(store, [(Source.FEEDBACK, late)] * 9)
    run(store, batch_of(Source.ERASURE, [(1, Erasure("u", NOW))]))
    assert feedback_key(b"u") not in store.records
    counts = run(store, batch_of(Source.FEEDBACK, [(3, late)])).counts
    assert counts["events", Source.FEEDBACK, "duplicate_offset"] == 1
    assert feedback_key(b"u") not in store.records


def test_what_was_bought_counts_under_its_last_impression_before() -> None:
    """Within the time of attribution; a rank beyond the list is `more`, an undeclared placement `other`."""
    shown = feedback("shown", NOW - 2 * DAY, "item-0", "item-1", "item-2", channel="shop")
    far = feedback("shown", NOW - 8 * DAY, "item-3", "item-4", placement="unknown", model_version=None)
    counts = deliver(
        Store(), sent(far, shown, Purchase("u", NOW - DAY, ("item-2", "item-4"), "p"), Purchase("u", NOW, ("item-4",)))
    )
    found = {name[1:]: count for name, count in counts.items() if name[0] == "bought_after_shown"}
    assert found == {("1", "hero", "other", "3"): 1, ("unknown", "other", "web", "2"): 1}
    config = settings(list_length=2)
    store = Store()
    run(store, batch_of(Source.FEEDBACK, [(0, shown)]), config=config)
    outcome = run(store, batch_of(Source.PURCHASE, [(0, Purchase("u", NOW, ("item-2",)))]), config=config)
    assert outcome.counts["bought_after_shown", "1", "hero", "other", "more"] == 1


def test_an_answer_counts_under_what_was_shown() -> None:
    """If nothing was, under its own labels and no rank."""
    shown, other = feedback("shown", NOW - MINUTE, "item-0", "item-1"), feedback("selected", NOW, "item-1", placement=None)
    counts = deliver(Store(), sent(shown, other, feedback("selected", NOW, "item-5")))
    assert counts["feedback_items", "selected", "1", "hero", "web", "2"] == 1
    assert counts["feedback_items", "selected", "1", "hero", "web", "unknown"] == 1


def test_lines_of_one_order_count_each_item_once() -> None:
    """The second record brings one item more."""
    shown = feedback("shown", NOW - MINUTE, "item-0", "item-1")
    lines = [Purchase("u", NOW, ("item-0",), "p"), Purchase("u", NOW, ("item-0", "item-1"), "p")]
    counts = deliver(Store(), sent(shown, *lines))
    assert sum(count for name, count in counts.items() if name[0] == "bought_after_shown") == 2


def test_an_example_carries_what_was_shown_before_the_purchase() -> None:
    """Also what is reported late, and no longer what a repetition within its minute moves behind the purchase."""
    store, at = Store(), NOW - NOW % MINUTE
    click, bought = Click("u", at - 5 * MINUTE, ("home",)), Purchase("u", at + 30_000, ("item-1",), "p")
    deliver(store, sent(click, bought))
    (plain,) = store.examples.values()
    assert b"shown" not in (plain or b"")
    run(store, batch_of(Source.FEEDBACK, [(0, feedback("shown", at, "item-0", "item-1"))]))
    (example,) = store.newest_examples().values()
    assert isinstance(example.shown, tuple)
    assert {one.item: (one.rank, one.placement, one.times) for one in example.shown} == {
        hash_item("item-0"): (1, "hero", 1),
        hash_item("item-1"): (2, "hero", 1),
    }
    run(store, batch_of(Source.FEEDBACK, [(1, feedback("shown", at + 50_000, "item-0", "item-1"))]))
    (value,) = store.examples.values()
    assert msgspec.structs.replace(decode_example(value or b""), revision=1) == decode_example(plain or b"")


def test_feedback_of_another_partition_or_time_is_a_dead_letter() -> None:
    """As of every input; nothing is stored."""
    store = Store()
    outcome = run(store, batch_of(Source.FEEDBACK, [(0, feedback("shown", NOW + 10 * MINUTE, "item-1"))]))
    assert outcome.counts["dead_letters", Reason.TOO_FAR_AHEAD] == 1
    value = msgspec.json.encode({**msgspec.to_builtins(feedback("shown", NOW, "item-1")), "action": "seen"})
    batch = batch_of(Source.FEEDBACK, [])._replace(records=[PlainRecord(1, NOW, b"u", value)])
    assert run(store, batch).counts["dead_letters", Reason.INVALID] == 1
    assert not store.records


def test_labels_stay_bounded_whatever_versions_producers_name() -> None:
    """Further model versions count as `other`."""
    metrics = Metrics()
    for number in range(MOST_VERSIONS + 10):
        counts: dict[tuple[str, ...], int] = {("feedback_items", "shown", str(number), "other", "other", "1"): 1}
        metrics.count(counts)
    assert metrics.total("feedback_items", "shown", "other") == 10
    assert metrics.total("feedback_items") == MOST_VERSIONS + 10
