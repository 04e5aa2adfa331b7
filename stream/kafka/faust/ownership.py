"""A worker goes on only if each partition number that it owns is held for all inputs: a user's clicks and calls must meet in one
place.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from mode import get_logger

from stream.errors import IsthmusError

logger = get_logger(__name__)
_REJOINS: Final = 10
_REJOIN_S: Final = 0.5


class Ownership:
    """Checks each assignment. One that lacks an input is asked for anew a few times: the group's leader may have made it while that
    topic was being recreated, and a static member is given it again at its return.
    """

    def __init__(self, inputs: Iterable[str]) -> None:
        self._inputs = frozenset(inputs)
        self._rejoins = 0

    async def check(self, consumer: Any, assigned: Iterable[Any]) -> None:
        """Raises IsthmusError where an input of an owned partition number goes on missing."""
        try:
            check_ownership(assigned, self._inputs)
        except IsthmusError as error:
            if self._rejoins == _REJOINS:
                raise
            self._rejoins += 1
            logger.warning("%s; asking the group again", error)
            await asyncio.sleep(_REJOIN_S)
            await consumer.rejoin()
        else:
            self._rejoins = 0


def check_ownership(assigned: Iterable[Any], inputs: Iterable[str]) -> None:
    """Raises IsthmusError where an input of an owned partition number is missing (Faust only warns)."""
    wanted = set(inputs)
    held: dict[int, set[str]] = {}
    for tp in assigned:
        if tp.topic in wanted:
            held.setdefault(tp.partition, set()).add(tp.topic)
    for number, topics in sorted(held.items()):
        if topics != wanted:
            missing = ", ".join(sorted(wanted - topics))
            raise IsthmusError(
                f"partition number {number} was assigned without {missing}: give all inputs the same partition count"
            )
