"""Faults of brokers: killed, wiped, absent or slow brokers, and broken connections."""

import os
from signal import SIGCONT, SIGSTOP
from typing import Final

from tests.chaos.cluster import lose_disk, replace_disk
from tests.chaos.stage import TOPICS, Case, Stage


def lose_leaders(stage: Stage) -> None:
    """Kills a partition's leader, deletes its log directory and restarts it empty; then does the same to another leader."""
    for topic in (TOPICS.clicks, TOPICS.recommendations):
        leader = stage.cluster.leader_of(topic)
        lose_disk(leader)
        stage.wait_for_progress(1_000)
        replace_disk(leader)
        stage.until(lambda: all(map(stage.cluster.is_in_sync, TOPICS.model_dump(exclude={"partitions"}).values())), 90, "syncing")
        stage.wait_for_progress(1_000)


def kill_broker(stage: Stage) -> None:
    broker = stage.cluster.nodes[0]
    for _ in range(3):
        stage.wait(float(stage.rng.uniform(1, 4)))
        broker.kill()
        broker.start()
        stage.wait_for_progress(500)


def broker_away(stage: Stage) -> None:
    broker = stage.cluster.nodes[0]
    broker.kill()
    stage.wait(60)
    broker.start()
    stage.wait_for_progress(1_000)


def slow_broker(stage: Stage) -> None:
    """Pauses the broker for seconds, repeatedly."""
    pid = stage.cluster.nodes[0].pid
    for _ in range(6):
        os.kill(pid, SIGSTOP)
        stage.wait(float(stage.rng.uniform(2, 8)))
        os.kill(pid, SIGCONT)
        stage.wait(float(stage.rng.uniform(1, 3)))
    stage.wait_for_progress(1_000)


def cut_connections(stage: Stage) -> None:
    """Resets connections, freezes them, and closes them on the broker's side only, which the clients do not notice."""
    proxy = stage.cluster.proxy
    assert proxy is not None
    stage.wait(2)
    assert proxy.reset()
    stage.wait_for_progress(500)
    proxy.freeze()
    stage.wait(10)
    proxy.thaw()
    stage.wait_for_progress(500)
    stage.notes.append(f"{proxy.strand()} connections stranded")
    stage.wait_for_progress(2_000)


CASES: Final = (
    Case(name="leader killed, its disk lost", faults=lose_leaders, brokers=3, rate=300),
    Case(name="broker killed", faults=kill_broker),
    Case(name="broker away for 60 s", faults=broker_away),
    Case(name="broker slow", faults=slow_broker),
    Case(name="connection cut on one side", faults=cut_connections, proxied=True),
)
