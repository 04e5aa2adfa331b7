"""A partition number is held for all inputs, or the group is asked again, and in the end the worker refuses."""

import pytest
from faust.types import TP

from stream.errors import IsthmusError
from stream.kafka.faust import ownership
from stream.kafka.faust.ownership import Ownership


class Group:
    """Counts how often it is asked for another assignment."""

    asked = 0

    async def rejoin(self) -> None:
        self.asked += 1


async def test_an_assignment_without_an_input_is_asked_for_anew_and_refused_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole one in between is as good as any, and begins the count anew."""
    monkeypatch.setattr(ownership, "_REJOIN_S", 0.0)
    whole = [TP("clicks", 0), TP("purchases", 0)]
    group, checked = Group(), Ownership(["clicks", "purchases"])
    for _ in range(9):
        await checked.check(group, whole[:1])
    await checked.check(group, whole)
    for _ in range(10):
        await checked.check(group, whole[:1])
    assert group.asked == 19
    with pytest.raises(IsthmusError, match="partition number 0 was assigned without purchases"):
        await checked.check(group, whole[:1])
