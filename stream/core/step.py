"""The pure step: (records of a batch, the states of their users, ranker, catalogue) -> outcome; or of several batches at once,
whose users are then represented and ranked together.

The same function runs in the Kafka worker, in the embedded mode, in replay and where training examples are built from files. It
knows no clock (a record's broker timestamp stands in), environment, file, log or global randomness. One record is a batch of one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from stream.core import limits
from stream.core.dead_letters import dead_letter
from stream.core.events import (
    NATIVE_FORMAT_HEADER,
    Click,
    Eligibility,
    EncodedCall,
    Erasure,
    FieldMapper,
    Purchase,
    Reason,
    Rejection,
    Source,
    UserEvent,
    parse,
)
from stream.core.fold import (
    FoldContext,
    event_moment,
    fold_click,
    fold_eligibility,
    fold_erasure,
    fold_part,
    fold_purchase,
    forget_example,
    is_usable,
    part_of,
)
from stream.core.live_hit_rate import count_hits
from stream.core.outputs import Cause, Outcome, Output
from stream.core.partitioner import partition_of
from stream.core.ranking import Catalogue, Ranker
from stream.core.recommend import PendingUsers, recommend
from stream.core.records import Batch, Coordinates, Record
from stream.core.state import (
    SOURCE_NUMBERS,
    VERSION,
    Head,
    decode_erasure_marker,
    decode_head,
    erasure_marker_key,
    event_id_hash,
    head_key,
)
from stream.core.user_state import StateStore, UserState


@dataclass(frozen=True, slots=True, kw_only=True)
class StepConfig:
    """What a deployment may choose. Times in ms; `partitions` is the count of every topic keyed by user.

    `erasure_key` (1 to 64 bytes) hides whose an erasure marker is; `explain` adds `because` to each list, at the price of
    encoding every history up to 11 times; `adapters` map a producer's own field names (none: ours).
    """

    partitions: int
    list_length: int = 5
    session_gap_ms: int = 30 * limits.MINUTE_MS
    max_ahead_ms: int = 5 * limits.MINUTE_MS
    allowed_lateness_ms: int = limits.DAY_MS
    marker_retention_ms: int = 37 * limits.DAY_MS
    erasure_key: bytes = b"isthmus"
    explain: bool = False
    adapters: Mapping[Source, FieldMapper] = field(default_factory=dict)


class StepInput(NamedTuple):
    """A batch and the states of its partition number."""

    batch: Batch
    states: StateStore


@dataclass(frozen=True, slots=True)
class _Context:
    """What every record of the batch is handled with."""

    batch: Batch
    ranker: Ranker | None
    settings: StepConfig
    fold: FoldContext
    outcome: Outcome


def step(batch: Batch, states: StateStore, ranker: Ranker | None, catalogue: Catalogue, settings: StepConfig) -> Outcome:
    """What one batch brings about: new states, recommendations, training examples, dead letters and counts.

    At most one list per changed user, caused by his last event of the batch. Never raises on what a record holds.
    """
    return step_many([StepInput(batch, states)], ranker, catalogue, settings)[0]


def step_many(parts: Sequence[StepInput], ranker: Ranker | None, catalogue: Catalogue, settings: StepConfig) -> list[Outcome]:
    """As `step` of each, for batches of different partition numbers: they share no user. The network runs once over the users of
    all, and for few users it costs hardly more than for one.
    """
    folded = [_folded(part, ranker, catalogue, settings) for part in parts]
    asking = [
        PendingUsers([user for user in users if user.is_asking()], outcome, part.batch.notified_users)
        for part, (users, outcome) in zip(parts, folded, strict=True)
    ]
    recommend(asking, ranker, catalogue, settings.list_length, explain=settings.explain)
    for part, (users, outcome) in zip(parts, folded, strict=True):
        now_ms = part.batch.records[-1].timestamp if part.batch.records else 0
        for user in users:
            written = user.writes(settings.erasure_key, now_ms, VERSION)
            outcome.writes.update(written)
            outcome.new_users += _growth(user, written)
    return [outcome for _, outcome in folded]


def _folded(part: StepInput, ranker: Ranker | None, catalogue: Catalogue, settings: StepConfig) -> tuple[list[UserState], Outcome]:
    """The users of a batch with its events applied, and what these brought about before any list."""
    batch, outcome = part.batch, Outcome()
    context = _Context(batch, ranker, settings, FoldContext(catalogue, settings.session_gap_ms, outcome.counts), outcome)
    admitted = [(record, event) for record in batch.records if (event := _admit(record, context)) is not None]
    users = _load(admitted, part.states, settings, batch)
    for record, event in admitted:
        _handle(users[event.user_id], record, event, context)
    for user in users.values():
        if user.erased:
            outcome.recommendations.append(Output(user.key, None))
        outcome.examples.extend(user.examples.values())
    return list(users.values()), outcome


def _growth(user: UserState, written: Mapping[bytes, bytes | None]) -> int:
    key = head_key(user.key)
    return 0 if key not in written else (written[key] is not None) - user.stored


def _admit(record: Record, context: _Context) -> UserEvent | None:
    """The event of a record, or None once its dead letter is written."""
    batch = context.batch
    own = batch.source is Source.ERASURE and any(name == NATIVE_FORMAT_HEADER for name, _ in record.headers)
    event = parse(batch.source, record.value, None if own else context.settings.adapters.get(batch.source))
    rejection = event if isinstance(event, Rejection) else _key_rejection(record.key, event.user_id)
    if rejection is None:
        return event  # type: ignore[return-value]
    _reject(record, event if isinstance(event, EncodedCall) else None, rejection, context)
    return None


def _key_rejection(key: bytes | None, user_id: str) -> Rejection | None:
    if key is None:
        return Rejection(Reason.MISSING_KEY, "the record has no key: it must be the user id")
    if len(key) > limits.USER_ID_BYTES:
        return Rejection(Reason.INVALID, f"the user id is longer than {limits.USER_ID_BYTES} bytes")
    if key != user_id.encode():
        return Rejection(Reason.KEY_MISMATCH, "the record's key is not its user_id")
    return None


def _load(
    admitted: Sequence[tuple[Record, UserEvent]], states: StateStore, settings: StepConfig, batch: Batch
) -> dict[str, UserState]:
    """The users of the batch with their heads, and the markers of those who have none."""
    keys = {event.user_id: event.user_id.encode() for _, event in admitted}
    heads = states.get_many([head_key(key) for key in keys.values()])
    strangers = [key for key, head in zip(keys.values(), heads, strict=True) if head is None]
    markers = states.get_many([erasure_marker_key(key, settings.erasure_key) for key in strangers]) if strangers else []
    marked = dict(zip(strangers, markers, strict=True))
    users = {}
    for (user_id, key), stored in zip(keys.items(), heads, strict=True):
        head = Head() if stored is None else decode_head(stored)
        marker = marked.get(key)
        foreign = stored is None and marker is None and partition_of(key, settings.partitions) != batch.partition
        if marker is not None:
            erased = decode_erasure_marker(marker)
            if erased.written_at + settings.marker_retention_ms > batch.records[0].timestamp:
                head.erased_at, head.applied = erased.erased_at, erased.applied
        users[user_id] = UserState(key, user_id, head, states, stored=stored is not None, foreign=foreign)
    return users


def _handle(user: UserState, record: Record, event: UserEvent, context: _Context) -> None:
    """Applies one event to its user, unless it is unusable, a duplicate or erased."""
    source, counts = context.batch.source, context.outcome.counts
    place = coordinates_of(record, event, context.batch)
    number = SOURCE_NUMBERS[source]
    epoch, offset = user.head.applied.get(number, (place.epoch, -1))
    if epoch == place.epoch and place.offset <= offset:
        counts["events", source, "duplicate_offset"] += 1
        return
    moment = event_moment(event)
    rejection = _unusable(user, record, event, place, moment, context)
    if rejection is not None:
        _reject(record, event, rejection, context)
        return
    if epoch != place.epoch:
        counts["epoch_changes", source] += 1
    user.head.applied[number] = (place.epoch, place.offset)
    user.head_changed = True
    given_id = event.event_id if not isinstance(event, EncodedCall) or event.has_event_id else None
    if given_id is not None and _seen(user, event_id_hash(source, given_id)):
        counts["events", source, "duplicate_event"] += 1
        return
    if (event.started_at if isinstance(event, EncodedCall) else moment) <= user.head.erased_at:
        counts["events", source, "erased"] += 1
        if isinstance(event, Purchase):  # a state that was lost since may have sent its example
            forget_example(user, event.event_id or place.event_id, context.fold)
        return
    counts["events", source, "applied"] += 1
    if moment < user.head.newest_at:
        beyond = moment < user.head.newest_at - context.settings.allowed_lateness_ms
        counts["late", source, "beyond" if beyond else "within"] += 1
    user.broker_ms = record.timestamp
    user.cause = Cause(event.event_id or place.event_id, source, moment)
    user.head.newest_at = max(user.head.newest_at, moment)
    _fold(user, event, user.cause, context)


def coordinates_of(record: Record, event: UserEvent | None, batch: Batch) -> Coordinates:
    """Where an event stands; of an encoded call, where its transcript does."""
    if isinstance(event, EncodedCall):
        return Coordinates(event.origin_topic, event.origin_epoch, event.origin_partition, event.origin_offset)
    return batch.coordinates(record)


def _unusable(
    user: UserState, record: Record, event: UserEvent, place: Coordinates, moment: int, context: _Context
) -> Rejection | None:
    if user.foreign or place.partition != context.batch.partition:
        error = "the key belongs to another partition: produce with Kafka's default partitioner, murmur2"
        return Rejection(Reason.WRONG_PARTITION, error)
    ahead_ms = context.settings.max_ahead_ms
    if moment > record.timestamp + ahead_ms:
        return Rejection(Reason.TOO_FAR_AHEAD, f"its time is more than {ahead_ms // limits.SECOND_MS} s ahead of the broker's")
    if isinstance(event, EncodedCall) and not is_usable(event):
        return Rejection(Reason.INVALID, "the encoded call holds no usable vector, or ends before it begins")
    return None


def _seen(user: UserState, name: bytes) -> bool:
    """Whether the producer sent this event before (among the last 32); remembers it."""
    known = user.head.event_ids
    if name in known:
        return True
    user.head.event_ids = (known + name)[-len(name) * limits.EVENT_IDS :]
    return False


def _fold(user: UserState, event: UserEvent, cause: Cause, context: _Context) -> None:
    fold, moment = context.fold, cause.occurred_at
    match event:
        case Click():
            fold_click(user, event, moment, fold)
        case EncodedCall():
            if context.ranker is not None and context.ranker.text_model not in (None, event.text_model):
                context.outcome.counts["foreign_text_model",] += 1
            fold_part(user, part_of(event), event.conversation_id, fold)
        case Purchase():
            if event.action == "bought":
                count_hits(user, event, moment, context.ranker, fold.catalogue, context.outcome.counts)
            fold_purchase(user, event, moment, cause.event_id, fold)
        case Eligibility():
            fold_eligibility(user, event, moment, fold)
        case Erasure():
            fold_erasure(user, moment, fold)


def _reject(record: Record, event: UserEvent | None, rejection: Rejection, context: _Context) -> None:
    batch, outcome = context.batch, context.outcome
    origin = coordinates_of(record, event, batch)
    outcome.dead_letters.append(dead_letter(origin, record, rejection, with_original=batch.source is not Source.CALL))
    outcome.counts["events", batch.source, "dead_letter"] += 1
    outcome.counts["dead_letters", rejection.reason] += 1
