"""Which batches may hold records whose outputs were sent before, by a worker of whose states nothing was kept.

Outputs become durable before the state that they rest on (`stream.broker.finishing`). A worker that dies in between leaves lists in
the topic that no state knows of; their records are handled anew, in batches of other sizes, and the list of a larger batch may be
the one that the kept state calls the last. Not sent again, it would leave the dead worker's list standing.
"""

from collections.abc import Hashable


class Redelivery:
    """Counts, partition by partition since its assignment. A worker has at most `most` records in flight; of those that the states
    do not know yet, the first `most` may be a predecessor's, and none that came after the assignment is.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._left: dict[Hashable, int] = {}
        self._ends: dict[Hashable, int] = {}

    def forget(self) -> None:
        """Called at each revocation."""
        self._left.clear()
        self._ends.clear()

    def may_hold(self, partition: Hashable, offset: int, end: int) -> bool:
        """Whether a batch that begins at `offset` may; `end` is the partition's end as the consumer knows it now.

        >>> redelivery = Redelivery(most=2)
        >>> redelivery.may_hold("clicks-0", 5, 9), redelivery.may_hold("clicks-0", 9, 12)
        (True, False)
        >>> redelivery.applied("clicks-0", 2)
        >>> redelivery.may_hold("clicks-0", 7, 12)
        False
        """
        return offset < self._ends.setdefault(partition, end) and self._left.setdefault(partition, self._most) > 0

    def applied(self, partition: Hashable, events: int) -> None:
        """So many events of a batch were new to the states."""
        self._left[partition] = self._left.get(partition, self._most) - events
