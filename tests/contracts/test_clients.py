"""Clients of Kafka are made in one place. Our subclasses of kafka-python's leave no thread and no socket behind, as its own do."""

import ast
import asyncio
import gc
import inspect
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

import kafka.codec
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import client as aiokafka_client
from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.protocol import metadata
from kafka import KafkaAdminClient, KafkaConsumer
from kafka.errors import KafkaError
from kafka.net import manager

from stream.connection_settings import Compression, KafkaSettings
from stream.kafka.cluster import clients
from stream.kafka.cluster.access import door
from stream.kafka.cluster.clients import AdminClient, ConsumerClient, async_consumer, async_producer, producer_client
from stream.kafka.cluster.security import use_security
from stream.kafka.faust.producer import KafkaProducer as FaustProducer

ROOT = Path(__file__).parents[2]
PROGRAM = [path for folder in ("stream", "training", "models") for path in (ROOT / folder).rglob("*.py")]
MAKERS = {
    "stream/kafka/cluster/clients.py": "the one place",
    "stream/kafka/faust/credentials.py": "what Faust makes its own with",
}
LIBRARIES = {"AIOKafkaConsumer", "AIOKafkaProducer", "AIOKafkaClient", "AIOKafkaAdminClient", "KafkaAdminClient", "KafkaConsumer"}
LIBRARIES |= {"KafkaProducer", "KafkaClient", "SASLCredentials", "SSLCredentials", "OAuthCredentials", "Producer", "Consumer"}


@pytest.mark.parametrize("path", PROGRAM, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_client_of_kafka_is_made_in_one_place(path: Path) -> None:
    """Elsewhere it would be made without the security of the settings: take a function of `stream.kafka.cluster.clients`."""
    if str(path.relative_to(ROOT)) in MAKERS:
        return
    tree = ast.parse(path.read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    named = [(call, getattr(call.func, "id", None) or getattr(call.func, "attr", None)) for call in calls]
    assert [f"{path}:{call.lineno} makes {name}" for call, name in named if name in LIBRARIES] == []


@pytest.mark.parametrize(("settings", "codec"), [({}, "zstd"), ({"compression": "none"}, None), ({"compression": "gzip"}, "gzip")])
def test_every_producer_compresses_as_the_settings_say(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], codec: str | None
) -> None:
    """Of both libraries, and Faust's with and without transactions. By default with zstd."""
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(door, "check", lambda *_: None)
    for name in ("AIOKafkaProducer", "KafkaProducer"):
        monkeypatch.setattr(clients, name, lambda **options: made.append(options))
    use_security(KafkaSettings(**settings))
    async_producer("nowhere:9", linger_ms=5)
    producer_client("nowhere:9")
    made.append(dict(FaustProducer._settings_extra(cast("FaustProducer", None))))
    assert [options["compression_type"] for options in made] == [codec] * 3
    assert all(options["enable_idempotence"] for options in made)


@pytest.mark.parametrize("codec", [codec for codec in get_args(Compression) if codec != "none"])
def test_both_clients_bring_each_codec(codec: str) -> None:
    """Their packages for codecs are dependencies of ours: with one missing, a producer would fail where it is made."""
    has_codec, _ = AIOKafkaProducer._COMPRESSORS[codec]
    assert has_codec()
    assert getattr(kafka.codec, f"has_{codec}")()


def test_aiokafkas_clients_ask_about_topics_without_creating_them() -> None:
    """By the class that `stream.kafka.cluster.clients` puts into its module. If the last line fails, that is no longer needed."""
    assert inspect.getsource(aiokafka_client.AIOKafkaClient).count("MetadataRequest(") == 2
    asked = cast("Any", aiokafka_client).MetadataRequest(["web-clicks"])
    assert asked.build(metadata.MetadataRequest_v5).allow_auto_topic_creation is False
    assert metadata.MetadataRequest(["web-clicks"]).build(metadata.MetadataRequest_v5).allow_auto_topic_creation is True


def test_kafka_pythons_clients_do_not_hand_on_whether_topics_are_created() -> None:
    """If the last line fails, `stream.kafka.cluster.clients` can give them `allow_auto_create_topics` instead."""
    source = inspect.getsource(manager.KafkaConnectionManager.__init__)
    assert "self.cluster = ClusterMetadata(" in source
    assert cast("Any", manager).ClusterMetadata().metadata_request().allow_auto_topic_creation is False
    assert "allow_auto_create_topics" not in source


def test_aiokafka_itself_lets_a_session_end() -> None:
    """If this fails, `stream.kafka.cluster.reauthentication` may no longer be needed."""
    assert "session_lifetime" not in inspect.getsource(AIOKafkaConnection)


def test_aiokafka_makes_its_connections_as_reauthentication_expects() -> None:
    """By the name of the class in its module; through `send` and `_do_sasl_handshake`."""
    assert "conn = AIOKafkaConnection(" in inspect.getsource(create_conn)
    assert list(inspect.signature(AIOKafkaConnection.send).parameters) == ["self", "request", "expect_response"]
    assert list(inspect.signature(AIOKafkaConnection.close).parameters) == ["self", "reason", "exc"]
    handshake = inspect.getsource(AIOKafkaConnection._do_sasl_handshake)
    assert "self.send(SaslHandShakeRequest(" in handshake
    assert "self.send(SaslAuthenticateRequest(" in handshake


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


def open_resources() -> set[object]:
    """Threads, sockets and pipes of this process, after garbage collection. Those of earlier tests may end meanwhile."""
    gc.collect()
    found: set[object] = {*threading.enumerate()}
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(str(descriptor.readlink()))  # "socket:[4711]": unlike a descriptor, its number is not used again
    return found


@pytest.mark.parametrize("client", [AdminClient, ConsumerClient])
def test_a_client_that_finds_no_broker_leaves_no_thread_and_no_socket(
    client: type[AdminClient | ConsumerClient], address: str
) -> None:
    before = open_resources()
    for _ in range(3):
        with pytest.raises(KafkaError):
            client(bootstrap_servers=address, bootstrap_timeout_ms=200)
    assert open_resources() <= before


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
    assert any(isinstance(one, threading.Thread) for one in open_resources() - before)
    kept[0]._net.stop()
    kept[0]._client.close()


def in_retry_pause(consumer: AIOKafkaConsumer) -> None:
    """Gives a consumer that was not started a fetcher one of whose requests has failed and waits before it is sent again."""
    fetcher = Fetcher.__new__(Fetcher)
    fetcher._fetch_task = asyncio.ensure_future(asyncio.sleep(60))
    fetcher._fetch_waiters, fetcher._pending_tasks = set(), {asyncio.ensure_future(asyncio.sleep(60))}
    consumer._fetcher, consumer._coordinator, consumer._closed = fetcher, None, False


async def test_a_consumer_stops_while_a_request_waits_to_be_sent_again() -> None:
    """Without the cancellation of that request, which the caller's task would take for its own; its connections are closed."""
    consumer = async_consumer(bootstrap="127.0.0.1:1")
    in_retry_pause(consumer)
    await asyncio.sleep(0)
    closed = asyncio.Event()

    async def close(reason: object) -> None:
        del reason
        closed.set()

    consumer._client._conns = {1: SimpleNamespace(close=close)}
    await consumer.stop()
    assert closed.is_set()


async def test_a_task_that_is_cancelled_while_its_consumer_stops_ends() -> None:
    """Its own cancellation is not swallowed."""
    consumer = async_consumer(bootstrap="127.0.0.1:1")
    in_retry_pause(consumer)
    stopping = asyncio.create_task(consumer.stop())
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    await consumer._client.close()


async def test_aiokafkas_own_consumer_raises_the_cancellation() -> None:
    """If this fails, the subclass in `stream.kafka.cluster.clients` is no longer needed."""
    consumer = AIOKafkaConsumer(bootstrap_servers="127.0.0.1:1")
    in_retry_pause(consumer)
    await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await consumer.stop()
    await consumer._client.close()
