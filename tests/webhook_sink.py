"""The webhook sink on an embedded log, against an endpoint of the test's, with its group and its dead letters in memory."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from stream.api.store import Row
from stream.core.records import Record
from stream.kafka.embedded.log import Log
from stream.metrics import Metrics
from stream.process_settings import WebhookSettings
from stream.services.sinks import endpoint_of, make_webhook_store, signer_of
from stream.sinks.undelivered import Requests
from stream.sinks.webhook_sender import Sender
from tests import api
from tests.api import TOPICS
from tests.sinks import Sink, running_sink
from tests.webhooks import SECRET, Endpoint


class FakeGroup:
    """The notes that a consumer group keeps."""

    def __init__(self) -> None:
        self.version = 0
        self.notes: dict[tuple[str, int], str] = {}

    async def note(self, partition: tuple[str, int]) -> str | None:
        return self.notes.get(partition)

    async def commit(self, partition: tuple[str, int], offset: int, note: str) -> None:
        del offset
        self.notes[partition] = note


class FakeLetters:
    """Dead letters in memory."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, int, int]] = []

    async def send(self, rows: Sequence[Row], epoch: int, partition: int, why: str) -> None:
        assert "user" not in why
        self.sent += [(epoch, partition, row.offset) for row in rows]


def settings(endpoint: Endpoint, **more: Any) -> Any:
    webhook = {"url": endpoint.url, "secrets": (SECRET,), "first_pause_s": 0.01, "longest_pause_s": 0.02, "give_up_s": 0.3, **more}
    return api.settings().model_copy(update={"webhook": WebhookSettings(**webhook)})


@asynccontextmanager
async def sink(
    log: Log,
    endpoint: Endpoint,
    group: FakeGroup,
    letters: FakeLetters | None = None,
    requests: Requests | None = None,
    reconcile_after_s: int = 518_400,
    **more: Any,
) -> AsyncIterator[Sink]:
    chosen, metrics = settings(endpoint, **more), Metrics()
    sender = Sender(endpoint_of(chosen.webhook), signer_of(chosen.webhook), nullcontext, metrics)

    async def scan(partition: int, start: int, end: int) -> AsyncIterator[Sequence[Record]]:
        records = log.topics[TOPICS.recommendations].partitions[partition].records
        yield [record for record in records if start <= record.offset < end]

    store = make_webhook_store(
        chosen, group, sender, letters or FakeLetters(), requests or Requests(TOPICS.recommendations), metrics, scan
    )
    async with running_sink(log, chosen, store, "webhook", metrics, sender.problem, reconcile_after_s) as running:
        yield running
