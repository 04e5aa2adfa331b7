"""How old a shared store is, and whether it may be answered from, as its positions tell."""

from typing import cast

import msgspec

from stream.api.shared_age import SharedAge, SharedStore
from stream.api.store import Position, StoreAwayError, Table

NOW = 1_790_000_000_000
CURRENT = Position(epoch=1, next_offset=50, as_of_ms=NOW, complete=True)


class Positions:
    """A store of which only the positions are read: the same for every partition."""

    position_of_all: Position | None = CURRENT
    away = False

    async def position(self, table: Table, partition: int) -> Position | None:
        del table, partition
        if self.away:
            raise StoreAwayError("away")
        return self.position_of_all

    async def servers(self) -> frozenset[str]:
        return frozenset({"one"})


async def test_a_store_with_old_contents_is_not_ready_until_it_was_filled_again() -> None:
    """A server that restarts from an older copy says that it is complete, but may hold users who were erased since."""
    store, clock = Positions(), [NOW]
    age = SharedAge(cast("SharedStore", store), 2, lambda: clock[0])
    await age.look()
    assert age.missing() is None
    clock[0] += 1_000
    store.position_of_all = msgspec.structs.replace(CURRENT, next_offset=10, as_of_ms=NOW - 600_000)
    await age.look()
    assert "may have lost something" in (age.missing() or "")
    store.position_of_all = msgspec.structs.replace(CURRENT, as_of_ms=clock[0])
    await age.look()
    assert age.missing() is None


async def test_a_broker_that_is_away_leaves_the_store_ready() -> None:
    """Its positions stay where they are: the answers say their age."""
    clock = [NOW]
    age = SharedAge(cast("SharedStore", Positions()), 2, lambda: clock[0])
    await age.look()
    clock[0] += 3_600_000
    await age.look()
    assert age.missing() is None
    assert age.age_ms() == 3_600_000


async def test_a_store_that_does_not_answer_is_away_until_it_does() -> None:
    """The alert's gauge; nothing may be read meanwhile."""
    store = Positions()
    age = SharedAge(cast("SharedStore", store), 2, lambda: NOW)
    store.away = True
    await age.look()
    assert (age.is_away, age.missing()) == (True, "away")
    store.away = False
    await age.look()
    assert (age.is_away, age.missing()) == (False, None)


async def test_a_look_that_began_before_the_connection_ended_does_not_open_the_store() -> None:
    """What it asked, the server that is gone has answered; the one that comes back may hold an older copy."""

    class Ending(Positions):
        async def servers(self) -> frozenset[str]:
            age.distrust()
            return await super().servers()

    age = SharedAge(cast("SharedStore", Positions()), 2, lambda: NOW)
    await age.look()
    age._store = cast("SharedStore", Ending())
    await age.look()
    assert age.missing() == "the connection to the store was lost"
    age._store = cast("SharedStore", Positions())
    await age.look()
    assert age.missing() is None
