"""Training examples from files: the tables' events through the very step that runs in the worker, states in memory."""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Final

import msgspec

from stream.core.events import Item
from stream.core.outputs import TrainingExample, decode_example
from stream.core.ranking import Catalogue
from stream.core.records import Batch, PlainRecord, Source
from stream.core.step import StepSettings, step
from training.table_events import TableEvent, item_events, user_events
from training.tables import Tables

SOURCES: Final = {
    "clicks": Source.CLICK,
    "transcripts": Source.CALL,
    "purchases": Source.PURCHASE,
    "eligibility": Source.ELIGIBILITY,
}
BATCH: Final = 500
Encode = Callable[[Batch], Sequence[PlainRecord]]
"""The encoder stage: a batch of transcripts -> records of encoded calls."""


class MemoryStates:
    """State records in memory (`stream.core.users.States`)."""

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


def examples_of(tables: Tables, encode: Encode, purchase_events: int | None = None) -> list[TrainingExample]:
    """The newest example of each purchase event, in order of time."""
    items = Catalogue(msgspec.json.decode(event.value, type=Item) for event in item_events(tables))
    states, settings = MemoryStates(), StepSettings(partitions=1)
    newest: dict[bytes, bytes | None] = {}
    for batch in _batches(user_events(tables, purchase_events)):
        if batch.source is Source.CALL:
            batch = batch._replace(records=encode(batch))  # noqa: PLW2901
        outcome = step(batch, states, None, items, settings)
        states.write(outcome.writes)
        newest.update((output.key, output.value) for output in outcome.examples)
    return in_time_order(decode_example(value) for value in newest.values() if value is not None)


def in_time_order(examples: Iterable[TrainingExample]) -> list[TrainingExample]:
    return sorted(examples, key=lambda example: (example.occurred_at, example.user_id, example.purchase_id))


def _batches(events: Iterable[TableEvent]) -> Iterable[Batch]:
    """Consecutive events of one topic as batches; offsets count per topic."""
    offsets: dict[str, int] = {}
    for role, group in groupby(events, key=lambda event: event.role):
        waiting: list[PlainRecord] = []
        for event in group:
            offset = offsets[role] = offsets.get(role, -1) + 1
            waiting.append(PlainRecord(offset, event.at_ms, event.key.encode(), event.value))
        for start in range(0, len(waiting), BATCH):
            yield Batch(SOURCES[role], role, 0, 0, waiting[start : start + BATCH])
