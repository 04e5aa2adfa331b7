"""What `isthmus backfill switch` carries over of erasures that the new application has not read: markers, and erasures of users of
whom it holds anything.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec
import pytest

from stream.core.events import Click, Erasure, Feedback, Source
from stream.core.state import ErasureMarker, decode_erasure_marker, encode_state, erasure_marker_key
from stream.errors import IsthmusError
from stream.services.backfill import erasures
from stream.services.backfill.erasures import Both, ErasuresRead, carry_erasures
from stream.services.reset.holdings import Holdings
from stream.settings import Settings, load
from tests import world
from tests.world import MINUTE, NOW, Store

ERASED_AT = NOW - 30 * MINUTE
USERS = ("history", "feedback", "list", "later", "unknown")


def key_of(user: str) -> bytes:
    return erasure_marker_key(user.encode(), b"isthmus")


class Reader:
    """Holds the states and lists of one application."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def starts(self, _: str) -> dict[int, int]:
        return {0: 0}

    def records(self, topic: str, _: Mapping[int, int]) -> list[Any]:
        found = self._store.records if topic.endswith("changelog") else self._store.recommendations
        return [
            SimpleNamespace(key=key, value=value, partition=0, offset=offset, headers=())
            for offset, (key, value) in enumerate(found.items())
        ]


class Carried(NamedTuple):
    said: str
    erased: set[str]
    markers: dict[bytes, ErasureMarker]


@pytest.fixture
def former() -> Store:
    """Erased all users at one moment; one came back. Of each, the erasure has no time, so that the marker holds its id."""
    store = Store()
    requests = [(offset, Erasure(user, None, user)) for offset, user in enumerate(USERS)]
    world.run(store, world.batch_of(Source.ERASURE, requests, now=ERASED_AT))
    world.run(store, world.batch_of(Source.CLICK, [(0, Click("history", NOW, ("t",)))]))
    return store


@pytest.fixture
def new() -> Store:
    """Holds history, feedback or a list from before; of one user only what came later; of another nothing."""
    store = Store()
    clicks = [Click("history", ERASED_AT - 1, ("t",)), Click("later", ERASED_AT + 1, ("t",))]
    world.run(store, world.batch_of(Source.CLICK, list(enumerate(clicks))))
    world.run(store, world.batch_of(Source.FEEDBACK, [(0, Feedback("feedback", ERASED_AT - 1, "web", "shown", ("item-1",)))]))
    store.recommendations[b"list"] = b"{}"
    return store


def carry(
    former: Store,
    new: Store,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    read: ErasuresRead | None = None,
    topic: tuple[str, ...] = (),
    **step: Any,
) -> Carried:
    """`topic`: of whom the topic holds erasures."""
    settings = Settings()
    changes = {"topics": settings.topics.model_copy(update={"partitions": 1}), "step": settings.step.model_copy(update=step)}
    settings, successor = settings.model_copy(update=changes), load(application="shop")
    erased, markers = set[str](), dict[bytes, ErasureMarker]()

    async def produce(_: str, events: Any, *__: Any) -> None:
        erased.update(msgspec.json.decode(event.value, type=Erasure).user_id for event in events)

    async def write_markers(_: Settings, found: Mapping[int, Mapping[bytes, ErasureMarker]], __: Any) -> None:
        markers.update(found[0])

    @contextmanager
    def reader(_: str) -> Iterator[Any]:
        records = [SimpleNamespace(key=one.encode(), value=b"{}", offset=0, partition=0) for one in topic]
        yield SimpleNamespace(records=lambda _: records)

    monkeypatch.setattr(erasures, "produce", produce)
    monkeypatch.setattr(erasures, "write_markers", write_markers)
    monkeypatch.setattr(erasures, "open_topic_reader", reader)
    monkeypatch.setattr(erasures, "admin_client", lambda _: SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(erasures, "members_of", lambda *_: [])
    with ExitStack() as stack:
        both = [
            stack.enter_context(closing(Holdings(str(folder / name), one))) for name, one in (("f", settings), ("n", successor))
        ]
        for holdings, store in zip(both, (former, new), strict=True):
            holdings.read_on(Reader(store), lambda _: None)  # type: ignore[arg-type]
        try:
            carry_erasures(settings, successor, Both(*both), read or ErasuresRead({0: 1}, 0))
        except IsthmusError as error:
            return Carried(str(error), erased, markers)
    return Carried("", erased, markers)


def test_whatever_the_new_application_holds_of_an_erased_user_is_erased(
    former: Store, new: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And all markers are written, with the ids that they know. Once it has read the erasures, nothing is left to do."""
    carried = carry(former, new, tmp_path / "1", monkeypatch)
    assert carried.said.startswith("5 erasures were carried over")
    assert carried.erased == {"history", "feedback", "list", "later"}
    assert carried.markers.keys() == {key_of(user) for user in USERS}
    assert all(
        marker.erased_at == ERASED_AT and len(marker.erasure_ids) == 6 and not marker.applied for marker in carried.markers.values()
    )
    new.records.update((key, encode_state(marker)) for key, marker in carried.markers.items())
    unread = carry(former, new, tmp_path / "2", monkeypatch, ErasuresRead({0: 1}, 4))
    assert unread == ("shop has not read 4 erasures yet: let its workers read them, then run this again", set(), {})
    lost = carry(former, new, tmp_path / "3", monkeypatch)
    assert (lost.erased, lost.markers) == ({"history", "feedback", "later"}, {}), "they left the topic before they were read"
    events = [(offset, Erasure(user, ERASED_AT, f"carried-{user}")) for offset, user in enumerate(sorted(carried.erased))]
    outcome = world.run(new, world.batch_of(Source.ERASURE, events))
    assert {one.key for one in outcome.recommendations if one.value is None} == {user.encode() for user in carried.erased}
    new.recommendations = {key: value for key, value in new.recommendations.items() if value is not None}
    assert carry(former, new, tmp_path / "4", monkeypatch).said == ""
    assert decode_erasure_marker(new.records[key_of("history")]).erasure_ids == carried.markers[key_of("history")].erasure_ids


def test_a_marker_that_has_expired_erases_nobody_anew(
    former: Store, new: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user may have come back under the bound."""
    for key in [key_of(user) for user in USERS]:
        marker = msgspec.structs.replace(decode_erasure_marker(former.records[key]), written_at=1)
        former.records[key] = new.records[key] = encode_state(marker)
    assert carry(former, new, tmp_path / "1", monkeypatch, marker_retention_s=60).said == ""
    assert carry(former, new, tmp_path / "2", monkeypatch).erased == {"history", "feedback", "later"}


def test_erasures_that_were_read_and_left_no_marker_show_another_key(
    former: Store, new: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those beyond what the new application has read do not, nor those of which it has an earlier marker."""
    topic = ("unknown",)
    other = carry(former, new, tmp_path / "1", monkeypatch, topic=topic)
    assert "keeps no markers of them under step.erasure_key: its workers have another" in other.said
    assert carry(former, new, tmp_path / "2", monkeypatch, ErasuresRead({0: 0}, 1), topic).said.startswith(
        "5 erasures were carried"
    )
    new.records[key_of("unknown")] = encode_state(ErasureMarker(1, 1, 1, {}))
    assert carry(former, new, tmp_path / "3", monkeypatch, topic=topic).said.startswith("5 erasures were carried")
