"""A worker may only go on if it owns each of its partition numbers for all inputs: a user's clicks and calls share one state."""

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, Final, Protocol

from stream.errors import IsthmusError

logger = logging.getLogger(__name__)
MAX_REJOINS: Final = 10
REJOIN_DELAY_S: Final = 0.5


class GroupMember(Protocol):
    async def rejoin(self) -> None:
        """Asks the group for a new assignment."""
        ...


class Ownership:
    """Checks each assignment, and rejoins the group a few times if an input is missing from it.

    The group's leader may have computed the assignment while that topic was being recreated, and a static member that returns is
    given its old assignment again.
    """

    def __init__(self, inputs: Iterable[str]) -> None:
        self._inputs = frozenset(inputs)
        self._rejoins = 0

    async def check(self, consumer: GroupMember, assigned: Iterable[Any]) -> None:
        """Checks the assigned topic partitions.

        Raises:
            IsthmusError: an input of an owned partition number is still missing after `MAX_REJOINS` rejoins.
        """
        try:
            check_ownership(assigned, self._inputs)
        except IsthmusError as error:
            if self._rejoins == MAX_REJOINS:
                raise
            self._rejoins += 1
            logger.warning("%s; asking the group for another assignment", error)
            await asyncio.sleep(REJOIN_DELAY_S)
            await consumer.rejoin()
        else:
            self._rejoins = 0


def check_ownership(assigned: Iterable[Any], inputs: Iterable[str]) -> None:
    """Checks that each owned partition number is assigned for all inputs, about which Faust only warns.

    Raises:
        IsthmusError: an input is missing.
    """
    wanted = set(inputs)
    owned: dict[int, set[str]] = {}
    for tp in assigned:
        if tp.topic in wanted:
            owned.setdefault(tp.partition, set()).add(tp.topic)
    for number, topics in sorted(owned.items()):
        if topics != wanted:
            missing = ", ".join(sorted(wanted - topics))
            raise IsthmusError(
                f"partition number {number} was assigned without {missing}: give all inputs the same partition count"
            )
