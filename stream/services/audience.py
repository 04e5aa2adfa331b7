"""`isthmus audience`: restores states from the changelog, loads the champion, scores the users, and writes the file."""

from __future__ import annotations

import asyncio
import csv
import io
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from stream.application import worker_group
from stream.core.state import FACTS_PREFIX, HEAD_PREFIX
from stream.errors import IsthmusError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from stream.core.ranking import Catalogue, Ranker
    from stream.kafka.cluster.log_reader import LogReader
    from stream.settings import Settings
    from stream.sinks.audience import Member

_SAY_S: Final = 3.0
_KEPT: Final = (HEAD_PREFIX, FACTS_PREFIX)
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
COLUMNS: Final = ("user_id", "score", "fallback")


@contextmanager
def cleaning_up_at_signals() -> Iterator[None]:
    """Raises SystemExit at signals that end a process, so that temporary files are removed.

    Further signals do not interrupt the removal. A signal that the parent process ignores (nohup) stays ignored.
    """

    def end(number: int, _: object) -> None:
        for one in taken:
            signal.signal(one, signal.SIG_IGN)
        raise SystemExit(128 + number)

    taken = {one: former for one in _SIGNALS if (former := signal.getsignal(one)) is not signal.SIG_IGN}
    try:
        for one in taken:
            signal.signal(one, end)
        yield
    finally:
        for one, former in taken.items():
            signal.signal(one, former)


class TemporaryStates:
    """Users' states on disk, because a million of them may not fit into memory."""

    def __init__(self, folder: str) -> None:
        from rocksdict import Options, Rdict

        self._db: Any = Rdict(folder, Options(raw_mode=True))

    def put(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            self._db.delete(key)
        else:
            self._db.put(key, value)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = self._db.get(list(keys))
        return found

    def heads(self) -> Iterator[tuple[bytes, bytes]]:
        for key, value in self._db.items(from_key=HEAD_PREFIX):
            if not key.startswith(HEAD_PREFIX):
                return
            yield key, value

    def close(self) -> None:
        self._db.close()


def find_audience(settings: Settings, item: str, top: int, min_score: float, say: Callable[[str], None]) -> list[Member]:
    """Returns the best users for an item, best first."""
    from stream.kafka.cluster.owners import require_access
    from stream.kafka.cluster.rights import Process
    from stream.services.api import now_ms
    from stream.sinks.audience import Audience, best, chunks

    require_access(Process.AUDIENCE, settings)
    ranker, catalogue = _champion(settings), _catalogue(settings)
    audience = Audience(item, ranker, catalogue, now_ms())
    with TemporaryDirectory(prefix="isthmus-audience-") as folder:
        states = TemporaryStates(folder)
        try:
            _restore(settings, states, say)

            def members() -> Iterator[Member]:
                done, said_s = 0, time.monotonic()
                for chunk in chunks(states.heads()):
                    yield from audience.members(chunk, states)
                    done += len(chunk)
                    if time.monotonic() - said_s >= _SAY_S:
                        said_s = time.monotonic()
                        say(f"{done} users are scored")

            found = best(members(), top, min_score)
        finally:
            states.close()
    if audience.unreadable:
        say(f"{audience.unreadable} states cannot be read and are left out: a later version wrote them, or they are damaged")
    return found


def _restore(settings: Settings, states: TemporaryStates, say: Callable[[str], None]) -> None:
    from stream.kafka.cluster.kafka_log_reader import KafkaLogReader

    try:
        asyncio.run(restore(KafkaLogReader(settings.kafka.bootstrap), _changelog(settings), states, say))
    except ConnectionError as error:
        raise IsthmusError(f"the users' states cannot be read: {error}") from error


async def restore(reader: LogReader, changelog: str, states: TemporaryStates, say: Callable[[str], None]) -> None:
    """Reads the changelog to its end. Skips what an earlier owner of a partition wrote late (`UserTable.restore`)."""
    from stream.kafka.faust.changelog import term_of

    terms: dict[int, int] = {}
    records, said_s = 0, time.monotonic()
    try:
        bounds = await reader.open([changelog])
        for (topic, number), held in bounds.items():
            reader.seek(topic, number, held.begin)
        while not all(reader.read_to_end_at(*one) is not None or held.begin == held.end for one, held in bounds.items()):
            for fetched in await reader.fetch():
                for record in fetched.records:
                    term = term_of(record.headers)
                    if record.key is None or term < terms.get(fetched.partition, 0):
                        continue
                    terms[fetched.partition] = term
                    if record.key.startswith(_KEPT):
                        states.put(record.key, record.value)
                records += len(fetched.records)
            if time.monotonic() - said_s >= _SAY_S:
                said_s = time.monotonic()
                say(f"{records} records of the changelog are read")
    finally:
        await reader.close()


def write_audience(members: Sequence[Member], form: str, out: Path | None) -> None:
    """Writes the file completely or not at all. CSV without `out` goes to standard output, also in UTF-8."""
    if out is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", newline="")
        _write_csv(members, sys.stdout)
        return
    partial = out.with_name(f".{out.name}.partial")
    try:
        if form == "csv":
            with partial.open("w", newline="", encoding="utf-8") as file:
                _write_csv(members, file)
        else:
            _write_parquet(members, partial)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def _write_parquet(members: Sequence[Member], path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    columns = [[one.user_id for one in members], [one.score for one in members], [one.fallback for one in members]]
    types = (pa.string(), pa.float64(), pa.string())
    arrays = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
    parquet.write_table(pa.Table.from_arrays(arrays, names=list(COLUMNS)), path)


def _write_csv(members: Sequence[Member], file: Any) -> None:
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    writer.writerows((one.user_id, f"{one.score:.4f}", one.fallback or "") for one in members)


def _changelog(settings: Settings) -> str:
    from stream.kafka.cluster.topics import changelog_name

    return changelog_name(worker_group(settings.application))


def _champion(settings: Settings) -> Ranker:
    from models.artifact import load_ranker
    from stream.kafka.cluster.compacted_topic import announced_champion
    from stream.services.model_trust import announcement_trust, folder_trust

    announced = announced_champion(settings.kafka.bootstrap, settings.topics.models, announcement_trust(settings))
    if announced is None:
        raise IsthmusError("no champion is announced yet: `isthmus train` makes one")
    return load_ranker(announced.uri, announced.sha256, folder_trust(settings))


def _catalogue(settings: Settings) -> Catalogue:
    from stream.kafka.cluster.compacted_topic import read_catalogue
    from stream.services.process import item_format

    return read_catalogue(settings.kafka.bootstrap, settings.topics.items, item_format(settings))
