"""Targets of the sinks in chaos cases: a PostgreSQL database or a webhook endpoint, with their faults and checks."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import psycopg

from tests.postgres import CommitCutter, Database, LocalPostgres, sink_variables
from tests.published_lists import ranks_of
from tests.webhooks import TAKEN, TAKEN_UNANSWERED, Endpoint, out_of_order, webhook_variables

LOOK_S: Final = 0.3


class Target(Protocol):
    """A system that sinks fill."""

    kind: str

    def variables(self, bootstrap: str, partitions: int) -> Mapping[str, str]:
        """Returns environment variables for its sinks."""
        ...

    def standing(self) -> dict[str, list[str]]:
        """Returns its present lists: user -> items."""
        ...

    def progress(self) -> int:
        """Returns a number that grows while the sinks work."""
        ...

    def leave(self) -> None:
        """Makes it unavailable."""
        ...

    def come_back(self) -> None: ...

    def cut(self) -> Callable[[], bool]:
        """Accepts the next change and cuts the connection before the answer. The result says whether that has happened."""
        ...

    def wrong_meanwhile(self) -> list[str]:
        """Describes what was wrong at any time."""
        ...

    def close(self) -> None: ...


class DatabaseTarget:
    """A PostgreSQL server with one form of the table. Sinks connect through a proxy that can cut answers to COMMIT."""

    kind = "postgres"

    def __init__(self, form: str) -> None:
        self._form = form
        self._server = LocalPostgres().start()
        self.database = self._server.new_database()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._cutter = CommitCutter(self._server.port, cuts=0)
        asyncio.run_coroutine_threadsafe(self._cutter.__aenter__(), self._loop).result(10)
        self._watch = Watch(self.database, form)

    def variables(self, bootstrap: str, partitions: int) -> Mapping[str, str]:
        own = {
            "ISTHMUS_POSTGRES__DSN": self._server.dsn(self.database.name, self._cutter.port),
            "ISTHMUS_POSTGRES__ROWS": self._form,
        }
        return {**sink_variables(bootstrap, self.database, partitions), **own, "ISTHMUS_POSTGRES__BATCH_RECORDS": "50"}

    def standing(self) -> dict[str, list[str]]:
        return self.database.lists() if self._form == "user" else self.database.ranks()

    def progress(self) -> int:
        try:
            ((covered,),) = self.database.ask("SELECT coalesce(sum(next_offset), 0) FROM isthmus.positions")
        except (psycopg.OperationalError, psycopg.errors.UndefinedTable):
            return 0
        return int(covered)

    def leave(self) -> None:
        self._server.stop()

    def come_back(self) -> None:
        self._server.start()

    def cut(self) -> Callable[[], bool]:
        self._cutter.cuts = 1
        return lambda: self._cutter.cuts == 0

    def wrong_meanwhile(self) -> list[str]:
        return self._watch.check.wrong

    def close(self) -> None:
        self._watch.stop()
        asyncio.run_coroutine_threadsafe(self._cutter.__aexit__(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._server.remove()


class RowCheck:
    """Checks a user's rows: they belong to one list, there is one per rank, and the list is never older than before. Only the first
    pass over a partition is checked for age, because later passes begin with older records.
    """

    def __init__(self, form: str) -> None:
        self.wrong: list[str] = []
        self._form = form
        self._newest: dict[str, int] = {}

    def see(self, user: str, first: str, last: str, rows: int, generation: int) -> None:
        """Checks one observation of a user: first and last `recommendation_id` in text order, number of rows, and their pass."""
        number = int(last.removeprefix(f"{user}-"))
        if first != last or rows != (1 if self._form == "user" else ranks_of(number)):
            self.wrong.append(f"{rows} rows of {user} are of the lists {first} to {last}")
        if number < 0:
            self.wrong.append(f"{last} is of an aborted transaction")
        if generation == 1 and number < self._newest.get(user, 0):
            self.wrong.append(f"{last} replaced the list {self._newest[user]}")
        self._newest[user] = number


class Watch:
    """Checks the rows of a database continuously in a thread."""

    def __init__(self, database: Database, form: str) -> None:
        self.check = RowCheck(form)
        self._database = database
        self._table = {"user": "recommendations", "rank": "recommended_items"}[form]
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(30)

    def _run(self) -> None:
        query = "SELECT user_id, min(recommendation_id), max(recommendation_id), count(*), max(generation)"
        while not self._stopping.wait(LOOK_S):
            try:
                rows = self._database.ask(f"{query} FROM isthmus.{self._table} GROUP BY 1")
            except (psycopg.OperationalError, psycopg.errors.UndefinedTable):
                continue  # away, or not made yet
            for row in rows:
                self.check.see(*row)


class EndpointTarget:
    """A receiver that follows the messages."""

    kind = "webhook"

    def __init__(self) -> None:
        self._endpoint = Endpoint()

    def variables(self, bootstrap: str, partitions: int) -> Mapping[str, str]:
        return {
            **webhook_variables(bootstrap, self._endpoint, partitions),
            "ISTHMUS_WEBHOOK__GIVE_UP_S": "20",
            "ISTHMUS_WEBHOOK__BATCH_LISTS": "50",
        }

    def standing(self) -> dict[str, list[str]]:
        return self._endpoint.lists()

    def progress(self) -> int:
        return len(self._endpoint.taken)

    def leave(self) -> None:
        self._endpoint.decide = lambda _: 503

    def come_back(self) -> None:
        self._endpoint.decide = lambda _: TAKEN

    def cut(self) -> Callable[[], bool]:
        cut = threading.Event()

        def once(message: dict[str, Any]) -> int:
            del message
            self._endpoint.decide = lambda _: TAKEN
            cut.set()
            return TAKEN_UNANSWERED

        self._endpoint.decide = once
        return cut.is_set

    def wrong_meanwhile(self) -> list[str]:
        return out_of_order(self._endpoint.taken)

    def close(self) -> None:
        self._endpoint.close()


TARGETS: Final[Mapping[str, Callable[[], Target]]] = {
    "table of users": lambda: DatabaseTarget("user"),
    "table of ranks": lambda: DatabaseTarget("rank"),
    "endpoint": EndpointTarget,
}
