"""Where the last fetch left each partition, so that nobody seeks an offset of it in another assignment.

Such an offset may lie beyond records that nobody was given, which would be passed over, or before some that another worker has
applied. aiokafka has one state object of a partition for each assignment.
"""

from collections.abc import Iterable
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition


class FetchedPositions:
    """Used in the consumer's thread, in which partitions are assigned; without an `await` between `holds` and a seek."""

    def __init__(self) -> None:
        self._fetched: dict[TopicPartition, tuple[Any, int]] = {}

    def note(self, consumer: AIOKafkaConsumer, tps: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Notes where a fetch has left partitions; returns the positions of those that have one."""
        states = {tp: _state(consumer, tp) for tp in tps}
        self._fetched = {
            tp: (state, state.position) for tp, state in states.items() if state is not None and state.has_valid_position
        }
        return {tp: position for tp, (_, position) in self._fetched.items()}

    def holds(self, consumer: AIOKafkaConsumer, tp: TopicPartition) -> bool:
        """Whether a partition is still where the last fetch left it: neither assigned anew, nor sought."""
        state, position = self._fetched.get(tp, (None, 0))
        return state is not None and _state(consumer, tp) is state and state.has_valid_position and state.position == position


def _state(consumer: AIOKafkaConsumer, tp: TopicPartition) -> Any:
    subscription = consumer._subscription.subscription
    return None if subscription is None or subscription.assignment is None else subscription.assignment.state_value(tp)
