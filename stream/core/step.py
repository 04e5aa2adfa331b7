"""The pure step: (records of a batch, the states of their users, ranker, catalogue) -> outcome.

The same function runs in the Kafka worker, in the embedded mode, in replay and where training examples are built from files. It has
no access to a clock (a record's broker timestamp stands in), environment, files, log or global randomness. `step_many` handles
batches of several partition numbers at once, so that the network runs once over the users of all.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from stream.core import limits
from stream.core.cloud_events import DEFAULT_APPLICATION
from stream.core.dead_letters import dead_letter
from stream.core.duplicates import is_duplicate, is_original_known, is_repeated_feedback, named_by_original
from stream.core.event_times import DEFAULT_RULES, TimeRule, TimeUnit
from stream.core.events import (
    FIRST_RECEIVED_HEADER,
    EncodedCall,
    Erasure,
    Feedback,
    FieldMapper,
    Purchase,
    Reason,
    Rejection,
    Source,
    ToJson,
    UserEvent,
)
from stream.core.feedback import FeedbackConfig, UserFeedback
from stream.core.fold import erase_feedback, event_moment, fold_event, is_usable, note_erasure
from stream.core.fold_context import FoldContext
from stream.core.known_erasures import KnownErasures
from stream.core.live_hit_rate import ExposureLabels
from stream.core.outputs import Cause, Outcome, Output
from stream.core.parsing import key_rejection, parse
from stream.core.partitioner import partition_of
from stream.core.ranking import Catalogue, Ranker
from stream.core.recommend import PendingUsers, recommend
from stream.core.records import Batch, Coordinates, Record, epoch_at, is_native, is_older_epoch
from stream.core.revisions import Occasion, emit_all_examples, erase_example
from stream.core.state import (
    NEVER_ERASED,
    NO_EVENT,
    SOURCE_NUMBERS,
    VERSION,
    ErasureMarker,
    Head,
    decode_erasure_marker,
    decode_head,
    decode_user_feedback,
    erasure_marker_key,
    feedback_key,
    head_key,
)
from stream.core.user_state import StateStore, UserState


@dataclass(frozen=True, slots=True, kw_only=True)
class StepConfig:
    """What a deployment may choose.

    Attributes:
        partitions: Partition count of every topic keyed by user.
        application: Name of the application, the source of what it publishes.
        list_length: Items on a recommendation.
        reserve_length: Items below them that the recommendation carries as its reserve.
        session_gap_ms: A session ends after this long without a click.
        max_ahead_ms: An event further ahead of its broker timestamp is a dead letter.
        allowed_lateness_ms: Events later than this are counted as beyond.
        marker_retention_ms: How long an erasure marker keeps old events out; None: for ever.
        erasure_key: 1 to 64 bytes; without it nobody can attribute an erasure marker to its user.
        explain: Adds `because` to each list; encodes up to 22 parts of each history.
        new_share: Share of a list's places for items that the model knows by their texts alone.
        mappers: Field mappings of producers with other field names than ours.
        decoders: Of sources whose topics are not JSON: how a value becomes JSON.
        times: Unit and plausible times of each source.
        feedback: Placements, channels and the time of attribution.
    """

    partitions: int
    application: bytes = DEFAULT_APPLICATION
    list_length: int = 5
    reserve_length: int = 10
    session_gap_ms: int = 30 * limits.MINUTE_MS
    max_ahead_ms: int = 5 * limits.MINUTE_MS
    allowed_lateness_ms: int = limits.DAY_MS
    marker_retention_ms: int | None = None
    erasure_key: bytes = b"isthmus"
    explain: bool = False
    new_share: float = 0.0
    mappers: Mapping[Source, FieldMapper] = field(default_factory=dict)
    decoders: Mapping[Source, ToJson] = field(default_factory=dict)
    times: Mapping[Source, TimeRule] = field(default_factory=lambda: DEFAULT_RULES)
    feedback: FeedbackConfig = field(default_factory=FeedbackConfig)


class StepInput(NamedTuple):
    """A batch and the states of its partition number."""

    batch: Batch
    states: StateStore


@dataclass(frozen=True, slots=True)
class _Context:
    """What handling one record of the batch needs."""

    batch: Batch
    source: Source
    source_number: int
    config: StepConfig
    fold: FoldContext
    outcome: Outcome
    mapper: FieldMapper | None
    to_json: ToJson | None
    times: TimeRule
    all_native: bool
    """Whether all records of the topic are read as our own."""


def step(batch: Batch, states: StateStore, ranker: Ranker | None, catalogue: Catalogue, config: StepConfig) -> Outcome:
    """Everything that one batch causes: new states, recommendations, training examples, dead letters and counts.

    At most one list per changed user, caused by the user's last event of the batch. Never raises because of a record's content.
    """
    return step_many([StepInput(batch, states)], ranker, catalogue, config)[0]


def step_many(inputs: Sequence[StepInput], ranker: Ranker | None, catalogue: Catalogue, config: StepConfig) -> list[Outcome]:
    """`step` of several batches of different partition numbers, which share no user. The network runs once over the users of all:
    for few users this costs hardly more than for one.
    """
    folded = [_fold_batch(part, ranker, catalogue, config) for part in inputs]
    pending = [
        PendingUsers([user for user in users if user.may_need_list()], outcome, part.batch.notified_users, config.application)
        for part, (users, outcome) in zip(inputs, folded, strict=True)
    ]
    k, reserve = config.list_length, config.reserve_length
    recommend(pending, ranker, catalogue, k, reserve, explain=config.explain, new_share=config.new_share)
    for part, (users, outcome) in zip(inputs, folded, strict=True):
        now_ms = part.batch.records[-1].timestamp if part.batch.records else 0
        for user in users:
            outcome.new_users += user.write_to(outcome.writes, config.erasure_key, now_ms, VERSION)
    return [outcome for _, outcome in folded]


def _fold_batch(
    part: StepInput, ranker: Ranker | None, catalogue: Catalogue, config: StepConfig
) -> tuple[list[UserState], Outcome]:
    """The users of a batch with its events applied, and the outcome so far: everything but lists and states."""
    batch, outcome = part.batch, Outcome()
    may_repeat, labels = batch.notified_users is not None, ExposureLabels(config.feedback, config.list_length)
    fold = FoldContext(catalogue, ranker, config.session_gap_ms, outcome.counts, may_repeat, labels)
    source = batch.source
    mapper, to_json, times = config.mappers.get(source), config.decoders.get(source), config.times[source]
    native = mapper is None and to_json is None and times.unit is TimeUnit.MILLISECONDS
    context = _Context(batch, source, SOURCE_NUMBERS[source], config, fold, outcome, mapper, to_json, times, native)
    admitted = [(record, event) for record in batch.records if (event := _admit(record, context)) is not None]
    users = _load(admitted, part.states, context)
    handle = _handle_feedback if batch.source is Source.FEEDBACK else _handle
    for record, event in admitted:
        handle(users[event.user_id], record, event, context)
    for user in users.values():
        if user.erased:
            outcome.recommendations.append(Output(user.key, None))
        outcome.examples.extend(user.examples.values())
    return list(users.values()), outcome


def _admit(record: Record, context: _Context) -> UserEvent | None:
    """The event of a record, or None after its dead letter was added."""
    if context.all_native or is_native(record.headers):
        event = parse(context.source, record.value)
    else:
        event = parse(context.source, record.value, context.mapper, context.times.unit, context.to_json)
    if isinstance(event, Rejection):
        _reject(record, None, event, context)
        return None
    rejection = key_rejection(record.key, event.user_id)
    if rejection is None:
        return event
    _reject(record, event, rejection, context)
    return None


def _load(admitted: Sequence[tuple[Record, UserEvent]], states: StateStore, context: _Context) -> dict[str, UserState]:
    """The users of the batch with their heads; of those without a head, what their erasure markers say."""
    batch, config = context.batch, context.config
    keys = {event.user_id: event.user_id.encode() for _, event in admitted}
    heads = states.get_many([head_key(key) for key in keys.values()])
    new_keys = [key for key, head in zip(keys.values(), heads, strict=True) if head is None]
    found = states.get_many([erasure_marker_key(key, config.erasure_key) for key in new_keys]) if new_keys else []
    markers = dict(zip(new_keys, found, strict=True))
    users = {}
    for (user_id, key), stored in zip(keys.items(), heads, strict=True):
        head = Head() if stored is None else decode_head(stored)
        marker = markers.get(key)
        wrong_partition = stored is None and marker is None and partition_of(key, config.partitions) != batch.partition
        if marker is not None and _still_holds(erased := decode_erasure_marker(marker), context):
            head.erased_at, head.applied = erased.erased_at, erased.applied
        users[user_id] = UserState(key, user_id, head, states, stored=stored is not None, wrong_partition=wrong_partition)
    if batch.source is Source.FEEDBACK:
        _load_feedback(users.values(), states)
    elif batch.source is Source.ERASURE:
        _load_known_erasures(users.values(), states, context)
    return users


def _still_holds(marker: ErasureMarker, context: _Context) -> bool:
    """Whether a marker has not expired."""
    retention_ms = context.config.marker_retention_ms
    return retention_ms is None or marker.written_at + retention_ms > context.batch.records[0].timestamp


def _load_feedback(users: Collection[UserState], states: StateStore) -> None:
    """Reads the feedback of all users of a batch at once."""
    found = states.get_many([feedback_key(user.key) for user in users])
    for user, stored in zip(users, found, strict=True):
        user.feedback = UserFeedback() if stored is None else decode_user_feedback(stored)


def _load_known_erasures(users: Collection[UserState], states: StateStore, context: _Context) -> None:
    """Reads which erasures the markers of all users of a batch know. One that has expired knows none, unless the head remembers its
    erasure. The head may know nothing of one that holds: a backfill writes the marker before its erasure is read.
    """
    key = context.config.erasure_key
    found = states.get_many([erasure_marker_key(user.key, key) for user in users])
    for user, stored in zip(users, found, strict=True):
        marker = None if stored is None else decode_erasure_marker(stored)
        is_known = marker is not None and (user.head.erased_at != NEVER_ERASED or _still_holds(marker, context))
        user.erasures = KnownErasures(user.key, key, marker.erasure_ids if marker is not None and is_known else b"")


def _handle(user: UserState, record: Record, event: UserEvent, context: _Context) -> None:
    """Decides what becomes of one event: unusable, a duplicate, erased, or applied to its user."""
    source, head, counts = context.source, user.head, context.outcome.counts
    place, number = _place_of(record, event, context.batch), context.source_number
    moment_ms = _admitted_moment(user, record, event, place, head.applied.get(number), context)
    if moment_ms is None:
        return
    head.applied[number] = place
    user.head_changed = True
    named = named_by_original(event, record.headers) if record.headers else None
    event = named or event
    event_id = event.event_id or coordinates_of(record, event, context.batch).event_id
    erased_at = head.erased_at
    if erased_at != NEVER_ERASED and (event.started_at if isinstance(event, EncodedCall) else moment_ms) <= erased_at:
        counts["events", source, "erased"] += 1
        if isinstance(event, Purchase) and event.action == "bought":  # a state that was lost may have sent its example
            erase_example(user, event_id, context.fold)
        elif isinstance(event, Erasure):
            note_erasure(user, event, context.fold)
            _erase_remains(user, context)
            emit_all_examples(user, context.fold, Occasion.COVERED_ERASURE)
        return
    gap_ms = context.config.session_gap_ms
    if is_duplicate(user, source, event, moment_ms, gap_ms) or (named and is_original_known(user, named, moment_ms, gap_ms)):
        counts["events", source, "duplicate_event"] += 1
        return
    user.broker_ms = record.timestamp
    user.cause = Cause(event_id, source, moment_ms)
    _apply(user, event, user.cause, context)


def _erase_remains(user: UserState, context: _Context) -> None:
    """Forgets what a marker covers that was written without its erasure: feedback, and a list that a lost state sent."""
    marks, erased_at = user.load_feedback().marks, user.head.erased_at
    if marks and marks[0].at_ms <= erased_at:
        erase_feedback(user, erased_at)
    if not user.stored:
        context.outcome.recommendations.append(Output(user.key, None))


def _handle_feedback(user: UserState, record: Record, event: UserEvent, context: _Context) -> None:
    """As `_handle`, but the applied offset is in the feedback, so that the head is not written, and no list is caused."""
    assert isinstance(event, Feedback)
    source, head, counts, config = context.source, user.head, context.outcome.counts, context.config
    place, feedback = _place_of(record, event, context.batch), user.load_feedback()
    applied = feedback.applied or head.applied.get(context.source_number)
    moment_ms = _admitted_moment(user, record, event, place, applied, context)
    if moment_ms is None:
        return
    feedback.applied, feedback.is_changed = place, True
    if moment_ms <= head.erased_at != NEVER_ERASED:
        counts["events", source, "erased"] += 1
    elif is_repeated_feedback(feedback, event, moment_ms, config.feedback):
        counts["events", source, "duplicate_event"] += 1
    else:
        counts["events", source, "applied"] += 1
        _count_late(moment_ms, head.newest_at, source, context)
        event_id = event.event_id or context.batch.coordinates(record).event_id
        fold_event(user, event, Cause(event_id, source, moment_ms), context.fold)


def _admitted_moment(
    user: UserState, record: Record, event: UserEvent, place: tuple[int, int], applied: tuple[int, int] | None, context: _Context
) -> int | None:
    """The time of an event that is new and usable; None for any other, which was counted or became a dead letter.

    `place` is the event's epoch and offset, `applied` those up to which the state contains the topic; None: nothing.
    """
    source, counts = context.source, context.outcome.counts
    origin_epoch, origin_offset = place
    epoch, offset = applied or (origin_epoch, -1)
    if origin_offset <= offset if epoch == origin_epoch else is_older_epoch(origin_epoch, epoch):
        counts["events", source, "duplicate_offset"] += 1
        return None
    moment_ms = event_moment(event, record)
    rejection = _unusable(user, record, event, moment_ms, context)
    if rejection is not None:
        _reject(record, event, rejection, context)
        return None
    if epoch != origin_epoch:
        counts["epoch_changes", source] += 1
    return moment_ms


def _count_late(moment_ms: int, newest_at: int, source: Source, context: _Context) -> None:
    """Counts an event if it is older than the newest of its user."""
    if moment_ms < newest_at and newest_at != NO_EVENT:
        is_beyond = moment_ms < newest_at - context.config.allowed_lateness_ms
        context.outcome.counts["late", source, "beyond" if is_beyond else "within"] += 1


def _apply(user: UserState, event: UserEvent, cause: Cause, context: _Context) -> None:
    source, moment_ms, newest_at = cause.type, cause.occurred_at, user.head.newest_at
    context.outcome.counts["events", source, "applied"] += 1
    if moment_ms < newest_at:
        _count_late(moment_ms, newest_at, source, context)
    if moment_ms >= newest_at or newest_at == NO_EVENT:
        user.head.newest_at = moment_ms
    fold_event(user, event, cause, context.fold)


def coordinates_of(record: Record, event: UserEvent | None, batch: Batch) -> Coordinates:
    """Where an event is stored; for an encoded call, where its transcript is."""
    if isinstance(event, EncodedCall):
        return Coordinates(event.origin_topic, event.origin_epoch, event.origin_partition, event.origin_offset)
    return batch.coordinates(record)


def _place_of(record: Record, event: UserEvent, batch: Batch) -> tuple[int, int]:
    """Epoch and offset of an event; of an encoded call, those of its transcript."""
    if isinstance(event, EncodedCall):
        return event.origin_epoch, event.origin_offset
    offset = record.offset
    return (epoch_at(offset, batch.epoch, batch.boundaries) if batch.boundaries else batch.epoch), offset


def _unusable(user: UserState, record: Record, event: UserEvent, moment_ms: int, context: _Context) -> Rejection | None:
    if user.wrong_partition or (isinstance(event, EncodedCall) and event.origin_partition != context.batch.partition):
        error = "the key belongs to another partition: produce with Kafka's default partitioner, murmur2"
        return Rejection(Reason.WRONG_PARTITION, error)
    times, max_ahead_ms = context.times, context.config.max_ahead_ms
    if not times.certain_from_ms <= moment_ms <= limits.LAST_TIME_MS or moment_ms > record.timestamp + max_ahead_ms:
        rejection = _without_time(event, record, moment_ms) or times.rejection(moment_ms, record.timestamp, max_ahead_ms)
        if rejection is not None:
            return rejection
    if isinstance(event, EncodedCall):
        if not is_usable(event):
            return Rejection(Reason.INVALID, "the encoded call holds no usable vector, or ends before it begins")
        return times.rejection(event.started_at, record.timestamp, max_ahead_ms, "its beginning")
    return None


def _without_time(event: UserEvent, record: Record, moment_ms: int) -> Rejection | None:
    """An erasure takes its record's Kafka timestamp or that of its original, but not -1, which means that there is none."""
    if not isinstance(event, Erasure) or event.occurred_at is not None or moment_ms > 0:
        return None
    if moment_ms < record.timestamp:
        error = f"it has no time, and its header {FIRST_RECEIVED_HEADER} is not one in milliseconds since 1970"
    else:
        error = "it has no time, and its record has no Kafka timestamp after 1970 either"
    return Rejection(Reason.IMPLAUSIBLE_TIME, error)


def _reject(record: Record, event: UserEvent | None, rejection: Rejection, context: _Context) -> None:
    batch, outcome = context.batch, context.outcome
    origin = coordinates_of(record, event, batch)
    outcome.dead_letters.append(dead_letter(batch.source, origin, record, rejection, context.config.application))
    outcome.counts["events", batch.source, "dead_letter"] += 1
    outcome.counts["dead_letters", rejection.reason] += 1
