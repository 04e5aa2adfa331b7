"""What the step returns: recommendations, training examples, dead letters, state writes and counts.

Outputs are encoded already: the edge only appends them. A value of None is a tombstone.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from stream.core.events import FeedbackAction, Reason, Source
from stream.core.interactions import Interaction, Modality

EventType = Literal["session", "conversation", "both"]
Fallback = Literal["popularity", "catalogue"]
Role = Literal["champion", "challenger", "shadow"]


class Cause(msgspec.Struct, frozen=True, gc=False):
    """The event that a recommendation answers.

    Attributes:
        event_id: Id of the event.
        type: Its source.
        occurred_at: Its time, ms.
    """

    event_id: str
    type: Source
    occurred_at: int


class ModelName(msgspec.Struct, frozen=True, gc=False):
    """The model version that ranked a list.

    Attributes:
        name: System; "none" before the first model.
        version: Version; "0" before the first model.
        role: Role in which it served.
    """

    name: str
    version: str
    role: Role = "champion"


class Reasoning(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One interaction that speaks for an item.

    Attributes:
        modality: Of the interaction.
        started_at: Start of the interaction, ms.
        score_with: The item's score.
        score_without: Its score if the interaction had not happened.
        score_alone: Its score if nothing else had happened; absent in lists of 0.1.0.
    """

    modality: Modality
    started_at: int
    score_with: float
    score_without: float
    score_alone: float | None = None


class RankedItem(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One item of a list.

    Attributes:
        item: Item id.
        rank: 1 for the first.
        score: The model's score in [0, 1], 4 digits; 0 if no model scored it.
        fallback: "catalogue" for an item that the model does not know, below those that it ranked.
        probability: That the item is in the user's next purchase event, given that there is one; 4 digits. Absent if no model
            scored the item, and for models without a calibration.
        because: With `step.explain`: the interactions that speak for the item, the strongest first; not for the reserve.
        new: Whether the model version has seen no purchase of it, and knows it by its text alone.
    """

    item: str
    rank: int
    score: float
    fallback: Fallback | None = None
    probability: float | None = None
    because: tuple[Reasoning, ...] | None = None
    new: bool = False


class Modalities(msgspec.Struct, frozen=True, gc=False):
    """How many of the last 10 interactions a list is based on: of those that the model reads. None under a fallback.

    Attributes:
        session: Number of sessions.
        conversation: Number of conversations.
    """

    session: int
    conversation: int


class Recommendation(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The ranked top k for a user (JSON; key = user).

    Attributes:
        recommendation_id: Hash of the content; two contents never share it.
        user_id: The user; also the record's key.
        occurred_at: Broker time of the cause, ms.
        caused_by: The event that it answers.
        model: The model version that ranked it.
        items: The list, best first; empty only if nothing may be offered.
        modalities: What it is based on.
        fallback: What ranked it instead of the model: popularity, if the model reads nothing of the user's history; the catalogue's
            order, before the first model and if the model knows no item that may be offered.
        because: With `step.explain`: the first item's `because`.
        reserve: The items ranked next, for readers that must replace a withdrawn one; not part of the list.
        schema_version: Version of this schema.
    """

    recommendation_id: str
    user_id: str
    occurred_at: int
    caused_by: Cause
    model: ModelName
    items: tuple[RankedItem, ...]
    modalities: Modalities
    fallback: Fallback | None = None
    because: tuple[Reasoning, ...] | None = None
    reserve: tuple[RankedItem, ...] = ()
    schema_version: Literal[1] = 1


class Shown(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An item that the user was shown before a purchase.

    Attributes:
        item: Hash of the item id, 8 bytes (`stream.core.feedback.hash_item`).
        occurred_at: When it was last shown, ms.
        times: How often it was shown, as far as the state knows.
        rank: Its place when it was last shown, from 1.
        placement: Where that was; `other`: not declared.
        channel: Likewise.
        model_version: The model version that made that list; "": not known.
    """

    item: bytes
    occurred_at: int
    times: int
    rank: int
    placement: str
    channel: str
    model_version: str = ""


class TrainingExample(msgspec.Struct, frozen=True, kw_only=True):
    """A purchase event with what came before it (msgpack; key = user and purchase id, see `example_key`).

    Attributes:
        user_id: The user.
        purchase_id: Event id of the purchase.
        occurred_at: Time of the purchase, ms.
        revision: Number of this version. The last record of a key replaces all others, whatever its revision: after a crash, a
            number may be repeated with another content, or fall.
        type: Which modalities preceded the purchase.
        items: Items bought: the label.
        excluded: Items that the user could not be offered then (post filter): owned and not repeatable, not eligible, or withdrawn.
        interactions: The last 10 in order; of each, only what came before the purchase.
        schema_version: Version of this schema.
        shown: The items that the user was shown before the purchase, those shown last at the end; absent: none is known.
        owned: Items that the user owned then, repeatable ones included; absent: not known, as in examples of 0.1.0.
        ineligible: Items that the newest eligibility list before the purchase excluded; absent: not known.
    """

    user_id: str
    purchase_id: str
    occurred_at: int
    revision: int
    type: EventType
    items: tuple[str, ...]
    excluded: tuple[str, ...]
    interactions: tuple[Interaction, ...]
    schema_version: Literal[1] = 1
    shown: tuple[Shown, ...] | UnsetType = UNSET
    owned: tuple[str, ...] | UnsetType = UNSET
    ineligible: tuple[str, ...] | UnsetType = UNSET


def example_key(user_id: str, purchase_id: str) -> bytes:
    """The record key of a training example: both ids in msgpack, unique for each pair."""
    return _encode_key((user_id, purchase_id))


_encode_key: Final = msgspec.msgpack.Encoder().encode
decode_example_key: Final = msgspec.msgpack.Decoder(tuple[str, str]).decode
encode_example: Final = msgspec.msgpack.Encoder().encode
decode_example: Final = msgspec.msgpack.Decoder(TrainingExample).decode


class Origin(msgspec.Struct, frozen=True):
    """Coordinates of the record that became a dead letter.

    Attributes:
        topic: Name of the input topic.
        epoch: Identifies one life of the topic: a recreated topic has another.
        partition: Partition number.
        offset: Offset in the partition.
    """

    topic: str
    epoch: int
    partition: int
    offset: int


class DeadLetter(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An event that could not be used (JSON; key = the origin's coordinates).

    Attributes:
        reason: Category.
        error: Explanation without personal data.
        origin: Where the record is stored.
        occurred_at: Broker time of the record, ms.
        key: Key of the record, base64; absent for transcripts.
        headers: Headers of the record, values in base64, at most 8 kB; absent for transcripts.
        original: Value of the record, base64, at most its first 64 kB; absent for transcripts.
        original_bytes: Full size of the value.
        schema_version: Version of this schema.
    """

    reason: str
    error: str
    origin: Origin
    occurred_at: int
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    original: bytes | None = None
    original_bytes: int = 0
    schema_version: Literal[1] = 1


class Replayed(msgspec.Struct, frozen=True, omit_defaults=True):
    """A replayed dead letter (JSON; key = the dead letter's). The key "run" marks a replay that is running or was interrupted.

    Attributes:
        replayed_at: Time of the replay, ms.
        ends: Of a run: where the input topics ended before it, topic -> partition -> offset.
    """

    replayed_at: int
    ends: dict[str, dict[str, int]] = {}


class Output(NamedTuple):
    """One record to append to an output topic.

    Attributes:
        key: Record key.
        value: Record value; None is a tombstone.
        headers: Record headers.
    """

    key: bytes
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class CauseTimes(NamedTuple):
    """When the cause of a recommendation happened: the recommendation's age is measured from both.

    Attributes:
        event_ms: Event time, ms.
        broker_ms: Broker time, ms.
    """

    event_ms: int
    broker_ms: int


EventOutcome = Literal["applied", "dead_letter", "duplicate_offset", "duplicate_event", "erased"]
HitType = EventType | Literal["none"]
HitFallback = Fallback | Literal["none", "unserved"]
Count = (
    tuple[Literal["events"], Source, EventOutcome]
    | tuple[Literal["dead_letters"], Reason]
    | tuple[Literal["late"], Source, Literal["within", "beyond"]]
    | tuple[Literal["recommendations"], Literal["sent", "suppressed"]]
    | tuple[Literal["examples"], Literal["first", "revision", "resent", "erased"]]
    | tuple[Literal["purchases_without_interactions"]]
    | tuple[Literal["beyond_bounds"], Literal["interaction", "example", "item", "eligibility", "feedback", "erasure"]]
    | tuple[Literal["erasures_without_effect"]]
    | tuple[Literal["foreign_text_model"]]
    | tuple[Literal["unusable_scores"]]
    | tuple[Literal["epoch_changes"], Source]
    | tuple[Literal["purchases", "hits", "popularity_hits"], str, HitType, HitFallback]
    | tuple[Literal["feedback_items"], FeedbackAction, str, str, str, str]
    | tuple[Literal["bought_after_shown"], str, str, str, str]
)
"""A counter of the step: name and label values, in the order in which `stream.metrics` declares the labels."""


@dataclass(slots=True)
class Outcome:
    """Everything that one batch caused.

    Attributes:
        writes: State key -> new value; None deletes.
        recommendations: Lists to send, and tombstones of erased users.
        examples: Training examples and tombstones.
        dead_letters: Events that could not be used.
        cause_times: Times of each recommendation's cause.
        counts: Increments of the counters.
        new_users: Change of the number of stored users.
    """

    writes: dict[bytes, bytes | None] = field(default_factory=dict)
    recommendations: list[Output] = field(default_factory=list)
    examples: list[Output] = field(default_factory=list)
    dead_letters: list[Output] = field(default_factory=list)
    cause_times: list[CauseTimes] = field(default_factory=list)
    counts: Counter[Count] = field(default_factory=Counter)
    new_users: int = 0
