"""Brokers killed, wiped, away, slow, and connections that break."""

import os
from signal import SIGCONT, SIGSTOP
from typing import Final

from tests.chaos.cluster import lose_disk, replace_disk
from tests.chaos.stage import TOPICS, Case, Stage


def lose_leaders(stage: Stage) -> None:
    """The leader of a partition is killed and its log directory deleted; it comes back empty; then another one's turn."""
    for topic in (TOPICS.clicks, TOPICS.recommendations):
        leader = stage.cluster.leader_of(topic)
        lose_disk(leader)
        stage.folds_on(1_000)
        replace_disk(leader)
        stage.until(lambda: all(map(stage.cluster.is_in_sync, TOPICS.model_dump(exclude={"partitions"}).values())), 90, "syncing")
        stage.folds_on(1_000)


def kill_broker(stage: Stage) -> None:
    broker = stage.cluster.nodes[0]
    for _ in range(3):
        stage.wait(float(stage.rng.uniform(1, 4)))
        broker.kill()
        broker.start()
        stage.folds_on(500)


def broker_away(stage: Stage) -> None:
    broker = stage.cluster.nodes[0]
    broker.kill()
    stage.wait(60)
    broker.start()
    stage.folds_on(1_000)


def slow_broker(stage: Stage) -> None:
    """Paused for seconds, again and again."""
    pid = stage.cluster.nodes[0].pid
    for _ in range(6):
        os.kill(pid, SIGSTOP)
        stage.wait(float(stage.rng.uniform(2, 8)))
        os.kill(pid, SIGCONT)
        stage.wait(float(stage.rng.uniform(1, 3)))
    stage.folds_on(1_000)


def cut_connections(stage: Stage) -> None:
    """Reset, frozen, and closed on the broker's side only while the clients are not told."""
    proxy = stage.cluster.proxy
    assert proxy is not None
    stage.wait(2)
    assert proxy.reset()
    stage.folds_on(500)
    proxy.freeze()
    stage.wait(10)
    proxy.thaw()
    stage.folds_on(500)
    stage.notes.append(f"{proxy.strand()} connections stranded")
    stage.folds_on(2_000)


CASES: Final = (
    Case(name="leader killed, its disk lost", faults=lose_leaders, brokers=3, rate=300),
    Case(name="broker killed", faults=kill_broker),
    Case(name="broker away for 60 s", faults=broker_away),
    Case(name="broker slow", faults=slow_broker),
    Case(name="connection cut on one side", faults=cut_connections, proxied=True),
)
