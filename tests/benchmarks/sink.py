"""`make bench-sink`: the PostgreSQL sink's first load of a million users, and its throughput when lists are replaced.

    python -m tests.benchmarks.sink [--users 1000000] [--updates 200000] [--forms user,rank]

Each form of the table has a broker of its own, filled with a list of each user, and a new database of a server with its default
settings, which are durable. `isthmus sink postgres` starts on the empty database. When it is ready, lists of random users
are replaced, as fast as the topic takes them. After both, every row is compared with the topic. Writes build/sink.json.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import psycopg

from stream.kafka.cluster.local_broker import LocalKafka, free_port
from stream.kafka.cluster.topics import create_or_check
from stream.services.child_processes import ChildProcess, wait_for
from tests.benchmarks.deployment import TOPICS, say, used
from tests.benchmarks.exclusive import exclusive_run
from tests.benchmarks.users import LISTED, fill, list_id, name_of, replace_lists
from tests.postgres import Database, LocalPostgres, sink_variables
from tests.system.readiness import readiness

WITHIN_S: Final = 3_600.0
SAY_S: Final = 5.0
OUT: Final = Path("build/sink.json")
ROWS: Final = {"user": ("recommendations", 1), "rank": ("recommended_items", LISTED)}
"""The table of each form, and a user's rows in it."""


class Plan(NamedTuple):
    """What is measured: users of the first load, lists that are replaced after it, and the form of the table."""

    users: int
    updates: int
    form: str


class Running:
    """A sink on an empty database, and how far it has come."""

    def __init__(self, bootstrap: str, database: Database, form: str, folder: Path) -> None:
        self._database = database
        self._port = free_port()
        self._said_s = self._began = time.perf_counter()
        variables = {**sink_variables(bootstrap, database, TOPICS.partitions), "ISTHMUS_POSTGRES__ROWS": form}
        arguments = ["sink", "postgres", "--metrics-port", str(self._port)]
        self.child = ChildProcess(arguments, variables, folder / f"sink-{form}.log")

    def wait_until_ready(self) -> float:
        """Returns the seconds since the start of the process."""
        self._wait(lambda: readiness(self._port) == "ok\n", "the first load")
        return time.perf_counter() - self._began

    def wait_for_records(self, records: int) -> None:
        self._wait(lambda: self.records() >= records, "the last of the new lists")

    def records(self) -> int:
        """How many records of the topic the database covers."""
        try:
            ((covered,),) = self._database.ask("SELECT coalesce(sum(next_offset), 0) FROM isthmus.positions")
        except psycopg.errors.UndefinedTable:
            return 0
        return int(covered)

    def _wait(self, holds: Callable[[], bool], what: str) -> None:
        def done() -> bool:
            if time.perf_counter() - self._said_s >= SAY_S:
                self._said_s = time.perf_counter()
                say(self._began, f"{self.records():,} records stand in the database")
            return holds()

        wait_for(done, [self.child], WITHIN_S, what)


def measure(bootstrap: str, server: LocalPostgres, folder: Path, plan: Plan) -> dict[str, Any]:
    """Measures one form of the table on a broker with empty topics.

    Raises:
        ValueError: the database does not say what the topic says.
    """
    began = time.perf_counter()
    asyncio.run(fill(bootstrap, plan.users, lambda user: say(began, f"{user:,} lists are in the topic")))
    database = server.new_database()
    running = Running(bootstrap, database, plan.form, folder)
    try:
        seconds = running.wait_until_ready()
        row = {
            "rows": plan.form,
            "users": plan.users,
            "ready_s": round(seconds, 2),
            "lists_per_s": round(plan.users / seconds),
            **used(running.child),
            "database_mb": round(database.ask(f"SELECT pg_database_size('{database.name}')")[0][0] / 1e6),
        }
        versions = [0] * plan.users
        check(database, plan.form, versions)
        say(began, f"{row}; now {plan.updates:,} lists are replaced")
        return row | replaced(bootstrap, running, database, plan, versions)
    finally:
        running.child.stop()


def replaced(bootstrap: str, running: Running, database: Database, plan: Plan, versions: list[int]) -> dict[str, Any]:
    """Replaces lists of users drawn at random. The clock runs from the first record until all stand in the database."""
    drawn = np.random.default_rng(19).integers(plan.users, size=plan.updates).tolist()
    for user in drawn:
        versions[user] = 1
    began, cpu_s = time.perf_counter(), used(running.child)["cpu_s"]
    asyncio.run(replace_lists(bootstrap, drawn, version=1))
    sent_s = time.perf_counter() - began
    running.wait_for_records(plan.users + plan.updates)
    seconds = time.perf_counter() - began
    after = used(running.child)
    check(database, plan.form, versions)
    return {
        "updates": plan.updates,
        "updates_sent_s": round(sent_s, 2),
        "updates_s": round(seconds, 2),
        "updates_per_s": round(plan.updates / seconds),
        "updates_cpu_s": round(after["cpu_s"] - cpu_s, 2),
        "updates_peak_mb": after["peak_mb"],
    }


def check(database: Database, form: str, versions: list[int]) -> None:
    """Compares every row with the topic: each user's rows are of his newest list, as many as it has ranks, and nobody else's."""
    table, ranks = ROWS[form]
    query = f"SELECT user_id, min(recommendation_id), max(recommendation_id), count(*) FROM isthmus.{table} GROUP BY 1 ORDER BY 1"
    wanted = ((name_of(user), list_id(user, version)) for user, version in enumerate(versions))
    users = 0
    with psycopg.connect(database.dsn) as connection, connection.cursor("check") as cursor:
        cursor.itersize = 50_000
        for (user, made), found in zip(wanted, cursor.execute(query), strict=False):
            users += 1
            if found != (user, made, made, ranks):
                raise ValueError(f"the database holds {found} instead of the list {made} of {user}")
    ((held,),) = database.ask(f"SELECT count(DISTINCT user_id) FROM isthmus.{table}")
    if (users, held) != (len(versions), len(versions)):
        raise ValueError(f"the database holds lists of {held} users, the topic of {len(versions)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--updates", type=int, help="default: a fifth of the users")
    parser.add_argument("--forms", default="user,rank")
    given = parser.parse_args()
    updates = given.users // 5 if given.updates is None else given.updates
    rows = []
    with exclusive_run():
        for form in given.forms.split(","):
            with tempfile.TemporaryDirectory(prefix="isthmus-sink-") as temporary, LocalKafka(Path(temporary) / "kafka") as broker:
                create_or_check(broker.bootstrap, TOPICS, dev=True)
                server = LocalPostgres(settings=()).start()
                try:
                    rows.append(measure(broker.bootstrap, server, Path(temporary), Plan(given.users, updates, form)))
                finally:
                    server.remove()
            print(json.dumps(rows[-1]), flush=True)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
