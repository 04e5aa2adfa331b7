"""What a process says until it serves."""

import threading

import pytest

from stream.services import startup
from stream.services.demo.catching_up import catch_up, repeated


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "REPEAT_S", 0.05)
    monkeypatch.setattr(startup, "_POLL_S", 0.01)


class Lines:
    """The reported lines; waits for the next one."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._came = threading.Condition()

    def __call__(self, line: str) -> None:
        with self._came:
            self.lines.append(line)
            self._came.notify_all()

    def wait_for(self, part: str) -> None:
        with self._came:
            assert self._came.wait_for(lambda: any(part in line for line in self.lines), 10), self.lines


def test_each_step_is_reported_once_and_a_long_one_again() -> None:
    """Nobody waits before a silent process."""
    lines = Lines()
    with startup.starting(lines, "loading libraries") as start:
        start.step("checking topics")
        start.step("checking topics")
        lines.wait_for("still checking topics")
    assert lines.lines[:2] == ["loading libraries", "checking topics"]
    assert lines.lines.count("checking topics") == 1


def test_a_watched_start_ends_when_there_is_nothing_left_to_do() -> None:
    """And says that it serves; later steps are no longer reported."""
    lines, steps = Lines(), iter(["joining the group", "restoring", None])
    with startup.starting(lines, "loading libraries") as start:
        start.watch(lambda: next(steps))
        lines.wait_for("serving")
        start.step("too late")
    assert [line for line in lines.lines if "still" not in line] == [
        "loading libraries",
        "joining the group",
        "restoring",
        "serving",
    ]


def test_a_start_that_fails_falls_silent() -> None:
    """Its thread ends with it."""
    lines = Lines()
    with pytest.raises(ValueError, match="broken"), startup.starting(lines, "loading libraries"):
        raise ValueError("broken")
    assert not [thread for thread in threading.enumerate() if thread.name == "startup"]


async def test_a_demo_that_was_ended_waits_for_what_is_on_its_way() -> None:
    """Until encoder and worker have acknowledged it."""
    lines, behind = Lines(), iter([7, 3, 0])

    async def records() -> int:
        return next(behind)

    await catch_up(records, lines)
    assert lines.lines == ["stopped sending; waiting at most 20 s for 7 records that are on their way"]
    assert next(behind, None) is None


async def test_a_demo_that_cannot_catch_up_says_what_is_not_counted() -> None:
    """A worker may have crashed."""
    lines = Lines()

    async def records() -> int:
        return 7

    await catch_up(records, lines, wait_s=0)
    assert lines.lines == ["7 records are still on their way after 0 s: the summary does not count them"]


def test_long_work_at_the_end_is_said_again_while_it_lasts() -> None:
    """A demo that stops its parts on a busy machine is not silent meanwhile."""
    lines: list[str] = []
    said_again = threading.Event()

    def say(line: str) -> None:
        lines.append(line)
        if line.startswith("still"):
            said_again.set()

    with repeated("stopping", say, every_s=0.01):
        assert said_again.wait(10)
    assert lines[:2] == ["stopping", "still stopping"]
