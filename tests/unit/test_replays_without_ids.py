"""Replayed dead letters whose events have no id: what this application applied before the replay counts once."""

import msgspec
import pytest

from stream.core.events import ORIGIN_HEADER, Click, Feedback, MappingError, Purchase, Source, UserEvent
from stream.core.outputs import DeadLetter, Outcome
from stream.core.records import Batch, Headers, PlainRecord
from stream.kafka.cluster.dead_letter_replay import Original, coordinates_text, headers_of_replay
from tests import world
from tests.world import MINUTE, NOW, OrderRanker, Store

BEGIN = NOW - 100 * MINUTE
CLICK = Click("u", BEGIN + 5 * MINUTE, ("car",))
EVENTS: dict[str, tuple[Source, UserEvent]] = {
    "click": (Source.CLICK, CLICK),
    "click of a session": (Source.CLICK, Click("u", BEGIN + 5 * MINUTE, ("car",), session_id="s1")),
    "purchase": (Source.PURCHASE, Purchase("u", BEGIN + 5 * MINUTE, ("item-1",))),
    "cancellation": (Source.PURCHASE, Purchase("u", BEGIN + 5 * MINUTE, ("item-1",), action="cancelled")),
    "feedback": (Source.FEEDBACK, Feedback("u", BEGIN + 5 * MINUTE, "web", "shown", ("item-1",))),
}


class Application:
    """One of several that read the same topics, or one whose worker ends before its states are kept (`buries`)."""

    def __init__(self) -> None:
        self.store = Store()
        self.applies(PlainRecord(0, NOW, b"u", world.encode(Click("u", BEGIN, ("home",), "first"))))

    def applies(self, record: PlainRecord, source: Source = Source.CLICK) -> Outcome:
        return world.run(self.store, _batch(source, record), OrderRanker())

    def buries(self, record: PlainRecord, source: Source) -> DeadLetter:
        """The dead letter of a record that its mapping cannot read; its states are not kept."""
        mappers = {source: _fails}
        outcome = world.run(Store(), _batch(source, record), config=world.settings(mappers=mappers))
        return msgspec.json.decode(outcome.dead_letters[0].value or b"", type=DeadLetter)

    def content(self) -> tuple[list[object], object]:
        return world.history_of(self.store), self.store.newest_examples()


def _batch(source: Source, record: PlainRecord) -> Batch:
    return Batch(source, world.TOPICS[source], 1, 0, [record])


def _fails(_: object) -> None:
    raise MappingError("`$.user_id` finds nothing")


def replayed(letter: DeadLetter, offset: int) -> PlainRecord:
    headers = headers_of_replay(letter, Original(letter.key, letter.original, letter.headers))
    return PlainRecord(offset, NOW + MINUTE, letter.key, letter.original, tuple(headers))


@pytest.mark.parametrize(("source", "event"), EVENTS.values(), ids=EVENTS)
def test_an_event_that_was_applied_counts_once_when_its_dead_letter_is_replayed(source: Source, event: UserEvent) -> None:
    """Another application could not use it; or this one's worker ended after it had sent the dead letter, and was given another
    mapping. A replay that fails too is replayed again.
    """
    ours, other = Application(), Application()
    original = PlainRecord(7, NOW, b"u", world.encode(event))
    ours.applies(original, source)
    applied = ours.content()
    first = replayed(other.buries(original, source), 8)
    for record in (first, replayed(other.buries(first, source), 9)):
        outcome = ours.applies(record, source)
        assert outcome.counts["events", source, "duplicate_event"] == 1
    assert ours.content() == applied


@pytest.mark.parametrize(("source", "event"), EVENTS.values(), ids=EVENTS)
def test_a_dead_letter_that_two_applications_replay_counts_once(source: Source, event: UserEvent) -> None:
    application = Application()
    letter = application.buries(PlainRecord(7, NOW, b"u", world.encode(event)), source)
    assert application.applies(replayed(letter, 8), source).counts["events", source, "applied"] == 1
    once = application.content()
    assert application.applies(replayed(letter, 9), source).counts["events", source, "duplicate_event"] == 1
    assert application.content() == once


def test_two_equal_events_that_were_never_applied_both_count_when_they_are_replayed() -> None:
    """A producer whose times are in seconds sends two clicks on the same thing at one time."""
    application, twice = Application(), Application()
    originals = [PlainRecord(offset, NOW, b"u", world.encode(CLICK)) for offset in (7, 8)]
    for record in originals:
        twice.applies(record)
    for number, letter in enumerate([application.buries(record, Source.CLICK) for record in originals]):
        application.applies(replayed(letter, 20 + number))
    assert application.content() == twice.content()


def test_a_record_that_an_earlier_version_replayed_names_its_original_too() -> None:
    application = Application()
    original = PlainRecord(7, NOW, b"u", world.encode(CLICK))
    application.applies(original)
    applied = application.content()
    headers: Headers = [(ORIGIN_HEADER, coordinates_text(application.buries(original, Source.CLICK)).encode())]
    application.applies(PlainRecord(8, NOW, b"u", world.encode(CLICK), headers))
    assert application.content() == applied
