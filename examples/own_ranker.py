"""A ranker without a trained network: an item scores by how many of its catalogue words the user's action tags contain.

`python -m examples.own_ranker` runs three clicks through the pure step with it. docs/guides/ranker.md explains the protocol.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from stream.core.events import Item, Source
from stream.core.interactions import Interaction, Session
from stream.core.ranking import Catalogue, Rows
from stream.core.records import Batch, PlainRecord
from stream.core.step import StepConfig, step


@dataclass
class WordRanker:
    """A representation counts, per item, the distinct tags of each session that are words of the item."""

    catalogue: Catalogue
    name: str = "words"
    version: str = "1"
    fingerprint: str = "words-1"  # change it whenever the scores could change
    text_model: str | None = None  # conversations are not read
    reads_sessions: bool = True
    items: tuple[str, ...] = field(init=False)
    width: int = field(init=False)
    prior: Rows = field(init=False)

    def __post_init__(self) -> None:
        self.items = tuple(self.catalogue.items)
        self.width = len(self.items)
        self.prior = np.full(len(self.items), 1 / len(self.items), dtype=np.float32)
        self._words = [set(f"{item.name} {item.text or ''}".lower().split()) for item in self.catalogue.items.values()]

    def initial(self) -> Rows:
        return np.zeros(self.width, dtype=np.float32)

    def advance_many(self, representations: Rows, interactions: Sequence[Interaction]) -> Rows:
        rows: Rows = representations + np.array([self._counts(one) for one in interactions], dtype=np.float32)
        return rows

    def encode_many(self, histories: Sequence[Sequence[Interaction]]) -> Rows:
        rows = np.zeros((len(histories), self.width), dtype=np.float32)
        for row, history in enumerate(histories):
            for interaction in history:
                rows[row] = self.advance_many(rows[row], [interaction])[0]
        return rows

    def rank_many(self, representations: Rows) -> Rows:
        scores: Rows = representations / (1 + representations)
        return scores

    def _counts(self, interaction: Interaction) -> list[int]:
        tags = set(interaction.tags) if isinstance(interaction, Session) else set()
        return [len(tags & words) for words in self._words]


class MemoryStates:
    """No user has a state yet."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [None] * len(keys)


def main() -> None:
    catalogue = Catalogue([Item("4", "Travel insurance", "for trips abroad"), Item("18", "Dog insurance", "covers vet bills")])
    now_ms = 1_790_000_000_000
    clicks = [
        {"user_id": "c-17", "occurred_at": now_ms, "tags": ["pets", "dog"]},
        {"user_id": "c-17", "occurred_at": now_ms + 1_000, "tags": ["vet", "price"]},
        {"user_id": "c-18", "occurred_at": now_ms + 2_000, "tags": ["travel"]},
    ]
    records = [
        PlainRecord(offset, now_ms + 5_000, str(click["user_id"]).encode(), json.dumps(click).encode())
        for offset, click in enumerate(clicks)
    ]
    batch = Batch(Source.CLICK, "web-clicks", epoch=1, partition=0, records=records)
    outcome = step(batch, MemoryStates(), WordRanker(catalogue), catalogue, StepConfig(partitions=1))
    for output in outcome.recommendations:
        print(output.value.decode() if output.value else "erased")


if __name__ == "__main__":
    main()
