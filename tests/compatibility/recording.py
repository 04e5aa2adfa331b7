"""The form of a recording: inputs, states, outputs and models of one version of Isthmus, in one compressed archive.

A recording holds bytes as a version wrote them, never objects: what reads them is the code under test. Its own files are msgpack
of the structs below, so that their field names belong to this module alone.
"""

import io
import tarfile
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from stream.core.events import Source
from stream.core.outputs import Output
from stream.core.records import PlainRecord

FOLDER: Final = Path(__file__).parent
RUNS: Final = "runs"
MODELS: Final = "models"
_WORLD_READABLE: Final = 0o644

Content = TypeVar("Content")


class RecordedStep(msgspec.Struct, frozen=True, kw_only=True):
    """One batch and what it brought about.

    Attributes:
        source, topic, epoch, partition: where the batch came from.
        notified: keys of users already notified since the assignment, or None where the batch cannot be a redelivery.
        model: the folder below `models/` that was served, or None.
        records: the batch.
        writes: state records in order of writing; None deletes.
        recommendations, examples, dead_letters: the output records.
    """

    source: Source
    topic: str
    epoch: int
    partition: int
    notified: list[bytes] | None
    model: str | None
    records: list[PlainRecord]
    writes: list[tuple[bytes, bytes | None]]
    recommendations: list[Output]
    examples: list[Output]
    dead_letters: list[Output]


class RecordedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A stream of batches.

    Attributes:
        exact: whether no network took part, so that outputs are equal byte for byte; else scores may differ in their last digits.
        explain: whether lists carry `because`.
        states: the state records before the first batch.
        steps: the batches in order; the state before each is `states` and all earlier writes.
    """

    exact: bool
    explain: bool
    states: dict[bytes, bytes]
    steps: list[RecordedStep]


class RecordedScores(msgspec.Struct, frozen=True, kw_only=True):
    """What one model makes of some histories.

    Attributes:
        model: the folder below `models/`.
        scores: of each training example's history of `examples.msgpack`, of each item in the model's order.
        lists: the top three items of each, without a post filter.
    """

    model: str
    scores: list[list[float]]
    lists: list[list[str]]


class Transcripts(msgspec.Struct, frozen=True, kw_only=True):
    """One batch of transcripts and what the encoder stage made of it.

    Attributes:
        epoch, partition: of the topic `call-transcripts`.
        records: the batch.
        calls, dead_letters: the output records.
    """

    epoch: int
    partition: int
    records: list[PlainRecord]
    calls: list[Output]
    dead_letters: list[Output]


class Topics(msgspec.Struct, frozen=True, kw_only=True):
    """Records of the topics that are followed whole, as (key, value), None where the value is a tombstone.

    Attributes:
        items: the catalogue.
        models: announcements.
        replays: what replays of dead letters leave behind.
    """

    items: list[tuple[bytes, bytes | None]]
    models: list[tuple[bytes, bytes | None]]
    replays: list[tuple[bytes, bytes | None]]


def read(folder: Path, name: str, form: type[Content]) -> Content:
    return msgspec.msgpack.decode((folder / name).read_bytes(), type=form)


def write(folder: Path, name: str, content: Any) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.msgpack.encode(content))


def unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as recorded:
        recorded.extractall(folder, filter="data")


def pack(folder: Path, archive: Path) -> None:
    """The same files give the same bytes."""
    with tarfile.open(archive, "w:xz", preset=9) as recorded:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            content = path.read_bytes()
            entry = tarfile.TarInfo(str(path.relative_to(folder)))
            entry.size, entry.mode = len(content), _WORLD_READABLE
            recorded.addfile(entry, io.BytesIO(content))
