"""The reset itself, in an order in which an interrupted one can be run again and ends the same.

A note in the topic of applications comes first and goes last: while it is there, no worker or encoder starts. Lists and examples
are deleted before the states, because what is deleted of them follows from the states; the note says once that is done. The
changelog gets tombstones rather than being made again: stores on other machines follow them by themselves, and erasure markers are
in it at every moment. Its watermarks decide where workers read on, and the committed offsets follow.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from itertools import islice
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

import msgspec
from aiokafka.errors import KafkaError

from stream.application import encoder_group, worker_group
from stream.core.reset import gives_example
from stream.errors import IsthmusError
from stream.kafka.cluster.batch_sender import KafkaSender
from stream.kafka.cluster.clients import async_producer
from stream.kafka.cluster.group_reset import members_of, set_offsets
from stream.kafka.cluster.owners import require_access
from stream.kafka.cluster.reset_note import ResetNote, read_note, write_note
from stream.kafka.cluster.rights import Kind, Process, rights_of, topics_of
from stream.kafka.cluster.topic_reader import open_topic_reader
from stream.kafka.cluster.topics import admin_client, changelog_name, create_or_check
from stream.services.formats import flat_lists
from stream.services.instance_name import take_all_names
from stream.services.reset.holdings import Holdings
from stream.services.reset.passed_over import passed_over
from stream.services.reset.target import find_target
from stream.services.reset.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from stream.core.outputs import Output, TrainingExample
    from stream.services.reset.target import Target
    from stream.services.reset.verdict import Counts
    from stream.settings import Settings

_BATCH: Final = 2_000
_TRANSACTION_MS: Final = 10_000


class Reset:
    """One reset of an application, by `open_reset`.

    Attributes:
        settings: Of the application.
        target: Where the inputs are read again.
        interrupted: The note of an earlier run that did not end; this one goes on with it.
        counts: What is deleted and lost.
    """

    def __init__(self, target: Target, interrupted: ResetNote | None, holdings: Holdings, unread: int) -> None:
        self.settings = target.settings
        self.target = target
        self.interrupted = interrupted
        self._holdings = holdings
        self._verdict = Verdict(holdings, target)
        self.counts: Counts = self._verdict.counts()
        self.counts.unread = unread

    def members(self) -> list[str]:
        """The living workers and encoders, in words."""
        with closing(admin_client(self.settings.kafka.bootstrap)) as admin:
            return members_of(admin, groups_of(self.settings))

    def run(self, step: Callable[[str], None]) -> None:
        """Resets the application; `step` is told what begins.

        Raises:
            IsthmusError: a worker or encoder lives, or the broker refuses: the command can be run again, and goes on.
        """
        local, held = take_all_names(self.settings.worker_state_dir, self.settings.host)
        with ExitStack() as locks:
            for one in local:
                locks.callback(one.lock.close)
            self._require_nobody(held)
            self._run([one.folder for one in local], step)

    def _run(self, stores: Sequence[Path], step: Callable[[str], None]) -> None:
        note = self.interrupted or ResetNote(_now_ms(), self.target.since_ms)
        step("noting that the reset has begun")
        write_note(self.settings, note)
        self._require_nobody([])  # one that started a moment ago
        try:
            asyncio.run(self._delete(note, step))
        except (KafkaError, OSError) as error:
            what = f"{type(error).__name__}: {error}".rstrip(": ")
            raise IsthmusError(f"the broker did not take all of it ({what}): run the command again, which goes on") from error
        step("setting the offsets of the groups")
        with closing(admin_client(self.settings.kafka.bootstrap)) as admin:
            for group, offsets in self.target.offsets().items():
                set_offsets(admin, group, offsets)
        step("deleting the stores of this machine")
        for folder in stores:
            if folder.is_dir():
                shutil.rmtree(folder)
        step("noting that the reset has ended")
        write_note(self.settings, None)

    def _require_nobody(self, held: Sequence[str]) -> None:
        living = [*held, *self.members()]
        if living:
            wait = f"delivery.session_timeout_s ({self.settings.delivery.session_timeout_s:g} s)"
            lines = [f"{one} lives" for one in living]
            to_do = f"stop all workers and encoders first; one that was stopped a moment ago remains a member for {wait}"
            raise IsthmusError("\n".join([*lines, to_do]))

    async def _delete(self, note: ResetNote, step: Callable[[str], None]) -> None:
        step("fencing off former workers and encoders")
        await _fence(self.settings)
        with open_topic_reader(self.settings.kafka.bootstrap) as reader:
            self._holdings.read_on(reader, step)  # what a transaction that was just settled has added
        topics, numbers, flat = self.settings.topics, range(self.settings.topics.partitions), flat_lists(self.settings)
        async with sending(self.settings.kafka.bootstrap) as send:
            for number in () if note.are_outputs_done else numbers:
                step(f"deleting lists and examples, partition {number + 1} of {len(numbers)}")
                await send(topics.recommendations, number, self._verdict.lists(number))
                if flat is not None:
                    await send(topics.flat_recommendations, number, flat.outputs(self._verdict.lists(number)))
                await send(topics.training_examples, number, self._verdict.examples(number))
            write_note(self.settings, msgspec.structs.replace(note, are_outputs_done=True))
            for number in numbers:
                step(f"deleting states, partition {number + 1} of {len(numbers)}")
                changelog = changelog_name(worker_group(self.settings.application))
                await send(changelog, number, self._verdict.states(number, _now_ms()))


@contextmanager
def open_reset(settings: Settings, since_ms: int | None, step: Callable[[str], None]) -> Iterator[Reset]:
    """Reads what the application holds and yields its reset: to the first records from `since_ms` on by Kafka's time, or to the
    beginning. A reset that was interrupted goes on to its own target.

    Raises:
        IsthmusError: an ACL is missing, another application owns the topics or groups, or they cannot be read.
    """
    step("checking topics and rights")
    require_access(Process.RESET, settings)
    names = topics_of(rights_of(Process.RESET, settings))
    create_or_check(settings.kafka.bootstrap, settings.topics, settings.application, create=False, only=names)
    note = read_note(settings)
    target = find_target(settings, since_ms if note is None else note.since_ms)
    max_ahead_ms = settings.step.max_ahead_s * 1_000

    def gives(number: int, example: TrainingExample) -> bool:
        return gives_example(example, target.places(number, {}), max_ahead_ms)

    with TemporaryDirectory(prefix="isthmus-reset-") as folder, closing(Holdings(folder, settings, gives)) as holdings:
        with open_topic_reader(settings.kafka.bootstrap) as reader:
            step("reading what the application holds")
            holdings.read_on(reader, step)
            unread = passed_over(reader, target, holdings)
        yield Reset(target, note, holdings, unread)


def groups_of(settings: Settings) -> tuple[str, str]:
    """The groups that a reset sets back."""
    return worker_group(settings.application), encoder_group(settings.application)


async def _fence(settings: Settings) -> None:
    """Settles what the transactions of former owners left open, so that none of them can be committed later."""
    for right in rights_of(Process.RESET, settings):
        if right.kind is Kind.TRANSACTIONAL_ID:
            producer = async_producer(settings.kafka.bootstrap, transactional_id=right.name, transaction_timeout_ms=_TRANSACTION_MS)
            try:
                await producer.start()
            finally:
                await producer.stop()


@asynccontextmanager
async def sending(bootstrap: str) -> AsyncIterator[Callable[[str, int, Iterable[Output]], Awaitable[None]]]:
    """Yields a function that sends records to a partition, and returns once they are acknowledged."""
    producer = async_producer(bootstrap)
    sender = KafkaSender(lambda: producer)

    async def send(topic: str, number: int, outputs: Iterable[Output]) -> None:
        for batch in batched(outputs, _BATCH):
            await (await sender.send(topic, number, batch))

    try:
        await producer.start()
        yield send
    finally:
        await producer.stop()


def batched(outputs: Iterable[Output], size: int) -> Iterator[list[Output]]:
    """Splits records into lists of at most `size`."""
    left = iter(outputs)
    while batch := list(islice(left, size)):
        yield batch


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
