"""One living process per name: claims on a store of the test's own, in simulated time, and locks in state directories."""

import asyncio
import heapq
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stream.errors import IsthmusError
from stream.kafka.cluster.names import BEAT_S, WATCH_S, Claim, NameClaim, NameTakenError
from stream.services.instance_name import take_name


class Clock:
    """Simulated time: the sleeper that is due first goes on, once all tasks sleep or have ended."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._due: list[tuple[float, int, asyncio.Event]] = []
        self._number = 0

    async def sleep(self, seconds: float) -> None:
        self._number += 1
        event = asyncio.Event()
        heapq.heappush(self._due, (self.now_s + seconds, self._number, event))
        await event.wait()

    async def run(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        await _yield_all()
        while self._due and self._due[0][0] <= end_s:
            self.now_s, _, event = heapq.heappop(self._due)
            event.set()
            await _yield_all()
        self.now_s = end_s


async def _yield_all() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


class Store:
    """The broker's note; `is_away` while the broker is."""

    def __init__(self) -> None:
        self.claim: Claim | None = None
        self.is_away = False

    async def read(self) -> Claim | None:
        if self.is_away:
            raise ConnectionError("away")
        return self.claim

    async def write(self, claim: Claim | None) -> None:
        if self.is_away:
            raise ConnectionError("away")
        self.claim = claim


class Process:
    """A process that claims the name at once; `host` is also its state directory."""

    def __init__(self, clock: Clock, store: Store, host: str, process: str, home: str | None = None) -> None:
        self.claim = NameClaim("worker-1", Claim(host, 1, process, home=home or f"home of {host}"), store, clock.sleep)
        self.acquired_at_s: float | None = None
        self._clock = clock
        self.task = asyncio.create_task(self._run())
        self.task.add_done_callback(_retrieve)  # a process that loses is no news for the event loop

    async def _run(self) -> None:
        await self.claim.acquire()
        self.acquired_at_s = self._clock.now_s
        await self.claim.keep()

    @property
    def is_ready(self) -> bool:
        return self.acquired_at_s is not None and not self.task.done() and self.claim.check() is None

    @property
    def loser_message(self) -> str:
        assert self.task.done()
        return str(self.task.exception())

    def kill(self) -> None:
        self.task.cancel()


def _retrieve(task: "asyncio.Task[None]") -> None:
    if not task.cancelled():
        task.exception()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store() -> Store:
    return Store()


async def test_a_newcomer_on_another_host_ends_and_ends_again(clock: Clock, store: Store) -> None:
    """The first goes on and stays ready; the message names its host; a supervisor's restart changes nothing."""
    first = Process(clock, store, "host-a", "a")
    await clock.run(10)
    for process in ("b", "c"):
        second = Process(clock, store, "host-b", process)
        await clock.run(WATCH_S)
        assert isinstance(second.task.exception(), NameTakenError)
        assert "host-a" in second.loser_message
        assert first.is_ready
    first.kill()


@pytest.mark.parametrize("names", ["ab", "ba"])
async def test_of_two_that_start_at_once_one_remains(clock: Clock, store: Store, names: str) -> None:
    """Neither is ready before it is decided, whichever writes last."""
    twins = [Process(clock, store, f"host-{name}", name) for name in names]
    for _ in range(6):
        assert sum(twin.is_ready for twin in twins) == 0 or any(twin.task.done() for twin in twins)
        await clock.run(0.5)
    await clock.run(2)
    (loser,) = [twin for twin in twins if twin.task.done()]
    (winner,) = [twin for twin in twins if not twin.task.done()]
    assert winner.is_ready
    assert f"host-{'a' if winner is twins[names.index('a')] else 'b'}" in loser.loser_message
    winner.kill()


async def test_a_restart_on_the_same_host_takes_the_name_at_once(clock: Clock, store: Store) -> None:
    """Its lock says that the former process is gone: it waits for nothing and is ready."""
    former = Process(clock, store, "host-a", "a")
    await clock.run(5)
    former.kill()
    restarted = Process(clock, store, "host-a", "a2")
    await clock.run(0)
    assert restarted.acquired_at_s == clock.now_s
    assert restarted.is_ready
    restarted.kill()


async def test_a_restart_on_another_host_waits_until_the_beat_has_stood_still(clock: Clock, store: Store) -> None:
    """It takes `WATCH_S` and the settling longer, under 10 s."""
    former = Process(clock, store, "host-a", "a")
    await clock.run(5)
    former.kill()
    moved = Process(clock, store, "host-b", "b")
    await clock.run(WATCH_S - 0.5)
    assert not moved.is_ready
    await clock.run(2)
    assert moved.is_ready
    moved.kill()


@pytest.mark.parametrize("process", ["A", "z"])
async def test_a_newcomer_that_takes_itself_for_the_holders_successor_ends(clock: Clock, store: Store, process: str) -> None:
    """Its lock file is a copy of the holder's, with the same id. The holder still has its lock, so it goes on, at each attempt."""
    holder = Process(clock, store, "host-a", "b")
    await clock.run(10)
    for _ in range(3):
        copy = Process(clock, store, "host-b", process, home="home of host-a")
        await clock.run(BEAT_S + 1)
        assert "host-a" in copy.loser_message
        assert holder.is_ready
    holder.kill()


async def test_of_two_copies_that_start_at_once_one_remains(clock: Clock, store: Store) -> None:
    """Each takes itself for the successor of the process that both were copied from."""
    former = Process(clock, store, "host-a", "a")
    await clock.run(5)
    former.kill()
    copies = [Process(clock, store, f"host-{name}", name, home="home of host-a") for name in "bc"]
    await clock.run(10)
    (winner,) = [copy for copy in copies if not copy.task.done()]
    (loser,) = [copy for copy in copies if copy.task.done()]
    assert winner.is_ready
    assert "goes on with it" in loser.loser_message
    winner.kill()


async def test_a_process_that_was_paused_ends_where_another_took_its_name(clock: Clock, store: Store) -> None:
    """The later claim has the higher term, whatever the random ids are."""
    paused = Process(clock, store, "host-a", "z")
    await clock.run(5)
    stale = store.claim
    store.claim = Claim("host-b", 2, "a", "home of host-b", term=2, beat=1)
    assert stale is not None
    assert store.claim.wins_over(stale)
    await clock.run(BEAT_S)
    assert "host-b" in paused.loser_message


async def test_a_name_survives_a_broker_that_is_away(clock: Clock, store: Store) -> None:
    """Nobody can claim the name meanwhile, and the beat goes on afterwards."""
    process = Process(clock, store, "host-a", "a")
    await clock.run(5)
    store.is_away = True
    await clock.run(60)
    assert process.is_ready
    store.is_away = False
    late = Process(clock, store, "host-b", "b")
    await clock.run(WATCH_S)
    assert "host-a" in late.loser_message
    assert process.is_ready
    process.kill()


async def test_a_name_that_was_given_up_is_free_at_once(clock: Clock, store: Store) -> None:
    """After SIGTERM another host need not wait for the beat."""
    former = Process(clock, store, "host-a", "a")
    await clock.run(5)
    former.kill()
    await former.claim.release()
    following = Process(clock, store, "host-b", "b")
    await clock.run(2)
    assert following.is_ready
    following.kill()


def test_without_a_name_a_process_takes_its_hosts_and_the_first_free_number(tmp_path: Path) -> None:
    """A number is free again once its process has ended; characters that Kafka does not allow are replaced."""
    first, second = take_name(tmp_path, None, "host a"), take_name(tmp_path, None, "host a")
    assert (first.name, second.name) == ("host-a-1", "host-a-2")
    assert second.folder == tmp_path / "host-a-2"
    first.lock.close()
    again = take_name(tmp_path, None, "host a")
    assert (again.name, again.home) == (first.name, first.home)
    again.lock.close()
    second.lock.close()


@pytest.mark.parametrize("host", ["host-a", "host-b"])
def test_a_copied_states_directory_has_another_home(tmp_path: Path, host: str) -> None:
    """Or two processes of one name would be each other's successors. The copy's home stays the same afterwards."""
    first = take_name(tmp_path / "states", "worker-1", "host-a")
    first.lock.close()
    shutil.copytree(tmp_path / "states", tmp_path / "copy")
    copy = take_name(tmp_path / "copy", "worker-1", host)
    copy.lock.close()
    assert copy.home != first.home
    again = take_name(tmp_path / "copy", "worker-1", host)
    again.lock.close()
    assert again.home == copy.home


def test_a_states_directory_that_is_mounted_on_another_host_has_another_home(tmp_path: Path) -> None:
    """A volume's clone has the same inodes."""
    first = take_name(tmp_path, "worker-1", "host-a")
    first.lock.close()
    moved = take_name(tmp_path, "worker-1", "host-b")
    moved.lock.close()
    assert moved.home != first.home


def test_a_cloned_machine_with_the_same_host_name_has_another_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image has the same host name, machine id and inodes; its boot is another one."""
    first = take_name(tmp_path, "worker-1", "host-a")
    first.lock.close()
    boot = tmp_path / "boot_id"
    boot.write_text("another boot\n")
    monkeypatch.setattr("stream.services.instance_name._BOOT_ID", boot)
    clone = take_name(tmp_path, "worker-1", "host-a")
    clone.lock.close()
    assert clone.home != first.home


def test_a_name_of_a_living_process_on_this_host_is_refused(tmp_path: Path) -> None:
    """The message names process, host and directory."""
    taken = take_name(tmp_path, "worker-1", "host-a")
    with pytest.raises(IsthmusError, match=r"the name worker-1 is taken: process \d+ on host-a goes on with it, in .*worker-1"):
        take_name(tmp_path, "worker-1", "host-a")
    taken.lock.close()


def test_a_killed_process_leaves_its_name_free(tmp_path: Path) -> None:
    """The system lets go of the lock with the process, at kill -9 too."""
    code = "import sys, time; from pathlib import Path; from stream.services.instance_name import take_name"
    code += "; taken = take_name(Path(sys.argv[1]), 'worker-1', None); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(IsthmusError):
            take_name(tmp_path, "worker-1", None)
        holder.kill()
        holder.wait()
    take_name(tmp_path, "worker-1", None).lock.close()
