"""The verdict on one run: compares what is in the topics with what the pure step makes of the events in them.

Knows no broker, process or clock, so that `tests/unit/test_chaos_check.py` can show that it detects lost, duplicated and wrongly
answered events.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final

import msgspec

from stream.core.dead_letters import dead_letter
from stream.core.events import EncodedCall, Reason, Rejection, Source
from stream.core.interactions import Session
from stream.core.ranking import Catalogue, Ranker
from stream.core.records import Batch, Coordinates, PlainRecord, Record
from stream.core.state import FEEDBACK_PREFIX, Facts, Head, decode_facts, decode_head, facts_key, head_key
from stream.core.step import StepConfig, step
from stream.kafka.cluster.partition import Partition
from tests.world import Store, feedback_of, history_of

SCORE_TOLERANCE: Final = 1e-3
_AT_ONCE: Final = 500
PLANTED: Final = (b"broken-", b"astray-", b"poison-")
"""Key prefixes of deliberately broken events. Events without a key are also deliberate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The contents of the topics after a run.

    Attributes:
        batches: the step's inputs, in any order.
        transcripts: the encoder's inputs.
        acknowledged: key and value of each acknowledged event, by topic, partition and offset.
        catalogue: the items.
        changelog: the newest state records.
        recommendations: all records in order of sending, tombstones included.
        examples: the newest training example of each key.
        dead_letters: the keys of the dead letters.
        uncommitted: as `uncommitted` counts it.
        late_records: changelog records written by a worker after it had lost the partition.
    """

    batches: Sequence[Batch]
    transcripts: Sequence[Batch]
    acknowledged: Mapping[tuple[str, int, int], tuple[bytes | None, bytes | None]]
    catalogue: Catalogue
    changelog: Mapping[bytes, bytes]
    recommendations: Sequence[tuple[bytes | None, bytes | None]]
    examples: Mapping[bytes, bytes]
    dead_letters: frozenset[bytes]
    uncommitted: int
    late_records: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Counts of the differences that one run left. In an exact run all of them are 0, unless stated otherwise below.

    Attributes:
        events: input events (not a difference).
        lost: facts missing from a state, transcripts without an encoded call, acknowledged events that no topic contains, and
            planted events without a dead letter.
        applied_twice: facts in a state that the events do not account for.
        wrong_history: users whose history differs.
        wrong_last: users whose last list differs.
        wrong_examples: training examples that differ.
        two_contents: recommendation ids under which two different contents were sent.
        stray_dead_letters: dead letters of events that were not planted.
        duplicates_sent: lists sent more than once (allowed with at-least-once delivery).
        late_records: as observed (allowed).
        all_committed: whether every input record was committed, and no offset beyond an end.
        examples_of: up to five names for each kind of difference.
    """

    events: int
    lost: int
    applied_twice: int
    wrong_history: int
    wrong_last: int
    wrong_examples: int
    two_contents: int
    stray_dead_letters: int
    duplicates_sent: int
    late_records: int
    all_committed: bool
    examples_of: dict[str, list[str]] = field(default_factory=dict)

    @property
    def is_exact(self) -> bool:
        wrong = (self.lost, self.applied_twice, self.wrong_history, self.wrong_last, self.wrong_examples)
        return self.all_committed and not any((*wrong, self.two_contents, self.stray_dead_letters))


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdicts on several applications as one: their counts added."""
    counted = [name for name in Verdict.__dataclass_fields__ if name not in {"all_committed", "examples_of"}]
    sums: dict[str, Any] = {name: sum(getattr(one, name) for one in verdicts) for name in counted}
    examples: dict[str, list[str]] = {}
    for one in verdicts:
        for kind, some in one.examples_of.items():
            examples[kind] = [*examples.get(kind, []), *some][:5]
    return Verdict(**sums, all_committed=all(one.all_committed for one in verdicts), examples_of=examples)


def uncommitted(batches: Iterable[Batch], committed: Mapping[Partition, int], ends: Mapping[Partition, int]) -> int:
    """Counts the records that no committed offset covers, and the offsets that are committed beyond an end.

    Offsets without a record do not count: with exactly once, the marker of an encoder's prepared transaction may come after its
    worker was stopped.
    """
    records = (((batch.topic, batch.partition), record.offset) for batch in batches for record in batch.records)
    beyond = sum(max(0, offset - ends[place]) for place, offset in committed.items())
    return beyond + sum(1 for place, offset in records if offset >= committed.get(place, 0))


def judge(observed: Observed, ranker: Ranker | None, settings: StepConfig) -> Verdict:
    """Compares histories, lists and examples user by user and counts the differences."""
    wanted, found = expected(observed, ranker, settings), found_in(observed)
    users = sorted(users_of(wanted) | users_of(found))
    missing: Counter[str] = Counter()
    surplus: Counter[str] = Counter()
    for user in users:
        wants, has = facts_of(wanted, user), facts_of(found, user)
        missing[user] += (wants - has).total()
        surplus[user] += (has - wants).total()
    other_history = [user for user in users if history_of(found, user) != history_of(wanted, user)]
    answered = sorted({*users, *(key.decode() for key in (*wanted.recommendations, *found.recommendations))})
    other_list = [user for user in answered if not same_list(last(wanted, user), last(found, user))]
    examples = {key for key in {*wanted.examples, *found.examples} if example_of(wanted, key) != example_of(found, key)}
    unencoded, undelivered = unencoded_calls(observed), undelivered_events(observed)
    planted = planted_coordinates(observed)
    names = {
        "lost": [user for user, count in missing.items() if count] + unencoded + undelivered,
        "applied_twice": [user for user, count in surplus.items() if count],
        "wrong_history": other_history,
        "wrong_last": other_list,
        "stray_dead_letters": sorted(name.decode() for name in observed.dead_letters - planted),
    }
    contents = contents_per_id(observed)
    return Verdict(
        events=sum(len(batch.records) for batch in observed.batches if batch.source is not Source.CALL)
        + sum(len(batch.records) for batch in observed.transcripts),
        lost=missing.total() + len(unencoded) + len(undelivered) + len(planted - observed.dead_letters),
        applied_twice=surplus.total(),
        wrong_history=len(other_history),
        wrong_last=len(other_list),
        wrong_examples=len(examples),
        two_contents=sum(len(set(values)) > 1 for values in contents.values()),
        stray_dead_letters=len(observed.dead_letters - planted),
        duplicates_sent=sum(len(values) - 1 for values in contents.values()),
        late_records=observed.late_records,
        all_committed=observed.uncommitted == 0,
        examples_of={kind: some[:5] for kind, some in names.items() if some},
    )


def expected(observed: Observed, ranker: Ranker | None, settings: StepConfig) -> Store:
    """Returns what the step makes of all input records except planted ones: a history is a function of the set of events.

    Records are applied roughly in the order in which the brokers received them, because beyond the bounds of a state order matters.
    """
    stores: dict[int, Store] = {}
    for part in about_in_order(observed.batches):
        store = stores.setdefault(part.partition, Store())
        store.apply(step(part, store, ranker, observed.catalogue, settings))
    whole = Store()
    for store in stores.values():
        whole.records.update(store.records)
        whole.recommendations.update(store.recommendations)
        whole.examples.update(store.examples)
    return whole


def about_in_order(batches: Sequence[Batch]) -> Iterator[Batch]:
    """Yields the records that are not planted, by partition and time, in batches of at most a few hundred."""
    for _, own in groupby(sorted(batches, key=lambda batch: batch.partition), key=lambda batch: batch.partition):
        timed = []
        for batch in own:
            newest_ms = 0
            for record in batch.records:  # keeps records in offset order even where a producer's clock goes back
                newest_ms = max(newest_ms, record.timestamp)
                if not is_planted(record):
                    timed.append((newest_ms, record, batch))
        timed.sort(key=lambda one: one[0])
        for start in range(0, len(timed), _AT_ONCE):
            pieces: dict[int, tuple[Batch, list[Record]]] = {}
            for _, record, batch in timed[start : start + _AT_ONCE]:
                pieces.setdefault(id(batch), (batch, []))[1].append(record)
            yield from (batch._replace(records=records) for batch, records in pieces.values())


def found_in(observed: Observed) -> Store:
    store = Store(records=dict(observed.changelog))
    store.recommendations.update((key, value) for key, value in observed.recommendations if key is not None)
    store.examples.update(observed.examples)
    return store


def users_of(store: Store) -> set[str]:
    return {key[1:].decode() for key in store.records if key[:1] in {b"h", FEEDBACK_PREFIX}}


def facts_of(store: Store, user: str) -> Counter[bytes]:
    """Returns the contents of a user's state, one entry per click, call part, purchase, eligibility list and item of feedback."""
    stored_head, stored_facts = store.get_many([head_key(user.encode()), facts_key(user.encode())])
    head = Head() if stored_head is None else decode_head(stored_head)
    facts = Facts() if stored_facts is None else decode_facts(stored_facts)
    held: list[Any] = []
    for interaction in (*facts.interactions, *head.tail):
        held += interaction.clicks() if isinstance(interaction, Session) else interaction.parts
    held += [(kept.occurred_at, kept.purchase_id, kept.items) for kept in facts.purchases]
    held += [(kept.occurred_at, kept.excluded) for kept in facts.eligibility]
    held += feedback_of(store, user)
    return Counter(map(msgspec.msgpack.encode, held))


def last(store: Store, user: str) -> dict[str, Any] | None:
    value = store.recommendations.get(user.encode())
    return None if value is None else msgspec.json.decode(value)


def same_list(wanted: dict[str, Any] | None, found: dict[str, Any] | None) -> bool:
    """Returns whether two lists agree: same items, order and model version, and scores within `SCORE_TOLERANCE` if both answer the
    same events.

    A list with unchanged items and order is suppressed, so which list was sent last, and thus its scores, may depend on the order
    of arrival.
    """
    if wanted is None or found is None:
        return wanted is found
    if wanted["model"] != found["model"] or wanted.get("fallback") != found.get("fallback"):
        return False
    ours, theirs = wanted["items"], found["items"]
    if [one["item"] for one in ours] != [one["item"] for one in theirs]:
        return False
    return not rest_on_same(wanted, found) or all(
        abs(one["score"] - other["score"]) <= SCORE_TOLERANCE for one, other in zip(ours, theirs, strict=True)
    )


def rest_on_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Returns whether two lists certainly answer the same events: they share an id, or the causing click if no call is involved."""
    if one["recommendation_id"] == other["recommendation_id"]:
        return True
    causes = one["caused_by"], other["caused_by"]
    calls = one["modalities"]["conversation"] + other["modalities"]["conversation"]
    return causes[0] == causes[1] and causes[0]["type"] == Source.CLICK and not calls


def example_of(store: Store, key: bytes) -> Any:
    """Returns the newest example without its revision, which depends on the order of arrival."""
    value = store.examples.get(key)
    return None if value is None else {**msgspec.msgpack.decode(value), "revision": 0}


def contents_per_id(observed: Observed) -> dict[str, list[bytes]]:
    """Returns every value sent under each recommendation id."""
    found: dict[str, list[bytes]] = {}
    for _, value in observed.recommendations:
        if value is not None:
            found.setdefault(msgspec.json.decode(value)["recommendation_id"], []).append(value)
    return found


def unencoded_calls(observed: Observed) -> list[str]:
    """Returns the transcripts, except planted ones, that have no encoded call."""
    encoded = set()
    for batch in observed.batches:
        if batch.source is Source.CALL:
            for record in batch.records:
                call = msgspec.msgpack.decode(record.value or b"", type=EncodedCall)
                encoded.add(Coordinates(call.origin_topic, call.origin_epoch, call.origin_partition, call.origin_offset))
    wanted = [(batch.coordinates(record), record) for batch in observed.transcripts for record in batch.records]
    return ["/".join(map(str, at)) for at, record in wanted if not is_planted(record) and at not in encoded]


def undelivered_events(observed: Observed) -> list[str]:
    """Returns acknowledged events that are not at the offset that the broker returned."""
    held = {
        (batch.topic, batch.partition, record.offset): (record.key, record.value)
        for batch in (*observed.batches, *observed.transcripts)
        for record in batch.records
    }
    wrong = [place for place, event in observed.acknowledged.items() if held.get(place) != event]
    return ["/".join(map(str, place)) for place in wrong]


def planted_coordinates(observed: Observed) -> frozenset[bytes]:
    """Returns the keys of the dead letters that must exist."""
    inputs = [batch for batch in observed.batches if batch.source is not Source.CALL]
    return frozenset(
        letter_key(batch.coordinates(record), record)
        for batch in (*inputs, *observed.transcripts)
        for record in batch.records
        if is_planted(record)
    )


def is_planted(record: Record) -> bool:
    return record.key is None or record.key.startswith(PLANTED)


def letter_key(place: Coordinates, record: Record) -> bytes:
    stand_in = PlainRecord(record.offset, record.timestamp, None, None)
    return dead_letter(Source.CLICK, place, stand_in, Rejection(Reason.INVALID, "")).key
