"""Training examples of users who have outgrown their state: a right example stays right, or stays as it is.

A session, a call, eligibility lists and impressions go on after a purchase until they displace what preceded it.
"""

from collections import Counter

import msgspec
import pytest

from stream.core import limits
from stream.core.events import Click, Eligibility, Erasure, Feedback, Purchase, Source, UserEvent
from stream.core.interactions import Conversation
from stream.core.kept_interactions import KeptConversation
from stream.core.outputs import Count, TrainingExample, decode_example, example_key
from stream.core.state import decode_facts, decode_head, encode_state, facts_key, head_key
from tests import world
from tests.world import MINUTE, NOW, Store, batch_of, run

BEGIN = NOW - 600 * MINUTE
KEY = example_key("u", "p")
BOUGHT_AT = 100
"""Minute of the purchase."""
Event = tuple[Source, UserEvent]


def at(minute: float) -> int:
    return BEGIN + round(minute * MINUTE)


def click(minute: float, session_id: str | None = None) -> Event:
    return Source.CLICK, Click("u", at(minute), (f"tag-{minute}",), f"c-{minute}", session_id)


def part(minute: float) -> Event:
    """A part of the call, which ends half a minute later."""
    return Source.CALL, msgspec.structs.replace(
        world.call("call", at(minute), at(minute + 0.5)), event_id=f"k-{minute}", has_event_id=True
    )


def bought(*items: str, minute: float = BOUGHT_AT) -> Event:
    return Source.PURCHASE, Purchase("u", at(minute), items or ("item-1",), "p")


def excluding(minute: float, item: str) -> Event:
    return Source.ELIGIBILITY, Eligibility("u", at(minute), (item,))


def shown(minute: float, *items: str, version: str = "1") -> Event:
    return Source.FEEDBACK, Feedback("u", at(minute), "web", "shown", items, f"f-{minute}", None, "hero", version)


def erasure(minute: float) -> Event:
    return Source.ERASURE, Erasure("u", at(minute))


class Worker:
    """Applies events one by one and counts what they do."""

    def __init__(self, *events: Event) -> None:
        self.store, self.counts = Store(), Counter[Count]()
        self._offsets = dict.fromkeys(Source, -1)
        self.apply(*events)

    def apply(self, *events: Event) -> "Worker":
        self.counts = Counter()
        for source, event in events:
            self._offsets[source] += 1
            offset = self._offsets[source]
            sent = msgspec.structs.replace(event, origin_offset=offset) if source is Source.CALL else event
            self.counts += run(self.store, batch_of(source, [(offset, sent)])).counts
        return self

    def example(self) -> TrainingExample | None:
        """Without its revision; None if there is none."""
        value = self.store.examples.get(KEY)
        return None if value is None else msgspec.structs.replace(decode_example(value), revision=0)

    def left_out(self) -> int:
        return self.counts["beyond_bounds", "example"]


BEFORE = [click(91 + number / 2) for number in range(10)]
PARTS_BEFORE = [part(95 + number) for number in range(3)]
LISTS_AFTER = [excluding(200 + number, "item-5") for number in range(limits.ELIGIBILITY_LISTS)]
SHOWN_AFTER = [shown(200 + number, *(f"x{number}-{item}" for item in range(10))) for number in range(5)]


def clicks_after(count: int) -> list[Event]:
    return [click(BOUGHT_AT + 1 + number / 4) for number in range(count)]


def parts_after(count: int) -> list[Event]:
    return [part(BOUGHT_AT + 1 + number) for number in range(count)]


LATE_CLICK = click(1, "late")
LATE_LIST = excluding(1, "item-3")
LATE_LINE = bought("item-2")
LATE_EVENTS = {"click": LATE_CLICK, "list": LATE_LIST, "impression": shown(1, "item-2")}
OUTGROWN = {
    "clicks, some": [*BEFORE, bought(), *clicks_after(limits.CLICKS - 4)],
    "clicks, all": [*BEFORE, bought(), *clicks_after(limits.CLICKS)],
    "parts, some": [*PARTS_BEFORE, bought(), *parts_after(limits.PARTS - 1)],
    "parts, all": [*PARTS_BEFORE, bought(), *parts_after(limits.PARTS)],
    "lists": [*BEFORE, excluding(50, "item-4"), bought(), *LISTS_AFTER],
    "impressions": [*BEFORE, shown(50, *world.ITEMS), bought(), *SHOWN_AFTER],
    "versions": [*BEFORE, shown(50, "item-4"), bought(), *(shown(200 + n, "item-4", version=f"v{n}") for n in range(4))],
}
"""Histories in which an example was whole when its purchase came, and what it shows left the state afterwards."""


OF_FEEDBACK = ("impressions", "versions")
CASES = [
    pytest.param(history, late, id=f"{name}, {kind}")
    for name, history in OUTGROWN.items()
    for kind, late in LATE_EVENTS.items()
    if name not in OF_FEEDBACK or kind == "impression"
]


@pytest.mark.parametrize(("history", "late"), CASES)
def test_a_late_event_leaves_an_example_that_the_state_no_longer_keeps_in_full(history: list[Event], late: Event) -> None:
    """It is counted. The example holds all that it held."""
    worker = Worker(*history)
    before = worker.example()
    assert before is not None
    assert worker.apply(late).example() == before
    assert any(name[0] == "beyond_bounds" for name in worker.counts)


@pytest.mark.parametrize("name", OF_FEEDBACK)
@pytest.mark.parametrize("late", [LATE_CLICK, part(60)], ids=["click", "call"])
def test_a_late_click_or_call_comes_into_an_example_whose_impressions_are_known_in_part(name: str, late: Event) -> None:
    """A transcript comes hours after the call, and the purchase's own page shows the next list."""
    worker = Worker(*OUTGROWN[name])
    before, after = worker.example(), worker.apply(late).example()
    assert before is not None
    assert after is not None
    assert len(after.interactions) == len(before.interactions) + 1
    assert after.shown != before.shown
    assert {one.item for one in after.shown or ()} <= {one.item for one in before.shown or ()}


@pytest.mark.parametrize(
    "history",
    [
        [*BEFORE, bought(), *clicks_after(limits.CLICKS - len(BEFORE))],
        [*PARTS_BEFORE, bought(), *parts_after(limits.PARTS - len(PARTS_BEFORE))],
        [*BEFORE, excluding(50, "item-4"), bought(), *LISTS_AFTER[1:]],
        [*BEFORE, shown(50, *world.ITEMS), bought(), *SHOWN_AFTER[:2]],
        [*(click(80 + number / 8) for number in range(limits.CLICKS + 9)), bought(), click(200)],
        [*(part(80 + number) for number in range(limits.PARTS + 2)), bought(), click(200)],
        [*BEFORE, *(excluding(50 + number, f"item-{number}") for number in range(5)), bought()],
        [*BEFORE, bought(), excluding(150, "item-4"), *LISTS_AFTER],
        [*BEFORE, *(shown(50 + number, *(f"x{number}-{item}" for item in range(10))) for number in range(5)), bought()],
    ],
    ids=[
        *("64 clicks", "8 parts", "lists of 4 times", "26 items shown"),
        *("more clicks before", "more parts before", "more lists before", "more lists after", "more items before"),
    ],
)
def test_an_example_of_which_nothing_has_left_is_revised_by_a_late_event(history: list[Event]) -> None:
    """At the bounds, or where all that has left was displaced before the purchase, or came after it. The late click comes in, and
    all else stays.
    """
    worker = Worker(*history)
    before = worker.example()
    after = worker.apply(LATE_CLICK).example()
    assert before is not None
    assert after is not None
    assert not worker.left_out()
    assert after.interactions[1:] == before.interactions
    assert (after.excluded, after.shown) == (before.excluded, before.shown)


@pytest.mark.parametrize("history", OUTGROWN.values(), ids=OUTGROWN)
def test_a_late_line_of_an_order_comes_into_its_example_while_each_interaction_is_known_in_part(history: list[Event]) -> None:
    """What was bought counts more than a few clicks. Without the session or the call, the example stays as it is."""
    worker = Worker(*history)
    before = worker.example()
    after = worker.apply(LATE_LINE).example()
    if history in (OUTGROWN["clicks, all"], OUTGROWN["parts, all"]):
        assert after == before
    else:
        assert after is not None
        assert after.items == ("item-1", "item-2")


@pytest.mark.parametrize("history", OUTGROWN.values(), ids=OUTGROWN)
def test_a_purchase_that_comes_after_the_bounds_has_an_example_while_each_interaction_is_known_in_part(
    history: list[Event],
) -> None:
    """As before a nightly file of purchases. What is missing is counted, but for impressions, which few users are without."""
    purchase = bought()
    worker = Worker(*(event for event in history if event != purchase)).apply(purchase)
    example = worker.example()
    is_interaction_lost = history in (OUTGROWN["clicks, all"], OUTGROWN["parts, all"])
    assert (example is None) is is_interaction_lost
    assert worker.left_out() == (history not in (OUTGROWN["impressions"], OUTGROWN["versions"]))
    assert worker.apply(shown(1, "item-2")).example() == example


def test_an_example_that_lacks_a_call_or_session_is_never_emitted_with_another_in_its_place() -> None:
    """Eleven interactions precede the purchase. Of the newest only later clicks are kept, so the oldest would take its place."""
    earlier = [click(minute, f"s{minute}") for minute in range(10)]
    worker = Worker(*earlier, *BEFORE, *clicks_after(limits.CLICKS))
    assert worker.apply(bought()).example() is None
    assert worker.left_out() == 1


def test_displaced_clicks_of_an_interaction_outside_the_window_do_not_matter() -> None:
    """A long session began before ten others: the example does not show it."""
    clicks = [click(1, "long"), *(click(10 + minute, f"s{minute}") for minute in range(limits.WINDOW))]
    worker = Worker(*clicks, bought(), *(click(BOUGHT_AT + 1 + number, "long") for number in range(limits.CLICKS)))
    after = worker.apply(click(15.5, "late")).example()
    assert after is not None
    assert len(after.interactions) == limits.WINDOW
    assert "tag-15.5" in {tag for session in after.interactions for tag in session.tags}  # type: ignore[union-attr]


LONG_SESSION = [click(1, "long"), click(95, "long"), *(click(60 + number, f"s{number}") for number in range(8)), bought()]
OTHERS_AFTER = [click(BOUGHT_AT + 20 + number, f"t{number}") for number in range(12)]


@pytest.mark.parametrize("earlier", [0, 4])
def test_an_erasure_erases_an_example_that_should_show_the_rest_of_a_session_that_has_left(earlier: int) -> None:
    """The session began before the erased moment, so it left first. Its last click is among the last 10 interactions now."""
    before = [click(40 + number, f"e{number}") for number in range(earlier)]
    worker = Worker(*before, *LONG_SESSION, *OTHERS_AFTER)
    assert worker.example() is not None
    worker.apply(erasure(30))
    assert worker.store.examples[KEY] is None
    assert worker.left_out() == 1


def long_part(begin: float, end: float, number: int) -> Event:
    call = world.call("call", at(begin), at(end), number)
    return Source.CALL, msgspec.structs.replace(call, event_id=f"l-{number}", has_event_id=True)


@pytest.mark.parametrize(
    "history",
    [
        [*[click(40 + n, f"s{n}") for n in range(10)], long_part(55, 60, 0), bought(), long_part(0, 130, 1), *OTHERS_AFTER],
        [
            *[click(59 + n, f"s{n}") for n in range(9)],
            *[long_part(66, 67, 0), long_part(81, 82, 1), bought(), long_part(55, 114, 2)],
            *[long_part(115 + n, 116 + n, 3 + n) for n in range(6)],
        ],
    ],
    ids=["evicted", "displaced part"],
)
def test_a_call_is_in_the_window_of_an_example_by_the_parts_that_had_ended(history: list[Event]) -> None:
    """A part that ended later began before all others, which makes the call look older than it was at the purchase."""
    worker = Worker(*history)
    before = worker.example()
    assert before is not None
    assert worker.apply(excluding(65, "item-5")).example() == before
    assert worker.left_out() == 1


def test_a_session_that_moves_before_one_that_has_left_changes_no_full_example() -> None:
    """A late click makes the unnamed session the oldest, so another would be the tenth: one that is gone."""
    sessions = [click(10, "left"), click(20), *(click(60 + number, f"s{number}") for number in range(9))]
    worker = Worker(*sessions, bought(), *OTHERS_AFTER[:10])
    before = worker.example()
    assert worker.apply(click(5)).example() == before
    assert worker.left_out() == 1


def test_an_example_is_not_erased_with_an_older_purchase_of_its_id_beyond_the_bound() -> None:
    """The ids of evicted purchases are bounded: the oldest one's example goes, unless a newer purchase has the same id."""
    older = [(Source.PURCHASE, Purchase("u", at(2 + number / 10), ("item-1",), f"q{number}")) for number in range(255)]
    newer = [(Source.PURCHASE, Purchase("u", at(200 + number), ("item-1",), f"r{number}")) for number in range(8)]
    worker = Worker(click(0), bought(minute=1), *older, bought(), *newer)
    example = worker.example()
    assert example is not None
    assert example.occurred_at == at(BOUGHT_AT)
    assert len(decode_facts(worker.store.records[facts_key(b"u")]).example_ids) == limits.EXAMPLE_IDS


@pytest.mark.parametrize(
    ("history", "erased_to"),
    [
        (OUTGROWN["clicks, some"], 10),
        (OUTGROWN["clicks, some"], 92),
        (OUTGROWN["parts, some"], 10),
        (OUTGROWN["parts, some"], 95.7),
        (OUTGROWN["lists"], 10),
        (OUTGROWN["lists"], 60),
    ],
)
def test_an_erasure_erases_an_example_that_the_state_no_longer_keeps_in_full(history: list[Event], erased_to: float) -> None:
    """It may show what is erased, and what is left would be wrong. A late event does not bring it back."""
    late = click(98, "late")
    worker = Worker(*history, click(2, "erased")).apply(erasure(erased_to))
    assert worker.store.examples[KEY] is None
    assert worker.apply(late).example() is None


DISPLACED_AND_COVERED = [long_part(25, 26, 0), long_part(3, 32, 1), *[long_part(40 + n, 41 + n, 2 + n) for n in range(7)], bought()]
"""The ninth part displaces the first by its end. An erasure of the second, which began earlier, makes room for it again."""


def test_an_erasure_erases_an_example_that_should_show_a_displaced_part_again() -> None:
    """Of the 8 parts, the erasure covers one. The displaced part would be among the last 8, and the state no longer keeps it."""
    worker = Worker(*DISPLACED_AND_COVERED)
    assert worker.example() is not None
    worker.apply(erasure(5))
    assert worker.store.examples[KEY] is None
    assert worker.left_out() == 1


def test_an_erased_example_of_a_call_comes_back_with_8_later_parts() -> None:
    """A late part takes the place of the displaced one, so that the example lacks nothing."""
    worker = Worker(*DISPLACED_AND_COVERED, erasure(5), long_part(60, 61, 9))
    example = worker.example()
    assert example is not None
    (call,) = example.interactions
    assert isinstance(call, Conversation)
    assert [part.ended_at for part in call.parts] == [*(at(41 + n) for n in range(7)), at(61)]
    assert worker.left_out() == 1


def test_an_erasure_does_not_erase_an_example_because_impressions_are_known_in_part() -> None:
    """It sends what is left, without what it covers."""
    worker = Worker(click(1, "erased"), *OUTGROWN["impressions"]).apply(erasure(10))
    example = worker.example()
    assert example is not None
    assert len(example.interactions) == 1


@pytest.mark.parametrize(
    ("history", "erased_to", "bought_at"),
    [
        ([*BEFORE, *clicks_after(limits.CLICKS - 4)], 94.9, BOUGHT_AT),
        ([*PARTS_BEFORE, *parts_after(limits.PARTS - 1)], 97.5, BOUGHT_AT + 3.7),
        ([excluding(50, "item-4"), *LISTS_AFTER], 201, 201.5),
        ([shown(50, *world.ITEMS), *SHOWN_AFTER], 203, 203.5),
    ],
    ids=["clicks", "parts", "lists", "impressions"],
)
def test_after_an_erasure_that_covers_all_that_has_left_nothing_is_missing(
    history: list[Event], erased_to: float, bought_at: float
) -> None:
    """A purchase in the midst of what is left has a whole example, which a late event revises."""
    worker = Worker(*history, erasure(erased_to), click(bought_at - 0.3, "other"), bought(minute=bought_at))
    before = worker.example()
    after = worker.apply(click(bought_at - 0.2, "late")).example()
    assert before is not None
    assert after is not None
    assert len(after.interactions) == len(before.interactions) + 1
    assert not worker.left_out()


def test_a_list_that_is_older_than_all_kept_ones_has_left_too() -> None:
    """A purchase after it: what could be offered then is not known, and the example of before stays."""
    worker = Worker(*BEFORE, bought(), *LISTS_AFTER)
    before = worker.example()
    assert worker.apply(LATE_LIST, LATE_CLICK).example() == before
    assert worker.left_out() == 1


def test_a_list_that_leaves_again_is_not_written_again() -> None:
    """Only an older one than all that have left changes the state."""
    worker = Worker(*LISTS_AFTER, LATE_LIST)
    for number, (minute, writes) in enumerate(((1, False), (2, False), (0, True))):
        outcome = run(worker.store, batch_of(Source.ELIGIBILITY, [(10 + number, excluding(minute, "item-3")[1])]))
        assert (facts_key(b"u") in outcome.writes) is writes


def test_states_of_earlier_versions_are_read_without_what_has_left() -> None:
    """They lack the last field of a call and of the facts. Nothing is known to have left."""
    worker = Worker(*PARTS_BEFORE, *parts_after(limits.PARTS), *LISTS_AFTER, LATE_LIST)
    head, facts = decode_head(worker.store.records[head_key(b"u")]), decode_facts(worker.store.records[facts_key(b"u")])
    (call,) = [*facts.interactions, *head.tail]
    assert isinstance(call, KeptConversation)
    assert call.displaced_at == at(95.5)
    assert facts.evicted_eligibility_at == at(1)
    fields = msgspec.msgpack.decode(encode_state(call))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(fields[:-1]), type=KeptConversation).displaced_at is None
    fields = msgspec.msgpack.decode(encode_state(facts))
    assert decode_facts(msgspec.msgpack.encode(fields[:-1])).evicted_eligibility_at is None


@pytest.mark.parametrize("after", [[], [bought()]], ids=["no purchase", "a purchase afterwards"])
def test_a_late_part_that_a_full_call_does_not_take_is_counted(after: list[Event]) -> None:
    """Older than all that the call keeps, and no older than its beginning, so that the call would only grow."""
    parts = [long_part(10, 20 + number, number) for number in range(limits.PARTS)]
    worker = Worker(*parts, *after).apply(long_part(10, 15, 99))
    assert worker.counts["beyond_bounds", "interaction"] == 1
