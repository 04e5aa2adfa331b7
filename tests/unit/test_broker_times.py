"""Records whose Kafka timestamp is none: -1, before 1970, or beyond any date. Producers may set it where a topic keeps it."""

from typing import Any

import msgspec
import pytest

from stream.core.dead_letters import dead_letter
from stream.core.event_times import DEFAULT_RULES, transcript_rejection
from stream.core.events import Click, Eligibility, Erasure, Feedback, Purchase, Reason, Rejection, Sentence, Source, Transcript
from stream.core.outputs import DeadLetter
from stream.core.records import Batch, Coordinates, PlainRecord
from tests.world import NOW, OrderRanker, Store, call, encode, run

EARLY = [-(1 << 63), -(1 << 53), -62_135_596_800_001, -2, -1, 0, 1]
LATE = [253_402_300_800_000, 1 << 53, (1 << 63) - 1]
EVENTS: dict[Source, Any] = {
    Source.CLICK: Click("u", NOW, ("a",)),
    Source.CALL: msgspec.structs.replace(call("u", NOW, NOW + 1), user_id="u"),
    Source.PURCHASE: Purchase("u", NOW, ("i",)),
    Source.ELIGIBILITY: Eligibility("u", NOW, ("i",)),
    Source.ERASURE: Erasure("u", NOW),
    Source.FEEDBACK: Feedback("u", NOW, "web", "shown", ("i",)),
}


def reasons(store: Store, source: Source, event: Any, timestamp: int) -> list[Reason]:
    """Applies one record, and an ordinary one after it; returns why the first became a dead letter."""
    outcome = run(store, Batch(source, "topic", 1, 0, [PlainRecord(0, timestamp, b"u", encode(event))]), OrderRanker())
    letters = [msgspec.json.decode(letter.value or b"", type=DeadLetter) for letter in outcome.dead_letters]
    after = Batch(Source.CLICK, "web-clicks", 1, 0, [PlainRecord(1, NOW + 10, b"u", encode(Click("u", NOW + 9, ("later",))))])
    assert not run(store, after, OrderRanker()).dead_letters
    return [Reason(letter.reason) for letter in letters]


@pytest.mark.parametrize("timestamp", EARLY)
@pytest.mark.parametrize("source", EVENTS)
def test_an_event_whose_record_has_an_early_timestamp_or_none_is_a_dead_letter(source: Source, timestamp: int) -> None:
    """Its own time is ahead of the broker's. The dead letter can be built and sent whatever the timestamp."""
    assert reasons(Store(), source, EVENTS[source], timestamp) == [Reason.TOO_FAR_AHEAD]


@pytest.mark.parametrize("timestamp", LATE)
@pytest.mark.parametrize("source", EVENTS)
def test_a_late_timestamp_does_not_cost_an_event_with_a_plausible_time(source: Source, timestamp: int) -> None:
    """A list that follows from it can be built, and the user's next event is applied."""
    store = Store()
    assert reasons(store, source, EVENTS[source], timestamp) == []
    assert "later" in repr(store.records)


@pytest.mark.parametrize("event", [Click("u", NOW * 1_000, ("a",)), Purchase("u", NOW * 1_000, ("i",)), Erasure("u", NOW * 1_000)])
def test_a_time_in_microseconds_is_refused_although_its_timestamp_is_in_microseconds_too(event: Any) -> None:
    """Then it is not ahead of the broker's."""
    source = next(source for source, other in EVENTS.items() if type(other) is type(event))
    assert reasons(Store(), source, event, NOW * 1_000) == [Reason.IMPLAUSIBLE_TIME]


@pytest.mark.parametrize("timestamp", [*EARLY, *LATE, NOW * 1_000])
def test_an_erasure_without_a_time_takes_no_timestamp_that_is_none(timestamp: int) -> None:
    """An early one would erase nothing, a late one would keep the user's events out for ever."""
    store = Store()
    assert reasons(store, Source.ERASURE, Erasure("u"), timestamp) == [Reason.IMPLAUSIBLE_TIME]
    assert "later" in repr(store.records)


@pytest.mark.parametrize("timestamp", [*EARLY, *LATE])
def test_a_dead_letter_can_be_built_at_any_timestamp(timestamp: int) -> None:
    letter = dead_letter(
        Source.CLICK, Coordinates("t", 1, 0, 0), PlainRecord(0, timestamp, None, None), Rejection(Reason.INVALID, "")
    )
    assert msgspec.json.decode(letter.value or b"", type=DeadLetter).occurred_at == timestamp


@pytest.mark.parametrize("timestamp", [*EARLY, NOW * 1_000])
def test_a_transcript_is_refused_as_other_events_are(timestamp: int) -> None:
    """By the encoder; a time in the unit of its timestamp is not ahead of that."""
    transcript = Transcript("u", "c", NOW * 1_000 if timestamp == NOW * 1_000 else NOW, (Sentence("hello"),))
    rejection = transcript_rejection(transcript, timestamp, DEFAULT_RULES[Source.CALL], 300_000)
    assert rejection is not None
    assert rejection.reason is (Reason.IMPLAUSIBLE_TIME if timestamp > NOW else Reason.TOO_FAR_AHEAD)
