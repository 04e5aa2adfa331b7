"""How old a store is that several replicas fill: read from the store itself, because each of them follows a part of it only."""

import asyncio
from collections.abc import Callable
from itertools import starmap
from typing import Final, Protocol

from stream.api.store import Position, Store, StoreAwayError, Table

EVERY_S: Final = 1.0
"""How often positions are read, and written by those who follow: an answer's age is up to twice as much."""


class SharedStore(Store, Protocol):
    """A store on servers."""

    async def servers(self) -> frozenset[str]:
        """Returns the ids of the server processes that hold the rows."""
        ...


class SharedAge:
    """The positions of all partitions, as of the last look.

    Attributes:
        is_away: Whether the store did not answer then.
    """

    def __init__(self, store: SharedStore, partitions: int, clock_ms: Callable[[], int]) -> None:
        self._store = store
        self._partitions = [(table, number) for table in Table for number in range(partitions)]
        self._clock_ms = clock_ms
        self._began_ms = clock_ms()
        self._positions: list[Position | None] = []
        self._servers: frozenset[str] = frozenset()
        self._caught_up = False
        self._lost = 0
        self._wrong: str | None = "the store was not asked yet"
        self.is_away = False

    def age_ms(self) -> int:
        """How old the answers may be."""
        oldest = min((0 if position is None else position.as_of_ms for position in self._positions), default=0)
        return max(0, self._clock_ms() - oldest)

    def missing(self) -> str | None:
        """Why the store must not be answered from; None where it may."""
        return self._wrong

    def distrust(self) -> None:
        """Keeps everybody from reading until a look that begins now: a server that ended may come back with older contents."""
        self._lost += 1
        self._wrong = "the connection to the store was lost"

    async def run(self) -> None:
        """Looks for ever."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY_S)

    async def look(self) -> None:
        lost = self._lost
        try:
            positions = [await self._store.position(*partition) for partition in self._partitions]
            servers = await self._store.servers()  # after the positions: another server may answer in between
        except StoreAwayError as error:
            self._wrong, self.is_away = str(error), True
            return
        if servers != self._servers or any(starmap(_went_back, zip(self._positions, positions, strict=False))):
            self._caught_up, self._began_ms = False, self._clock_ms()
        self._positions, self._servers = positions, servers
        self.is_away, problem = False, self._problem()
        if lost == self._lost:  # what was asked before the connection ended says nothing of the server that comes back
            self._wrong = problem

    def _problem(self) -> str | None:
        """What is wrong with the positions. At first, and on other servers than before, all of them must be of the present: a store
        that nobody has filled for weeks looks complete, and so does one that came back with old contents, or took over without the
        last ones.
        """
        count = len(self._positions)
        unread = sum(position is None or not position.complete for position in self._positions)
        if unread:
            return f"{unread} of {count} partitions are not read to their end yet"
        old = sum(position.as_of_ms < self._began_ms for position in self._positions if position is not None)
        self._caught_up = self._caught_up or not old
        if self._caught_up:
            return None
        return (
            f"{old} of {count} partitions were not read to their end since this process began, or the store may have lost something"
        )


def _went_back(former: Position | None, position: Position | None) -> bool:
    """Whether a store lost what was written: it came back empty, or from an older copy. Its writers never move a position back."""
    if former is None or position is None:
        return former is not None
    return position.as_of_ms < former.as_of_ms or (position.same_pass(former) and position.next_offset < former.next_offset)
