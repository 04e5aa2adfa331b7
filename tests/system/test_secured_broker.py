"""Secured brokers: every way in with every client, and every refusal named as what it is."""

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from faust.transport.drivers import aiokafka as driver
from kafka.errors import KafkaError
from pydantic import SecretStr
from typer.testing import CliRunner

from stream.cli.main import app
from stream.connection_settings import KafkaSettings
from stream.errors import IsthmusError
from stream.kafka.app import make_app
from stream.kafka.cluster.clients import ConsumerClient, async_consumer, producer_client
from stream.kafka.cluster.compacted_topic import CompactedTopic
from stream.kafka.cluster.producer import InputRecord, produce
from stream.kafka.cluster.security import use_security
from stream.kafka.cluster.topics import admin_client, create_or_check
from stream.settings import TopicSettings
from tests.system.secured_broker import SecuredBroker
from tests.system.token_server import SECRET, TokenServer

WITHIN_S = 10.0
Change = Callable[[SecuredBroker, str], KafkaSettings]


@pytest.fixture(scope="module")
def token_server() -> Iterator[TokenServer]:
    with TokenServer(life_s=20) as server:
        yield server


def tokens(broker: SecuredBroker, url: str, **changes: Any) -> KafkaSettings:
    given = {"sasl_mechanism": "OAUTHBEARER", "token_url": url, "client_id": "app", "client_secret": SECRET}
    return broker.settings("TOKEN", **{**given, **changes})


WAYS: dict[str, Change] = {
    "SCRAM-SHA-512": lambda broker, _: broker.settings(),
    "SCRAM-SHA-256": lambda broker, _: broker.settings(sasl_mechanism="SCRAM-SHA-256"),
    "PLAIN": lambda broker, _: broker.settings(sasl_mechanism="PLAIN"),
    "OAUTHBEARER": tokens,
    "without TLS": lambda broker, _: broker.settings("OPEN"),
    "mutual TLS": lambda broker, _: broker.settings("MUTUAL"),
    "an encrypted key": lambda broker, _: broker.settings(
        "MUTUAL", certificate_file=broker.authority.issue("app", password=b"of the key"), key_password="of the key"
    ),
}


@pytest.mark.parametrize("way", WAYS)
async def test_every_client_gets_in(
    secured_broker: SecuredBroker, token_server: TokenServer, tmp_path: Path, unique: str, way: str
) -> None:
    """kafka-python's and aiokafka's clients, and Faust's."""
    settings = WAYS[way](secured_broker, token_server.url)
    use_security(settings)
    topics = TopicSettings(partitions=2, clicks=f"{unique}-clicks")
    await asyncio.to_thread(create_or_check, settings.bootstrap, topics, dev=True)
    sent = await produce(settings.bootstrap, [InputRecord("clicks", "c-1", b"{}")], topics.model_dump(), lambda _: None)
    with closing(CompactedTopic(settings.bootstrap, topics.clicks)) as topic:
        assert (sent, topic.read_on()) == (1, 1)
    assert await first_value(make_app(unique, f"kafka://{settings.bootstrap}", data=tmp_path, partitions=2), topics.clicks) == b"{}"


async def test_no_client_creates_a_topic(secured_broker: SecuredBroker, tmp_path: Path, unique: str) -> None:
    """The broker would create each topic that somebody asks about, with partitions and retention of its own choice."""
    settings = secured_broker.settings()
    use_security(settings)
    names = [f"{unique}-{number}" for number in range(4)]
    with closing(ConsumerClient(bootstrap_servers=settings.bootstrap)) as consumer:
        assert not consumer.partitions_for_topic(names[0])
        with closing(producer_client(settings.bootstrap, max_block_ms=1_000)) as producer, pytest.raises(KafkaError):
            producer.send(names[1], b"x").get(5)
        reader = async_consumer(names[2], bootstrap=settings.bootstrap)
        app = make_app(unique, f"kafka://{settings.bootstrap}", data=tmp_path, partitions=2)
        await asyncio.gather(waits_for_its_topic(reader), waits_for_its_topic(consumer_of(app, names[3])))
        assert not consumer.topics() & {*names}


async def waits_for_its_topic(consumer: AIOKafkaConsumer) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2):
            await consumer.start()
    await consumer.stop()


def consumer_of(app: Any, topic: str) -> AIOKafkaConsumer:
    """One as Faust makes its own."""
    credentials = driver.credentials_to_aiokafka_auth(app.conf.broker_credentials, app.conf.ssl_context)
    address = driver.server_list(app.transport.url, 9092)
    return AIOKafkaConsumer(topic, bootstrap_servers=address, auto_offset_reset="earliest", **credentials)


async def first_value(app: Any, topic: str) -> Any:
    consumer = consumer_of(app, topic)
    await consumer.start()
    try:
        async with asyncio.timeout(60):
            return (await consumer.getone()).value
    finally:
        await consumer.stop()


REFUSALS: dict[str, tuple[Change, str]] = {
    "a wrong password": (lambda broker, _: broker.settings(password="no"), r"refuses user app \(SCRAM-SHA-512\): check kafka.user"),
    "a wrong password of PLAIN": (
        lambda broker, _: broker.settings("OPEN", sasl_mechanism="PLAIN", password="no"),
        r"refuses user app \(PLAIN\): check",
    ),
    "a wrong authority": (
        lambda broker, _: broker.settings(ca_file=broker.stranger.ca_file),
        "is not signed by a known authority .*: set kafka.ca_file",
    ),
    "no authority": (lambda broker, _: broker.settings(ca_file=None), "the system's, since kafka.ca_file is not set"),
    "an expired certificate": (lambda broker, _: broker.settings("EXPIRED"), "has expired: it must be renewed on the broker"),
    "another host's certificate": (lambda broker, _: broker.settings("ELSEWHERE"), "is for another host than localhost"),
    "plain text to TLS": (
        lambda broker, _: KafkaSettings(bootstrap=broker.address("SCRAM")),
        "expects TLS, and kafka.security_protocol is PLAINTEXT: set it to SSL or SASL_SSL",
    ),
    "SASL in plain text to TLS": (
        lambda broker, _: broker.settings("OPEN", bootstrap=broker.address("SCRAM")),
        "expects TLS, .* SASL_PLAINTEXT: set it to SASL_SSL",
    ),
    "TLS to plain text": (lambda broker, _: broker.settings(bootstrap=broker.plain), "speaks no TLS there.*SASL_PLAINTEXT"),
    "no SASL": (lambda broker, _: broker.settings("EXPIRED", bootstrap=broker.address("SCRAM")), "expects SASL: .*SCRAM-SHA-512"),
    "SASL where there is none": (lambda broker, _: broker.settings("OPEN", bootstrap=broker.plain), "wants no SASL there"),
    "no certificate of ours": (
        lambda broker, _: broker.settings("MUTUAL", certificate_file=None),
        "refuses our certificate .*: check kafka.certificate_file",
    ),
    "a certificate of ours from a stranger": (
        lambda broker, _: broker.settings("MUTUAL", certificate_file=broker.stranger.issue("app")),
        "refuses our certificate",
    ),
    "a wrong client secret": (
        lambda broker, url: tokens(broker, url, client_secret="no"),
        r"token server .* \(401 invalid_client\)",
    ),
    "no token server": (lambda broker, _: tokens(broker, "http://127.0.0.1:9/t"), "gives no token .*check kafka.token_url"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_is_named_as_what_it_is(secured_broker: SecuredBroker, token_server: TokenServer, case: str) -> None:
    """Within 10 s, by every client: the clients themselves say after half a minute that no broker answers."""
    change, words = REFUSALS[case]
    settings = change(secured_broker, token_server.url)
    use_security(settings)
    for connect in (connect_admin, connect_consumer, connect_producer):
        began = time.monotonic()
        with pytest.raises(IsthmusError, match=words):
            connect(settings.bootstrap)
        assert time.monotonic() - began < WITHIN_S


def connect_admin(bootstrap: str) -> None:
    admin_client(bootstrap).close()


def connect_consumer(bootstrap: str) -> None:
    CompactedTopic(bootstrap, "items").close()


def connect_producer(bootstrap: str) -> None:
    asyncio.run(produce(bootstrap, [], {}, lambda _: None))


AS_A_PROCESS = (
    "a wrong password",
    "a wrong authority",
    "an expired certificate",
    "another host's certificate",
    "plain text to TLS",
    "TLS to plain text",
    "no certificate of ours",
    "a wrong client secret",
)


@pytest.mark.parametrize("case", AS_A_PROCESS)
@pytest.mark.parametrize("command", [["worker", "--metrics-port", "0"], ["keys", "list"]], ids=lambda command: command[0])
def test_a_process_and_a_command_that_are_not_let_in_end_with_the_reason(
    secured_broker: SecuredBroker, token_server: TokenServer, tmp_path: Path, case: str, command: list[str]
) -> None:
    """Within 10 s, by an error that is printed as it is and ends with exit code 2."""
    change, words = REFUSALS[case]
    variables = variables_of(change(secured_broker, token_server.url)) | {"ISTHMUS_WORKER__STATE_DIR": str(tmp_path)}
    began = time.monotonic()
    ended = CliRunner().invoke(app, command, env=variables)
    assert time.monotonic() - began < WITHIN_S
    assert isinstance(ended.exception, IsthmusError), ended.output
    assert re.search(words, str(ended.exception))


def variables_of(settings: KafkaSettings) -> dict[str, str]:
    """The variables that make these settings."""
    return {
        f"ISTHMUS_KAFKA__{name}".upper(): str(value.get_secret_value() if isinstance(value, SecretStr) else value)
        for name in settings.model_fields_set
        if (value := getattr(settings, name)) is not None
    }
