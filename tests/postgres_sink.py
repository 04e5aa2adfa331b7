"""The sink of a PostgreSQL database on an embedded log, and records and positions to write with its store."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import msgspec

from stream.api.store import Position, Table
from stream.kafka.embedded.log import Log
from stream.metrics import Metrics
from stream.sinks.postgres_store import PostgresStore, Target
from stream.sinks.postgres_tables import Owner
from tests import api
from tests.api import ITEMS, PARTITIONS, TOPICS
from tests.postgres import Database
from tests.sinks import Sink, running_sink

Form = Literal["user", "rank"]
LISTS = Table.LISTS


OWNER = Owner("isthmus", TOPICS.recommendations)


def store_of(dsn: str, form: Form = "user", metrics: Metrics | None = None, **more: Any) -> PostgresStore:
    return PostgresStore(Target(dsn, "isthmus", form, **{"partitions": PARTITIONS, "owner": OWNER, **more}), metrics or Metrics())


@asynccontextmanager
async def sink(log: Log, dsn: str, form: Form = "user", reconcile_after_s: int = 518_400) -> AsyncIterator[Sink]:
    metrics = Metrics()
    store = store_of(dsn, form, metrics, timeout_s=10)
    async with running_sink(log, api.settings(), store, "postgres", metrics, store.problem, reconcile_after_s) as running:
        yield running


def standing(database: Database, form: Form) -> dict[str, list[str]]:
    return database.lists() if form == "user" else database.ranks()


def value(user: str, items: tuple[str, ...] = ITEMS[:2]) -> bytes:
    return msgspec.json.encode(api.make_list(user, items))


def upto(position: Position, next_offset: int) -> Position:
    return msgspec.structs.replace(position, next_offset=next_offset)
