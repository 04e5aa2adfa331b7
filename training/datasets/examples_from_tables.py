"""Training examples from tables: their events go through the step that runs in the worker, with states in memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import msgspec

from stream.core.events import INPUTS, Item, Source
from stream.core.examples import in_time_order
from stream.core.outputs import DeadLetter, TrainingExample, decode_example
from stream.core.ranking import Catalogue
from stream.core.records import Batch, PlainRecord
from stream.core.step import StepConfig, step
from training.datasets.tables.files import TableError
from training.datasets.tables.reader import Tables
from training.datasets.tables.to_events import TableEvent, events_by_purchase, item_events

SOURCES: Final = {row.role: row.source for row in sorted(INPUTS, key=lambda row: row.source is Source.PURCHASE)}  # purchases last
BATCH: Final = 500  # records
USERS_PER_ROUND: Final = 200
Encode = Callable[[Batch], Sequence[PlainRecord]]
"""The encoder stage: a batch of transcripts -> records of encoded calls."""


class MemoryStates:
    """A `stream.core.user_state.StateStore` in memory."""

    def __init__(self) -> None:
        self.records: dict[bytes, bytes] = {}

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.records.get(key) for key in keys]

    def write(self, writes: dict[bytes, bytes | None]) -> None:
        for key, value in writes.items():
            if value is None:
                self.records.pop(key, None)
            else:
                self.records[key] = value


def examples_of(
    tables: Tables, encode: Encode, purchase_events: int | None = None, *, progress: Callable[[int], object] = lambda _: None
) -> list[TrainingExample]:
    """Returns the newest example of each purchase event, in order of time.

    `progress` is called with the number of purchase events done.

    Raises:
        TableError: the step could not use an event of the tables.
    """
    items = Catalogue(msgspec.json.decode(event.value, type=Item) for event in item_events(tables))
    states, settings = MemoryStates(), StepConfig(partitions=1)
    newest: dict[bytes, bytes | None] = {}
    for done, batch in _batches(events_by_purchase(tables, purchase_events)):
        if batch.topic == "transcripts":
            batch = batch._replace(records=encode(batch))  # noqa: PLW2901
        outcome = step(batch, states, None, items, settings)
        if outcome.dead_letters:
            letter = msgspec.json.decode(outcome.dead_letters[0].value or b"", type=DeadLetter)
            raise TableError(f"one of the tables' {batch.topic} cannot be used ({letter.reason}: {letter.error})")
        states.write(outcome.writes)
        newest.update((output.key, output.value) for output in outcome.examples)
        progress(done)
    return in_time_order(decode_example(value) for value in newest.values() if value is not None)


def _batches(events_by_purchase: Iterable[Sequence[TableEvent]]) -> Iterator[tuple[int, Batch]]:
    """Yields (purchase events begun, batch).

    Events of many purchase events share a batch, because the step's cost is per batch; a user's next purchase event goes into later
    batches.
    """
    offsets: dict[str, int] = dict.fromkeys(SOURCES, -1)
    waiting: dict[str, list[PlainRecord]] = {role: [] for role in SOURCES}
    users: set[str] = set()
    done = -1
    for done, events in enumerate(events_by_purchase):
        user = events[0].key
        if user in users or len(users) == USERS_PER_ROUND:
            yield from ((done, batch) for batch in _cut(waiting))
            users.clear()
        users.add(user)
        for event in events:
            offset = offsets[event.role] = offsets[event.role] + 1
            waiting[event.role].append(PlainRecord(offset, event.at_ms, event.key.encode(), event.value))
    yield from ((done + 1, batch) for batch in _cut(waiting))


def _cut(waiting: dict[str, list[PlainRecord]]) -> Iterator[Batch]:
    """Yields the waiting records as batches, purchases last, and empties the lists."""
    for role, records in waiting.items():
        for start in range(0, len(records), BATCH):
            yield Batch(SOURCES[role], role, 0, 0, records[start : start + BATCH])
        records.clear()
