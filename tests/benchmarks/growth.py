"""Cost of an event by the length of the user's history and by the number of users in the state."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from models.artifact import load_ranker
from stream.core import limits
from stream.core.events import Click, Eligibility, EncodedCall, Purchase, Source
from stream.core.records import Batch, PlainRecord
from stream.core.step import StepConfig, step
from tests.benchmarks.contenders import CATALOGUE
from tests.benchmarks.field import OURS, job_of, turn
from tests.benchmarks.load import ITEMS, NOW_MS, START_MS, TAGS, after
from tests.world import Store

HISTORY_USERS: Final = 100
TURNS: Final = 60
"""Timed clicks of each user: 6 sessions, so that a user with 10 earlier clicks does not fill the window meanwhile."""
SETTINGS: Final = StepConfig(partitions=1)
BROKER_MS: Final = 2_000_000_000_000


def history_rows(folder: Path, model: Path, scale: float) -> Iterator[dict[str, Any]]:
    """Runs the step in memory, each user once per batch: after 10, 100 and 10,000 clicks each, and with a full state."""
    del folder
    import torch

    torch.set_num_threads(1)
    ranker: Any = load_ranker(str(model))
    turns = max(20, int(TURNS * scale))
    for past in (10, 100, max(200, int(10_000 * scale))):
        store = Store()
        events = after(past, HISTORY_USERS, HISTORY_USERS * (turns + 20))
        offset = _fill(store, [next(events).value for _ in range(past * HISTORY_USERS)])
        yield _row(f"{past:,} past events", _cost(store, ranker, [event.value for event in events], offset))
    store = Store()
    last_ms = _fill_every_bound(store)
    clicks = [_click(turn, user, last_ms) for turn in range(turns + 20) for user in range(HISTORY_USERS)]
    yield _row("a state at every bound", _cost(store, ranker, clicks, 1_000_000))


def _row(label: str, cost_us: float) -> dict[str, Any]:
    row = {"contender": "limit", "users": label, "scored": True, "cpu_us_per_event": cost_us}
    print(row, file=sys.stderr, flush=True)
    return row


def _fill(store: Store, values: list[bytes]) -> int:
    """Applies events without a model, on which the contents of a history do not depend."""
    for start in range(0, len(values), 1_000):
        _apply(store, None, Source.CLICK, values[start : start + 1_000], start)
    return len(values)


def _apply(store: Store, ranker: Any, source: Source, values: list[bytes], offset: int) -> None:
    records = [PlainRecord(offset + place, BROKER_MS, _user_of(value), value) for place, value in enumerate(values)]
    outcome = step(Batch(source, source, 1, 0, records), store, ranker, CATALOGUE, SETTINGS)
    if outcome.dead_letters:
        raise RuntimeError(f"the benchmark's events are rejected: {outcome.dead_letters[0].value!r}")
    for key, value in outcome.writes.items():
        if value is not None:
            store.records[key] = value


class _Keyed(msgspec.Struct):
    user_id: str


def _user_of(value: bytes) -> bytes:
    decode = msgspec.json.decode if value[:1] == b"{" else msgspec.msgpack.decode
    return decode(value, type=_Keyed).user_id.encode()


def _cost(store: Store, ranker: Any, values: list[bytes], offset: int) -> float:
    """Returns CPU us per event; the first 20 clicks of each user are warm-up."""
    batches = [values[start : start + HISTORY_USERS] for start in range(0, len(values), HISTORY_USERS)]
    began = 0.0
    for number, batch in enumerate(batches):
        if number == 20:
            began = time.process_time()
        _apply(store, ranker, Source.CLICK, batch, offset + number * HISTORY_USERS)
    return (time.process_time() - began) / (len(values) - 20 * HISTORY_USERS) * 1e6


def _fill_every_bound(store: Store) -> int:
    """Fills states to their bounds and returns the time of the last click in ms: 20 interactions, alternately sessions of 64 clicks
    with 16 tags and calls of 8 parts with 64 keywords, 8 purchases and 4 eligibility lists.
    """
    rng = np.random.default_rng(5)
    vector = rng.normal(size=384).astype("<f4").tobytes()
    keywords = tuple(f"keyword-{number}" for number in range(limits.KEYWORDS))
    tags = tuple(f"tag-{number}" for number in range(limits.SESSION_TAGS))
    offsets = dict.fromkeys(Source, 0)
    users = [f"full-{number}" for number in range(HISTORY_USERS)]

    def send(source: Source, make: Any) -> None:
        encode = msgspec.msgpack.encode if source is Source.CALL else msgspec.json.encode
        _apply(store, None, source, [encode(make(user)) for user in users], offsets[source])
        offsets[source] += len(users)

    for number in range(limits.INTERACTIONS):
        at = START_MS + number * limits.DAY_MS
        for place in range(limits.PARTS if number % 2 == 0 else limits.CLICKS):
            moment = at + place * limits.SECOND_MS
            if number % 2 == 0:
                send(Source.CALL, lambda user: _part(user, number, moment, vector, keywords, offsets[Source.CALL]))  # noqa: B023
            else:
                some = tuple(tags[(place * 16 + tag) % len(tags)] for tag in range(limits.TAGS))
                send(Source.CLICK, lambda user: Click(user, moment, some))  # noqa: B023
    for number in range(limits.PURCHASES):
        send(Source.PURCHASE, lambda user: Purchase(user, START_MS + (12 + number) * limits.DAY_MS - 1, ITEMS[:3]))  # noqa: B023
    for number in range(limits.ELIGIBILITY_LISTS):
        send(Source.ELIGIBILITY, lambda user: Eligibility(user, START_MS + number, ITEMS[10:14]))  # noqa: B023
    return moment


def _part(user: str, number: int, at: int, vector: bytes, keywords: tuple[str, ...], offset: int) -> EncodedCall:
    return EncodedCall(
        user_id=user,
        conversation_id=f"call-{number}",
        started_at=at,
        ended_at=at + 500,
        event_id=f"{number}-{at}-{user}",
        sentences=10,
        vector_sum=vector,
        keywords=keywords,
        text_model="none",
        origin_topic="call-transcripts",
        origin_epoch=1,
        origin_partition=0,
        origin_offset=offset + int(user.rpartition("-")[2]),
    )


def _click(turn: int, user: int, last_ms: int) -> bytes:
    """Returns a click; ten make a session, as in `after`."""
    at = min(last_ms + turn * limits.SECOND_MS + (turn + 5) // 10 * limits.HOUR_MS, NOW_MS)
    return msgspec.json.encode(Click(f"full-{user}", at, tuple(TAGS[(turn * 7 + user + tag) % len(TAGS)] for tag in range(3))))


def user_rows(folder: Path, model: Path, scale: float) -> Iterator[dict[str, Any]]:
    """Runs the worker on Kafka: first one click of each of many users, then clicks of users drawn at random."""
    count = int(60_000 * scale)
    for users in (10_000, 100_000, 1_000_000):
        some = max(100, int(users * scale))
        job = job_of(folder / f"users-{users}", skip=some, count=count, load="users in state", users=some, model=str(model))
        row = {"contender": "ours", "users": f"{some:,} users in state", "scored": True, **turn(OURS, job, None)}
        state = Path(job.folder) / "state"
        row["disk_bytes_per_user"] = sum(file.stat().st_size for file in state.rglob("*") if file.is_file()) / some
        print(row, file=sys.stderr, flush=True)
        yield row
