"""Any bytes are an event or a dead letter whose error text quotes none of them. Nothing raises."""

import base64

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core import limits
from stream.core.events import Reason, Source
from stream.core.partitioner import partition_of
from stream.core.records import Batch, PlainRecord
from tests import world
from tests.world import NOW, Store, run

GOOD = b'{"user_id":"u","occurred_at":1800000000000,"tags":["home"]}'


def reject(value: bytes | None, key: bytes | None = b"u", source: Source = Source.CLICK) -> dict[str, object]:
    """The dead letter of a batch with one record."""
    batch = Batch(source, world.TOPICS[source], 1, 0, [PlainRecord(0, NOW, key, value, [("h", b"1")])])
    outcome = run(Store(), batch)
    assert not outcome.writes
    (letter,) = outcome.dead_letters
    assert letter.key == f"{world.TOPICS[source]}/1/0/0".encode()
    content: dict[str, object] = msgspec.json.decode(letter.value or b"")
    assert outcome.counts["dead_letters", content["reason"]] == 1  # type: ignore[index]
    return content


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.EMPTY),
        (b"", Reason.EMPTY),
        (b"{", Reason.NOT_JSON),
        (b"\xff\xfe", Reason.NOT_JSON),
        (b"[" * 100_000, Reason.INVALID),
        (b'{"user_id":"u","extra":' + b"[" * 100_000, Reason.NOT_JSON),
        (b'{"user_id":"u","occurred_at":NaN,"tags":["x"]}', Reason.NOT_JSON),
        (b'{"user_id":"u","occurred_at":Infinity,"tags":["x"]}', Reason.NOT_JSON),
        (b'{"user_id":"u","occurred_at":1e999,"tags":["x"]}', Reason.INVALID),
        (b'{"user_id":"u","occurred_at":1.5,"tags":["x"]}', Reason.INVALID),
        (b'{"user_id":"u","occurred_at":true,"tags":["x"]}', Reason.INVALID),
        (b'{"user_id":"u","occurred_at":-1,"tags":["x"]}', Reason.IMPLAUSIBLE_TIME),
        (b'{"user_id":"u","occurred_at":99999999999999999999999,"tags":["x"]}', Reason.INVALID),
        (b'{"user_id":"u","occurred_at":"2026-01-01T00:00:00","tags":["x"]}', Reason.INVALID),
        (b'{"user_id":"u","occurred_at":"yesterday","tags":["x"]}', Reason.INVALID),
        (b'{"user_id":"u","occurred_at":1800000300001,"tags":["x"]}', Reason.TOO_FAR_AHEAD),
        (b'{"user_id":"u","occurred_at":1,"tags":[]}', Reason.INVALID),
        (b'{"user_id":"u","occurred_at":1,"tags":["' + b"x" * 65 + b'"]}', Reason.INVALID),
        (b'{"user_id":"u","occurred_at":1,"tags":["' + b"x" * 900_000 + b'"]}', Reason.INVALID),
        (b'{"user_id":"u","occurred_at":1,"tags":[' + b'"x",' * 16 + b'"x"]}', Reason.INVALID),
        (b'{"user_id":"u","occurred_at":1,"tags":["a\\u001fb"]}', Reason.INVALID),
        (b'{"user_id":7,"occurred_at":1,"tags":["x"]}', Reason.INVALID),
        (b'{"user_id":"","occurred_at":1,"tags":["x"]}', Reason.INVALID),
        (b'{"occurred_at":1,"tags":["x"]}', Reason.INVALID),
        (b'{"user_id":"\\ud800","occurred_at":1,"tags":["x"]}', Reason.NOT_JSON),
        (b'{"user_id":"other","occurred_at":1,"tags":["x"]}', Reason.KEY_MISMATCH),
    ],
)
def test_an_unusable_click_is_a_dead_letter_with_its_reason(value: bytes | None, reason: Reason) -> None:
    """It carries the origin, the key, the headers and up to 64 kB of the original."""
    letter = reject(value)
    assert letter["reason"] == reason
    assert letter["origin"] == {"topic": "web-clicks", "epoch": 1, "partition": 0, "offset": 0}
    original = base64.b64decode(str(letter["original"])) if letter.get("original") else b""
    assert original == (value or b"")[: limits.ORIGINAL_BYTES]


def test_a_call_whose_keyword_holds_the_separator_is_a_dead_letter() -> None:
    """The state would read it as two keywords."""
    fields = msgspec.to_builtins(world.call("c", 1, 2), builtin_types=(bytes,))
    value = msgspec.msgpack.encode(fields | {"keywords": ["a\x1fb"]})
    assert reject(value, source=Source.CALL)["reason"] == Reason.INVALID


def test_a_record_without_a_key_is_a_dead_letter() -> None:
    """The key decides the partition; without one, no worker sees the user's events together."""
    assert reject(GOOD, key=None)["reason"] == Reason.MISSING_KEY


def test_a_long_user_id_is_a_dead_letter() -> None:
    """The limit is in bytes, not characters."""
    name = "ü" * 100
    value = f'{{"user_id":"{name}","occurred_at":1,"tags":["x"]}}'.encode()
    assert reject(value, key=name.encode())["reason"] == Reason.INVALID


def test_a_new_user_on_the_wrong_partition_is_a_dead_letter() -> None:
    """Kafka's default partitioner decides. Only users not seen before are checked."""
    batch = Batch(Source.CLICK, "web-clicks", 1, (partition_of(b"u", 8) + 1) % 8, [PlainRecord(0, NOW, b"u", GOOD)])
    outcome = run(Store(), batch, config=world.settings(partitions=8))
    assert outcome.counts["dead_letters", Reason.WRONG_PARTITION] == 1
    assert not outcome.writes


def test_old_events_and_unknown_fields_are_accepted() -> None:
    """For backfills, and for producers with a newer schema."""
    value = b'{"user_id":"u","occurred_at":"2000-01-01T00:00:00Z","tags":["x"],"colour":{"deep":[1,2]}}'
    outcome = run(Store(), Batch(Source.CLICK, "web-clicks", 1, 0, [PlainRecord(0, NOW, b"u", value)]))
    assert outcome.counts["events", Source.CLICK, "applied"] == 1


def test_the_error_text_repeats_no_value() -> None:
    """Values are personal data: they belong into the original only."""
    value = b'{"user_id":"u","occurred_at":1,"items":["x"],"action":"secret-word"}'
    letter = reject(value, source=Source.PURCHASE)
    assert "secret-word" not in str(letter["error"])


def test_the_error_text_does_not_quote_a_value_with_quotes() -> None:
    """The decoder chooses quotes that the value does not contain."""
    for name in ("Mary O'Brien", 'Mary "Mo" Brien', """Mary "Mo" O'Brien"""):
        fields = {"user_id": "u", "occurred_at": 1, "items": ["x"], "action": name}
        letter = reject(msgspec.json.encode(fields), source=Source.PURCHASE)
        assert "Brien" not in str(letter["error"])
        assert "$.action" in str(letter["error"])


def test_a_dead_letter_can_be_sent_whatever_headers_there_are() -> None:
    """Empty headers take space too once they are encoded."""
    record = PlainRecord(0, NOW, b"u", b"{", [("", b"")] * 400_000)
    outcome = run(Store(), Batch(Source.CLICK, "web-clicks", 1, 0, [record]))
    assert len(outcome.dead_letters[0].value or b"") < 100_000


def test_a_broken_event_does_not_hold_up_the_next() -> None:
    """The broken one is a dead letter; the next causes a list."""
    records = [PlainRecord(0, NOW, b"u", b"{"), PlainRecord(1, NOW, b"u", GOOD)]
    outcome = run(Store(), Batch(Source.CLICK, "web-clicks", 1, 0, records))
    assert (len(outcome.dead_letters), len(outcome.recommendations)) == (1, 1)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
nearly_events = st.fixed_dictionaries(
    {"user_id": st.just("u") | json_values, "occurred_at": st.integers() | json_values},
    optional=dict.fromkeys(("tags", "items", "excluded", "event_id", "session_id", "action"), json_values),
).map(msgspec.json.encode)


@settings(max_examples=300)
@given(st.sampled_from(list(Source)), st.none() | st.binary(max_size=200) | nearly_events, st.none() | st.just(b"u") | st.binary())
def test_any_bytes_are_an_event_or_a_dead_letter(source: Source, value: bytes | None, key: bytes | None) -> None:
    """Every record is accounted for, exactly once."""
    batch = Batch(source, world.TOPICS[source], 1, 0, [PlainRecord(0, NOW, key, value)])
    outcome = run(Store(), batch, world.OrderRanker())
    assert sum(count for name, count in outcome.counts.items() if name[0] == "events") == 1
    assert len(outcome.dead_letters) == outcome.counts["events", source, "dead_letter"]
