"""What one batch causes: lists, examples, duplicates, dead letters, erasure."""

from typing import Any

import msgspec
import pytest

from stream.core import limits
from stream.core.events import NATIVE_FORMAT_HEADER, Click, Eligibility, Erasure, Item, Purchase, Source
from stream.core.interactions import Conversation, Session
from stream.core.outputs import EventOutcome, Outcome, Recommendation, decode_example, example_key
from stream.core.poison import step_isolating_poison
from stream.core.ranking import Catalogue
from stream.core.records import Batch, PlainRecord
from stream.core.state import StatesUnreadableError, decode_head, erasure_marker_key, facts_key, head_key
from tests import world
from tests.world import MINUTE, NOW, OrderRanker, Store, batch_of, call, deliver, run, settings

HOUR = 60 * MINUTE


def click(at: int = NOW - MINUTE, *tags: str, **fields: str) -> Click:
    return Click("u", at, tags or ("home",), **fields)


def sent(store: Store) -> dict[str, Any]:
    value = store.recommendations[b"u"]
    assert value is not None
    recommendation: dict[str, Any] = msgspec.json.decode(value)
    return recommendation


def test_before_the_first_model_the_catalogue_is_recommended_in_its_order() -> None:
    """A user always gets a list, and it names the fallback."""
    store = Store()
    run(store, batch_of(Source.CLICK, [(0, click())]))
    assert store.last_list() == world.ITEMS[:5]
    assert sent(store)["fallback"] == "catalogue"
    assert sent(store)["model"] == {"name": "none", "version": "0", "role": "champion"}


def test_a_user_without_interactions_gets_the_popularity_prior() -> None:
    """An eligibility list alone causes a recommendation, ranked by the model's prior."""
    store = Store()
    run(store, batch_of(Source.ELIGIBILITY, [(0, Eligibility("u", NOW, ("item-0",)))]), OrderRanker())
    assert sent(store)["fallback"] == "popularity"
    assert store.last_list() == world.ITEMS[1:6]


def test_a_recommendation_names_its_cause_and_what_it_is_based_on() -> None:
    """The last event of the batch is the cause; ranks start at 1; scores decrease."""
    store = Store()
    run(
        store, batch_of(Source.CLICK, [(0, click(NOW - 2 * MINUTE)), (1, click(NOW - MINUTE, "car", event_id="e2"))]), OrderRanker()
    )
    recommendation = sent(store)
    assert recommendation["caused_by"] == {"event_id": "e2", "type": "click", "occurred_at": NOW - MINUTE}
    assert recommendation["modalities"] == {"session": 1, "conversation": 0}
    assert "fallback" not in recommendation
    items = recommendation["items"]
    assert isinstance(items, list)
    assert [item["rank"] for item in items] == [1, 2, 3, 4, 5]
    scores = [item["score"] for item in items]
    assert scores == sorted(scores, reverse=True)


def test_an_unchanged_list_is_suppressed() -> None:
    """The same items in the same order from the same model are not sent again."""
    store = Store()
    events = [(number, click(NOW - MINUTE + number)) for number in range(2)]
    first = run(store, batch_of(Source.CLICK, events[:1]))
    second = run(store, batch_of(Source.CLICK, events[1:]))
    assert first.counts["recommendations", "sent"] == 1
    assert second.counts["recommendations", "suppressed"] == 1
    assert not second.recommendations


def test_another_model_version_is_a_new_list_even_with_the_same_items() -> None:
    """Consumers learn of a model swap at the user's next event."""
    store = Store()
    run(store, batch_of(Source.CLICK, [(0, click(NOW - MINUTE))]), OrderRanker(version="1", seed=1))
    outcome = run(store, batch_of(Source.CLICK, [(1, click(NOW - MINUTE))]), OrderRanker(version="2", seed=2))
    assert outcome.counts["recommendations", "sent"] == 1


def test_ids_differ_where_contents_differ_and_agree_where_they_agree() -> None:
    """A recommendation id identifies one content."""
    store, again = Store(), Store()
    first = run(store, batch_of(Source.CLICK, [(0, click())]), OrderRanker())
    same = run(again, batch_of(Source.CLICK, [(0, click())]), OrderRanker())
    other = run(Store(), batch_of(Source.CLICK, [(1, click())]), OrderRanker())
    ids = [msgspec.json.decode(outcome.recommendations[0].value or b"")["recommendation_id"] for outcome in (first, same, other)]
    assert ids[0] == ids[1] != ids[2]
    assert dict(first.recommendations[0].headers)["ce_id"] == ids[0].encode()


@pytest.mark.parametrize(("gap_minutes", "sessions"), [(29, 1), (30, 2)])
def test_a_session_ends_after_thirty_minutes_without_a_click(gap_minutes: int, sessions: int) -> None:
    """Within a session, gaps are under 30 minutes."""
    store = Store()
    deliver(store, [(Source.CLICK, click(NOW - HOUR)), (Source.CLICK, click(NOW - HOUR + gap_minutes * MINUTE))])
    assert len(world.history_of(store)) == sessions + 4


def test_a_late_click_joins_two_sessions_into_one() -> None:
    """It closes the gap, so the history has one interaction less."""
    store = Store()
    times = [NOW - 2 * HOUR, NOW - 2 * HOUR + 40 * MINUTE, NOW - 2 * HOUR + 20 * MINUTE]
    counts = deliver(store, [(Source.CLICK, click(at, f"tag{number}")) for number, at in enumerate(times)])
    assert len(world.history_of(store)) == 1 + 4
    assert counts["late", Source.CLICK, "within"] == 1


def test_an_example_shows_only_what_came_before_the_purchase() -> None:
    """The features exclude later clicks and the part of the call in which the agent sold."""
    store = Store()
    bought = NOW - HOUR
    deliver(
        store,
        [
            (Source.CLICK, click(bought - MINUTE, "before")),
            (Source.CLICK, click(bought + MINUTE, "after")),
            (Source.CALL, call("c", bought - 20 * MINUTE, bought - 10 * MINUTE, 1, offset=0)),
            (Source.CALL, call("c", bought - 10 * MINUTE, bought + MINUTE, 2, offset=1)),
            (Source.PURCHASE, Purchase("u", bought, ("item-3",), event_id="p1")),
        ],
    )
    example = decode_example(store.examples[example_key("u", "p1")] or b"")
    conversation, session = example.interactions
    assert example.type == "both"
    assert example.items == ("item-3",)
    assert session.tags == ("before",)  # type: ignore[union-attr]
    assert len(conversation.parts) == 1  # type: ignore[union-attr]


def test_an_event_older_than_a_purchase_revises_its_example() -> None:
    """Same id, revision + 1; an event that changes nothing emits nothing."""
    store = Store()
    counts = deliver(
        store,
        [
            (Source.CLICK, click(NOW - HOUR)),
            (Source.PURCHASE, Purchase("u", NOW - 30 * MINUTE, ("item-1",), event_id="p1")),
            (Source.CALL, call("c", NOW - 50 * MINUTE, NOW - 40 * MINUTE)),
            (Source.CLICK, click(NOW - MINUTE)),
        ],
    )
    assert decode_example(store.examples[example_key("u", "p1")] or b"").revision == 2
    assert (counts["examples", "first"], counts["examples", "revision"]) == (1, 1)


def test_a_purchase_without_interactions_gives_no_example_and_is_counted() -> None:
    """An example may follow when something older arrives."""
    store = Store()
    counts = deliver(store, [(Source.PURCHASE, Purchase("u", NOW, ("item-1",)))])
    assert counts["purchases_without_interactions",] == 1
    assert not store.examples


def test_owned_items_are_not_offered_unless_repeatable_and_return_when_cancelled() -> None:
    """The post filter applies purchases and cancellations in order of event time."""
    store = Store()
    items = world.catalogue(item_1=True)
    bought = Purchase("u", NOW - HOUR, ("item-0", "item-1"))
    deliver(store, [(Source.CLICK, click(NOW - 2 * HOUR)), (Source.PURCHASE, bought)], items=items)
    assert store.last_list() == ("item-1", "item-2", "item-3", "item-4", "item-5")
    cancelled = Purchase("u", NOW, ("item-0",), action="cancelled")
    run(store, batch_of(Source.PURCHASE, [(1, cancelled)]), items=items)
    assert "item-0" in store.last_list()


def test_withdrawn_items_are_not_offered() -> None:
    """Items outside their dates of offer, or absent from the catalogue, are not on the list."""
    items = Catalogue([Item("item-1", "one", offered_until=NOW), Item("item-2", "two", offered_from=NOW), Item("item-3", "three")])
    store = Store()
    run(store, batch_of(Source.CLICK, [(0, click())]), OrderRanker(), items)
    assert set(store.last_list()) == {"item-2", "item-3"}


def test_a_producers_duplicate_is_dropped_by_its_event_id() -> None:
    """The same id at another offset is counted and not applied; the same id on another topic is another event."""
    store = Store()
    event = click(NOW - MINUTE, event_id="e1")
    outcome = run(store, batch_of(Source.CLICK, [(0, event), (1, event)]))
    assert outcome.counts["events", Source.CLICK, "duplicate_event"] == 1
    assert run(store, batch_of(Source.ELIGIBILITY, [(0, Eligibility("u", NOW, (), "e1"))])).counts[
        "events", Source.ELIGIBILITY, "applied"
    ]


def test_a_recreated_topic_starts_at_offset_zero() -> None:
    """Applied offsets of the old epoch are ignored."""
    store = Store()
    run(store, batch_of(Source.CLICK, [(7, click())]))
    outcome = run(store, batch_of(Source.CLICK, [(0, click(NOW))], epoch=2))
    assert outcome.counts["events", Source.CLICK, "applied"] == 1
    assert outcome.counts["epoch_changes", Source.CLICK] == 1


def test_after_a_cut_new_records_are_applied_at_old_offsets_and_old_ones_stay_applied() -> None:
    """The epoch of the partition is one later from the cut on. Records before it are redelivered when a group is rewound."""
    store = Store()
    old = [(offset, click(NOW + offset)) for offset in (3, 7)]
    run(store, batch_of(Source.CLICK, old))
    new = run(store, batch_of(Source.CLICK, [(5, click(NOW + 20))], epoch=2))
    assert new.counts["events", Source.CLICK, "applied"] == 1
    rewound = batch_of(Source.CLICK, [(3, click(NOW + 3)), (5, click(NOW + 20)), (6, click(NOW + 30))])._replace(
        boundaries=((5, 2),)
    )
    again = run(store, rewound)
    assert again.counts["events", Source.CLICK, "duplicate_offset"] == 2
    assert again.counts["events", Source.CLICK, "applied"] == 1


def test_erasure_leaves_tombstones_and_a_marker_and_nothing_else() -> None:
    """State, list and example are deleted; redelivered and earlier events stay out; later ones create a new user."""
    store = Store()
    before = [(0, click(NOW - HOUR))]
    run(store, batch_of(Source.CLICK, before))
    run(store, batch_of(Source.PURCHASE, [(0, Purchase("u", NOW - MINUTE, ("item-1",), "p1"))]))
    outcome = run(store, batch_of(Source.ERASURE, [(0, Erasure("u", NOW))]))
    assert outcome.new_users == -1
    assert store.recommendations[b"u"] is None
    assert store.examples[example_key("u", "p1")] is None
    assert [key[:1] for key in store.records] == [b"m"]
    assert not any(b"u" in key[1:] for key in store.records if key in (head_key(b"u"), facts_key(b"u")))
    again = run(store, batch_of(Source.CLICK, [*before, (1, click(NOW - 1))]))
    assert again.counts["events", Source.CLICK, "erased"] == 1
    assert not again.recommendations
    assert run(store, batch_of(Source.CLICK, [(2, click(NOW + 1))])).new_users == 1


def test_an_erasure_marker_is_kept_for_ever_or_for_the_time_that_is_set() -> None:
    """With a time, no erased event may come later: 37 days are the inputs' 7 and the 30 of dead letters."""
    outcomes: list[tuple[int | None, int, EventOutcome]] = [(37, 36, "erased"), (37, 38, "applied"), (None, 3_650, "erased")]
    for kept, days, outcome in outcomes:
        config = settings(marker_retention_ms=None if kept is None else kept * limits.DAY_MS)
        store = Store()
        run(store, batch_of(Source.ERASURE, [(0, Erasure("u", NOW))]), config=config)
        later = batch_of(Source.CLICK, [(0, click(NOW))], now=NOW + days * limits.DAY_MS)
        assert run(store, later, config=config).counts["events", Source.CLICK, outcome] == 1


def live_examples(store: Store) -> dict[str, set[str]]:
    """Purchase id -> the tags in its example, for examples that were not erased."""
    tags_by_purchase = {}
    for value in store.examples.values():
        if value is not None:
            example = decode_example(value)
            sessions = (interaction for interaction in example.interactions if isinstance(interaction, Session))
            tags_by_purchase[example.purchase_id] = {tag for session in sessions for tag in session.tags}
    return tags_by_purchase


def test_an_erasure_reaches_every_example_however_many_there_were() -> None:
    """When the state can no longer remember an example, the example is erased at once."""
    store = Store()
    run(store, batch_of(Source.CLICK, [(0, click(NOW - HOUR, "secret"))]))
    for number in range(300):
        at = NOW - HOUR + 1 + number
        run(store, batch_of(Source.PURCHASE, [(number, Purchase("u", at, ("item-1",), f"p{number}"))]))
    assert len(live_examples(store)) == limits.EXAMPLE_IDS + limits.PURCHASES
    run(store, batch_of(Source.ERASURE, [(0, Erasure("u", NOW))]))
    assert live_examples(store) == {}


def test_an_erasure_reaches_the_examples_of_later_purchases() -> None:
    """Examples of evicted purchases are erased; those of kept purchases are revised without the erased data."""
    store = Store()
    run(store, batch_of(Source.CLICK, [(0, click(NOW - HOUR, "secret")), (1, click(NOW - MINUTE, "later", session_id="s"))]))
    for number in range(10):
        run(store, batch_of(Source.PURCHASE, [(number, Purchase("u", NOW - 20 + number, ("item-1",), f"p{number}"))]))
    run(store, batch_of(Source.ERASURE, [(0, Erasure("u", NOW - 2 * MINUTE))]))
    assert live_examples(store) == {f"p{number}": {"later"} for number in range(2, 10)}


@pytest.mark.parametrize(("later", "left"), [(limits.INTERACTIONS - 2, {"p": {"first", "second"}}), (limits.INTERACTIONS - 1, {})])
def test_an_erasure_erases_an_example_that_cannot_be_revised_in_full(later: int, left: dict[str, set[str]]) -> None:
    """One session more, and the state has evicted an interaction that the revised example would need."""
    store = Store()
    begin = NOW - 100 * HOUR
    before = [(number, click(begin + number * HOUR, tag)) for number, tag in enumerate(["secret", "first", "second"])]
    run(store, batch_of(Source.CLICK, before))
    run(store, batch_of(Source.PURCHASE, [(0, Purchase("u", begin + 3 * HOUR, ("item-1",), "p"))]))
    clicks = [(3 + number, click(begin + (4 + number) * HOUR, "later")) for number in range(later)]
    run(store, batch_of(Source.CLICK, clicks))
    assert live_examples(store) == {"p": {"secret", "first", "second"}}
    run(store, batch_of(Source.ERASURE, [(0, Erasure("u", begin + 1))]))
    assert live_examples(store) == left


def test_an_erasure_in_our_own_format_bypasses_the_field_mapping() -> None:
    """`isthmus erase` does not know a producer's field names."""
    config = world.settings(mappers={Source.ERASURE: lambda fields: {"user_id": fields.get("customer")}})
    store = Store()
    run(store, batch_of(Source.CLICK, [(0, click())]))
    value = msgspec.json.encode(Erasure("u", NOW))
    for offset, headers in enumerate([(), ((NATIVE_FORMAT_HEADER, b"1"),)]):
        record = PlainRecord(offset, NOW, b"u", value, headers)
        outcome = run(store, Batch(Source.ERASURE, "erasures", 1, 0, [record]), config=config)
        assert outcome.counts["events", Source.ERASURE, "applied" if headers else "dead_letter"] == 1


def test_events_in_our_own_form_are_read_past_their_topics_mappings() -> None:
    """What the API sends has our field names, whatever other producers of the topic send."""
    own = world.settings(mappers={Source.CLICK: lambda fields: {"user_id": fields.get("customer")}})
    value = msgspec.json.encode(click())
    for offset, headers in enumerate([(), ((NATIVE_FORMAT_HEADER, b"1"),)]):
        record = PlainRecord(offset, NOW, b"u", value, headers)
        outcome = run(Store(), Batch(Source.CLICK, "web-clicks", 1, 0, [record]), config=own)
        assert outcome.counts["events", Source.CLICK, "applied" if headers else "dead_letter"] == 1


MANY = Catalogue(Item(f"item-{number:02}", "") for number in range(20))


def ranked(outcome: Outcome) -> list[tuple[str, ...]]:
    """Items and reserve of the list that a batch caused, or nothing."""
    sent = [msgspec.json.decode(output.value, type=Recommendation) for output in outcome.recommendations if output.value]
    return [tuple(entry.item for entry in entries) for one in sent for entries in (one.items, one.reserve)]


def test_the_reserve_holds_the_items_that_are_ranked_next() -> None:
    """The list itself stays as long as it was."""
    items, reserve = ranked(run(Store(), batch_of(Source.CLICK, [(0, click())]), None, MANY))
    assert items == tuple(MANY.items)[:5]
    assert reserve == tuple(MANY.items)[5:15]


def test_a_list_whose_reserve_changed_is_sent_again() -> None:
    """Or a reader would fill a place with an item that is not on offer."""
    store = Store()
    run(store, batch_of(Source.CLICK, [(0, click())]), None, MANY)
    assert ranked(run(store, batch_of(Source.CLICK, [(1, click(NOW - 2))]), None, MANY)) == []
    without = Catalogue(item for name, item in MANY.items.items() if name != "item-06")
    items, reserve = ranked(run(store, batch_of(Source.CLICK, [(2, click(NOW - 1))]), None, without))
    assert items == tuple(MANY.items)[:5]
    assert "item-06" not in reserve


def test_without_a_reserve_the_event_is_what_it_was() -> None:
    """Consumers that refuse unknown fields can switch it off."""
    outcome = run(Store(), batch_of(Source.CLICK, [(0, click())]), None, MANY, world.settings(reserve_length=0))
    assert b"reserve" not in (outcome.recommendations[0].value or b"")


def test_a_state_that_cannot_be_read_is_no_events_fault() -> None:
    """The worker stops; otherwise the whole topic would become dead letters."""
    for key in (head_key(b"u"), erasure_marker_key(b"u", world.settings().erasure_key)):
        store = Store()
        store.records[key] = b"\x00"
        with pytest.raises(StatesUnreadableError, match="a later version wrote it"):
            step_isolating_poison(batch_of(Source.CLICK, [(0, click())]), store, None, world.catalogue(), world.settings())


def test_a_hit_is_counted_against_the_last_list_before_the_purchase() -> None:
    """By model version, type of the purchase event and fallback; a purchase without a list is unserved."""
    store = Store()
    items = Catalogue()
    deliver(store, [(Source.CLICK, click(NOW - HOUR))], OrderRanker(), items)
    first = store.last_list()[0]
    counts = run(store, batch_of(Source.PURCHASE, [(0, Purchase("u", NOW, (first,)))]), OrderRanker(), items).counts
    assert counts["purchases", "1", "session", "none"] == counts["hits", "1", "session", "none"] == 1
    other = Batch(Source.PURCHASE, "purchases", 1, 0, [PlainRecord(1, NOW, b"v", world.encode(Purchase("v", NOW, ("item-1",))))])
    assert run(store, other, OrderRanker()).counts["purchases", "0", "none", "unserved"] == 1


def test_a_call_of_another_text_model_is_kept_but_not_read() -> None:
    """It is counted, and the list is not based on it."""
    store = Store()
    unreadable = call("c", NOW - HOUR, NOW - MINUTE, text_model="text-2")
    outcome = run(store, batch_of(Source.CALL, [(0, unreadable)]), OrderRanker())
    assert outcome.counts["foreign_text_model",] == 1
    assert sent(store)["modalities"] == {"session": 0, "conversation": 0}
    assert sent(store)["fallback"] == "popularity"


def test_an_explained_list_names_what_speaks_for_each_item() -> None:
    """Each item with its own score and reasons; the list repeats those of the first. The reserve has none."""
    store = Store()
    events = [(number, click(at, f"tag{number}")) for number, at in enumerate([NOW - 5 * HOUR, NOW - 3 * HOUR, NOW - HOUR])]
    run(store, batch_of(Source.CLICK, events), OrderRanker(), config=world.settings(explain=True))
    made = sent(store)
    assert made["because"] == made["items"][0]["because"]
    assert all(reason["score_with"] == item["score"] for item in made["items"] for reason in item["because"])
    assert any(item["because"] != made["because"] for item in made["items"])
    assert not any("because" in item for item in made["reserve"])


def test_a_growing_session_writes_the_head_alone() -> None:
    """The facts may be large; one more click does not touch them."""
    store = Store()
    deliver(store, [(Source.CLICK, click(NOW - 5 * HOUR)), (Source.CLICK, click(NOW - HOUR))], OrderRanker())
    outcome = run(store, batch_of(Source.CLICK, [(2, click(NOW - HOUR + 1))]), OrderRanker())
    assert list(outcome.writes) == [head_key(b"u")]


def test_calls_stored_with_lists_of_keywords_are_still_read() -> None:
    """The first stored form of a conversation's parts is readable and accepts parts of the present form."""
    at = NOW - MINUTE
    conversation = ["c", at, at, "c", [[at, at, 2, b"\0\0", ["car", "flood"], "text-1"]]]
    store = Store()
    store.records[head_key(b"u")] = msgspec.msgpack.encode([1, {}, b"", [conversation], None, at, 0, [], [], -1, None])
    run(store, batch_of(Source.CALL, [(0, call("c", NOW - MINUTE, NOW, seed=3))]))
    (stored,) = decode_head(store.records[head_key(b"u")]).tail
    assert isinstance(stored, Conversation)
    assert stored.keywords == ("car", "flood", "word3")


def test_one_user_at_every_bound_stays_small() -> None:
    """100 sessions of 100 clicks and 34 purchases leave at most 20 interactions and 8 purchases."""
    store = Store()
    at = NOW - 100 * limits.DAY_MS
    for number in range(100):
        at += limits.DAY_MS // 2
        clicks = [(number * 100 + extra, click(at + extra, f"tag{extra % 40}", f"other{number}")) for extra in range(100)]
        run(store, batch_of(Source.CLICK, clicks), OrderRanker())
        if number % 3 == 0:
            run(store, batch_of(Source.PURCHASE, [(number, Purchase("u", at + 200, ("item-1",), f"p{number}"))]), OrderRanker())
    *interactions, purchases, _, _, _ = world.history_of(store)
    assert len(interactions) == limits.INTERACTIONS
    assert len(purchases) == limits.PURCHASES  # type: ignore[arg-type]
    assert sum(map(len, store.records.values())) < 60_000


def test_whatever_a_user_buys_the_records_fit_into_their_topics() -> None:
    """A record that the broker refuses would stop the partition. Each purchase here has as many items as an event may name."""
    store, largest = Store(), 0
    for number in range(20):
        items = tuple(f"{number}-{item}".ljust(limits.ID_CHARACTERS, "x") for item in range(limits.ITEMS))
        at = NOW - (30 - number) * MINUTE
        run(store, batch_of(Source.CLICK, [(number, Click("u", at - 1, ("home",)))]))
        outcome = run(store, batch_of(Source.PURCHASE, [(number, Purchase("u", at, items))]))
        assert not outcome.dead_letters
        values = [*outcome.writes.values(), *(example.value for example in outcome.examples)]
        sizes = [len(value or b"") for value in values]
        largest = max(largest, *sizes)
    head = decode_head(store.records[head_key(b"u")])
    assert len(head.owned) == limits.OWNED + limits.PURCHASES * limits.ITEMS
    assert {owned.split("-")[0] for owned in head.owned} == {str(number) for number in range(11, 20)}  # the newest
    assert 1 << 20 < largest < limits.RECORD_BYTES // 2


def test_a_purchase_covered_by_an_erasure_erases_its_example() -> None:
    """A replay into an empty state may apply the erasure first; the example of the lost state is still in the topic."""
    sent = Store()
    run(sent, batch_of(Source.CLICK, [(0, click(NOW - HOUR))]))
    bought = Purchase("u", NOW - MINUTE, ("item-0",), event_id="p")
    run(sent, batch_of(Source.PURCHASE, [(0, bought)]))
    key = example_key("u", "p")
    assert sent.examples[key] is not None
    again = Store(examples=sent.examples)
    run(again, batch_of(Source.ERASURE, [(0, Erasure("u", NOW))]))
    run(again, batch_of(Source.PURCHASE, [(0, bought)]))
    assert again.examples[key] is None
