"""A partition number must be owned for all inputs: otherwise the worker rejoins, and in the end refuses."""

import pytest
from faust.types import TP

from stream.errors import IsthmusError
from stream.kafka.faust import ownership
from stream.kafka.faust.ownership import Ownership


class Group:
    """Counts the rejoins."""

    rejoins = 0

    async def rejoin(self) -> None:
        self.rejoins += 1


async def test_an_assignment_without_an_input_is_refused_after_a_few_rejoins(monkeypatch: pytest.MonkeyPatch) -> None:
    """A complete assignment in between resets the count."""
    monkeypatch.setattr(ownership, "REJOIN_DELAY_S", 0.0)
    complete = [TP("clicks", 0), TP("purchases", 0)]
    group, checked = Group(), Ownership(["clicks", "purchases"])
    for _ in range(9):
        await checked.check(group, complete[:1])
    await checked.check(group, complete)
    for _ in range(10):
        await checked.check(group, complete[:1])
    assert group.rejoins == 19
    with pytest.raises(IsthmusError, match="partition number 0 was assigned without purchases"):
        await checked.check(group, complete[:1])
