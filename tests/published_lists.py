"""Publishes lists that identify their record, and reads the topic's final lists, for sinks on real Kafka."""

import random
from collections.abc import Iterable
from typing import Any

import msgspec
from kafka import KafkaProducer

from stream.core.outputs import Cause, Modalities, ModelName, RankedItem, Recommendation
from stream.core.partitioner import partition_of
from stream.settings import TopicSettings
from tests.system.exact import newest, read_all


def made(user: str, number: int) -> bytes:
    """Returns a list with one to five items, different for each number."""
    return msgspec.json.encode(
        Recommendation(
            recommendation_id=f"{user}-{number}",
            user_id=user,
            occurred_at=1_790_000_000_000,
            caused_by=Cause("e", "click", 0),  # type: ignore[arg-type]
            model=ModelName("fusion", "7"),
            items=tuple(RankedItem(f"item-{number}-{rank}", rank, 0.5) for rank in range(1, 1 + ranks_of(number))),
            modalities=Modalities(1, 0),
        )
    )


def ranks_of(number: int) -> int:
    return 1 + number % 5


def publish(bootstrap: str, topics: TopicSettings, rng: random.Random, count: int, users: int = 300) -> None:
    """Publishes lists and, as every tenth record on average, tombstones."""
    names = [f"u{rng.randrange(users)}" for _ in range(count)]
    send(bootstrap, topics, ((user, None if rng.random() < 0.1 else made(user, number)) for number, user in enumerate(names)))


def send(bootstrap: str, topics: TopicSettings, records: Iterable[tuple[str, bytes | None]]) -> None:
    """Sends values by user; None deletes the user's list."""
    producer: Any = KafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=5)
    for user, value in records:
        number = partition_of(user.encode(), topics.partitions)
        producer.send(topics.recommendations, key=user.encode(), value=value, partition=number)
    producer.flush()
    producer.close()


def said(bootstrap: str, topics: TopicSettings) -> dict[str, list[str]]:
    """Returns the lists of the topic: user -> items."""
    lists = newest(read_all(bootstrap, topics.recommendations))
    return {
        user.decode(): [one.item for one in msgspec.json.decode(value, type=Recommendation).items] for user, value in lists.items()
    }
