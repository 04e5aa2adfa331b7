"""The events of a recording: a few dozen users over a day, seeded, with everything that can go wrong on the way.

Written as a producer would write them: JSON with the names of the topics' documentation, not through the code's own types.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import numpy as np

from stream.core.events import Source
from stream.core.partitioner import partition_of
from stream.core.records import PlainRecord

PARTITIONS: Final = 2
TEXT_WIDTH: Final = 8
START_MS: Final = 1_790_000_000_000
MINUTE_MS: Final = 60_000
ROUNDS: Final = 30
USERS: Final = ("käthe", *(f"user-{number:02}" for number in range(29)))
BUSY: Final = "user-00"
"""A user at the bounds of the state."""

ITEMS: Final = tuple(f"item-{number}" for number in range(6))
TAGS: Final = ("car", "claim", "dog", "home", "price", "unknown")
SENTENCES: Final = (
    "my car was hit by a cat",
    "I want a house insurance",
    "goodbye",
    "what does the house insurance cost",
    "it is a car",
)


class Sent(NamedTuple):
    """A batch as producers sent it; of calls, the transcripts. `topic` is the input topic."""

    source: Source
    topic: str
    epoch: int
    partition: int
    records: list[PlainRecord]


_TOPICS: Final = {
    Source.CLICK: "web-clicks",
    Source.CALL: "call-transcripts",
    Source.PURCHASE: "purchases",
    Source.ELIGIBILITY: "eligibility",
    Source.ERASURE: "erasures",
}


def batches(rng: np.random.Generator, rounds: int = ROUNDS) -> Iterator[Sent]:
    """Rounds of twenty minutes to an hour. Calls and purchases arrive one or two rounds late; the topic of the clicks is made
    again half-way.
    """
    waiting: list[tuple[int, Source, str, Any]] = []
    offsets: dict[tuple[Source, int, int], int] = {}
    now = START_MS
    for number in range(rounds):
        now += int(rng.integers(20, 60)) * MINUTE_MS
        for user in rng.choice(USERS, size=5, replace=False).tolist():
            waiting += [(number + late, source, user, event) for late, source, event in _events(rng, user, now, number)]
        waiting += [(number, source, BUSY, event) for source, event in _busy(now, number)]
        due = [entry for entry in waiting if entry[0] <= number]
        waiting = [entry for entry in waiting if entry[0] > number]
        for source, topic in _TOPICS.items():
            epoch = 2 if source is Source.CLICK and number >= rounds // 2 else 1
            for partition in range(PARTITIONS):
                records = []
                for _, kind, user, event in due:
                    if kind is source and partition_of(user.encode(), PARTITIONS) == partition:
                        offset = offsets[source, epoch, partition] = offsets.get((source, epoch, partition), -1) + 1
                        records.append(_record(offset, now, user, event))
                if records:
                    yield Sent(source, topic, epoch, partition, records)


def _record(offset: int, now: int, user: str, event: Any) -> PlainRecord:
    """Events that are bytes are sent as they are; a few have no key, or headers."""
    if isinstance(event, bytes):
        return PlainRecord(offset, now, None if event == b"{}" else user.encode(), event or None, (("trace", b"1"),))
    return PlainRecord(offset, now, user.encode(), json.dumps(event, ensure_ascii=False).encode())


def _events(rng: np.random.Generator, user: str, now: int, number: int) -> Iterator[tuple[int, Source, Any]]:
    """(rounds late, source, event) of one user in one round."""
    named = {"user_id": user}
    if rng.random() < 0.75:
        for minutes in sorted(rng.integers(0, 25, size=int(rng.integers(1, 4))).tolist()):
            click = named | {"occurred_at": now - minutes * MINUTE_MS, "tags": _tags(rng)}
            yield int(rng.random() < 0.1), Source.CLICK, click
    if rng.random() < 0.3:
        yield int(rng.integers(0, 3)), Source.CALL, named | _call(rng, user, now, number)
    if rng.random() < 0.35:
        bought = {"occurred_at": _rfc3339(now - int(rng.integers(0, 200)) * MINUTE_MS), "items": [ITEMS[int(rng.integers(6))]]}
        purchase = named | bought | {"event_id": f"p-{user}-{number}"}
        yield int(rng.integers(0, 2)), Source.PURCHASE, purchase
        if rng.random() < 0.25:
            yield 2, Source.PURCHASE, purchase | {"occurred_at": now, "action": "cancelled", "event_id": f"x-{user}-{number}"}
    if rng.random() < 0.1:
        yield (
            0,
            Source.ELIGIBILITY,
            named | {"occurred_at": now, "excluded": [ITEMS[int(rng.integers(6))]], "event_id": f"e{number}"},
        )
    if rng.random() < 0.04:
        yield 0, Source.ERASURE, named | {"occurred_at": now - 10 * MINUTE_MS}
    if rng.random() < 0.25:
        yield 0, *_hostile(user, now, number)


def _hostile(user: str, now: int, number: int) -> tuple[Source, Any]:
    """What becomes a dead letter, is dropped as a duplicate, or is later than can be put in its place."""
    click = {"user_id": user, "occurred_at": now, "tags": ["car"]}
    events: list[tuple[Source, Any]] = [
        (Source.CLICK, b"{"),
        (Source.CLICK, b"{}"),
        (Source.PURCHASE, b""),
        (Source.CALL, b'{"user_id":1}'),
        (Source.CLICK, click | {"user_id": "somebody else"}),
        (Source.CLICK, click | {"occurred_at": now + 60 * MINUTE_MS}),
        (Source.CLICK, click | {"occurred_at": now - 3_000 * MINUTE_MS}),
        (Source.CLICK, click | {"event_id": "the same each time"}),
        (Source.CLICK, click | {"session_id": "explicit", "page": "an unknown field"}),
    ]
    return events[number % len(events)]


def _busy(now: int, number: int) -> Iterator[tuple[Source, Any]]:
    """One session a round, one of them of more clicks than are kept; a purchase every third round, more than are kept."""
    clicks = 70 if number == 7 else 1
    for click in range(clicks):
        yield Source.CLICK, {"user_id": BUSY, "occurred_at": now - (clicks - click) * 1_000, "tags": ["home", f"tag-{click % 40}"]}
    if number % 3 == 2:
        yield Source.PURCHASE, {"user_id": BUSY, "occurred_at": now, "items": [ITEMS[number % 2]]}


def _call(rng: np.random.Generator, user: str, now: int, number: int) -> dict[str, Any]:
    """A call, whole or a piece of the one of this round of four."""
    started_at = now - int(rng.integers(5, 15)) * MINUTE_MS
    speakers = rng.choice(["customer", "agent"], size=2).tolist()
    call = {
        "conversation_id": f"c-{user}-{number // 4}",
        "started_at": started_at,
        "sentences": [{"speaker": speaker, "text": SENTENCES[int(rng.integers(len(SENTENCES)))]} for speaker in speakers],
    }
    return call | ({"ended_at": _rfc3339(now - MINUTE_MS), "event_id": f"c{number}"} if rng.random() < 0.7 else {})


def _tags(rng: np.random.Generator) -> list[str]:
    tags: list[str] = rng.choice(TAGS, size=int(rng.integers(1, 4)), replace=False).tolist()
    return tags


def _rfc3339(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1_000, tz=UTC).isoformat(timespec="milliseconds")
