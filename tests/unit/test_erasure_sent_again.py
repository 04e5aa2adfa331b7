"""Erasures without a time that come more than once: by a re-export, by a producer's retry, as replayed dead letters."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from stream.core import limits
from stream.core.events import (
    FIRST_ORIGIN_HEADER,
    FIRST_RECEIVED_HEADER,
    ORIGIN_HEADER,
    Click,
    Erasure,
    FieldMapper,
    MappingError,
    Purchase,
    Reason,
    Source,
)
from stream.core.outputs import DeadLetter, Outcome
from stream.core.records import Batch, Headers, PlainRecord
from stream.core.state import ErasureMarker, decode_erasure_marker, encode_state, erasure_marker_key, head_key
from stream.kafka.cluster.dead_letter_replay import Original, coordinates_text, headers_of_replay
from tests import world
from tests.world import NOW, OrderRanker, Store

HOUR = limits.HOUR_MS
DAY = limits.DAY_MS
MARKER_KEY = erasure_marker_key(b"u", world.settings().erasure_key)
REQUEST = Erasure("u", None, "request-1")
BOUND = 37 * DAY
"""What `step.marker_retention_s` was by default."""


class Inputs:
    """One user's topics; each record has the Kafka timestamp that the test says."""

    def __init__(self, marker_retention_ms: int | None = None) -> None:
        self.store = Store()
        self._retention_ms = marker_retention_ms
        self._offsets = dict.fromkeys(Source, -1)

    def click(self, tag: str, at: int, received_at: int | None = None) -> None:
        self._run(Source.CLICK, received_at or at, world.encode(Click("u", at, (tag,), tag)))

    def buy(self, at: int) -> None:
        self._run(Source.PURCHASE, at, world.encode(Purchase("u", at, ("item-1",), "p")))

    def erase(self, erasure: Erasure, at: int, headers: Headers = (), mapper: FieldMapper | None = None) -> Outcome:
        return self._run(Source.ERASURE, at, world.encode(erasure), headers, mapper)

    def _run(self, source: Source, at: int, value: bytes, headers: Headers = (), mapper: FieldMapper | None = None) -> Outcome:
        self._offsets[source] += 1
        record = PlainRecord(self._offsets[source], at, b"u", value, headers)
        config = world.settings(mappers={} if mapper is None else {source: mapper}, marker_retention_ms=self._retention_ms)
        return world.run(self.store, Batch(source, world.TOPICS[source], 1, 0, [record]), OrderRanker(), config=config)

    def tags(self) -> set[str]:
        """The tags of the user's clicks."""
        sessions: list[Any] = self.history()[:-4]
        return {tag for _, _, tags, _ in sessions for tag in tags}

    def history(self) -> list[object]:
        return world.history_of(self.store)

    def marker(self) -> ErasureMarker:
        return decode_erasure_marker(self.store.records[MARKER_KEY])


def erased_once(marker_retention_ms: int | None = None) -> Inputs:
    """A user who was erased by `REQUEST` at `NOW`."""
    inputs = Inputs(marker_retention_ms)
    inputs.click("old", NOW - HOUR)
    assert outcome_of(inputs.erase(REQUEST, NOW)) == "applied"
    return inputs


def outcome_of(outcome: Outcome) -> str:
    """What became of the only erasure of a batch."""
    (found,) = [str(count[-1]) for count in outcome.counts if count[:2] == ("events", Source.ERASURE)]
    return found


def test_an_erasure_sent_again_erases_nothing_that_came_after_the_first() -> None:
    """Whether the user came back or not; of the training example nothing changes either."""
    inputs = erased_once()
    assert outcome_of(inputs.erase(REQUEST, NOW + HOUR)) == "duplicate_event"
    inputs.click("new", NOW + 2 * HOUR)
    inputs.buy(NOW + 3 * HOUR)
    before, examples = inputs.history(), dict(inputs.store.examples)
    again = inputs.erase(REQUEST, NOW + 24 * HOUR)
    assert outcome_of(again) == "duplicate_event"
    assert (inputs.history(), inputs.store.examples) == (before, examples)
    assert not again.examples
    assert not again.recommendations
    assert inputs.tags() == {"new"}


def test_an_event_of_the_time_between_two_records_of_one_erasure_counts_whenever_it_arrives() -> None:
    """Before both, between them, or after them."""
    for place in range(3):
        inputs = Inputs()
        for step in range(3):
            if step == place:
                inputs.click("between", NOW + HOUR)
            if step < 2:
                inputs.erase(REQUEST, NOW + step * 2 * HOUR)
        assert inputs.tags() == {"between"}, place


def test_records_of_one_batch_are_told_apart_by_their_ids_too() -> None:
    inputs = Inputs()
    inputs.click("between", NOW + HOUR)
    records = [PlainRecord(number, NOW + number * 2 * HOUR, b"u", world.encode(REQUEST)) for number in range(2)]
    world.run(inputs.store, Batch(Source.ERASURE, "erasures", 1, 0, records))
    assert inputs.tags() == {"between"}


@pytest.mark.parametrize(
    "request_again",
    [Erasure("u", None, "request-2"), Erasure("u", None), Erasure("u", NOW + 2 * HOUR, "request-1")],
    ids=["a new id", "no id", "a time"],
)
def test_a_new_request_has_a_new_id_or_a_time(request_again: Erasure) -> None:
    inputs = erased_once()
    inputs.click("new", NOW + HOUR)
    assert outcome_of(inputs.erase(request_again, NOW + 2 * HOUR)) == "applied"
    assert inputs.tags() == set()


def test_the_id_of_an_erasure_with_a_time_is_not_kept() -> None:
    """Sent again it covers nothing new, and the ids of the others keep their place."""
    inputs = Inputs()
    inputs.click("new", NOW + HOUR)
    dated = Erasure("u", NOW, "request-1")
    assert outcome_of(inputs.erase(dated, NOW)) == "applied"
    assert outcome_of(inputs.erase(dated, NOW + 2 * HOUR)) == "erased"
    assert inputs.tags() == {"new"}
    assert inputs.marker().erasure_ids == b""


def test_an_erasure_that_a_later_one_covers_is_known_all_the_same() -> None:
    """It arrives after that, and once more."""
    inputs = Inputs()
    inputs.erase(Erasure("u", NOW), NOW)
    assert outcome_of(inputs.erase(REQUEST, NOW - HOUR)) == "erased"
    inputs.click("new", NOW + HOUR)
    assert outcome_of(inputs.erase(REQUEST, NOW + 2 * HOUR)) == "duplicate_event"
    assert inputs.tags() == {"new"}


def test_an_erasure_is_known_for_ever_unless_its_marker_expires() -> None:
    """Of a user who stayed away. Under a bound nothing is known of the user afterwards, and what came since is erased."""
    for late, expected in ((-1, "duplicate_event"), (0, "applied")):
        assert outcome_of(erased_once(BOUND).erase(REQUEST, NOW + BOUND + late)) == expected
    assert outcome_of(erased_once().erase(REQUEST, NOW + 4_000 * DAY)) == "duplicate_event"


@pytest.mark.parametrize(("bound", "tags"), [(None, set()), (BOUND, {"old"})])
def test_events_from_before_an_erasure_stay_out_for_ever_unless_its_marker_expires(bound: int | None, tags: set[str]) -> None:
    """They come again ten years later, from a file or an archive."""
    inputs = erased_once(bound)
    inputs.click("old", NOW - HOUR, received_at=NOW + 4_000 * DAY)
    assert inputs.tags() == tags


def test_of_a_user_who_came_back_an_erasure_is_known_beyond_the_expiry_of_the_marker() -> None:
    """The head remembers the erasure, so that the ids in the marker still hold."""
    inputs = erased_once(BOUND)
    inputs.click("new", NOW + DAY)
    assert outcome_of(inputs.erase(REQUEST, NOW + 400 * DAY)) == "duplicate_event"
    assert inputs.tags() == {"new"}


def test_ids_of_an_erasure_whose_marker_expired_before_the_user_came_back_are_forgotten() -> None:
    """The marker that a new erasure writes does not hold them."""
    inputs = erased_once(BOUND)
    inputs.click("new", NOW + 400 * DAY)
    assert outcome_of(inputs.erase(Erasure("u", None, "request-2"), NOW + 401 * DAY)) == "applied"
    assert outcome_of(inputs.erase(REQUEST, NOW + 402 * DAY)) == "applied"


def test_the_last_eight_erasures_are_known_and_a_ninth_pushes_out_the_first() -> None:
    """Which is counted."""
    inputs = Inputs()
    requests = [Erasure("u", None, f"request-{number}") for number in range(limits.ERASURES + 1)]
    pushed_out = [inputs.erase(request, NOW + number).counts["beyond_bounds", "erasure"] for number, request in enumerate(requests)]
    assert pushed_out == [0] * limits.ERASURES + [1]
    inputs.click("new", NOW + HOUR)
    for request in requests[1:]:
        assert outcome_of(inputs.erase(request, NOW + 2 * HOUR)) == "duplicate_event"
    assert inputs.tags() == {"new"}
    assert outcome_of(inputs.erase(requests[0], NOW + 2 * HOUR)) == "applied"


def test_an_id_is_kept_as_a_keyed_hash_that_no_other_user_shares() -> None:
    """It may name the user, and must not lead from one marker to another."""
    inputs = erased_once()
    ours = inputs.marker().erasure_ids
    assert b"request" not in inputs.store.records[MARKER_KEY]
    markers = set()
    for user, key in (("v", b"isthmus"), ("u", b"another")):
        store, record = Store(), PlainRecord(0, NOW, user.encode(), world.encode(Erasure(user, None, "request-1")))
        world.run(store, Batch(Source.ERASURE, "erasures", 1, 0, [record]), config=world.settings(erasure_key=key))
        (stored,) = store.records.values()
        markers.add(decode_erasure_marker(stored).erasure_ids)
    assert len({ours, *markers}) == 3
    assert len(ours) == 6


class FormerMarker(msgspec.Struct, array_like=True):
    """An erasure marker as versions without ids read it."""

    version: int
    erased_at: int
    written_at: int
    applied: dict[int, tuple[int, int]]


def test_a_marker_of_an_earlier_version_is_read_and_an_earlier_version_reads_ours() -> None:
    """Nothing is known of the erasures that the earlier one stands for."""
    inputs = Inputs()
    inputs.store.records[MARKER_KEY] = encode_state(FormerMarker(1, NOW, NOW, {}))
    assert outcome_of(inputs.erase(REQUEST, NOW + HOUR)) == "applied"
    ours = msgspec.msgpack.decode(inputs.store.records[MARKER_KEY], type=FormerMarker)
    assert (ours.erased_at, ours.written_at) == (NOW + HOUR, NOW + HOUR)


@pytest.mark.parametrize(
    ("header", "reaches"),
    [
        (str(NOW + HOUR).encode(), NOW + HOUR),
        (str(NOW + 9 * HOUR).encode(), NOW + 4 * HOUR),  # later than the record itself
        (str((1 << 63) - 1).encode(), NOW + 4 * HOUR),
    ],
)
def test_a_replayed_erasure_reaches_up_to_its_original_and_never_beyond_its_record(header: bytes, reaches: int) -> None:
    inputs = Inputs()
    inputs.click("first", NOW + HOUR)
    inputs.click("second", NOW + 2 * HOUR)
    assert outcome_of(inputs.erase(Erasure("u"), NOW + 4 * HOUR, [(FIRST_RECEIVED_HEADER, header)])) == "applied"
    assert inputs.marker().erased_at == reaches
    assert inputs.tags() == ({"second"} if reaches == NOW + HOUR else set())


@pytest.mark.parametrize("header", [b"", None, b"yesterday", b"-5", b"1.5", "٣".encode(), b"9" * 20, b"0"])
def test_an_erasure_whose_header_is_no_time_is_refused(header: bytes | None) -> None:
    """Neither the record's time, which may erase too much, nor none at all is what was meant."""
    inputs = Inputs()
    inputs.click("old", NOW)
    outcome = inputs.erase(REQUEST, NOW + HOUR, [(FIRST_RECEIVED_HEADER, header)])  # type: ignore[list-item]
    (letter,) = letters(outcome)
    assert letter.reason == Reason.IMPLAUSIBLE_TIME
    assert "its header isthmus_first_received_at is not one in milliseconds" in letter.error
    assert inputs.tags() == {"old"}


def test_the_header_changes_no_event_that_has_a_time() -> None:
    inputs = Inputs()
    inputs.click("old", NOW)
    assert outcome_of(inputs.erase(Erasure("u", NOW), NOW + HOUR, [(FIRST_RECEIVED_HEADER, b"junk")])) == "applied"
    assert inputs.tags() == set()


def letters(outcome: Outcome) -> list[DeadLetter]:
    return [msgspec.json.decode(letter.value or b"", type=DeadLetter) for letter in outcome.dead_letters]


def broken(_: object) -> object:
    """A field mapping that is wrong."""
    raise MappingError("user_id")


def refused(inputs: Inputs, erasure: Erasure, at: int, headers: Headers = ()) -> DeadLetter:
    (letter,) = letters(inputs.erase(erasure, at, headers, broken))
    return letter


def replayed(letter: DeadLetter) -> list[tuple[str, bytes]]:
    """The headers of a dead letter's replay."""
    return headers_of_replay(letter, Original(letter.key, letter.original, letter.headers))


@pytest.mark.parametrize("request_", [REQUEST, Erasure("u")], ids=["with an id", "without an id"])
def test_a_replayed_dead_letter_erases_what_its_original_would_have_erased(request_: Erasure) -> None:
    """The mapping was broken for two days, and the first replay came before it was mended."""
    inputs = Inputs()
    inputs.click("old", NOW - HOUR)
    first = refused(inputs, request_, NOW)
    inputs.click("new", NOW + HOUR)
    second = refused(inputs, request_, NOW + DAY, replayed(first))
    assert outcome_of(inputs.erase(request_, NOW + 2 * DAY, replayed(second))) == "applied"
    assert inputs.tags() == {"new"}
    assert inputs.marker().erased_at == NOW


def test_a_dead_letter_replayed_after_its_erasure_was_sent_again_erases_nothing_more() -> None:
    inputs = Inputs()
    letter = refused(inputs, REQUEST, NOW)
    inputs.erase(REQUEST, NOW + HOUR)
    inputs.click("new", NOW + 2 * HOUR)
    assert outcome_of(inputs.erase(REQUEST, NOW + 3 * HOUR, replayed(letter))) == "erased"
    assert inputs.tags() == {"new"}


def test_the_replay_of_a_replay_names_its_own_dead_letter_and_the_first_time() -> None:
    first = refused(Inputs(), REQUEST, NOW, [("trace", b"1")])
    second = refused(Inputs(), REQUEST, NOW + DAY, replayed(first))
    received = (FIRST_RECEIVED_HEADER, str(NOW).encode())
    origins = [coordinates_text(letter).encode() for letter in (first, second)]
    ours = [received, (FIRST_ORIGIN_HEADER, origins[0])]
    assert replayed(first) == [*ours, ("trace", b"1"), (ORIGIN_HEADER, origins[0])]
    assert replayed(second) == [*ours, ("trace", b"1"), (ORIGIN_HEADER, origins[1])]


def test_the_first_time_is_kept_where_a_dead_letter_cannot_hold_all_headers() -> None:
    """It holds the first 8 kB of them."""
    first = refused(Inputs(), REQUEST, NOW, [("trace", b"1"), ("large", b"x" * 8_150)])
    second = refused(Inputs(), REQUEST, NOW + DAY, replayed(first))
    assert "large" not in dict(second.headers)
    origin = coordinates_text(first).encode()
    assert replayed(second)[:2] == [(FIRST_RECEIVED_HEADER, str(NOW).encode()), (FIRST_ORIGIN_HEADER, origin)]


@pytest.mark.parametrize("timestamp", [-(1 << 63), -1, 0, NOW // 1_000, NOW * 1_000])
def test_an_original_whose_timestamp_is_none_is_replayed_as_of_the_replay(timestamp: int) -> None:
    """Its timestamp is why it was refused, so that it would be refused for ever."""
    inputs = Inputs()
    (letter,) = letters(inputs.erase(REQUEST, timestamp))
    assert letter.reason == Reason.IMPLAUSIBLE_TIME
    assert outcome_of(inputs.erase(REQUEST, NOW, replayed(letter))) == "applied"
    assert inputs.marker().erased_at == NOW


def test_a_batch_of_another_topic_reads_no_markers_of_known_users() -> None:
    """A click costs what it did."""
    inputs = erased_once()
    inputs.click("new", NOW + HOUR)
    asked: list[bytes] = []

    class Counting(Store):
        def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
            asked.extend(keys)
            return super().get_many(keys)

    inputs.store = Counting(inputs.store.records)
    inputs.click("newer", NOW + HOUR + 1)
    assert head_key(b"u") in asked
    assert MARKER_KEY not in asked
