"""Faults of group members: workers and encoders that are killed, wiped or paused, or join and leave."""

import shutil
from typing import Final

from tests.chaos.stage import Case, Process, Stage

KILLS: Final = 20
PAST_SESSION_S: Final = 45.0  # the session timeout is 30 s
DYNAMIC: Final = {"ISTHMUS_WORKER__STATIC_MEMBERSHIP": "false"}
EXACTLY_ONCE: Final = {"ISTHMUS_DELIVERY__GUARANTEE": "exactly_once"}


def kill_at_random(stage: Stage, process: Process) -> None:
    """Kills the process at a random moment and restarts it."""
    stage.wait(float(stage.rng.uniform(0.05, 1.5)))
    process.kill()
    process.start()
    stage.wait_for_progress()


def kills(stage: Stage) -> None:
    for _ in range(KILLS):
        kill_at_random(stage, stage["worker-1"])


def some_kills(stage: Stage) -> None:
    for _ in range(5):
        kill_at_random(stage, stage["worker-1"])


def wipes(stage: Stage) -> None:
    for _ in range(2):
        stage.wait(float(stage.rng.uniform(0.05, 1.5)))
        stage["worker-1"].kill()
        shutil.rmtree(stage["worker-1"].state)
        stage["worker-1"].start()
        stage.wait_for_progress()


def some_of_each(stage: Stage) -> None:
    """The short form: kills the worker, kills it and wipes its store, and kills the encoder."""
    kill_at_random(stage, stage["worker-1"])
    stage["encoder-1"].kill()
    stage["encoder-1"].start()
    stage["worker-1"].kill()
    shutil.rmtree(stage["worker-1"].state)
    stage["worker-1"].start()
    stage.wait_for_progress()


def join_and_leave(stage: Stage) -> None:
    """A second and a third worker join; one leaves with SIGTERM, one with SIGKILL; both return."""
    for name in ("worker-2", "worker-3"):
        stage.add("worker", name)
        stage.wait(float(stage.rng.uniform(6, 10)))
    stage["worker-2"].stop()
    stage.wait(float(stage.rng.uniform(2, 5)))
    stage["worker-3"].kill()
    stage.wait(35)  # past the session timeout: their partitions are taken over
    stage.wait_for_progress(1_000)
    for name in ("worker-2", "worker-3"):
        stage[name].start()
        stage.wait(float(stage.rng.uniform(4, 8)))
    stage["worker-1"].kill()
    stage["worker-1"].start()
    stage.wait_for_progress(1_000)


def pause_worker(stage: Stage) -> None:
    """Pauses one worker past its session timeout while the other takes over, then resumes it with batches in flight."""
    stage.wait(float(stage.rng.uniform(6, 10)))
    stage["worker-1"].pause()
    stage.wait(PAST_SESSION_S)
    stage["worker-1"].resume()
    stage.wait_for_progress(1_000)
    stage.wait(5)
    held, dropped = (stage["worker-1"].metric(f'isthmus_late_batches_total{{outcome="{how}"}}') for how in ("held", "dropped"))
    stage.notes.append(f"late batches of the resumed worker: {held:.0f} held, {dropped:.0f} dropped")


def kill_encoders(stage: Stage) -> None:
    for _ in range(5):
        stage.wait(float(stage.rng.uniform(0.5, 3)))
        stage["encoder-1"].kill()
        stage["encoder-1"].start()
        stage.wait(4)


def pause_encoder(stage: Stage) -> None:
    """Pauses the encoder briefly, then past its session timeout while another encoder takes over."""
    for seconds in (3.0, PAST_SESSION_S):
        stage.wait(float(stage.rng.uniform(1, 3)))
        stage["encoder-1"].pause()
        stage.wait(seconds)
        stage["encoder-1"].resume()
    stage.wait_for_progress(1_000)


SHORT: Final = Case(name="short form", faults=some_of_each, rate=150)
CASES: Final = (
    SHORT,
    Case(name="worker killed, store kept", faults=kills, rate=500),
    Case(name="worker killed, store wiped", faults=wipes, rate=500),
    Case(name="workers join and leave, static", faults=join_and_leave),
    Case(name="workers join and leave, dynamic", faults=join_and_leave, variables=DYNAMIC),
    Case(
        name="worker paused past its session",
        faults=pause_worker,
        workers=2,
        variables=DYNAMIC,
        exact=False,
        why="at least once: a resumed worker's late batch is counted, not prevented",
    ),
    Case(
        name="worker paused past its session, exactly once",
        faults=pause_worker,
        workers=2,
        variables=DYNAMIC | EXACTLY_ONCE,
        sent_once=True,
    ),
    Case(name="worker killed, exactly once", faults=some_kills, variables=EXACTLY_ONCE, sent_once=True),
    Case(name="encoder killed", faults=kill_encoders),
    Case(name="encoder paused", faults=pause_encoder, encoders=2),
)
