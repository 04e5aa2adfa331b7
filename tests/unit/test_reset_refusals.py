"""What a reset says where the broker refuses, or where a later version wrote what it must keep."""

from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka import TopicPartition
from kafka.errors import (
    CoordinatorNotAvailableError,
    GroupAuthorizationFailedError,
    GroupIdNotFoundError,
    NoError,
    UnknownMemberIdError,
)

from stream.core.state import ERASURE_MARKER_PREFIX
from stream.errors import IsthmusError
from stream.kafka.cluster import group_reset
from stream.kafka.cluster.group_reset import members_of, set_offsets
from stream.services.reset.holdings import STATES, Holdings
from stream.services.reset.markers import require_readable_markers
from stream.settings import Settings

PLACE = ("web-clicks", 0)


class Admin:
    """Answers with one error after the other; the last one for ever."""

    def __init__(self, *errors: Any) -> None:
        self._errors = list(errors)

    def alter_group_offsets(self, _: str, offsets: dict[TopicPartition, Any]) -> dict[TopicPartition, Any]:
        return dict.fromkeys(offsets, self._errors.pop(0) if len(self._errors) > 1 else self._errors[0])

    def describe_groups(self, _: list[str]) -> dict[str, Any]:
        raise self._errors[0]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_reset, "_COORDINATOR_S", 0.0)
    monkeypatch.setattr(group_reset, "_AGAIN_S", 0.0)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UnknownMemberIdError, "the group workers has members again: stop them, then run the command again, which goes on"),
        (GroupAuthorizationFailedError, r"could not be set \(GroupAuthorizationFailedError\): run the command again"),
        (CoordinatorNotAvailableError, r"could not be set \(CoordinatorNotAvailableError\): run the command again"),
    ],
)
def test_offsets_that_cannot_be_set_are_refused_in_words(error: Any, said: str) -> None:
    """A worker that started meanwhile; a missing right; a broker that keeps no groups yet."""
    with pytest.raises(IsthmusError, match=said):
        set_offsets(Admin(error), "workers", {PLACE: (3, "")})


def test_a_new_broker_is_asked_again_until_it_keeps_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers after a while."""
    monkeypatch.setattr(group_reset, "_COORDINATOR_S", 60.0)
    set_offsets(Admin(CoordinatorNotAvailableError, CoordinatorNotAvailableError, NoError), "workers", {PLACE: (3, "")})


def test_a_group_that_does_not_exist_has_no_members_and_one_that_no_broker_keeps_is_an_error() -> None:
    """The second may have some."""
    assert members_of(Admin(GroupIdNotFoundError()), ["workers"]) == []
    with pytest.raises(IsthmusError, match="no broker keeps the groups yet"):
        members_of(Admin(CoordinatorNotAvailableError()), ["workers"])


class Record(msgspec.Struct):
    key: bytes
    value: bytes
    partition: int = 0
    offset: int = 0
    headers: tuple[Any, ...] = ()


class Reader:
    """Holds one changelog record."""

    def __init__(self, record: Record) -> None:
        self._record = record

    def starts(self, _: str) -> dict[int, int]:
        return {0: 0}

    def records(self, topic: str, _: dict[int, int]) -> list[Record]:
        return [self._record] if topic.endswith("changelog") else []


def test_a_marker_of_a_later_version_is_refused(tmp_path: Path) -> None:
    """Without it, an erased user would be back."""
    reader: Any = Reader(Record(ERASURE_MARKER_PREFIX + bytes(16), b"\x01of a later version"))
    with closing(Holdings(str(tmp_path / "db"), Settings())) as holdings:
        holdings.read_on(reader, lambda _: None)
        assert len(list(holdings.items(STATES, 0))) == 1
        with pytest.raises(IsthmusError, match="an erasure marker cannot be read: a later version wrote it"):
            require_readable_markers(holdings, [0], b"key")
