"""Deliveries as a broker and a dying worker make them: interleaved topics, timestamps at random, states lost, outputs kept."""

from collections.abc import Mapping, Sequence

import numpy as np

from stream.core.events import EncodedCall, Erasure, Source, UserEvent
from stream.core.outputs import Outcome
from stream.core.records import Batch, PlainRecord
from stream.core.step import step
from tests import world
from tests.properties.naive_history import time

Positions = dict[Source, int]


def broker_time(event: UserEvent, rng: np.random.Generator, *, is_repeated: bool = False) -> int:
    """A timestamp up to 4 minutes before the event (the limit is 5) and up to 20 hours after it (allowed lateness: a day).

    The first record of an erasure without a time has the one that its id says. The others are later.
    """
    moment = event.ended_at if isinstance(event, EncodedCall) else time(event)
    if isinstance(event, Erasure) and event.occurred_at is None:
        return moment + (int(rng.integers(1_200 * world.MINUTE)) if is_repeated else 0)
    return moment + int(rng.integers(-4 * world.MINUTE, 1_200 * world.MINUTE))


class Delivery:
    """One worker after another delivers the topics to one user. A worker dies with all states that were not durable yet.

    Outputs become durable before their states, and of the last batch perhaps some only. A successor reads on from committed
    offsets, which may be older than its states. No worker that dies reads the `withheld` topic, and the last one reads it first:
    what was sent from lost states meets events that nobody had read.
    """

    def __init__(
        self, topics: Mapping[Source, Sequence[UserEvent]], rng: np.random.Generator, withheld: Source | None = None
    ) -> None:
        self._withheld = withheld
        self.store = world.Store()
        self._rng = rng
        self._records = {
            source: [
                PlainRecord(offset, broker_time(event, rng, is_repeated=event in events[:offset]), b"u", world.encode(event))
                for offset, event in enumerate(events)
            ]
            for source, events in topics.items()
        }
        self._positions: Positions = dict.fromkeys(topics, 0)
        self._ends: Positions = dict.fromkeys(topics, 0)
        """Up to where a dead worker may have read."""
        self._notified: set[bytes] = set()
        self._snapshots = [(dict(self.store.records), dict(self._positions))]
        self._durable = 0
        self._ranker = world.OrderRanker()

    def run(self, crashes: int) -> world.Store:
        while waiting := self._waiting():
            read = [source for source in waiting if source is not self._withheld or not crashes] or waiting
            if self._withheld in read and not crashes:
                read = [self._withheld]
            outcome = self._deliver(read[int(self._rng.integers(len(read)))])
            if crashes and (self._rng.random() < 0.25 or set(self._waiting()) <= {self._withheld}):
                crashes -= 1
                self._die(outcome)
                continue
            self.store.apply(outcome)
            self._notified.update(output.key for output in outcome.recommendations)
            self._snapshots.append((dict(self.store.records), dict(self._positions)))
        return self.store

    def _waiting(self) -> list[Source]:
        return [source for source, records in self._records.items() if self._positions[source] < len(records)]

    def _deliver(self, source: Source) -> Outcome:
        """One batch of one to three records of a topic."""
        start = self._positions[source]
        records = self._records[source][start : start + int(self._rng.integers(1, 4))]
        self._positions[source] += len(records)
        notified = self._notified if start < self._ends[source] else None
        batch = Batch(source, world.TOPICS[source], 1, 0, records, notified)
        return step(batch, self.store, self._ranker, world.catalogue(), world.settings())

    def _die(self, outcome: Outcome) -> None:
        """The last batch's outputs are sent in part or whole, and its state is lost with all others that are not durable."""
        sent = Outcome(
            recommendations=outcome.recommendations[: int(self._rng.integers(len(outcome.recommendations) + 1))],
            examples=outcome.examples[: int(self._rng.integers(len(outcome.examples) + 1))],
        )
        self.store.apply(sent)
        self._durable = int(self._rng.integers(self._durable, len(self._snapshots)))
        self._ends = {source: max(end, self._positions[source]) for source, end in self._ends.items()}
        self.store.records = dict(self._snapshots[self._durable][0])
        committed = int(self._rng.integers(self._durable + 1))
        self._positions = {
            source: int(self._rng.integers(min(position, self._snapshots[committed][1][source]), position + 1))
            for source, position in self._snapshots[self._durable][1].items()
        }
        self._notified = set()
        del self._snapshots[self._durable + 1 :]
