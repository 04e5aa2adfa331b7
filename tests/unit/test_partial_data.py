"""What is not needed never costs an event; what is needed is never silently less."""

import json
from typing import Any

import jmespath
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.api.catalogue import CurrentCatalogue
from stream.core.event_times import TimeUnit
from stream.core.events import Click, Item, Purchase, Reason, Rejection, Source, Transcript, UserEvent
from stream.core.parsing import parse, parse_item, parse_transcript
from stream.core.records import PlainRecord
from stream.metrics import Metrics
from stream.services.process import field_mapper
from stream.services.whole_lists import search_keeping_nulls
from tests.world import NOW

README = {"user_id": "customer.id", "occurred_at": "time", "tags": "[page.section, page.object, action]", "event_id": "uuid"}
CLICK = {"user_id": "u", "occurred_at": NOW, "tags": ["home"]}
PURCHASE = {"user_id": "u", "occurred_at": NOW, "items": ["18"]}
ELIGIBILITY = {"user_id": "u", "occurred_at": NOW, "excluded": ["4"]}
CALL = {"user_id": "u", "conversation_id": "c", "started_at": NOW, "sentences": [{"text": "hello", "speaker": "agent"}]}


def click(**changes: object) -> UserEvent | Rejection:
    return parse(Source.CLICK, msgspec.json.encode(CLICK | changes))


def transcript(*sentences: object, **changes: object) -> Transcript | Rejection:
    return parse_transcript(msgspec.json.encode(CALL | {"sentences": sentences} | changes))


FEEDBACK = {"user_id": "u", "occurred_at": NOW, "channel": "web", "action": "shown", "items": ["18"]}


@pytest.mark.parametrize("broken", [b"s\\ud800", b"\\udfff", b"caf\xe9", b"\xff"])
@pytest.mark.parametrize(
    ("source", "fields", "name"),
    [
        (Source.CLICK, CLICK, "session_id"),
        (Source.FEEDBACK, FEEDBACK, "recommendation_id"),
        (Source.FEEDBACK, FEEDBACK, "placement"),
        (Source.FEEDBACK, FEEDBACK, "model_version"),
    ],
)
def test_broken_unicode_in_a_label_costs_the_label_alone(
    source: Source, fields: dict[str, object], name: str, broken: bytes
) -> None:
    """Nothing needs it. Also in a mapped event."""
    plain = parse(source, msgspec.json.encode(fields))
    assert not isinstance(plain, Rejection)
    value = msgspec.json.encode(fields | {name: "BROKEN"}).replace(b"BROKEN", broken)
    assert parse(source, value) == plain
    assert parse(source, value, field_mapper("m", {key: key for key in [*fields, name]})) == plain


@pytest.mark.parametrize("broken", [b"s\\ud800", b"caf\xe9"])
@pytest.mark.parametrize("name", ["user_id", "event_id"])
def test_broken_unicode_in_an_id_is_a_dead_letter(name: str, broken: bytes) -> None:
    """Two ids could become one: a user's, or an event's that is sent again."""
    value = msgspec.json.encode(CLICK | {name: "BROKEN"}).replace(b"BROKEN", broken)
    assert isinstance(rejected := parse(Source.CLICK, value), Rejection)
    assert ("Latin-1" in rejected.error) == (b"\xe9" in broken)


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize(
    ("value", "named"),
    [
        (json.dumps(CLICK).encode("utf-16"), "UTF-16"),
        (json.dumps(CLICK).encode("utf-16-le"), "UTF-16"),
        (json.dumps(CLICK).encode("utf-16-be"), "UTF-16"),
        (json.dumps(CLICK).encode("utf-32"), "UTF-32"),
        (json.dumps(CLICK).encode("utf-32-be"), "UTF-32"),
        (json.dumps(CLICK | {"user_id": "Zoë"}, ensure_ascii=False).encode("latin-1"), "Latin-1"),
        ('{"user_id": "Zoë'.encode("latin-1"), "Latin-1"),
        ('{"user_id": "Zoë'.encode(), None),
        (b"{", None),
        (b"\x1f\x8b\x08\xff\xfe\xd0\xe9\x81", None),
    ],
)
def test_a_dead_letter_says_which_encoding_its_bytes_look_like(value: bytes, named: str | None, mapped: bool) -> None:
    """The producer's mistake is found at once; where nothing tells, nothing is said."""
    rejected = parse(Source.CLICK, value, field_mapper("m", {key: key for key in CLICK}) if mapped else None)
    assert isinstance(rejected, Rejection)
    assert rejected.reason is Reason.NOT_JSON
    assert (f"look like {named}" in rejected.error) if named else "look like" not in rejected.error


@pytest.mark.parametrize("empty", [None, ""])
@pytest.mark.parametrize(
    ("source", "fields", "name"),
    [
        (Source.CLICK, CLICK, "event_id"),
        (Source.CLICK, CLICK, "session_id"),
        (Source.PURCHASE, PURCHASE, "event_id"),
        (Source.PURCHASE, PURCHASE, "action"),
        (Source.ELIGIBILITY, ELIGIBILITY, "event_id"),
        (Source.ERASURE, {"user_id": "u", "occurred_at": NOW}, "event_id"),
    ],
)
def test_an_empty_optional_field_is_absent(source: Source, fields: dict[str, object], name: str, empty: object) -> None:
    """Also in a mapped event."""
    plain = parse(source, msgspec.json.encode(fields))
    assert not isinstance(plain, Rejection)
    value = msgspec.json.encode(fields | {name: empty})
    assert parse(source, value) == plain
    assert parse(source, value, field_mapper("m", {key: key for key in [*fields, name]})) == plain


@pytest.mark.parametrize("name", ["event_id", "ended_at", "piece"])
@pytest.mark.parametrize("empty", [None, ""])
def test_an_empty_optional_field_of_a_call_is_absent(name: str, empty: object) -> None:
    """The encoder's input obeys the same rule."""
    assert transcript({"text": "hello"}, **{name: empty}) == transcript({"text": "hello"})


@pytest.mark.parametrize("name", ["text", "repeatable", "offered_from", "offered_until"])
@pytest.mark.parametrize("empty", [None, ""])
def test_an_empty_optional_field_of_an_item_is_absent(name: str, empty: object) -> None:
    """So does the catalogue."""
    item = parse_item(msgspec.json.encode({"item_id": "1", "name": "One", name: empty}))
    assert isinstance(item, Item)
    assert msgspec.structs.replace(item, text=item.text or None) == Item("1", "One")


@pytest.mark.parametrize("speaker", ["customer", "CUSTOMER", "spk_2", "", None, 2, {"id": 2}, ["a"]])
def test_a_speaker_is_free_text_that_costs_nothing(speaker: object) -> None:
    """Diarisation numbers speakers, and nothing reads who they are."""
    for call in (transcript({"text": "hello", "speaker": speaker}), transcript({"text": "hello"})):
        assert isinstance(call, Transcript)
        assert [sentence.text for sentence in call.sentences] == ["hello"]


@pytest.mark.parametrize(
    "left_out", [None, "", {}, {"text": None}, {"text": ""}, {"speaker": "agent"}, {"text": None, "speaker": None, "at": None}]
)
def test_a_sentence_without_text_is_left_out(left_out: object) -> None:
    """The others are encoded."""
    call = transcript(left_out, {"text": "hello", "at": None}, {"text": "bye", "at": ""})
    assert isinstance(call, Transcript)
    assert [sentence.text for sentence in call.sentences if sentence.text] == ["hello", "bye"]


def test_an_unreadable_sentence_time_costs_nothing_where_the_call_says_when_it_ended() -> None:
    """Speech recognition writes seconds since the beginning of the call. Without `ended_at` the time is needed."""
    timed = {"text": "hello", "at": 12.5}
    assert isinstance(transcript(timed, ended_at=NOW + 9), Transcript)
    rejected = transcript(timed)
    assert isinstance(rejected, Rejection)
    assert "$.sentences[0].at" in rejected.error


@pytest.mark.parametrize("tags", [["home", None], ["", "home"], [None, "home", ""], ["home", *[None] * 40]])
def test_empty_tags_are_left_out(tags: list[object]) -> None:
    """They do not count as tags either."""
    assert click(tags=tags) == Click("u", NOW, ("home",))


@pytest.mark.parametrize("tags", [[], [None], [""], [None, "", None], None, ""])
def test_a_click_without_any_tag_is_a_dead_letter(tags: object) -> None:
    """It says nothing, and a mapping that finds nothing must be noticed."""
    assert isinstance(rejected := click(tags=tags), Rejection)
    assert rejected.reason == Reason.INVALID
    assert "$.tags" in rejected.error


def test_the_documented_mapping_accepts_a_click_without_an_object() -> None:
    """And one without anything but a section."""
    mapper = field_mapper("mapping.clicks", README)
    for page in ({"section": "pets"}, {"section": "pets", "object": None}, {"section": "pets", "object": ""}):
        theirs = msgspec.json.encode({"customer": {"id": "u"}, "time": NOW, "page": page, "uuid": ""})
        assert parse(Source.CLICK, theirs, mapper) == Click("u", NOW, ("pets",))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"{", b"\xef\xbb\xbf{"),  # a byte order mark
        (b"}", b',"score":NaN,"low":-Infinity}'),  # as Python writes it
        (b"}", b',"note":"a\tb\nc"}'),  # control characters
        (b"}", b',"note":"\\ud800"}'),  # half a surrogate pair
        (b"}", b',"note":"K\xfcndigung"}'),  # Latin-1
        (b"}", b',"user_id":"u"}'),  # a repeated key
        (b"}", b',"deep":[[[[{}]]]],"large":1e400}'),
        (b"}", b',"session_id":null,"session_id":""}'),
    ],
)
def test_carelessly_written_json_costs_nothing_where_nobody_reads_it(before: bytes, after: bytes) -> None:
    """In a click, a mapped click and a call."""
    ours = msgspec.json.encode(CLICK)
    careless = after + ours[1:] if before == b"{" else ours[:-1] + after
    assert parse(Source.CLICK, careless) == Click("u", NOW, ("home",))
    assert parse(Source.CLICK, careless, field_mapper("m", {name: name for name in CLICK})) == Click("u", NOW, ("home",))
    call = msgspec.json.encode(CALL)
    assert isinstance(parse_transcript(after + call[1:] if before == b"{" else call[:-1] + after), Transcript)


def test_the_last_of_repeated_keys_counts() -> None:
    """Whichever of the two decoders reads them."""
    for extra in (b"", b',"event_id":""'):
        read = parse(Source.CLICK, msgspec.json.encode(CLICK)[:-1] + b',"tags":["last"]' + extra + b"}")
        assert read == Click("u", NOW, ("last",))


@pytest.mark.parametrize(("raw", "text"), [(b"K\xfcndigung", "K\ufffdndigung"), (b"\\ud83d!", "\ufffd!"), (b"a\tb", "a\tb")])
def test_broken_text_is_read_as_far_as_it_goes(raw: bytes, text: str) -> None:
    """In tags and sentences, where a letter may be wrong."""
    assert parse(Source.CLICK, b'{"user_id":"u","occurred_at":%d,"tags":["%s"]}' % (NOW, raw)) == Click("u", NOW, (text,))
    value = b'{"user_id":"u","conversation_id":"c","started_at":%d,"sentences":[{"speaker":"%s","text":"%s"}]}' % (NOW, raw, raw)
    call = parse_transcript(value)
    assert isinstance(call, Transcript)
    assert (call.sentences[0].text, call.sentences[0].speaker) == (text, text)


@pytest.mark.parametrize(("raw", "text"), [(b"K\xfcndigung", "K\ufffdndigung"), (b"\\ud83d!", "\ufffd!"), (b"a\tb", "a\tb")])
@pytest.mark.parametrize("mapped", [False, True])
def test_broken_text_in_a_description_does_not_cost_the_item(raw: bytes, text: str, mapped: bool) -> None:
    """The name and the text are for people and for the keyword list; only the id must be exact."""
    mapper = field_mapper("m", {name: name for name in ("item_id", "name", "text")}) if mapped else None
    assert parse_item(b'{"item_id":"18","name":"%s","text":"%s"}' % (raw, raw), mapper) == Item("18", text, text)
    assert isinstance(parse_item(b'{"item_id":"%s","name":"n"}' % raw, mapper), Item if raw == b"a\tb" else Rejection)


@pytest.mark.parametrize("raw", [b"K\xfcndigung", b"\\ud83d", b"\\udc00x"])
@pytest.mark.parametrize("mapped", [False, True])
def test_an_id_of_broken_text_is_a_dead_letter(raw: bytes, mapped: bool) -> None:
    """Two different ids could become the same."""
    for template in (
        b'{"user_id":"%s","occurred_at":1800000000000,"items":["a"]}',
        b'{"user_id":"u","occurred_at":1800000000000,"items":["%s"]}',
        b'{"user_id":"u","occurred_at":1800000000000,"items":["a"],"event_id":"%s"}',
    ):
        mapper = field_mapper("m", {name: name for name in ("user_id", "occurred_at", "items", "event_id")}) if mapped else None
        rejected = parse(Source.PURCHASE, template % raw, mapper)
        assert isinstance(rejected, Rejection)
        assert "ndigung" not in rejected.error


@pytest.mark.parametrize("missing", [None, "", float("nan")])
@pytest.mark.parametrize(
    ("source", "fields", "name"), [(Source.PURCHASE, PURCHASE, "items"), (Source.ELIGIBILITY, ELIGIBILITY, "excluded")]
)
def test_an_item_that_is_missing_from_a_list_is_a_dead_letter(
    source: Source, fields: dict[str, object], name: str, missing: object
) -> None:
    """A list that is silently shorter offers what must not be offered."""
    value = msgspec.json.encode(fields | {name: ["18", missing]})
    for mapper in (None, field_mapper("m", {key: key for key in fields})):
        assert isinstance(rejected := parse(source, value, mapper), Rejection)
        assert f"$.{name}" in rejected.error


@pytest.mark.parametrize(
    ("expression", "lines"),
    [
        ("lines[].sku", [{"sku": "18"}, {}]),
        ("lines[*].sku", [{"sku": "18"}, {"sku": None}]),
        ("lines[?kind == 'sale'].sku", [{"sku": "18", "kind": "sale"}, {"kind": "sale"}]),
        ("lines[].parts[].sku", [{"parts": [{"sku": "18"}, {}]}]),
        ("lines[0].*.sku", [{"a": {"sku": "18"}, "b": {}}]),
    ],
)
def test_a_mapping_does_not_shorten_a_list_of_items(expression: str, lines: list[object]) -> None:
    """JMESPath's projections leave out what they do not find."""
    mapper = field_mapper("m", {"user_id": "user_id", "occurred_at": "occurred_at", "items": expression})
    theirs = {"user_id": "u", "occurred_at": NOW}
    assert isinstance(parse(Source.PURCHASE, msgspec.json.encode(theirs | {"lines": lines}), mapper), Rejection)
    whole = [{"sku": "18", "kind": "sale", "parts": [{"sku": "18"}], "a": {"sku": "18"}} for _ in range(1)]
    if "*.sku" not in expression or "[*]" in expression:
        assert parse(Source.PURCHASE, msgspec.json.encode(theirs | {"lines": whole}), mapper) == Purchase("u", NOW, ("18",))


@pytest.mark.parametrize(
    "expression", ["a[].b", "a[*].b", "a[?c].b", "d.*.b", "a[].e[].b", "[a[0].b, d]", "missing[].b", "a[?c == `1`]"]
)
def test_keeping_nulls_changes_nothing_else(expression: str) -> None:
    """Without the nulls, it is what JMESPath finds."""
    value: Any = {"a": [{"b": 1, "c": 1, "e": [{"b": 2}]}, {"c": 1}, {"b": 3}], "d": {"x": {"b": 4}, "y": {}}}
    compiled = jmespath.compile(expression)
    kept, plain = search_keeping_nulls(compiled, value), compiled.search(value)
    assert ([element for element in kept if element is not None] if isinstance(kept, list) else kept) == plain


@pytest.mark.parametrize(
    ("source", "fields"),
    [
        (Source.CLICK, CLICK | {"user_id": 17}),
        (Source.PURCHASE, PURCHASE | {"items": [18]}),
        (Source.ELIGIBILITY, ELIGIBILITY | {"excluded": [4.0]}),
        (Source.CLICK, CLICK | {"event_id": 5}),
        (Source.CLICK, CLICK | {"session_id": True}),
    ],
)
def test_a_number_is_not_an_id(source: Source, fields: dict[str, object]) -> None:
    """17, 17.0 and "017" would be one user to some producers and three to others: the mapping must say which text is meant."""
    assert isinstance(rejected := parse(source, msgspec.json.encode(fields)), Rejection)
    assert "Expected `str" in rejected.error
    mapper = field_mapper("m", {"user_id": "to_string(user_id)", "occurred_at": "occurred_at", "tags": "tags"})
    assert parse(Source.CLICK, msgspec.json.encode(CLICK | {"user_id": 17}), mapper) == Click("17", NOW, ("home",))


FAILING = (
    "tags[?weight > `1`].name",
    "max_by(tags, &weight).[name]",
    "[to_string(floor(x))]",
    "[contains(page, `1`) && 'a' || 'b']",
)


@pytest.mark.parametrize("expression", FAILING)
def test_a_mapping_that_fails_is_a_mapping_dead_letter_and_no_bug(expression: str) -> None:
    """Whatever JMESPath raises: its comparisons and functions let Python's own errors through."""
    theirs = (
        b'{"id": "u", "at": %d, "x": 1e999, "page": "home", "tags": [{"weight": 2, "name": "a"}, {"weight": "2", "name": "b"}]}'
    )
    fields = {"user_id": "id", "occurred_at": "at", "tags": expression}
    assert isinstance(rejected := parse(Source.CLICK, theirs % NOW, field_mapper("mapping.clicks", fields)), Rejection)
    assert rejected.reason == Reason.MAPPING
    assert "mapping.clicks.tags: its expression fails" in rejected.error
    transcripts = field_mapper("mapping.transcripts", {"user_id": "id", "started_at": "at", "sentences": expression})
    assert isinstance(call := parse_transcript(theirs % NOW, transcripts), Rejection)
    assert call.reason == Reason.MAPPING


@pytest.mark.parametrize("tags", [["x" * 65], [str(number) for number in range(17)], ["a\x1fb"], [5], [["x"]], "home", {"a": 1}])
def test_tags_beyond_the_bounds_are_a_dead_letter(tags: object) -> None:
    """A cut tag would be another tag, and nobody would know that the 17th was dropped."""
    assert isinstance(click(tags=tags), Rejection)


async def test_an_unusable_item_withdraws_nothing_from_the_readers_of_the_catalogue() -> None:
    """The API, like a worker, keeps the former version until a tombstone; the trainer reads what they read."""
    current = CurrentCatalogue(lambda *_: ((), np.zeros(0, dtype=np.float32), None), Metrics())
    good, careless = b'{"item_id":"a","name":"A"}', b'{"item_id":"b","name":"B","offered_until":"","text":null,"score":NaN}'
    await current.on_items([PlainRecord(0, NOW, b"a", good), PlainRecord(1, NOW, b"b", careless)])
    await current.on_items([PlainRecord(2, NOW, b"a", b'{"item_id":18}'), PlainRecord(3, NOW, b"a", b'{"item_id":"a","name":"A"')])
    assert list(current.catalogue.items) == ["a", "b"]
    await current.on_items([PlainRecord(4, NOW, b"a", None)])
    assert list(current.catalogue.items) == ["b"]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from([1e300, -1e300, 10**400, "\x00"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
sentences = st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(("speaker", "text", "at"), json_values)) | json_values)
nearly = st.fixed_dictionaries(
    {"user_id": st.just("u") | json_values, "occurred_at": st.integers() | st.floats() | json_values},
    optional={"sentences": sentences, "conversation_id": st.just("c"), "started_at": st.floats() | json_values}
    | dict.fromkeys(("tags", "items", "excluded", "event_id", "session_id", "action", "ended_at", "item_id", "name"), json_values)
    | dict.fromkeys(("offered_from", "offered_until"), st.integers() | st.floats() | json_values),
).map(lambda fields: json.dumps(fields).encode())


@settings(max_examples=150)
@given(
    value=nearly.flatmap(lambda whole: st.sampled_from([whole, b"\xef\xbb\xbf" + whole, whole.replace(b"u", b"\xff")])),
    unit=st.sampled_from(list(TimeUnit)),
    mapped=st.booleans(),
)
def test_whatever_is_sent_is_read_or_rejected(value: bytes, unit: TimeUnit, mapped: bool) -> None:
    """In any unit, mapped or not; what is read can be written."""
    names = ("user_id", "occurred_at", "tags", "items", "excluded", "event_id", "sentences", "started_at", "conversation_id")
    mapper = field_mapper("m", {name: name for name in names}) if mapped else None
    read = [parse(source, value, mapper, unit) for source in Source if source is not Source.CALL]
    for event in (*read, parse_transcript(value, mapper, unit), parse_item(value, unit=unit)):
        assert msgspec.json.encode(event)
