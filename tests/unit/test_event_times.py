"""Times in the wrong unit, in the distant past and in the future: what is plausible, and what the error says."""

from datetime import UTC, date, datetime

import msgspec
import pytest

from stream.core.event_times import DEFAULT_RULES, TimeRule, TimeUnit, likely_unit, transcript_rejection
from stream.core.events import (
    NATIVE_FORMAT_HEADER,
    Erasure,
    Item,
    Purchase,
    Reason,
    Rejection,
    Sentence,
    Source,
    Transcript,
    to_milliseconds,
)
from stream.core.outputs import DeadLetter, Outcome
from stream.core.parsing import parse_item, parse_transcript
from stream.core.ranking import Catalogue
from stream.core.records import Batch, PlainRecord
from stream.core.state import Head, decode_head, head_key
from stream.core.step import StepConfig
from stream.errors import IsthmusError
from stream.services.process import field_mapper, step_config, transcript_format
from stream.settings import Settings, load
from tests import world
from tests.world import NOW, Store, run

FIELDS = {
    Source.CLICK: {"tags": ["x"]},
    Source.PURCHASE: {"items": ["item-1"]},
    Source.ELIGIBILITY: {"excluded": ["item-2"]},
    Source.ERASURE: {},
}
OLD = (Source.PURCHASE, Source.ELIGIBILITY, Source.ERASURE)


def send(source: Source, at: object, store: Store | None = None, config: StepConfig | None = None) -> Outcome:
    """The outcome of one event at a time."""
    value = msgspec.json.encode({"user_id": "u", "occurred_at": at} | FIELDS[source])
    batch = Batch(source, world.TOPICS[source], 1, 0, [PlainRecord(0, NOW, b"u", value)])
    return run(Store() if store is None else store, batch, config=config)


def head_of(store: Store) -> Head:
    return decode_head(store.records[head_key(b"u")])


def letter_of(outcome: Outcome) -> DeadLetter:
    (letter,) = outcome.dead_letters
    return msgspec.json.decode(letter.value or b"", type=DeadLetter)


@pytest.mark.parametrize("source", list(FIELDS))
@pytest.mark.parametrize(
    ("at", "reason", "hint"),
    [
        (NOW // 1_000, Reason.IMPLAUSIBLE_TIME, "seconds"),
        (NOW // 86_400_000, Reason.IMPLAUSIBLE_TIME, "days"),
        (NOW * 1_000, Reason.TOO_FAR_AHEAD, "microseconds"),
        (NOW * 1_000_000, Reason.TOO_FAR_AHEAD, "nanoseconds"),
        ("1970-01-21T20:00:00Z", Reason.IMPLAUSIBLE_TIME, "seconds"),  # seconds that somebody already read as milliseconds
        ("0001-01-01T00:00:00Z", Reason.IMPLAUSIBLE_TIME, None),
        ("0001-01-01T00:00:00+01:00", Reason.IMPLAUSIBLE_TIME, None),
        ("1899-12-31T23:59:59Z", Reason.IMPLAUSIBLE_TIME, None),
        (0, Reason.IMPLAUSIBLE_TIME, None),
        ("9999-12-31T23:59:59Z", Reason.TOO_FAR_AHEAD, None),
    ],
)
def test_an_implausible_time_is_a_dead_letter_naming_the_unit(source: Source, at: object, reason: Reason, hint: str | None) -> None:
    """Whatever the event is; nothing of it is applied."""
    store = Store()
    letter = letter_of(send(source, at, store))
    assert (letter.reason, not store.records) == (reason, True)
    assert (f"it looks like {hint}, and milliseconds are expected" in letter.error) if hint else "looks like" not in letter.error


@pytest.mark.parametrize("source", OLD)
@pytest.mark.parametrize("at", ["1900-01-01T00:00:00Z", -1, -600_000_000_000, "1969-12-31T23:59:59Z", "1970-02-01T00:00:00Z"])
def test_contracts_and_decisions_may_be_older_than_1970(source: Source, at: object) -> None:
    """A negative integer is a time like any other."""
    assert send(source, at).counts["events", source, "applied"] == 1


def test_clicks_are_plausible_from_2000_on() -> None:
    """To the millisecond."""
    assert letter_of(send(Source.CLICK, "1999-12-31T23:59:59.999Z")).reason == Reason.IMPLAUSIBLE_TIME
    assert not send(Source.CLICK, "2000-01-01T00:00:00Z").dead_letters


def test_what_happened_before_1970_is_owned_excluded_and_erased() -> None:
    """Nothing takes a negative time for none: more purchases than the state keeps, an older list, erasures up to a time."""
    store, year_ms = Store(), 31_536_000_000
    for number in range(10):
        purchase = {"user_id": "u", "occurred_at": -year_ms * (20 - number), "items": [f"item-{number}"]}
        outcome = run(
            store, Batch(Source.PURCHASE, "purchases", 1, 0, [PlainRecord(number, NOW, b"u", msgspec.json.encode(purchase))])
        )
        assert not outcome.counts["late", Source.PURCHASE, "beyond"]
    assert len(head_of(store).owned) == 10
    send(Source.ELIGIBILITY, -year_ms, store)
    assert head_of(store).excluded == ("item-2",)
    erasure = msgspec.json.encode(Erasure("u", -year_ms * 15))
    run(store, Batch(Source.ERASURE, "erasures", 1, 0, [PlainRecord(0, NOW, b"u", erasure)]))
    assert head_of(store).owned == tuple(f"item-{number}" for number in range(6, 10))


def test_an_erasure_just_before_1970_keeps_out_what_it_covers() -> None:
    """The time -1 stands for "never erased" in a state."""
    store = Store()
    send(Source.PURCHASE, -1, store)
    send(Source.ERASURE, -1, store)
    again = msgspec.json.encode(Purchase("u", -1, ("item-1",)))
    outcome = run(store, Batch(Source.PURCHASE, "purchases", 1, 0, [PlainRecord(9, NOW, b"u", again)]))
    assert outcome.counts["events", Source.PURCHASE, "erased"] == 1


@pytest.mark.parametrize(
    ("unit", "at"),
    [
        ("s", NOW // 1_000),
        ("s", NOW / 1_000 + 0.0004),
        ("us", NOW * 1_000 + 7),
        ("ns", NOW * 1_000_000 + 7),
        ("ms", float(NOW)),
        ("us", datetime.fromtimestamp(NOW / 1_000, UTC).isoformat()),
    ],
)
def test_a_topic_has_its_own_unit(unit: str, at: object) -> None:
    """Integers and fractions are in that unit; RFC 3339 times need none."""
    config = step_config(Settings(times={"purchases_unit": unit}, topics={"partitions": 1}))
    store = Store()
    assert not send(Source.PURCHASE, at, store, config=config).dead_letters
    assert head_of(store).newest_at == NOW


def test_a_mapped_time_has_the_topics_unit_and_a_native_one_milliseconds() -> None:
    """`isthmus erase` sends milliseconds, whatever the producer of erasures writes."""
    config = step_config(
        Settings(
            times={"erasures_unit": "s"},
            mapping={"erasures": {"user_id": "customer", "occurred_at": "when"}},
            topics={"partitions": 1},
        )
    )
    theirs = PlainRecord(0, NOW, b"u", msgspec.json.encode({"customer": "u", "when": NOW // 1_000}))
    ours = PlainRecord(1, NOW, b"u", msgspec.json.encode(Erasure("u", NOW)), [(NATIVE_FORMAT_HEADER, b"1")])
    outcome = run(Store(), Batch(Source.ERASURE, "erasures", 1, 0, [theirs, ours]), config=config)
    assert not outcome.dead_letters
    wrong = PlainRecord(0, NOW, b"u", msgspec.json.encode({"customer": "u", "when": NOW}))
    letter = letter_of(run(Store(), Batch(Source.ERASURE, "erasures", 1, 0, [wrong]), config=config))
    assert (letter.reason, "it looks like milliseconds, and seconds are" in letter.error) == (Reason.TOO_FAR_AHEAD, True)


CALL = Transcript("u", "c", NOW - 9_000, (Sentence("hello", at=NOW - 8_000),))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"started_at": NOW // 1_000}, Reason.IMPLAUSIBLE_TIME),
        ({"ended_at": NOW * 1_000}, Reason.TOO_FAR_AHEAD),
        ({"ended_at": datetime(1, 1, 1, tzinfo=UTC)}, Reason.IMPLAUSIBLE_TIME),
        ({"sentences": (Sentence("hello", at=NOW // 1_000),)}, Reason.IMPLAUSIBLE_TIME),
        ({"sentences": (Sentence("hello", at=NOW * 1_000_000),)}, Reason.TOO_FAR_AHEAD),
        ({"sentences": (Sentence("hello", at=5),), "ended_at": NOW}, None),  # nobody needs it
        ({}, None),
    ],
)
def test_a_calls_times_are_plausible_before_it_is_encoded(changes: dict[str, object], reason: Reason | None) -> None:
    """Also those of its sentences, where they say when it ended."""
    call = msgspec.structs.replace(CALL, **changes)
    rejection = transcript_rejection(call, NOW, DEFAULT_RULES[Source.CALL], 300_000)
    assert (None if rejection is None else rejection.reason) == reason


def test_a_calls_times_have_the_topics_unit() -> None:
    """In the call and in its sentences; the step gets milliseconds."""
    form = transcript_format(Settings(times={"transcripts_unit": "s"}))
    value = msgspec.json.encode(msgspec.structs.replace(CALL, started_at=NOW // 1_000, sentences=(Sentence("a", at=NOW // 1_000),)))
    call = parse_transcript(value, form.mapper, form.times.unit)
    assert isinstance(call, Transcript)
    assert (call.started_at, call.sentences[0].at) == (NOW, NOW)
    mapped = parse_transcript(value, field_mapper("m", {"user_id": "user_id", "started_at": "started_at"}), TimeUnit.SECONDS)
    assert isinstance(mapped, Rejection)
    assert "conversation_id" in mapped.error


def test_an_encoded_call_with_an_implausible_time_is_a_dead_letter() -> None:
    """An encoder of an earlier version let it pass."""
    for start, end in ((5, 6), (5, NOW)):
        batch = Batch(Source.CALL, "encoded-calls", 1, 0, [PlainRecord(0, NOW, b"u", world.encode(world.call("c", start, end)))])
        assert letter_of(run(Store(), batch)).reason == Reason.IMPLAUSIBLE_TIME


@pytest.mark.parametrize(
    ("field", "value", "unit", "hint"),
    [
        ("offered_from", NOW // 1_000, "ms", "seconds"),
        ("offered_until", 253_402_300_799, "ms", "seconds"),  # the end of 9999
        ("offered_until", NOW * 1_000, "ms", "microseconds"),
        ("offered_until", 253_402_300_799_999_999, "ms", "microseconds"),
        ("offered_from", NOW * 1_000_000, "ms", "nanoseconds"),
        ("offered_from", NOW, "s", "milliseconds"),
        ("offered_from", NOW, "us", "milliseconds"),
        ("offered_from", -9_000_000_000_000_000, "ms", "not between the years"),
        ("offered_from", 0, "ms", None),
        ("offered_from", -2_208_988_800_000, "ms", None),
        ("offered_until", 253_402_300_799_000, "ms", None),
        ("offered_until", 253_402_300_799, "s", None),
        ("offered_from", "1900-01-01T00:00:00Z", "ms", None),
        ("offered_from", "1970-01-21T20:00:00Z", "ms", None),
        ("offered_until", "9999-12-31T23:59:59Z", "ms", None),
        ("offered_until", "0001-01-01T00:00:00Z", "ms", None),
    ],
)
def test_an_offer_lies_anywhere_but_in_another_unit(field: str, value: object, unit: str, hint: str | None) -> None:
    """Only integers are refused, and only those that read as another unit."""
    item = parse_item(msgspec.json.encode({"item_id": "1", "name": "One", field: value}), unit=TimeUnit(unit))
    if hint is None:
        assert isinstance(item, Item)
    else:
        assert isinstance(item, Rejection)
        assert hint in item.error
        assert item.reason == Reason.IMPLAUSIBLE_TIME


def test_an_offer_that_began_before_1970_has_begun() -> None:
    """And one without a beginning is on offer at any time, also for a history that ends before 1970."""
    items = [Item("a", "A", offered_from=-5_000), Item("b", "B"), Item("c", "C", offered_until=-5_000)]
    assert Catalogue(items).offered_at(-1_000) == ["a", "b"]
    assert Catalogue(items).offered_at(NOW) == ["a", "b"]


def test_a_unit_is_guessed_from_every_other() -> None:
    """At most one gives a recent time."""
    values = {TimeUnit.SECONDS: NOW // 1_000, TimeUnit.MILLISECONDS: NOW, TimeUnit.MICROSECONDS: NOW * 1_000}
    for written, value in values.items():
        for expected in TimeUnit:
            read_ms = to_milliseconds(value * {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}[expected] // 1_000_000)
            guess = likely_unit(read_ms, expected)
            assert guess is None if written is expected else guess is not None and guess.startswith(written.name.lower())


def test_settings_name_the_earliest_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """Per topic; a click or call before 1970 is never plausible."""
    monkeypatch.setenv("ISTHMUS_TIMES__PURCHASES_EARLIEST", "1950-01-01")
    rule = step_config(load()).times[Source.PURCHASE]
    assert rule == TimeRule(TimeUnit.MILLISECONDS, to_milliseconds(datetime(1950, 1, 1, tzinfo=UTC)))
    assert load().times.earliest_of("clicks") == date(2000, 1, 1)
    monkeypatch.setenv("ISTHMUS_TIMES__CLICKS_EARLIEST", "1960-01-01")
    with pytest.raises(IsthmusError, match="clicks_earliest"):
        load()
    monkeypatch.delenv("ISTHMUS_TIMES__CLICKS_EARLIEST")
    monkeypatch.setenv("ISTHMUS_TIMES__CLICKS_UNIT", "minutes")
    with pytest.raises(IsthmusError, match="clicks_unit"):
        load()
