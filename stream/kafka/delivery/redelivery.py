"""Which batches may contain records whose outputs a previous worker sent although it never made their states durable.

At least once, outputs become durable before their states. A worker that dies in between leaves lists in the topic that no state
knows of. Its successor processes those records again, in batches of other sizes, and may come to the list that the durable state
already calls the last one. Were that list suppressed as unchanged, the dead worker's list would stay the newest in the topic. Once
this worker has sent a user a list, the newest one in the topic is its own.
"""

from collections import defaultdict
from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from stream.kafka.cluster.partition import Partition


class RedeliveryTracker:
    """Tracks, per partition and since its assignment, whether records may be redeliveries.

    A worker has at most `max_in_flight` records of a partition in flight, so only the first `max_in_flight` records that the states
    have not applied can be redeliveries, and only if they existed at the assignment.
    """

    def __init__(self, max_in_flight: int) -> None:
        self._max_in_flight = max_in_flight
        self._remaining: dict[Partition, int] = {}
        self._ends: dict[Partition, int] = {}
        self._notified: defaultdict[int, set[bytes]] = defaultdict(set)

    def reset(self) -> None:
        """Called at each revocation."""
        self._remaining.clear()
        self._ends.clear()
        self._notified.clear()

    def notified_users(self, partition: Partition, offset: int, end: int) -> AbstractSet[bytes] | None:
        """For a batch that begins at `offset` and may be a redelivery: the users of its partition number who were sent a list since
        the assignment; else None. `end` is the partition's end offset as the consumer knows it now.

        >>> redelivery = RedeliveryTracker(max_in_flight=2)
        >>> redelivery.notified_users(("clicks", 0), 5, 9), redelivery.notified_users(("clicks", 0), 9, 12)
        (set(), None)
        >>> redelivery.processed(("clicks", 0), 2, [b"user"])
        >>> redelivery.notified_users(("clicks", 0), 7, 12), redelivery.notified_users(("calls", 0), 0, 12)
        (None, {b'user'})
        """
        existed = offset < self._ends.setdefault(partition, end)
        may_repeat = existed and self._remaining.setdefault(partition, self._max_in_flight) > 0
        return self._notified[partition[1]] if may_repeat else None

    def processed(self, partition: Partition, applied: int, users: Iterable[bytes]) -> None:
        """Called after such a batch: how many of its events the states had not applied, and which users were sent a list."""
        self._remaining[partition] = self._remaining.get(partition, self._max_in_flight) - applied
        self._notified[partition[1]].update(users)
