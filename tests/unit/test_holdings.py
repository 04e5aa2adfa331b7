"""What an application holds, of users with records of any kind, and what a reset makes of it."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from stream.application import worker_group
from stream.core.events import STEP_INPUTS, Click, Erasure, Feedback, Purchase, Source
from stream.core.reset import NO_RECORD_MS
from stream.core.state import (
    ERASURE_MARKER_PREFIX,
    FEEDBACK_PREFIX,
    HEAD_PREFIX,
    decode_erasure_marker,
    encode_state,
    erasure_marker_key,
    facts_key,
    head_key,
)
from stream.kafka.cluster.group_reset import Start
from stream.kafka.cluster.topics import changelog_name
from stream.services.reset.holdings import Holdings
from stream.services.reset.markers import markers_of
from stream.services.reset.target import Target
from stream.services.reset.verdict import Verdict
from stream.settings import Settings
from tests import world
from tests.world import MINUTE, NOW, Store

KEY: Final = b"isthmus"
CHANGELOG: Final = changelog_name(worker_group("isthmus"))


class Record(msgspec.Struct):
    key: bytes
    value: bytes
    offset: int = 0
    partition: int = 0
    headers: tuple[Any, ...] = ()


class Reader:
    """Holds records by topic."""

    def __init__(self, **topics: Mapping[bytes, bytes | None]) -> None:
        self._topics = topics

    def starts(self, _: str) -> dict[int, int]:
        return {0: 0}

    def records(self, topic: str, _: Mapping[int, int]) -> list[Record]:
        found = self._topics["changelog" if topic == CHANGELOG else topic.replace("-", "_")]
        return [Record(key, value, offset) for offset, (key, value) in enumerate(found.items()) if value is not None]


@pytest.fixture
def store() -> Store:
    """Two users with history, of whom one was erased and came back, and two with feedback only, of whom one was erased too."""
    found = Store()
    for number, user in enumerate(("back", "here")):
        clicks = [(2 * number + place, Click(user, NOW - at * MINUTE, ("t",))) for place, at in enumerate((50, 30))]
        world.run(found, world.batch_of(Source.CLICK, clicks))
        world.run(found, world.batch_of(Source.PURCHASE, [(number, Purchase(user, NOW - 20 * MINUTE, ("item-1",), f"p-{user}"))]))
    for number, user in enumerate(("gone", "seen")):
        shown = Feedback(user, NOW - 45 * MINUTE, "web", "shown", ("item-1",))
        world.run(found, world.batch_of(Source.FEEDBACK, [(number, shown)]))
    erasures = [(number, Erasure(user, NOW - 40 * MINUTE, user)) for number, user in enumerate(("back", "gone"))]
    world.run(found, world.batch_of(Source.ERASURE, erasures))
    return found


def holdings_of(store: Store, folder: Path, settings: Settings) -> Holdings:
    found = Holdings(str(folder), settings, lambda *_: True)
    reader: Any = Reader(changelog=store.records, recommendations=store.recommendations, training_examples=store.examples)
    found.read_on(reader, lambda _: None)
    return found


@pytest.fixture
def settings() -> Settings:
    found = Settings()
    return found.model_copy(update={"topics": found.topics.model_copy(update={"partitions": 1})})


@pytest.fixture
def holdings(store: Store, tmp_path: Path, settings: Settings) -> Iterator[Holdings]:
    with closing(holdings_of(store, tmp_path / "db", settings)) as found:
        yield found


def everything_gone(settings: Settings) -> Target:
    """The inputs hold nothing any more."""
    topics = [*(settings.topics.name_of(row.role) for row in STEP_INPUTS), settings.topics.transcripts]
    return Target(settings, None, dict.fromkeys(topics, 1), {(one, 0): Start(9, NO_RECORD_MS) for one in topics}, {})


def test_a_user_is_one_of_whom_there_is_any_record(holdings: Holdings) -> None:
    """Each once, whatever there is."""
    assert list(holdings.users(0)) == [b"back", b"here", b"seen"]


def test_a_reset_counts_the_losses_of_users_with_feedback_only(holdings: Holdings, settings: Settings) -> None:
    """They are asked for too."""
    counts = Verdict(holdings, everything_gone(settings)).counts()
    assert (counts.users, counts.markers) == (3, 2)
    assert counts.losers == {"any": 3, "history": 2, "owned": 2, "eligibility": 0, "feedback": 1}


def test_an_erasure_without_a_marker_gets_one_before_its_head_goes(store: Store, tmp_path: Path, settings: Settings) -> None:
    """0.1.0 left some without. A reset that is interrupted anywhere finds the head or the marker again; the example goes too."""
    marker_key = erasure_marker_key(b"back", KEY)
    older = msgspec.structs.replace(decode_erasure_marker(store.records[marker_key]), erased_at=1, erasure_ids=b"known1")
    for before in (None, encode_state(older)):
        if before is None:
            del store.records[marker_key]
        else:
            store.records[marker_key] = before
        with closing(holdings_of(store, tmp_path / str(before), settings)) as holdings:
            made = dict(markers_of(holdings, 0, KEY, NOW))[marker_key]
            assert (made.erased_at, made.erasure_ids) == (NOW - 40 * MINUTE, b"" if before is None else b"known1")
            verdict = Verdict(holdings, everything_gone(settings))
            outputs = list(verdict.states(0, NOW))
            assert {output.key for output in verdict.examples(0)} == {key for key in store.examples if b"back" in key}
        keys = [output.key for output in outputs]
        last = max(place for place, output in enumerate(outputs) if output.key.startswith(ERASURE_MARKER_PREFIX))
        assert last < min(keys.index(key(b"back")) for key in (head_key, facts_key))
        left = {output.key: output.value for output in outputs}
        assert left[marker_key] == encode_state(made)
        assert {key[:1] for key, value in left.items() if value is None} >= {HEAD_PREFIX, FEEDBACK_PREFIX}
