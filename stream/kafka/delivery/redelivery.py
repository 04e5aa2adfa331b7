"""Which batches may hold records whose outputs were sent before, by a worker of whose states nothing was kept.

Outputs become durable before the state that they rest on (`stream.kafka.delivery.at_least_once`). A worker that dies in between
leaves lists in the topic that no state knows of; their records are handled anew, in batches of other sizes, and the list of a
larger batch may be
the one that the kept state calls the last. Not sent again, it would leave the dead worker's list standing. Once we have sent a user
a list, the last one in the topic is ours.
"""

from collections import defaultdict
from collections.abc import Iterable
from collections.abc import Set as AbstractSet

Partition = tuple[str, int]


class RedeliveryTracker:
    """Counts, partition by partition since its assignment. A worker has at most `most` records in flight; of those that the states
    do not know yet, the first `most` may be a predecessor's, and none that came after the assignment is.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._left: dict[Partition, int] = {}
        self._ends: dict[Partition, int] = {}
        self._told: defaultdict[int, set[bytes]] = defaultdict(set)

    def forget(self) -> None:
        """Called at each revocation."""
        self._left.clear()
        self._ends.clear()
        self._told.clear()

    def told(self, partition: Partition, offset: int, end: int) -> AbstractSet[bytes] | None:
        """For a batch that begins at `offset` and may hold such records: the users of the partition number who were sent a list
        since the assignment. Else None. `end` is the partition's end as the consumer knows it now.

        >>> redelivery = RedeliveryTracker(most=2)
        >>> redelivery.told(("clicks", 0), 5, 9), redelivery.told(("clicks", 0), 9, 12)
        (set(), None)
        >>> redelivery.handled(("clicks", 0), 2, [b"user"])
        >>> redelivery.told(("clicks", 0), 7, 12), redelivery.told(("calls", 0), 0, 12)
        (None, {b'user'})
        """
        may_hold = offset < self._ends.setdefault(partition, end) and self._left.setdefault(partition, self._most) > 0
        return self._told[partition[1]] if may_hold else None

    def handled(self, partition: Partition, applied: int, users: Iterable[bytes]) -> None:
        """After such a batch: so many of its events were new to the states, and these users were sent a list."""
        self._left[partition] = self._left.get(partition, self._most) - applied
        self._told[partition[1]].update(users)
