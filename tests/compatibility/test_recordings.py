"""What earlier versions wrote is read by this one, and leads to the same outputs: states, topics and model folders."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest

from models.artifact import load_ranker
from stream.core.announcements import decode_announcement, encode_announcement
from stream.core.events import Item, Source
from stream.core.outputs import DeadLetter, Output, Recommendation, Replayed, decode_example, encode_example
from stream.core.ranking import Catalogue, PostFilter, Ranker
from stream.core.records import Batch
from stream.core.state import Facts, Head, decode_erasure_marker, decode_facts, decode_head, encode_state
from stream.core.step import StepConfig, step
from stream.text.encode_stage import encode_batch
from tests.compatibility.record import TinyTextModel
from tests.compatibility.recording import (
    FOLDER,
    MODELS,
    RUNS,
    RecordedRun,
    RecordedScores,
    RecordedStep,
    Topics,
    Transcripts,
    read,
    unpack,
)
from tests.compatibility.supports import Translation, agrees, mark_example, without_ownership
from tests.compatibility.users import PARTITIONS
from tests.world import Store

TOTAL_BYTES = 100_000
SCORE = 1e-6
ROUNDED_SCORE = 1.001e-4  # scores in lists are rounded to four digits
DECODERS: dict[bytes, Any] = {b"h": decode_head, b"f": decode_facts, b"m": decode_erasure_marker}
RECORDINGS = sorted(FOLDER.glob("*.tar.xz"))


class Recording(NamedTuple):
    """An unpacked recording and what every test of it needs."""

    folder: Path
    topics: Topics
    rankers: dict[str, Ranker]

    def run(self, name: str) -> RecordedRun:
        return read(self.folder, f"{RUNS}/{name}", RecordedRun)

    def catalogue(self) -> Catalogue:
        values = {key: value for key, value in self.topics.items if value is not None}
        withdrawn = {key for key, value in self.topics.items if value is None}
        return Catalogue(msgspec.json.decode(value, type=Item) for key, value in values.items() if key not in withdrawn)


@pytest.fixture(scope="module", params=RECORDINGS, ids=lambda path: path.name.removesuffix(".tar.xz"))
def recording(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    folder = tmp_path_factory.mktemp("recording")
    unpack(request.param, folder)
    topics = read(folder, "topics.msgpack", Topics)
    announced = [decode_announcement(value) for _, value in topics.models if value is not None]
    rankers = {Path(model.uri).name: load_ranker(str(folder / model.uri), model.sha256) for model in announced}
    return Recording(folder, topics, rankers)


def test_recordings_exist_and_stay_small() -> None:
    """A glob that finds nothing would pass every test; recordings are kept in the repository."""
    assert RECORDINGS
    assert sum(path.stat().st_size for path in RECORDINGS) <= TOTAL_BYTES


def test_every_recorded_run_continues_with_the_same_outputs(recording: Recording) -> None:
    """From the recorded state before each batch, the step gives the recorded states, lists, examples and dead letters."""
    runs = sorted((recording.folder / RUNS).iterdir())
    assert runs
    translation = Translation(recording.rankers)
    for path in runs:
        run = recording.run(path.name)
        config = StepConfig(partitions=PARTITIONS, explain=run.explain, reserve_length=0)  # 0.1.0 sent no reserve
        store = Store({key: translation.state(key, value) or b"" for key, value in run.states.items()})
        for number, recorded in enumerate(run.steps):
            batch = Batch(recorded.source, recorded.topic, recorded.epoch, recorded.partition, recorded.records, notified(recorded))
            ranker = None if recorded.model is None else recording.rankers[recorded.model]
            outcome = step(batch, store, ranker, recording.catalogue(), config)
            where = f"{path.name}, step {number}"
            assert_same_examples(outcome.examples, recorded, where)
            assert list(outcome.dead_letters) == recorded.dead_letters, where
            writes = {key: translation.state(key, value) for key, value in recorded.writes}
            assert_same_lists(outcome.recommendations, recorded.recommendations, translation, where, exact=run.exact)
            assert_same_states(outcome.writes, dict(recorded.writes), translation, where, exact=run.exact)
            store.records = {key: value for key, value in {**store.records, **writes}.items() if value is not None}


def notified(recorded: RecordedStep) -> set[bytes] | None:
    return None if recorded.notified is None else set(recorded.notified)


def assert_same_lists(found: list[Output], recorded: list[Output], translation: Translation, where: str, *, exact: bool) -> None:
    """The same but for the id, which hashes what lists rest on. Those of networks also but for the last digit of a score."""
    assert [output.key for output in found] == [output.key for output in recorded], where
    for output, other in zip(found, recorded, strict=True):
        if output.value is None or other.value is None:
            assert output == other, where
            continue
        content = without_reasons(json.loads(output.value))
        content.pop("recommendation_id")
        scores, other_content = scores_of(content), without_reasons(translation.content(other))
        other_scores = scores_of(other_content)
        assert content == other_content, where
        assert scores == (other_scores if exact else pytest.approx(other_scores, abs=ROUNDED_SCORE)), where


def scores_of(content: dict[str, Any]) -> list[float]:
    """Takes the scores out of a list's content."""
    return [item.pop("score") for item in content["items"]]


def without_reasons(content: dict[str, Any]) -> dict[str, Any]:
    """Takes the reasons out of a list's content: 0.1.0 chose them in another way, and only for the first item."""
    content.pop("because", None)
    for item in content["items"]:
        item.pop("because", None)
    return content


def assert_same_examples(found: list[Output], recorded: RecordedStep, where: str) -> None:
    """The same examples, but for what 0.1.0 did not say in them. Later versions erase also what only a lost state may have sent:
    after erasures and in redeliveries.
    """
    ours = {output.key: without_ownership(output) for output in found}
    theirs = {output.key: output for output in recorded.examples}
    added = [output for key, output in ours.items() if key not in theirs]
    assert {key: output for key, output in ours.items() if key in theirs} == theirs, where
    assert all(output.value is None for output in added), where
    assert recorded.source in (Source.ERASURE, Source.PURCHASE) or recorded.notified is not None or not added, where


def assert_same_states(
    found: Mapping[bytes, bytes | None],
    recorded: Mapping[bytes, bytes | None],
    translation: Translation,
    where: str,
    *,
    exact: bool,
) -> None:
    """Every recorded field is the same. Under networks the last bits of the cached representation may differ."""
    assert list(found) == list(recorded), where
    for key, value in found.items():
        original = recorded[key]
        expected = translation.state(key, original)
        if value is None or expected is None or original is None:
            assert value == expected, where
            continue
        ours, theirs = DECODERS[key[:1]](value), DECODERS[key[:1]](expected)
        if isinstance(ours, Facts):
            for facts in (ours, theirs):
                facts.purchases = [mark_example(kept) for kept in facts.purchases]
        if isinstance(ours, Head):
            ours.event_ids = theirs.event_ids  # 0.1.0 kept event ids here, later versions keep them with what they name
            if not exact:
                np.testing.assert_allclose(take_vector(ours), take_vector(theirs), atol=SCORE, err_msg=where)
        assert agrees(ours, theirs, msgspec.msgpack.decode(original)), where


def take_vector(head: Head) -> Any:
    """Removes the cached representation from a head."""
    if head.prefix is None:
        return []
    vector = np.frombuffer(head.prefix.vector, dtype="<f4")
    head.prefix = msgspec.structs.replace(head.prefix, vector=b"")
    return vector


def state_records(recording: Recording) -> Iterator[tuple[bytes, bytes]]:
    for path in sorted((recording.folder / RUNS).iterdir()):
        run = recording.run(path.name)
        yield from run.states.items()
        yield from ((key, value) for recorded in run.steps for key, value in recorded.writes if value is not None)


class Inner(msgspec.Struct, array_like=True, tag="i"):
    number: int
    added: int = 0


class Outer(msgspec.Struct, array_like=True):
    inner: list[Inner]
    name: str = ""
    added: str = ""


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Outer([Inner(1)], "a"), True),
        (Outer([Inner(1, added=7)], "a", added="whatever"), True),
        (Outer([Inner(2)], "a"), False),
        (Outer([Inner(1)], "b"), False),
        (Outer([Inner(1), Inner(1)], "a"), False),
        (Outer([], "a"), False),
    ],
)
def test_a_field_added_at_the_end_of_a_record_is_not_compared_but_every_recorded_one_is(found: Outer, expected: bool) -> None:
    """Also inside lists, which must not grow or shrink."""
    recorded = [[["i", 1]], "a"]
    assert agrees(found, recorded, recorded) is expected
    assert agrees(found, Outer([Inner(1)], "a"), recorded) is expected


def test_states_that_are_read_and_written_again_are_still_read_by_their_version(recording: Recording) -> None:
    """Heads, facts and erasure markers, those with keywords as lists among them: a worker may be rolled back."""
    kinds = set()
    for key, value in state_records(recording):
        kinds.add(key[:1])
        decode, stored = DECODERS[key[:1]], msgspec.msgpack.decode(value)
        assert agrees(decode(encode_state(decode(value))), stored, stored), key
    assert kinds == set(DECODERS)


def test_output_records_that_are_read_and_written_again_have_the_same_bytes(recording: Recording) -> None:
    """Recommendations, training examples and dead letters, tombstones among the first two."""
    steps = [recorded for path in (recording.folder / RUNS).iterdir() for recorded in recording.run(path.name).steps]
    lists = [output.value for recorded in steps for output in recorded.recommendations]
    examples = [output.value for recorded in steps for output in recorded.examples]
    assert None in lists
    assert None in examples
    examples += read(recording.folder, "examples.msgpack", list[bytes])
    for value in filter(None, lists):
        assert msgspec.json.encode(msgspec.json.decode(value, type=Recommendation)) == value
    for value in filter(None, examples):
        assert encode_example(decode_example(value)) == value
    letters = [output.value or b"" for recorded in steps for output in recorded.dead_letters]
    assert letters
    for value in letters:
        assert msgspec.json.encode(msgspec.json.decode(value, type=DeadLetter)) == value


def test_announcements_and_replays_that_are_read_and_written_again_have_the_same_bytes(recording: Recording) -> None:
    """They stay in compacted topics for years."""
    announcements = [value for _, value in recording.topics.models if value is not None]
    assert announcements
    for value in announcements:
        assert encode_announcement(decode_announcement(value)) == value
    replays = [value for _, value in recording.topics.replays if value is not None]
    assert replays
    for value in replays:
        assert msgspec.json.encode(msgspec.json.decode(value, type=Replayed)) == value


def test_a_recording_holds_every_source_and_every_kind_of_model(recording: Recording) -> None:
    """What a recording leaves out is not protected."""
    sources = {recorded.source for path in (recording.folder / RUNS).iterdir() for recorded in recording.run(path.name).steps}
    assert len(sources) >= 5
    assert sources == set(list(Source)[: len(sources)])  # newer sources go to the end
    assert {path.name for path in (recording.folder / MODELS).iterdir()} == set(recording.rankers)


def test_transcripts_become_the_same_encoded_calls(recording: Recording) -> None:
    """All but the sentence encoder itself, whose place a few bytes of a hash take."""
    for recorded in read(recording.folder, "transcripts.msgpack", list[Transcripts]):
        batch = Batch(Source.CALL, "call-transcripts", recorded.epoch, recorded.partition, recorded.records)
        encoded = encode_batch(batch, TinyTextModel())  # type: ignore[arg-type]
        assert encoded.calls == recorded.calls
        assert encoded.dead_letters == recorded.dead_letters


def test_every_recorded_model_gives_the_same_lists_and_scores(recording: Recording) -> None:
    """Histories come from recorded training examples, one of them with keywords as a list, as earlier versions wrote it."""
    histories = [decode_example(value).interactions for value in read(recording.folder, "examples.msgpack", list[bytes])]
    for recorded in read(recording.folder, "scores.msgpack", list[RecordedScores]):
        ranker = recording.rankers[recorded.model]
        scores = ranker.rank_many(ranker.encode_many(histories))
        expected = [*recorded.scores, recorded.scores[-1]]  # the last history again, in its older form
        np.testing.assert_allclose(scores, expected, atol=SCORE, rtol=0, err_msg=recorded.model)
        top = PostFilter(ranker.items, Catalogue(), 0).top(scores, [()] * len(histories), 3)
        assert [[ranker.items[index] for index in row] for row in top] == [*recorded.lists, recorded.lists[-1]], recorded.model
