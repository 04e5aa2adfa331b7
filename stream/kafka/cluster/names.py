"""One living process per name. A process keeps a claim to its name on the broker, and looks there before it joins its group.

Two static members of one name would take the group's membership from each other for ever, both ready most of the time. The claim is
the metadata of a committed offset in a group without members, one group a name; it needs no topic. Its writer counts `beat` upwards
every `BEAT_S`; a claim whose beat has not moved for `WATCH_S` belongs to a process that is gone.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, Protocol

import msgspec
from kafka import TopicPartition
from kafka.structs import OffsetAndMetadata

from stream.errors import IsthmusError
from stream.kafka.cluster.admin_requests import AdminRequests
from stream.kafka.cluster.lag import NO_GROUP_YET
from stream.kafka.cluster.partition import Partition

logger = logging.getLogger("isthmus")
BEAT_S: Final = 2.0
WATCH_S: Final = 6.0
SETTLE_S: Final = 1.0
_LOOK_S: Final = 0.5
_NEW_BEATS: Final = 8
"""As long as a claim is new, it is looked at every `_LOOK_S`: longer than the holder of a name takes to see it."""

Sleep = Callable[[float], Awaitable[None]]


class Claim(msgspec.Struct, frozen=True, omit_defaults=True):
    """A process's claim to a name.

    Attributes:
        host: Its host, for people.
        pid: Its process id there, for people.
        process: A random id of the process.
        home: The id of the lock that it holds on its host.
        term: How often the name was claimed; the higher term wins.
        beat: Counted upwards while the process lives.
    """

    host: str
    pid: int
    process: str
    home: str
    term: int = 0
    beat: int = 0

    def wins_over(self, other: "Claim") -> bool:
        """Whether this claim wins and the other process must end. Two claims with one term were made at the same moment."""
        return (self.term, self.process) > (other.term, other.process)

    @property
    def is_new(self) -> bool:
        return self.beat <= _NEW_BEATS

    def is_copy_of(self, holder: "Claim") -> bool:
        """Whether this claim was made from a copy of the holder's lock, which the holder still has; so it is no successor."""
        return self.home == holder.home and self.is_new and not holder.is_new


class NameTakenError(IsthmusError):
    """Another living process has the name."""

    def __init__(self, name: str, other: Claim) -> None:
        super().__init__(
            f"the name {name} is taken: process {other.pid} on {other.host} goes on with it. This one ends, and would again. Give "
            "each process its own name (settings worker.name, encoder.name), or none: then it takes its host's name"
        )


class ClaimStore(Protocol):
    """Where the claim to one name is kept. Both methods raise OSError if the broker does not answer."""

    async def read(self) -> Claim | None: ...

    async def write(self, claim: Claim | None) -> None: ...


class NameClaim:
    """Our own claim to a name: `acquire`, then `keep` for as long as the process lives.

    Attributes:
        is_settled: Set once no other process can have claimed the name at the same moment.
    """

    def __init__(
        self, name: str, claim: Claim, store: ClaimStore, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._name = name
        self._claim = claim
        self._store = store
        self._sleep = sleep
        self._settles_in_s = SETTLE_S
        self.is_settled = asyncio.Event()

    async def acquire(self) -> None:
        """Claims the name. At once if it is free, or the former process held the lock that we hold now.

        Raises:
            NameTakenError: another process's claim is alive.
        """
        found = await self._store.read()
        if found is not None and found.home != self._claim.home:
            await self._watch(found)
        is_successor = found is not None and found.home == self._claim.home
        if is_successor:
            self._settle(SETTLE_S)
        term = 1 if found is None else found.term + 1
        await self._write(msgspec.structs.replace(self._claim, term=term, beat=1))

    async def keep(self) -> None:
        """Counts the beat for ever. Until the claim has settled it looks more often: another may have been made at the same moment.

        Raises:
            NameTakenError: another process's claim wins.
        """
        while True:
            pause_s = _LOOK_S if self._settles_in_s > 0 or self._claim.is_new else BEAT_S
            await self._sleep(pause_s)
            try:
                await self._beat(pause_s)
            except OSError:
                continue  # the broker is away: nobody else can claim the name either

    def check(self) -> str | None:
        """What readiness says."""
        return None if self._settles_in_s <= 0 else "whether another process has this name is not known yet"

    async def release(self) -> None:
        """Gives the name up, so that a process on another host need not wait for it."""
        with suppress(OSError):
            await self._store.write(None)

    async def _beat(self, passed_s: float) -> None:
        found = await self._store.read()
        term = self._claim.term
        if found is None or found.process == self._claim.process:
            self._settle(passed_s)
        elif found.is_copy_of(self._claim):
            term = max(term, found.term + 1)
            text = "the process %d on %s claims the name %s from a copy of this process's states directory; it has to end"
            logger.warning(text, found.pid, found.host, self._name)
        elif found.wins_over(self._claim):
            raise NameTakenError(self._name, found)
        else:
            logger.warning("the process %d on %s claims the name %s too; it has to end", found.pid, found.host, self._name)
            self._settles_in_s = max(SETTLE_S, self._settles_in_s)
        await self._write(msgspec.structs.replace(self._claim, term=term, beat=self._claim.beat + 1))

    def _settle(self, passed_s: float) -> None:
        self._settles_in_s -= passed_s
        if self._settles_in_s <= 0:
            self.is_settled.set()

    async def _watch(self, found: Claim) -> None:
        """Returns once the claim has stood still for `WATCH_S`."""
        logger.info("the name %s was last used on %s: waiting %.0f s to see whether it still is", self._name, found.host, WATCH_S)
        for _ in range(round(WATCH_S / _LOOK_S)):
            await self._sleep(_LOOK_S)
            now = await self._store.read()
            if now is not None and (now.process, now.beat) != (found.process, found.beat):
                raise NameTakenError(self._name, now)

    async def _write(self, claim: Claim) -> None:
        await self._store.write(claim)
        self._claim = claim


def claim_group(group: str, name: str) -> str:
    """The group without members that keeps the claim to a name in a consumer group."""
    return f"{group}-name-{name}"


class KafkaClaimStore:
    """The claim to one name in its own group, as the metadata of an offset of `partition`, which only has to exist."""

    def __init__(self, bootstrap: str, group: str, name: str, partition: Partition) -> None:
        self._requests = AdminRequests(bootstrap)
        self._group = claim_group(group, name)
        self._tp = TopicPartition(*partition)

    async def read(self) -> Claim | None:
        claim: Claim | None = await self._requests.request(self._read)
        return claim

    async def write(self, claim: Claim | None) -> None:
        await self._requests.request(self._write, claim)

    async def close(self) -> None:
        await self._requests.close()

    def _read(self, admin: Any) -> Claim | None:
        try:
            answer = admin.list_group_offsets({self._group: [self._tp]})
        except NO_GROUP_YET:
            return None
        note = answer.get(self._group, answer).get(self._tp)
        try:
            return msgspec.json.decode((note.metadata if note is not None else "") or "", type=Claim)
        except msgspec.MsgspecError:
            return None

    def _write(self, admin: Any, claim: Claim | None) -> None:
        text = "" if claim is None else msgspec.json.encode(claim).decode()
        errors = admin.alter_group_offsets(self._group, {self._tp: OffsetAndMetadata(0, text, None)})
        if errors[self._tp].errno:
            raise ConnectionError(errors[self._tp].__name__)
