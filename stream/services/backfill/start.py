"""The beginning of a backfill: topics and erasure markers of the new application, and the past from files.

Each part is noted once it is done, and can be repeated: markers have the same keys again, and what was sent of the files is known
by the ends of the topics, to which nobody else writes.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from aiokafka.errors import KafkaError
from msgspec.structs import replace

from stream.application import encoder_group, worker_group
from stream.core.events import NATIVE_FORMAT_HEADER
from stream.core.outputs import Output
from stream.core.reset import NO_RECORD_MS
from stream.core.state import ErasureMarker, encode_state
from stream.errors import IsthmusError
from stream.kafka.cluster.backfill_note import BackfillNote, Phase, key_check, read_backfill, write_backfill
from stream.kafka.cluster.clients import async_producer
from stream.kafka.cluster.lag import group_lag
from stream.kafka.cluster.owners import note_owned, require_access, require_ours
from stream.kafka.cluster.rights import Process
from stream.kafka.cluster.topic_reader import open_topic_reader
from stream.kafka.cluster.topics import changelog_name, create_or_check, source_topics
from stream.kafka.faust.changelog import term_headers
from stream.services.backfill.files import files_in, identity_of, read_events
from stream.services.backfill.successor import past_topics, successor_of, variables_of_past, with_past
from stream.services.child_processes import ChildProcess, wait_for
from stream.services.reset.holdings import Holdings
from stream.services.reset.markers import markers_of, require_readable_markers
from stream.services.reset.reset import sending
from stream.services.reset.target import find_target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from stream.services.backfill.files import PastEvent
    from stream.settings import Settings

_TERM: Final = 1
"""Of the markers in the new changelog: the term of the first worker is higher."""
_PENDING: Final = 5_000
_LONGEST_S: Final = 30 * 86_400.0


def start_backfill(
    settings: Settings,
    name: str,
    data: Path | None,
    step: Callable[[str], None],
    *,
    past_markers: bool = False,
    leave_out_unnamed: bool = False,
) -> Settings:
    """Prepares the application `name` beside the running one, and returns its settings. A run that was interrupted goes on.

    Args:
        settings: Of the running application.
        name: Of the new one.
        data: A folder with events of the past.
        step: Told what begins.
        past_markers: Whether to go on although events are older than erasure markers are kept.
        leave_out_unnamed: Whether to leave events to the inputs that cannot be recognised there: clicks and purchases without an id
            that these may hold.

    Raises:
        IsthmusError: the name or a file cannot be used, the application holds something, or the broker refuses.
    """
    new = successor_of(settings, name)
    step("checking topics and rights")
    require_access(Process.BACKFILL, settings, name)
    paths = [] if data is None else files_in(data)
    identity = identity_of(paths) if paths else ""
    note = read_backfill(settings, name)
    if note is not None and note.files != identity:
        raise IsthmusError(f"the backfill of {name} has begun with other files: run it with those, or name another application")
    step("reading the files")
    oldest_ms = min((event.at_ms for event in read_events(paths)), default=NO_RECORD_MS)
    begins = _begins(settings) if note is None else note.begins
    left = unnamed_in_inputs(read_events(paths), settings, begins)
    if not leave_out_unnamed:
        _require_none(left)
    _require_kept_markers(settings, min(oldest_ms, *begins.values()), past_markers=past_markers)
    require_ours(new)
    create_or_check(new.kafka.bootstrap, new.topics, name, dev=new.kafka.dev)
    note_owned(new)
    if note is None:
        _require_empty(new)
        note = BackfillNote(settings.application, key_check(settings), files=identity, begins=begins if paths else {})
        write_backfill(settings, name, note)
    if note.phase is Phase.BEGUN:
        step("copying erasure markers")
        _copy_markers(settings, new, step)
        note = _noted(settings, name, note, Phase.MARKED)
    if paths and note.phase is Phase.MARKED:
        _send_past(settings, new, paths, note.begins, step)
        note = _noted(settings, name, note, Phase.SENT)
    if note.phase is Phase.SENT:
        _fold_past(settings, new, paths, step)
        require_held(settings, unnamed_in_inputs(read_events(paths), settings, note.begins), note.begins, _begins(settings))
    _noted(settings, name, note, Phase.READY)
    return new


def _begins(settings: Settings) -> dict[str, int]:
    """Kafka timestamps of the first records of the inputs' partitions, ms, by topic/number."""
    return {f"{topic}/{number}": start.first_ms for (topic, number), start in find_target(settings, None).starts.items()}


def unnamed_in_inputs(events: Iterable[PastEvent], settings: Settings, begins: Mapping[str, int]) -> Iterator[PastEvent]:
    """The events of which nobody could tell that an input holds them too, and that it may hold."""
    return (one for one in events if _is_unnamed_in_input(one, settings, begins))


def _is_unnamed_in_input(event: PastEvent, settings: Settings, begins: Mapping[str, int]) -> bool:
    """`begins` are the broker's times. A producer that sends once a night has events of the day before after them."""
    received_by_ms = event.at_ms + settings.step.allowed_lateness_s * 1_000
    return not event.is_named and received_by_ms >= begins[_input_of(event, settings)]


def _input_of(event: PastEvent, settings: Settings) -> str:
    return f"{settings.topics.name_of(event.role)}/{event.partition(settings.topics.partitions)}"


def _require_none(left: Iterator[PastEvent]) -> None:
    first = next(left, None)
    if first is not None:
        raise IsthmusError(
            f"{first.where}: {1 + sum(1 for _ in left)} clicks and purchases without event_id, this one first, are as new as what "
            "the inputs hold, less step.allowed_lateness_s: one that these hold too would count twice. Give them the event_ids of "
            "the inputs, or cut the files; if the inputs hold all of them, --leave-out-unnamed leaves them out"
        )


def require_held(settings: Settings, left: Iterable[PastEvent], begun: Mapping[str, int], begins: Mapping[str, int]) -> None:
    """Raises IsthmusError if events that were left to the inputs may have left these, which began with `begun` and now with
    `begins`.
    """
    max_ahead_ms = settings.step.max_ahead_s * 1_000
    moved = {place: first_ms for place, first_ms in begins.items() if first_ms > begun[place]}
    in_moved = (one for one in left if _input_of(one, settings) in moved)
    gone = next((one for one in in_moved if one.at_ms - max_ahead_ms < moved[_input_of(one, settings)]), None)
    if gone is not None:
        raise IsthmusError(
            f"{gone.where}: this event was left to the inputs, and they may no longer hold it: begin again under another name, "
            "with files that hold no event without event_id that is as new as the inputs, less step.allowed_lateness_s"
        )


def _noted(settings: Settings, name: str, note: BackfillNote, phase: Phase) -> BackfillNote:
    note = replace(note, phase=phase)
    write_backfill(settings, name, note)
    return note


def _require_kept_markers(settings: Settings, oldest_ms: int, *, past_markers: bool) -> None:
    bound_s = settings.step.marker_retention_s
    if bound_s is None or past_markers or oldest_ms >= time.time_ns() // 1_000_000 - bound_s * 1_000:
        return
    raise IsthmusError(
        f"there are events older than step.marker_retention_s ({bound_s} s): erasure markers that have expired keep "
        "them out no more, so that erased users would come back. Unset it, or go on with --past-markers"
    )


def _require_empty(new: Settings) -> None:
    changelog = changelog_name(worker_group(new.application))
    with open_topic_reader(new.kafka.bootstrap) as reader:
        if any(reader.ends(changelog).values()):
            raise IsthmusError(f"the application {new.application} has states already: name another, that is new")


def _copy_markers(settings: Settings, new: Settings, step: Callable[[str], None]) -> None:
    numbers, key = range(settings.topics.partitions), settings.step.erasure_key.get_secret_value().encode()
    with TemporaryDirectory(prefix="isthmus-backfill-") as folder, closing(Holdings(folder, settings)) as holdings:
        with open_topic_reader(settings.kafka.bootstrap) as reader:
            holdings.read_on(reader, step)
        require_readable_markers(holdings, numbers, key)
        now_ms = time.time_ns() // 1_000_000
        markers = {number: dict(markers_of(holdings, number, key, now_ms)) for number in numbers}
        asyncio.run(write_markers(new, markers, dict.fromkeys(numbers, _TERM)))


async def write_markers(new: Settings, markers: Mapping[int, Mapping[bytes, ErasureMarker]], terms: Mapping[int, int]) -> None:
    """Writes erasure markers into the changelog of an application whose workers do not run. `terms` are higher than any in the
    changelog, by partition number.

    Raises:
        IsthmusError: the broker does not take them.
    """
    changelog = changelog_name(worker_group(new.application))
    try:
        async with sending(new.kafka.bootstrap) as send:
            for number, found in markers.items():
                records = (Output(key, encode_state(marker), term_headers(terms[number])) for key, marker in found.items())
                await send(changelog, number, records)
    except KafkaError as error:
        raise IsthmusError(f"{changelog} does not take erasure markers ({type(error).__name__}): run the command again") from error


def _send_past(
    settings: Settings, new: Settings, paths: list[Path], begins: Mapping[str, int], step: Callable[[str], None]
) -> None:
    """Sends what the files hold. What the inputs hold too is recognised there, or left to them."""
    topics = past_topics(new)
    create_or_check(new.kafka.bootstrap, with_past(new).topics, new.application, dev=new.kafka.dev, only=set(topics.values()))
    with open_topic_reader(new.kafka.bootstrap) as reader:
        sent = {(topic, number): end for topic in topics.values() for number, end in reader.ends(topic).items()}
    own = (one for one in read_events(paths) if not _is_unnamed_in_input(one, settings, begins))
    try:
        asyncio.run(_produce(new, own, sent, step))
    except KafkaError as error:
        raise IsthmusError(f"the broker does not take the past ({type(error).__name__}): run the command again") from error


async def _produce(
    new: Settings, events: Iterable[PastEvent], sent: dict[tuple[str, int], int], step: Callable[[str], None]
) -> None:
    """`sent`: how many records of each partition an interrupted run has sent."""
    topics, headers = past_topics(new), [(NATIVE_FORMAT_HEADER, b"1")]
    producer = async_producer(new.kafka.bootstrap, linger_ms=5, max_request_size=4 << 20)
    await producer.start()
    try:
        pending: list[Any] = []
        for index, event in enumerate(events, 1):
            place = topics[event.role], event.partition(new.topics.partitions)
            if sent.get(place, 0) > 0:
                sent[place] -= 1
                continue
            key = event.user.encode()
            pending.append(await producer.send(place[0], key=key, value=event.value, partition=place[1], headers=headers))
            if len(pending) >= _PENDING:
                await asyncio.gather(*pending)
                pending.clear()
                step(f"sending the past: {index} events so far")
        await asyncio.gather(*pending)
    finally:
        await producer.stop()


def _fold_past(settings: Settings, new: Settings, paths: list[Path], step: Callable[[str], None]) -> None:
    """Runs a worker, and an encoder where there are transcripts, until they have read all of the past."""
    past, children = with_past(new), list[ChildProcess]()
    commands = ["worker", *(["encoder"] if any(path.stem == "transcripts" for path in paths) else [])]

    def is_folded() -> bool:
        left = unread(past)
        step(f"folding the past: {left} records left" if left else "stopping worker and encoder")
        return not left

    step("starting a worker for the past")
    with TemporaryDirectory(prefix="isthmus-backfill-") as folder:
        environment = variables_of_past(settings, new, f"{folder}/state")
        try:
            for one in commands:
                words = [one, "--bootstrap", new.kafka.bootstrap, "--metrics-port", "0"]
                children.append(ChildProcess(words, environment, Path(folder) / f"{one}.log"))
            wait_for(is_folded, children, _LONGEST_S, "the folding of the past")
        finally:
            for child in children:
                child.stop()


def unread(settings: Settings) -> int:
    """How many records of its inputs an application has not read yet."""
    bootstrap, application = settings.kafka.bootstrap, settings.application
    encoded = group_lag(bootstrap, encoder_group(application), [settings.topics.transcripts]).lag
    return encoded + group_lag(bootstrap, worker_group(application), source_topics(settings.topics)).lag
