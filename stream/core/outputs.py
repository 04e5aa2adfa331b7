"""What the step gives back: recommendations, training examples, dead letters, state writes and counts.

Everything is encoded already, so that the edge only has to append it. A value of None is a tombstone.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

import msgspec

from stream.core.events import Source
from stream.core.interactions import Interaction, Modality

EventType = Literal["session", "conversation", "both"]
Fallback = Literal["popularity", "catalogue"]
Role = Literal["champion", "challenger", "shadow"]


class Cause(msgspec.Struct, frozen=True, gc=False):
    """The event that a recommendation answers. `occurred_at` in ms."""

    event_id: str
    type: Source
    occurred_at: int


class ModelName(msgspec.Struct, frozen=True, gc=False):
    """The model version that made a list; before the first model: name "none", version "0"."""

    name: str
    version: str
    role: Role = "champion"


class RankedItem(msgspec.Struct, frozen=True, gc=False):
    item: str
    rank: int
    score: float


class Modalities(msgspec.Struct, frozen=True, gc=False):
    """How many interactions of each modality a list rests on (of the last 10)."""

    session: int
    conversation: int


class Reasoning(msgspec.Struct, frozen=True, gc=False):
    """One interaction that moved the first item: its score with and without it."""

    modality: Modality
    started_at: int
    score_with: float
    score_without: float


class Recommendation(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The ranked top k for a user (JSON; key = user). `occurred_at` is the broker's time of the cause, ms."""

    recommendation_id: str
    user_id: str
    occurred_at: int
    caused_by: Cause
    model: ModelName
    items: tuple[RankedItem, ...]
    modalities: Modalities
    fallback: Fallback | None = None
    because: tuple[Reasoning, ...] | None = None
    schema_version: Literal[1] = 1


class TrainingExample(msgspec.Struct, frozen=True, kw_only=True):
    """A purchase event with what came before it (msgpack; key = user and purchase id, see `example_key`).

    `interactions` are the last 10 in order, of each only what came before the purchase. `excluded` are the items that the user
    could not be offered at that moment (post filter). The newest `revision` of an id holds.
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


def example_key(user_id: str, purchase_id: str) -> bytes:
    """The record key of a training example: both ids, in msgpack, so that no pair of ids shares it."""
    return _encode_key((user_id, purchase_id))


_encode_key: Final = msgspec.msgpack.Encoder().encode
encode_example: Final = msgspec.msgpack.Encoder().encode
decode_example: Final = msgspec.msgpack.Decoder(TrainingExample).decode


class Origin(msgspec.Struct, frozen=True):
    topic: str
    epoch: int
    partition: int
    offset: int


class DeadLetter(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An event that could not be used (JSON; key = the origin's coordinates). `original` is base64, at most 64 kB of it."""

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
    """What replaying dead letters leaves behind (JSON; key = a dead letter's: it was replayed, at `replayed_at`, ms).

    Under the key "run" it says that a replay is at work, or was cut off, and where the input topics ended before: topic ->
    partition -> offset.
    """

    replayed_at: int
    ends: dict[str, dict[str, int]] = {}


class Output(NamedTuple):
    """One record to append to an output topic; None is a tombstone."""

    key: bytes
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class Moments(NamedTuple):
    """The two ages of a recommendation start here: its cause's event time and broker time, ms."""

    event_ms: int
    broker_ms: int


@dataclass(slots=True)
class Outcome:
    """All that one batch brought about.

    `writes`: state key -> new value, None deletes. `counts` are the increments of the counters that `stream.metrics` declares, by
    metric name and label values, in the declared order.
    """

    writes: dict[bytes, bytes | None] = field(default_factory=dict)
    recommendations: list[Output] = field(default_factory=list)
    examples: list[Output] = field(default_factory=list)
    dead_letters: list[Output] = field(default_factory=list)
    moments: list[Moments] = field(default_factory=list)
    counts: Counter[tuple[str, ...]] = field(default_factory=Counter)
    new_users: int = 0
