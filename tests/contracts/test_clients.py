"""Our subclasses of kafka-python's clients leave no thread and no socket behind; kafka-python's own clients do."""

import gc
import logging
import os
import socket
import threading
from collections.abc import Iterator

import pytest
from kafka import KafkaAdminClient, KafkaConsumer
from kafka.errors import KafkaError

from stream.kafka.cluster.clients import AdminClient, ConsumerClient


@pytest.fixture(params=["nobody listens", "nobody answers"])
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    """An address without a broker: a closed port, or an open one that never answers."""
    logging.disable()  # pytest keeps log records, and they keep sockets
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        if request.param == "nobody answers":
            bound.listen()
        yield f"127.0.0.1:{bound.getsockname()[1]}"
    logging.disable(logging.NOTSET)


def open_resources() -> tuple[int, int]:
    """Threads and open file descriptors of this process, after garbage collection."""
    gc.collect()
    return threading.active_count(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@pytest.mark.parametrize("client", [AdminClient, ConsumerClient])
def test_a_client_that_finds_no_broker_leaves_no_thread_and_no_socket(
    client: type[AdminClient | ConsumerClient], address: str
) -> None:
    before = open_resources()
    for _ in range(3):
        with pytest.raises(KafkaError):
            client(bootstrap_servers=address, bootstrap_timeout_ms=200)
    assert open_resources() == before


@pytest.mark.parametrize("client", [KafkaAdminClient, KafkaConsumer])
def test_kafka_pythons_own_keeps_its_thread(client: type[KafkaAdminClient | KafkaConsumer], address: str) -> None:
    """If this fails, the subclasses in `stream.kafka.cluster.clients` are no longer needed."""
    kept: list[KafkaAdminClient | KafkaConsumer] = []

    class Kept(client):  # type: ignore[misc,valid-type]
        def __init__(self, **settings: object) -> None:
            kept.append(self)
            super().__init__(**settings)

    before = open_resources()
    with pytest.raises(KafkaError):
        Kept(bootstrap_servers=address, bootstrap_timeout_ms=200)
    assert open_resources()[0] == before[0] + 1
    kept[0]._net.stop()
    kept[0]._client.close()
