"""Recommendations as flat Avro: one record a user and rank, with primitive fields, as a stock JDBC sink writes them into a table.

A rank that a list does not have gets a tombstone, up to the longest list that may ever have been sent to the topic. That is kept
where no state that is lost can take it: beside the topic's owner on the cluster (`stream.kafka.cluster.owners`).
"""

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import fastavro
import msgspec

from stream.core.framing import framed
from stream.core.outputs import Fallback, Output, Recommendation


class FlatKey(msgspec.Struct, frozen=True):
    """The key of a flat recommendation.

    Attributes:
        user_id: The user.
        rank: 1 for the first.
    """

    user_id: str
    rank: int


class FlatRecommendation(msgspec.Struct, frozen=True):
    """One item of a user's list (Avro; key = user and rank). A tombstone: the list has no such rank any more.

    Attributes:
        item: Item id.
        score: The model's score in [0, 1]; 0 if no model scored it.
        recommendation_id: Of the list: all of its ranks share it.
        occurred_at: Broker time of the list's cause, ms.
        model: The system that ranked the list; "none" before the first model.
        model_version: Its version.
        fallback: What ranked the list instead of the model, or the item below the list's.
        probability: That the item is in the user's next purchase event, given that there is one.
    """

    item: str
    score: float
    recommendation_id: str
    occurred_at: int
    model: str
    model_version: str
    fallback: Fallback | None = None
    probability: float | None = None


def _record(name: str, fields: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    named = [{"name": field, "type": kind, **({"default": None} if "null" in kind else {})} for field, kind in fields]
    return {"type": "record", "name": name, "namespace": "isthmus", "fields": named}


_KEY: Final = _record(FlatKey.__name__, [("user_id", "string"), ("rank", "int")])
_VALUE: Final = _record(
    FlatRecommendation.__name__,
    [
        ("item", "string"),
        ("score", "double"),
        ("recommendation_id", "string"),
        ("occurred_at", {"type": "long", "logicalType": "timestamp-millis"}),
        ("model", "string"),
        ("model_version", "string"),
        ("fallback", ["null", "string"]),
        ("probability", ["null", "double"]),
    ],
)
KEY_SCHEMA: Final = json.dumps(_KEY)
VALUE_SCHEMA: Final = json.dumps(_VALUE)
_parsed_key: Final = fastavro.parse_schema(_KEY)
_parsed_value: Final = fastavro.parse_schema(_VALUE)
_decode: Final = msgspec.json.Decoder(Recommendation).decode


class FlatLists:
    """Turns recommendations into flat ones. `key_id` and `value_id` are the schemas' ids in the registry."""

    def __init__(self, key_id: int, value_id: int, longest: int) -> None:
        self._key_id = key_id
        self._value_id = value_id
        self._longest = longest

    def outputs(self, recommendations: Iterable[Output]) -> Iterator[Output]:
        """The flat records of lists, and of their tombstones, in their order."""
        return (flat for output in recommendations for flat in self._flat(output))

    def _flat(self, output: Output) -> Iterator[Output]:
        user_id, length = output.key.decode(), 0
        if output.value is not None:
            found = _decode(output.value)
            length = len(found.items)
            for item in found.items:
                row = FlatRecommendation(
                    item.item,
                    item.score,
                    found.recommendation_id,
                    found.occurred_at,
                    found.model.name,
                    found.model.version,
                    found.fallback or item.fallback,
                    item.probability,
                )
                yield Output(self._key(user_id, item.rank), framed(self._value_id, _written(_parsed_value, row)))
        for rank in range(length + 1, self._longest + 1):
            yield Output(self._key(user_id, rank), None)

    def _key(self, user_id: str, rank: int) -> bytes:
        return framed(self._key_id, _written(_parsed_key, FlatKey(user_id, rank)))


def _written(schema: Any, row: msgspec.Struct) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, schema, msgspec.structs.asdict(row))
    return stream.getvalue()
