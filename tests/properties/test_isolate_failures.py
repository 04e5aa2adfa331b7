"""An event that makes step or ranker raise becomes a dead letter; the rest of its batch is handled as if it were absent."""

import runpy
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core import step as step_module
from stream.core.events import Click, Purchase, Reason, Source, UserEvent
from stream.core.fold import fold_event
from stream.core.interactions import Interaction, Session
from stream.core.poison import ATTEMPTS, isolate_failures, step_isolating_poison, step_many_isolating_poison
from stream.core.ranking import Rows
from stream.core.records import Batch, PlainRecord, Record
from stream.core.state import StatesUnreadableError
from stream.core.step import StepConfig, StepInput, step
from tests import chaos, world

POISON = "poison"
USERS = ("u", "v", "w")


class TouchyRanker(world.OrderRanker):
    """A ranker with a bug: it raises on a session with a certain tag."""

    def advance_many(self, representations: Rows, interactions: Sequence[Interaction]) -> Rows:
        for interaction in interactions:
            if isinstance(interaction, Session) and POISON in interaction.tags:
                raise ZeroDivisionError("the planted bug quotes u's secrets")
        return super().advance_many(representations, interactions)


def touchy_mapper(value: dict[str, object]) -> dict[str, object]:
    """A field mapping with a bug: it raises something else than ValueError."""
    if POISON in str(value):
        raise KeyError("u's secrets")
    return value


def is_poison(record: Record) -> bool:
    return POISON.encode() in (record.value or b"")


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Clicks of three users or purchases, some of them poison."""
    source = draw(st.sampled_from([Source.CLICK, Source.CLICK, Source.PURCHASE]))
    moments = st.integers(0, 90).map(lambda minute: world.NOW - 100 * world.MINUTE + minute * world.MINUTE)
    words = st.sampled_from(["home", "car", "price", POISON])
    events: st.SearchStrategy[UserEvent]
    if source is Source.CLICK:
        events = st.builds(Click, st.sampled_from(USERS), moments, st.lists(words, min_size=1, max_size=2).map(tuple))
    else:
        items = st.sampled_from([*world.ITEMS, POISON])
        events = st.builds(Purchase, st.sampled_from(USERS), moments, st.lists(items, min_size=1, max_size=2).map(tuple))
    return world.batch_of(source, enumerate(draw(st.lists(events, min_size=1, max_size=24))))


def before() -> world.Store:
    """A store in which two users have a history."""
    store = world.Store()
    for number, user in enumerate(USERS[:2]):
        world.run(store, world.batch_of(Source.CLICK, [(0, Click(user, world.NOW - 500 * world.MINUTE, ("home",)))]))
        world.run(store, world.batch_of(Source.CALL, [(0, world.call("c", 1, 2, number, user=user))]))
    return store


def from_offset(batch: Batch, start: int) -> Batch:
    return batch._replace(records=[record._replace(offset=record.offset + start) for record in batch.records])  # type: ignore[attr-defined]


@settings(max_examples=120)
@given(batches(), st.booleans())
def test_the_rest_of_a_batch_is_handled_as_if_the_poison_had_not_been_there(batch: Batch, in_the_mapping: bool) -> None:
    """Histories, last lists, newest examples and counts agree; each poisoned event is one dead letter, whichever part it breaks."""
    batch = from_offset(batch, 1)
    mapped = in_the_mapping or batch.source is Source.PURCHASE  # what a ranker reads of a purchase cannot break it
    mappers = {batch.source: touchy_mapper} if mapped else {}
    ranker = world.OrderRanker() if mapped else TouchyRanker()
    with_poison, without = before(), before()
    outcome = step_isolating_poison(batch, with_poison, ranker, world.catalogue(), world.settings(mappers=mappers))
    with_poison.apply(outcome)
    kept = batch._replace(records=[record for record in batch.records if not is_poison(record)])
    wanted = step(kept, without, ranker, world.catalogue(), world.settings())
    without.apply(wanted)
    for user in USERS:
        assert world.history_of(with_poison, user) == world.history_of(without, user)
        assert with_poison.last_list(user) == without.last_list(user)
    assert with_poison.newest_examples() == without.newest_examples()
    assert set(with_poison.records) == set(without.records)
    assert outcome.new_users == wanted.new_users
    letters = [msgspec.json.decode(letter.value or b"") for letter in outcome.dead_letters]
    assert [letter["origin"]["offset"] for letter in letters] == [record.offset for record in batch.records if is_poison(record)]
    assert all(letter["reason"] == Reason.POISON and "secrets" not in letter["error"] for letter in letters)
    assert outcome.counts["events", batch.source, "applied"] == wanted.counts["events", batch.source, "applied"]
    assert outcome.counts["events", batch.source, "dead_letter"] == len(letters)


@settings(max_examples=60)
@given(st.lists(batches(), min_size=1, max_size=4), st.booleans())
def test_batches_handled_together_are_as_each_handled_alone(some: list[Batch], touchy: bool) -> None:
    """Each batch has its own states; poison in one is a dead letter of that one only."""
    some = [from_offset(batch, 1) for batch in some]
    ranker = TouchyRanker() if touchy else world.OrderRanker()
    together, alone = [before() for _ in some], [before() for _ in some]
    parts = [StepInput(batch, store) for batch, store in zip(some, together, strict=True)]
    outcomes = step_many_isolating_poison(parts, ranker, world.catalogue(), world.settings())
    for batch, outcome, joint_store, single_store in zip(some, outcomes, together, alone, strict=True):
        wanted = step_isolating_poison(batch, single_store, ranker, world.catalogue(), world.settings())
        joint_store.apply(outcome)
        single_store.apply(wanted)
        assert outcome.counts == wanted.counts
        assert [letter.key for letter in outcome.dead_letters] == [letter.key for letter in wanted.dead_letters]
        assert [output.key for output in outcome.recommendations] == [output.key for output in wanted.recommendations]
        assert set(outcome.writes) == set(wanted.writes)
        assert outcome.new_users == wanted.new_users
        assert joint_store.newest_examples() == single_store.newest_examples()
        for user in USERS:
            assert world.history_of(joint_store, user) == world.history_of(single_store, user)
            assert joint_store.last_list(user) == single_store.last_list(user)


def clicks(*tags: str) -> Batch:
    return world.batch_of(Source.CLICK, [(number, Click("u", world.NOW + number, (tag,))) for number, tag in enumerate(tags)])


def test_the_dead_letter_names_type_and_location_and_keeps_the_original() -> None:
    """Not the exception's message, which may quote the event."""
    outcome = step_isolating_poison(clicks(POISON), world.Store(), TouchyRanker(), world.catalogue(), world.settings())
    letter = msgspec.json.decode(outcome.dead_letters[0].value or b"")
    assert letter["error"].startswith("ZeroDivisionError at stream.core.recommend:")
    assert "tests.properties.test_isolate_failures:" in letter["error"] or "test_poison:" in letter["error"]
    assert letter["original_bytes"] == len(clicks(POISON).records[0].value or b"")
    assert not outcome.writes


def test_the_bug_that_the_chaos_suite_plants_reaches_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A renamed function would leave the poison case without poison."""
    monkeypatch.setattr(step_module, "fold_event", fold_event)  # restored after the test
    runpy.run_path(str(Path(chaos.__file__).parent / "planted" / "sitecustomize.py"))
    outcome = step_isolating_poison(clicks("home", POISON), world.Store(), None, world.catalogue(), world.settings())
    assert outcome.counts["dead_letters", Reason.POISON] == len(outcome.dead_letters) == 1
    assert outcome.counts["events", Source.CLICK, "applied"] == 1


def test_a_poisoned_call_is_named_by_its_transcript_and_without_its_content() -> None:
    """It has the transcript's coordinates, and neither key nor original."""

    class Broken(world.OrderRanker):
        def advance_many(self, representations: Rows, interactions: Sequence[Interaction]) -> Rows:
            del representations, interactions
            raise RuntimeError

    batch = world.batch_of(Source.CALL, [(7, world.call("c", 1, 2, offset=3))])
    outcome = step_isolating_poison(batch, world.Store(), Broken(), world.catalogue(), world.settings())
    letter = msgspec.json.decode(outcome.dead_letters[0].value or b"")
    assert (letter["origin"]["topic"], letter["origin"]["offset"]) == ("call-transcripts", 3)
    assert "key" not in letter
    assert "original" not in letter


@pytest.mark.parametrize("error", [MemoryError(), OSError("disk")])
def test_what_is_no_events_fault_is_raised(error: Exception) -> None:
    """Full memory or a broken disk must not turn a topic into dead letters."""

    class Starved(world.OrderRanker):
        def rank_many(self, representations: Rows) -> Rows:
            del representations
            raise error

    with pytest.raises(type(error)):
        step_isolating_poison(clicks("home"), world.Store(), Starved(), world.catalogue(), world.settings())


def test_a_store_that_cannot_be_read_is_no_events_fault() -> None:
    """Whatever the store's library raises."""

    class Torn:
        def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
            del keys
            raise ValueError("Corruption: checksum mismatch")

    with pytest.raises(StatesUnreadableError):
        step_isolating_poison(clicks("home"), Torn(), None, world.catalogue(), world.settings())


def test_a_transient_failure_costs_no_event() -> None:
    """A record must fail twice alone."""
    failures = iter([True, True])

    class Moody(world.OrderRanker):
        def rank_many(self, representations: Rows) -> Rows:
            if next(failures, False):
                raise RuntimeError
            return super().rank_many(representations)

    outcome = step_isolating_poison(clicks("home"), world.Store(), Moody(), world.catalogue(), world.settings())
    assert (len(outcome.dead_letters), len(outcome.recommendations)) == (0, 1)


@settings(max_examples=60)
@given(st.integers(1, 300), st.data())
def test_every_record_is_tried_a_bounded_number_of_times(count: int, data: st.DataObject) -> None:
    """Once per halving and twice alone, in order."""
    poison = data.draw(st.sets(st.integers(0, count - 1)))
    tried, done = [0] * count, list[int]()
    records = [PlainRecord(number, 0, b"u", None) for number in range(count)]

    def attempt(piece: Sequence[Record]) -> None:
        for record in piece:
            tried[record.offset] += 1
        if any(record.offset in poison for record in piece):
            raise ValueError
        done.extend(record.offset for record in piece)

    found = isolate_failures(records, attempt)
    assert [record.offset for record, _ in found] == sorted(poison)
    assert done == [number for number in range(count) if number not in poison]
    assert max(tried) <= (count - 1).bit_length() + ATTEMPTS


def test_two_events_that_only_break_together_are_both_handled() -> None:
    """Neither is poison: each succeeds alone."""

    class Pairs(world.OrderRanker):
        def rank_many(self, representations: Rows) -> Rows:
            if len(representations) > 1:
                raise RuntimeError
            return super().rank_many(representations)

    events = [(0, Click("u", world.NOW, ("home",))), (1, Click("v", world.NOW, ("home",)))]
    settings_ = StepConfig(partitions=1)
    outcome = step_isolating_poison(world.batch_of(Source.CLICK, events), world.Store(), Pairs(), world.catalogue(), settings_)
    assert [output.key for output in outcome.recommendations] == [b"u", b"v"]
    assert not outcome.dead_letters
