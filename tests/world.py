"""Hand-made events, an in-memory state store, and a ranker that reads all that a trained one may read: for tests of the step.

Unlike in the synthetic world, users have no tastes.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import numpy as np

from stream.core.events import STEP_INPUTS, EncodedCall, Item, Source, UserEvent
from stream.core.feedback import ACTIONS, FeedbackConfig, hash_item
from stream.core.interactions import Conversation, Interaction, Session
from stream.core.outputs import Count, Outcome, TrainingExample, decode_example
from stream.core.ranking import Catalogue, Ranker, Rows
from stream.core.records import Batch, PlainRecord
from stream.core.state import Facts, Head, decode_facts, decode_head, decode_user_feedback, facts_key, feedback_key, head_key
from stream.core.step import StepConfig, step

ITEMS = tuple(f"item-{number}" for number in range(6))
TOPICS = {row.source: row.default_name for row in STEP_INPUTS}
NOW = 1_800_000_000_000  # the broker's clock, ms
MINUTE = 60_000
WIDTH = 4  # of a test's sentence vectors


@dataclass
class OrderRanker:
    """A ranker in numpy whose representation depends on the order of interactions and clicks, the tags and the vectors."""

    version: str = "1"
    seed: int = 1
    name: str = "order"
    items: tuple[str, ...] = ITEMS
    width: int = 8
    text_model: str | None = "text-1"
    reads_sessions: bool = True

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.fingerprint = f"{self.name}-{self.seed}"
        self.prior: Rows = np.linspace(0.5, 0.1, len(self.items), dtype=np.float32)
        self._turn = rng.normal(size=(self.width, self.width)).astype(np.float32) / self.width**0.5
        self._read = rng.normal(size=(WIDTH + 2, self.width)).astype(np.float32)
        self._head = rng.normal(size=(self.width, len(self.items))).astype(np.float32)

    def initial(self) -> Rows:
        return np.zeros(self.width, dtype=np.float32)

    def advance_many(self, representations: Rows, interactions: Sequence[Interaction]) -> Rows:
        features = np.stack([self._features(interaction) for interaction in interactions])
        rows: Rows = np.tanh(representations @ self._turn + features @ self._read).astype(np.float32)
        return rows

    def encode_many(self, histories: Sequence[Sequence[Interaction]]) -> Rows:
        rows = np.zeros((len(histories), self.width), dtype=np.float32)
        for row, history in enumerate(histories):
            for interaction in history:
                rows[row] = self.advance_many(rows[row : row + 1], [interaction])[0]
        return rows

    def rank_many(self, representations: Rows) -> Rows:
        scores: Rows = (1 / (1 + np.exp(-representations @ self._head))).astype(np.float32)
        return scores

    def _features(self, interaction: Interaction) -> Rows:
        if isinstance(interaction, Conversation):
            return np.concatenate([interaction.vector()[:WIDTH], [len(interaction.keywords), 1]]).astype(np.float32)
        tags = sum((weight(tag) for tag in interaction.tags), 0.0)
        order = sum(index * weight(tag) for index, (_, all_tags) in enumerate(interaction.clicks()) for tag in all_tags)
        return np.array([tags, order % 1, len(interaction.tags) / 9, 0, 0, -1], dtype=np.float32)


def weight(tag: str) -> float:
    return (sum(tag.encode()) * 37 % 101) / 101


@dataclass
class Store:
    """State records of one partition in memory. `apply` writes a step's outcome to it as a worker would."""

    records: dict[bytes, bytes] = field(default_factory=dict)
    recommendations: dict[bytes, bytes | None] = field(default_factory=dict)
    examples: dict[bytes, bytes | None] = field(default_factory=dict)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.records.get(key) for key in keys]

    def apply(self, outcome: Outcome) -> None:
        for key, value in outcome.writes.items():
            if value is None:
                self.records.pop(key, None)
            else:
                self.records[key] = value
        self.recommendations.update((output.key, output.value) for output in outcome.recommendations)
        self.examples.update((output.key, output.value) for output in outcome.examples)

    def newest_examples(self) -> dict[bytes, TrainingExample]:
        """By key, without the revision: how often an example was revised depends on the order of arrival."""
        examples = {key: decode_example(value) for key, value in self.examples.items() if value is not None}
        return {key: msgspec.structs.replace(example, revision=0) for key, example in examples.items()}

    def last_list(self, user: str = "u") -> tuple[str, ...]:
        value = self.recommendations.get(user.encode())
        return () if value is None else tuple(item["item"] for item in msgspec.json.decode(value)["items"])


def settings(**changes: object) -> StepConfig:
    feedback = FeedbackConfig(placements=("hero",), channels=("web",))
    return StepConfig(**{"partitions": 1, "feedback": feedback, **changes})  # type: ignore[arg-type]


def catalogue(**items: bool) -> Catalogue:
    """The test's items; keywords such as item_0=True make them repeatable."""
    return Catalogue(Item(item, item, repeatable=items.get(item.replace("-", "_"), False)) for item in ITEMS)


def encode(event: UserEvent) -> bytes:
    return msgspec.msgpack.encode(event) if isinstance(event, EncodedCall) else msgspec.json.encode(event)


def call(
    conversation_id: str,
    started_at: int,
    ended_at: int,
    seed: int = 0,
    *,
    user: str = "u",
    offset: int = 0,
    text_model: str = "text-1",
) -> EncodedCall:
    vector = np.random.default_rng(seed).normal(size=WIDTH).astype("<f4")
    return EncodedCall(
        user_id=user,
        conversation_id=conversation_id,
        started_at=started_at,
        ended_at=ended_at,
        event_id=f"{conversation_id}-{ended_at}-{seed}",
        sentences=2,
        vector_sum=vector.tobytes(),
        keywords=(f"word{seed % 5}",),
        text_model=text_model,
        origin_topic="call-transcripts",
        origin_epoch=1,
        origin_partition=0,
        origin_offset=offset,
        has_event_id=False,
    )


def batch_of(source: Source, events: Iterable[tuple[int, UserEvent]], *, epoch: int = 1, now: int = NOW) -> Batch:
    """A batch of (offset, event) on partition 0."""
    records = [PlainRecord(offset, now, event.user_id.encode(), encode(event)) for offset, event in events]
    return Batch(source, TOPICS[source], epoch, 0, records)


def run(
    store: Store,
    batch: Batch,
    ranker: Ranker | None = None,
    items: Catalogue | None = None,
    config: StepConfig | None = None,
) -> Outcome:
    """One step; applies its outcome to the store."""
    outcome = step(batch, store, ranker, catalogue() if items is None else items, config or settings())
    store.apply(outcome)
    return outcome


def deliver(
    store: Store, deliveries: Sequence[tuple[Source, UserEvent]], ranker: Ranker | None = None, items: Catalogue | None = None
) -> Counter[Count]:
    """One batch per event, with offsets counted per source; calls carry their own."""
    offsets: dict[Source, int] = {}
    counts = Counter[Count]()
    for source, event in deliveries:
        offset = offsets[source] = offsets.get(source, -1) + 1
        counts += run(store, batch_of(source, [(offset, event)]), ranker, items).counts
    return counts


def history_of(store: Store, user: str = "u") -> list[object]:
    """The user's whole history in a form that does not depend on how it is stored; the feedback last, if there is any."""
    stored_head, stored_facts = store.get_many([head_key(user.encode()), facts_key(user.encode())])
    head = Head() if stored_head is None else decode_head(stored_head)
    facts = Facts() if stored_facts is None else decode_facts(stored_facts)
    views: list[object] = []
    for interaction in [*facts.interactions, *head.tail]:
        if isinstance(interaction, Session):
            views.append((interaction.order, interaction.ended_at, sorted(interaction.tags), interaction.clicks()))
        else:
            views.append((interaction.order, interaction.ended_at, interaction.parts))
    purchases = [(kept.occurred_at, kept.purchase_id, kept.bought, kept.items) for kept in facts.purchases]
    lists = [(kept.occurred_at, kept.excluded) for kept in facts.eligibility]
    feedback = feedback_of(store, user)
    return [*views, purchases, head.owned, head.excluded, lists, *([feedback] if feedback else [])]


class Marked(NamedTuple):
    """One item of a feedback event as a test sees it; see `stream.core.feedback.Mark`."""

    at: int
    item: str
    action: str
    rank: int
    placement: int
    channel: int
    model_version: str


def feedback_of(store: Store, user: str = "u") -> list[Marked]:
    """The user's feedback with the test's items by their names, and others by their hashes."""
    (stored,) = store.get_many([feedback_key(user.encode())])
    if stored is None:
        return []
    names = {hash_item(item): item for item in ITEMS}
    marks = decode_user_feedback(stored).marks
    return sorted(Marked(one.at_ms, names.get(one.item, one.item.hex()), ACTIONS[one.action], *one[3:-1]) for one in marks)
