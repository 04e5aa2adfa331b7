"""`make chaos-api`: the API under faults (for SECONDS) while lists are written and read. Writes build/chaos-api.json.

Three replicas, one with a store of its own and two that share a Redis, answer all the time. Each answer is judged by what it says:
it must hold everything that Kafka had acknowledged by the time that its `age_s` names, and nothing older than the answer before.
A replica that says that it is ready must answer. At the end, each replica must serve exactly what the topic holds.
"""

import argparse
import json
import logging
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from stream.errors import IsthmusError
from stream.kafka.cluster.local_broker import LocalKafka, free_port
from stream.kafka.cluster.topics import create_or_check
from stream.services.child_processes import ChildProcess
from stream.settings import TopicSettings
from tests.chaos.api_lists import USERS, Writer, newest_lists, version_of
from tests.chaos.stage import BUILD
from tests.redis_server import RedisServer
from tests.system.test_api_kafka import Site, keys

TOPICS: Final = TopicSettings(partitions=4)
OWN, SHARED = "api-own", ("api-1", "api-2")
RATE: Final = 200.0
ASKED_AT_ONCE: Final = 25
ASK_EVERY_S: Final = 0.05
SLACK_S: Final = 1.0
"""An acknowledgement reaches the producer later than the broker's clock stamps the record; and clocks have milliseconds."""
AWAY_S: Final = 8.0
PAUSED_S: Final = 15.0
"""Longer than the session of the replicas' group, 10 s."""
WITHIN_S: Final = 120.0
OK: Final = 200


class Replica:
    """One process, and what a client of it saw."""

    def __init__(self, name: str, key: str, environment: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self.site = Site(free_port(), key)
        self.saw: Counter[str] = Counter()
        self.problems: list[str] = []
        self._newest: Counter[str] = Counter()
        self._arguments = ["api", "--name", name, "--port", str(self.site.port), "--metrics-port", "0"]
        self._environment = environment
        self._log = folder / f"{name}.log"
        self.start()

    def start(self) -> None:
        self.child = ChildProcess(self._arguments, self._environment, self._log)

    def kill(self) -> None:
        self.child.kill()

    def send(self, number: signal.Signals) -> None:
        self.child.process.send_signal(number)

    def lists(self, users: Sequence[str]) -> tuple[int, dict[str, Any]]:
        """Returns a status, 0 for a replica that cannot be reached, and what is served to users, by user."""
        status, answer = self.site.ask("POST", "/v1/users/batch", {"users": users})
        return status, {one["user_id"]: one for one in answer["lists"]} if status == OK else {}

    def ids(self) -> dict[str, str | None]:
        return {user: one.get("recommendation_id") for user, one in self.lists(USERS)[1].items()}

    def look(self, writer: Writer, rng: random.Random) -> None:
        """Asks once, and judges the answer."""
        ready, asked_at = self.site.is_ready(), time.time()
        status, found = self.lists(rng.sample(USERS, ASKED_AT_ONCE))
        still = self.site.is_ready()
        self.saw["unreachable" if not status else "answered" if status == OK else "refused"] += 1
        if status not in {0, OK} and ready and still:
            self.problems.append(f"{self.name} is ready and answers {status}")
        if status == OK and not ready and not still:
            self.problems.append(f"{self.name} is not ready and answers")
        for user, one in found.items():
            served, age_s = one.get("recommendation_id"), one["age_s"]
            self.saw["lists"] += 1
            if not writer.is_true(user, served, asked_at - age_s - SLACK_S):
                self.problems.append(f"{self.name} serves {served} to {user} as of {age_s:.1f} s ago")
            if served is not None and version_of(served) < self._newest[user]:
                self.problems.append(f"{self.name} served a newer list than {served} before")
            self._newest[user] = max(self._newest[user], 0 if served is None else version_of(served))


class Stage:
    """Broker, Redis, writer and replicas."""

    def __init__(self, folder: Path, broker: LocalKafka, seed: int) -> None:
        self.broker = broker
        self.state = folder / "state"
        self.redis = RedisServer(folder / "redis").start()
        self.rng = random.Random(seed)
        environment = {
            "ISTHMUS_KAFKA__BOOTSTRAP": broker.bootstrap,
            "ISTHMUS_KAFKA__DEV": "true",
            "ISTHMUS_TOPICS__PARTITIONS": str(TOPICS.partitions),
            "ISTHMUS_API__STATE_DIR": str(self.state),
            "ISTHMUS_API__FAILURES_PER_MINUTE": "0",
        }
        key = keys(environment, "make", "chaos", "--scope", "read")
        shared = {**environment, "ISTHMUS_API__REDIS_URL": self.redis.url}
        self.writer = Writer(broker.bootstrap, TOPICS.recommendations, RATE, seed)
        self.replicas = {name: Replica(name, key, shared if name in SHARED else environment, folder) for name in (OWN, *SHARED)}
        self.recovered_s: dict[str, list[float]] = {}
        self.problems: list[str] = []
        self._stopping = threading.Event()
        self._watchers = [threading.Thread(target=self._watch, args=(one, seed), daemon=True) for one in self.replicas.values()]

    def start(self) -> None:
        self.writer.start()
        self.until(self.is_current, "the first lists")
        for watcher in self._watchers:
            watcher.start()

    def _watch(self, replica: Replica, seed: int) -> None:
        rng = random.Random(seed)
        while not self._stopping.wait(ASK_EVERY_S):
            replica.look(self.writer, rng)

    def until(self, holds: Callable[[], bool], what: str, within_s: float = WITHIN_S) -> float:
        """Waits; returns the seconds. Raises AssertionError where it takes too long."""
        began = time.monotonic()
        while not holds():
            assert time.monotonic() - began < within_s, f"{what}: not within {within_s:.0f} s"
            time.sleep(0.1)
        return time.monotonic() - began

    def is_current(self) -> bool:
        """Whether every replica is ready and holds what is acknowledged by now."""
        now = time.time()
        return all(self._holds(replica, now) for replica in self.replicas.values())

    def _holds(self, replica: Replica, before: float) -> bool:
        deadline = time.monotonic() + 5
        while replica.site.is_ready() and time.monotonic() < deadline:
            found = replica.ids()
            if found and all(self.writer.is_true(user, one, before) for user, one in found.items()):
                return True
            time.sleep(0.05)
        return False

    def expect(self, holds: Callable[[], bool], what: str) -> None:
        try:
            self.until(holds, what, 20)
        except AssertionError as error:
            self.problems.append(str(error))

    def finish(self) -> dict[str, Any]:
        """Stops the writer, and compares what is served with the topic."""
        self.writer.stop()
        self.until(self.is_current, "the last lists")
        self._stopping.set()
        for watcher in self._watchers:
            watcher.join(60)
        topic = newest_lists(self.broker.bootstrap, TOPICS.recommendations)
        differ = {name: sum(topic[user] != one for user, one in replica.ids().items()) for name, replica in self.replicas.items()}
        saw = sum((replica.saw for replica in self.replicas.values()), Counter[str]())
        problems = [*self.problems, *(one for replica in self.replicas.values() for one in replica.problems)]
        return {
            "records": self.writer.sent,
            "not acknowledged": self.writer.failed,
            "faults": {name: len(times) for name, times in self.recovered_s.items()},
            "slowest recovery, s": {name: round(max(times), 1) for name, times in self.recovered_s.items()},
            "answers": saw["answered"],
            "lists judged": saw["lists"],
            "answers that refused": saw["refused"],
            "unreachable": saw["unreachable"],
            "users whose list differs at the end": differ,
            "problems": len(problems),
            "first problems": problems[:5],
        }

    def close(self) -> None:
        self._stopping.set()
        for replica in self.replicas.values():
            replica.send(signal.SIGCONT)
            replica.kill()
        self.redis.kill()


def kill_one_with_a_store_of_its_own(stage: Stage) -> None:
    stage.replicas[OWN].kill()
    stage.replicas[OWN].start()


def wipe_a_store(stage: Stage) -> None:
    stage.replicas[OWN].kill()
    shutil.rmtree(stage.state / OWN)
    stage.replicas[OWN].start()


def kill_one_that_shares(stage: Stage) -> None:
    chosen = stage.replicas[stage.rng.choice(SHARED)]
    chosen.kill()
    chosen.start()


def pause_a_writer(stage: Stage) -> None:
    """Its partitions go to the other replica, and it wakes up with what it had read."""
    chosen = stage.replicas[stage.rng.choice(SHARED)]
    chosen.send(signal.SIGSTOP)
    time.sleep(PAUSED_S)
    chosen.send(signal.SIGCONT)


def stop_the_broker(stage: Stage) -> None:
    """Everybody goes on answering, and says how old the answers are."""
    stage.broker.stop()
    time.sleep(AWAY_S)
    for replica in stage.replicas.values():
        status, found = replica.lists(USERS[:1])
        if not replica.site.is_ready() or status != OK or found[USERS[0]]["age_s"] < AWAY_S / 2:
            stage.problems.append(f"{replica.name} without a broker: {status}, {found}")
    stage.broker.start()


def empty_redis(stage: Stage) -> None:
    _bring_redis_back(stage, None)


def bring_back_an_older_redis(stage: Stage) -> None:
    with stage.redis.client() as client:
        client.save()
    copy = shutil.copy(stage.redis.folder / "dump.rdb", stage.redis.folder / "older.rdb")
    time.sleep(AWAY_S)
    _bring_redis_back(stage, Path(copy))


def _bring_redis_back(stage: Stage, copy: Path | None) -> None:
    """Those who share it are not ready while it is away; the other one is."""
    stage.redis.kill()
    stage.expect(lambda: not any(stage.replicas[name].site.is_ready() for name in SHARED), "not ready without Redis")
    stage.expect(stage.replicas[OWN].site.is_ready, "ready without Redis, which it does not use")
    (stage.redis.folder / "dump.rdb").unlink(missing_ok=True)
    if copy is not None:
        shutil.copy(copy, stage.redis.folder / "dump.rdb")
    stage.redis.start()


FAULTS: Final = (
    kill_one_with_a_store_of_its_own,
    wipe_a_store,
    kill_one_that_shares,
    pause_a_writer,
    stop_the_broker,
    empty_redis,
    bring_back_an_older_redis,
)


def run(folder: Path, seconds: float, seed: int) -> dict[str, Any]:
    """Runs rounds of all faults, in another order each time, until the time is over."""
    with LocalKafka(folder / "kafka") as broker:
        create_or_check(broker.bootstrap, TOPICS, dev=True)
        stage = Stage(folder, broker, seed)
        try:
            stage.start()
            began, rounds = time.monotonic(), 0
            while time.monotonic() - began < seconds:
                for fault in stage.rng.sample(FAULTS, len(FAULTS)):
                    fault(stage)
                    name = fault.__name__.replace("_", " ")
                    stage.recovered_s.setdefault(name, []).append(stage.until(stage.is_current, name))
                    print(f"{name}: all current after {stage.recovered_s[name][-1]:.1f} s", flush=True)
                rounds += 1
            return {"seed": seed, "seconds": round(time.monotonic() - began), "rounds": rounds, **stage.finish()}
        finally:
            stage.close()


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds the context managers, which stop broker and replicas
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    folder = BUILD / "chaos" / "api"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    logging.basicConfig(filename=folder / "clients.log", level=logging.WARNING)
    try:
        figures = run(folder, given.seconds, given.seed)
    except (AssertionError, IsthmusError) as error:
        print(f"{error}\nlogs: {folder}", file=sys.stderr)
        return 1
    (BUILD / "chaos-api.json").write_text(json.dumps(figures, indent=1))
    print(json.dumps(figures, indent=1))
    return 0 if not figures["problems"] and not any(figures["users whose list differs at the end"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
