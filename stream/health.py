"""The health of a process: whether it is live (if not, restart it) and whether it is ready (if not, do not rely on it yet).

Each is a set of checks that return what is wrong, or None. Nothing here knows Kafka or Faust; time is an argument.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

Check = Callable[[], str | None]
NOT_ASSIGNED: Final = "none are assigned yet"
"""What the check of a process's partitions says until the first assignment."""


@dataclass
class Health:
    """Checks by name. They are called from another thread, so they must only read."""

    live: dict[str, Check] = field(default_factory=dict)
    ready: dict[str, Check] = field(default_factory=dict)

    @staticmethod
    def wrong(checks: Mapping[str, Check]) -> list[str]:
        return [f"{name}: {problem}" for name, check in list(checks.items()) if (problem := check()) is not None]


class Beat:
    """Detects a blocked loop: the loop calls `beat`, another thread calls `check`. `clock` is monotonic, in seconds."""

    def __init__(self, silent_s: float, clock: Callable[[], float]) -> None:
        self._silent_s = silent_s
        self._clock = clock
        self._last = clock()

    def beat(self) -> None:
        self._last = self._clock()

    def check(self) -> str | None:
        age_s = self._clock() - self._last
        return None if age_s <= self._silent_s else f"has been blocked for {age_s:.0f} s"

    async def keep_beating(self) -> None:
        while True:
            self.beat()
            await asyncio.sleep(1.0)


class PartitionProgress(NamedTuple):
    """The progress of a partition.

    Attributes:
        committed: The committed offset, as the broker knows it.
        behind: Whether there is work beyond it.
    """

    committed: int
    behind: bool


class Stalls:
    """Finds partitions that have work and whose committed offset has not moved for `stalled_s` seconds.

    Only an unbroken series of observations counts, at most `every_s` seconds apart: while the broker is away, or tables are
    restored, nothing can be committed, and a restart would not help.
    """

    def __init__(self, stalled_s: float, every_s: float) -> None:
        self._stalled_s = stalled_s
        self._every_s = every_s
        self._since: dict[str, tuple[int, float]] = {}
        self._observed_at: float | None = None
        self._stalled: tuple[str, ...] = ()

    def observe(self, now_s: float, partitions: Mapping[str, PartitionProgress]) -> None:
        if self._observed_at is None or now_s - self._observed_at > self._every_s:
            self._since.clear()
        self._observed_at = now_s
        self._since = {
            name: self._unmoved_since(name, partition, now_s) for name, partition in partitions.items() if partition.behind
        }
        self._stalled = tuple(self._late(now_s))

    def forget(self) -> None:
        self._since.clear()
        self._observed_at, self._stalled = None, ()

    def stalled(self) -> tuple[str, ...]:
        """The stalled partitions, as of the last observation."""
        return self._stalled

    def check(self) -> str | None:
        if not self._stalled:
            return None
        return f"committed offsets of {', '.join(self._stalled)} have not moved for {self._stalled_s:.0f} s although there is work"

    def _unmoved_since(self, name: str, partition: PartitionProgress, now_s: float) -> tuple[int, float]:
        committed, since_s = self._since.get(name, (-1, now_s))
        return (committed, since_s) if committed == partition.committed else (partition.committed, now_s)

    def _late(self, now_s: float) -> Iterable[str]:
        return (name for name, (_, since_s) in self._since.items() if now_s - since_s >= self._stalled_s)
