"""Faust's producer over aiokafka, idempotent, and the transactional producers of exactly once."""

from collections.abc import Mapping
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from faust.transport.drivers import aiokafka as driver

from stream.kafka.cluster.clients import async_producer
from stream.kafka.cluster.security import current_security

REQUEST_TIMEOUT_MS: Final = 20_000
_TRANSACTIONAL: Final = {"linger_ms": 0, "retry_backoff_ms": 10, "transaction_timeout_ms": 30_000}
"""With the default backoff of 100 ms, each transaction that follows another closely would wait that long."""


class KafkaProducer(driver.Producer):
    """Idempotent without transactions: a retry neither reorders nor duplicates.

    aiokafka uses one setting for request timeout and batch expiry; they are set separately here. A request times out after
    `REQUEST_TIMEOUT_MS` and is sent again on a new connection, because one that was cut on one side never answers. A batch expires
    after Faust's 20 minutes: it outlasts a broker's absence, and never expires before a later batch is sent.
    """

    def _settings_extra(self) -> Mapping[str, Any]:
        return {"acks": "all", "enable_idempotence": True, "compression_type": current_security().compression}

    def _new_producer(self, transactional_id: str | None = None) -> Any:
        return _with_request_timeout(super()._new_producer(transactional_id))

    def transactional(self, transactional_id: str) -> AIOKafkaProducer:
        """A producer for one transactional id, not started."""
        settings = {**self._settings_default(), **self._settings_extra(), **_TRANSACTIONAL}
        bootstrap = settings.pop("bootstrap_servers")
        return _with_request_timeout(async_producer(bootstrap, **settings, transactional_id=transactional_id))


def _with_request_timeout(producer: Any) -> Any:
    producer.client._request_timeout_ms = REQUEST_TIMEOUT_MS
    producer._sender._request_timeout_ms = REQUEST_TIMEOUT_MS
    return producer
