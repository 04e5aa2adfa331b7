"""Least rights: the declared ACLs are enough for the main job, and each of them is needed and named where it is missing.

`make secured` walks over all of them, and over all commands; here one ACL of each process is taken away.
"""

import asyncio
import os
import subprocess
import sys
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from kafka import KafkaProducer
from pydantic import SecretStr

from stream.core.dead_letters import dead_letter
from stream.core.events import Click, Item, Purchase, Reason, Rejection, Source
from stream.core.records import Coordinates, PlainRecord
from stream.errors import IsthmusError
from stream.kafka.cluster.clients import AdminClient
from stream.kafka.cluster.corrupt_batches import CorruptBatch, Fault
from stream.kafka.cluster.lag import group_lag
from stream.kafka.cluster.local_broker import free_port
from stream.kafka.cluster.producer import InputRecord, produce
from stream.kafka.cluster.rights import Kind, Process, Right, require_rights, rights_of
from stream.kafka.cluster.security import use_security
from stream.kafka.cluster.skips import allow_skip
from stream.kafka.cluster.topics import create_or_check, source_topics, topic_epochs
from stream.process_settings import (
    ApiSettings,
    DeliverySettings,
    EncoderSettings,
    RegistrySettings,
    WebhookSettings,
    WorkerSettings,
)
from stream.services.child_processes import ChildProcess, wait_for
from stream.services.doctor.examination import examine
from stream.services.doctor.findings import Finding, Status
from stream.settings import Settings, TopicSettings
from tests.postgres import Database
from tests.published_lists import made
from tests.published_lists import send as publish_list
from tests.purchases import ITEMS, purchases
from tests.redis_server import RedisServer, redis_or_skip
from tests.system.exact import newest, read_all
from tests.system.readiness import readiness
from tests.system.registries import registry_in
from tests.system.secured_broker import PASSWORD, SecuredBroker
from tests.system.shared_broker import is_emptied
from tests.webhooks import SECRET, Endpoint
from training.training_run import publish_popular

TOPICS: Final = TopicSettings(partitions=2)
ROOT: Final = Path(__file__).parents[2]
EVERY_ACL: Final = os.environ.get("SECURED") == "full"
START_MS: Final = 1_750_000_000_000
TRANSCRIPT: Final = {
    "user_id": "u0",
    "conversation_id": "call-0",
    "started_at": START_MS,
    "sentences": [{"text": "I want to insure my dog.", "speaker": "user"}],
}
COMMANDS: Final = {
    Process.WORKER: ["worker", "--name", "one", "--metrics-port", "0"],
    Process.ENCODER: ["encoder", "--name", "one", "--metrics-port", "0"],
    Process.AUDIENCE: ["audience", "item-1"],
    Process.TRAINER: ["train", "--system", "popular"],
    Process.API: ["api", "--port", "0", "--metrics-port", "0"],
    Process.POSTGRES: ["sink", "postgres", "--metrics-port", "0"],
    Process.WEBHOOK: ["sink", "webhook", "--metrics-port", "0"],
    Process.TOPICS: ["topics", "--check"],
    Process.SKIP: ["topics", "skip", "web-clicks", "0", "0", "--yes"],
    Process.MODELS: ["models", "announce"],
    Process.TEXT_MODEL: ["text-model", "stand-in", "--out", "text-model"],
    Process.REPLAY: ["replay", "--data", "tables"],
    Process.ERASE: ["erase", "u0", "--yes"],
    Process.RESET: ["reset", "--dry-run"],
    Process.BACKFILL: ["backfill", "switch", "one"],
    Process.KEYS: ["keys", "list"],
    Process.DEAD_LETTERS: ["dead-letters", "list"],
}
NAMES_ITS_BROKER: Final = {Process.TEXT_MODEL, Process.REPLAY}
"""Commands that read files unless they are told of a broker."""
READS_FIRST: Final = {Process.MODELS, Process.REPLAY}
"""Commands that look for a champion or for tables before they ask the broker."""

SERVICES: Final = (Process.WORKER, Process.ENCODER, Process.TRAINER, Process.API, Process.POSTGRES, Process.WEBHOOK)
SHARED_API: Final = "api-shared"
USERS: Final = {**{process.value.replace(" ", "-"): process for process in Process}, SHARED_API: Process.API}
"""The users: one for each process, and one for replicas of the API that share a store."""


def user_of(process: Process) -> str:
    return process.value.replace(" ", "-")


def settings_of(broker: SecuredBroker, process: Process, user: str | None = None) -> Settings:
    user = user or user_of(process)
    api = ApiSettings(redis_url=SecretStr("redis://localhost:1") if user == SHARED_API else None)
    kafka = broker.settings(username=user)
    return Settings(kafka=kafka, topics=TOPICS, api=api, delivery=DeliverySettings(guarantee="exactly_once"))


@pytest.fixture(scope="module")
def broker(secured_broker: SecuredBroker) -> SecuredBroker:
    """Topics, and a user for each process with exactly its rights; who takes one gives it back."""
    with closing(AdminClient(bootstrap_servers=secured_broker.plain)) as admin:
        wait_for(lambda: is_emptied(admin), [], 30, "the deletion of topics and groups")
    create_or_check(secured_broker.plain, TOPICS, dev=True)
    secured_broker.add_users(list(USERS))
    for user, process in USERS.items():
        secured_broker.allow(user, rights_of(process, settings_of(secured_broker, process, user), "one"))
    return secured_broker


def variables(broker: SecuredBroker, user: str, folder: Path) -> dict[str, str]:
    (folder / "password").write_text(f"{PASSWORD}\n")
    kafka = broker.settings(username=user)
    return {
        "ISTHMUS_KAFKA__BOOTSTRAP": kafka.bootstrap,
        "ISTHMUS_KAFKA__DEV": "true",
        "ISTHMUS_KAFKA__SECURITY_PROTOCOL": kafka.security_protocol,
        "ISTHMUS_KAFKA__SASL_MECHANISM": str(kafka.sasl_mechanism),
        "ISTHMUS_KAFKA__USERNAME": user,
        "ISTHMUS_KAFKA__PASSWORD_FILE": str(folder / "password"),
        "ISTHMUS_KAFKA__CA_FILE": str(kafka.ca_file),
        "ISTHMUS_TOPICS__PARTITIONS": "2",
        "ISTHMUS_DELIVERY__GUARANTEE": "exactly_once",
        "ISTHMUS_WORKER__STATE_DIR": str(folder / "state"),
        "ISTHMUS_API__STATE_DIR": str(folder / "api"),
        "ISTHMUS_WEBHOOK__URL": "http://localhost:1",
        "ISTHMUS_WEBHOOK__SECRETS": f'["whsec_{b64encode(bytes(24)).decode()}"]',
        "ISTHMUS_REGISTRY__URI": f"sqlite:///{folder / 'registry' / 'mlflow.db'}",
        "ISTHMUS_REGISTRY__FOLDER": str(folder / "registry" / "models"),
    }


def start(broker: SecuredBroker, process: Process, folder: Path, *more: str, user: str = "", **values: str) -> ChildProcess:
    user = user or user_of(process)
    return ChildProcess([*COMMANDS[process], *more], {**variables(broker, user, folder), **values}, folder / f"{user}.log")


def command(broker: SecuredBroker, process: Process, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    arguments = list(words or COMMANDS[process])
    if process in NAMES_ITS_BROKER:
        arguments += ["--bootstrap", broker.settings().bootstrap]
    return subprocess.run(
        [sys.executable, "-m", "stream.cli.main", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables(broker, user_of(process), folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def send_events(bootstrap: str, users: int) -> None:
    producer: Any = KafkaProducer(bootstrap_servers=bootstrap, acks="all")
    for number in range(users):
        user = f"u{number}"
        click = msgspec.json.encode(Click(user, START_MS + number, ("home",), event_id=f"c{number}"))
        producer.send(TOPICS.clicks, key=user.encode(), value=click)
        bought = msgspec.json.encode(Purchase(user, START_MS + 10_000, (f"item-{number % 3}",), event_id=f"p{number}"))
        producer.send(TOPICS.purchases, key=user.encode(), value=bought)
    producer.send(TOPICS.transcripts, key=b"u0", value=msgspec.json.encode(TRANSCRIPT))
    for item in ITEMS[:3]:
        producer.send(TOPICS.items, key=item.encode(), value=msgspec.json.encode(Item(item, f"{item} insurance")))
    producer.close()


@pytest.mark.timeout(400)
def test_the_main_job_runs_with_the_least_rights(broker: SecuredBroker, tmp_path: Path, registry_folder: Path) -> None:
    """Topics are noted as ours, events become lists, calls and items are encoded, a model is announced and served, a user is
    erased, the API answers; exactly once, so that transactional ids are needed too. No log shows the password.
    """
    registry_folder.rename(tmp_path / "registry")
    noted = command(broker, Process.TOPICS, tmp_path, "topics")
    assert "noted as those of the application isthmus" in noted.stdout, noted.stderr
    send_events(broker.plain, 30)
    port, metrics_port = free_port(), free_port()
    children = [start(broker, process, tmp_path) for process in (Process.WORKER, Process.ENCODER)]
    try:
        wait_for(lambda: lists(broker).keys() >= {b"u%d" % one for one in range(30)}, children, 90, "the lists of all users")
        wait_for(lambda: len(newest(read_all(broker.plain, TOPICS.encoded_calls))) == 1, children, 90, "the encoding of the call")
        wait_for(lambda: len(newest(read_all(broker.plain, TOPICS.encoded_items))) == 3, children, 90, "the items' vectors")
        trained = command(broker, Process.TRAINER, tmp_path)
        assert newest(read_all(broker.plain, TOPICS.models)).keys() == {b"champion"}, trained.stderr
        key = command(broker, Process.KEYS, tmp_path, "keys", "make", "shop", "--scope", "read")
        assert key.returncode == 0, key.stderr
        children.append(start(broker, Process.API, tmp_path, "--port", str(port), "--metrics-port", str(metrics_port)))
        wait_for(lambda: readiness(metrics_port) == "ok\n", children, 90, "the API's readiness")
        assert b'"items"' in asked(port, "u1", key.stdout.strip())
        erased = command(broker, Process.ERASE, tmp_path)
        assert erased.returncode == 0, erased.stderr
        wait_for(lambda: b"u0" not in lists(broker), children, 60, "the erasure")
        assert group_lag(broker.plain, "isthmus-profiles", source_topics(TOPICS)).lag == 0
    finally:
        for child in children:
            child.stop()
    said = [child.log.read_text() for child in children] + [trained.stdout, trained.stderr, erased.stderr, key.stderr]
    assert PASSWORD not in "".join(said)
    assert "AuthorizationFailed" not in "".join(said)


def lists(broker: SecuredBroker) -> dict[Any, Any]:
    return newest(read_all(broker.plain, TOPICS.recommendations))


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    receiver = Endpoint()
    yield receiver
    receiver.close()


@pytest.mark.timeout(600)
def test_sinks_replicas_and_commands_run_with_the_least_rights(
    broker: SecuredBroker, tmp_path: Path, registry_folder: Path, database: Database, endpoint: Endpoint
) -> None:
    """A list gets into a database, to an endpoint, and through a replica that shares its store; a champion is announced and users
    are scored by it; a dead letter is listed and replayed; a text model is made of the catalogue; a reset is planned; damage is
    given up.
    """
    redis_or_skip()
    publish_popular(purchases(60), ITEMS, registry_in(registry_folder))
    registry_folder.rename(tmp_path / "registry")
    announced = command(broker, Process.MODELS, tmp_path)
    assert "is announced as champion" in announced.stdout, announced.stderr
    publish_list(broker.plain, TOPICS, [("reader", made("reader", 3))])
    items = [InputRecord("items", item, msgspec.json.encode(Item(item, f"{item} insurance"))) for item in ITEMS]
    asyncio.run(produce(broker.plain, items, TOPICS.model_dump(), lambda _: None))
    port, metrics_port = free_port(), free_port()
    key = command(broker, Process.KEYS, tmp_path, "keys", "make", "shared", "--scope", "read")
    with RedisServer(tmp_path / "redis") as redis:
        api = ("--port", str(port), "--metrics-port", str(metrics_port))
        sent_to = {"ISTHMUS_WEBHOOK__URL": endpoint.url, "ISTHMUS_WEBHOOK__SECRETS": f'["{SECRET}"]'}
        children = [
            start(broker, Process.POSTGRES, tmp_path, ISTHMUS_POSTGRES__DSN=database.dsn),
            start(broker, Process.WEBHOOK, tmp_path, **sent_to),
            start(broker, Process.API, tmp_path, *api, user=SHARED_API, ISTHMUS_API__REDIS_URL=redis.url),
        ]
        try:
            wait_for(lambda: "reader" in database.lists(), children, 120, "the list in the database")
            wait_for(lambda: "reader" in endpoint.lists(), children, 120, "the list at the endpoint")
            wait_for(lambda: readiness(metrics_port) == "ok\n", children, 120, "the readiness of the replica")
            assert b'"recommendation_id":"reader-3"' in asked(port, "reader", key.stdout.strip())
        finally:
            for child in children:
                child.stop()
    said = [child.log.read_text() for child in children]
    audience = command(broker, Process.AUDIENCE, tmp_path, "audience", ITEMS[0])
    assert (audience.returncode, audience.stdout.splitlines()[:1]) == (0, ["user_id,score,fallback"]), audience.stderr
    name = bury(broker.plain)
    listed = command(broker, Process.DEAD_LETTERS, tmp_path, "dead-letters", "list")
    replayed = command(broker, Process.DEAD_LETTERS, tmp_path, "dead-letters", "replay", name)
    assert name in listed.stdout, listed.stderr
    assert replayed.returncode == 0, replayed.stderr
    assert [record.value for records in read_all(broker.plain, TOPICS.clicks).values() for record in records][-1:] == [b"{}"]
    stand_in = command(broker, Process.TEXT_MODEL, tmp_path)
    assert "insurance" in (tmp_path / "text-model" / "keywords.txt").read_text(), stand_in.stderr
    whole = command(broker, Process.SKIP, tmp_path, "topics", "skip", TOPICS.clicks, "0", "0", "--yes")
    assert whole.returncode == 2, whole.stderr
    planned = command(broker, Process.RESET, tmp_path)
    assert "the application isthmus reads web-clicks" in planned.stdout, planned.stderr
    use_security(settings_of(broker, Process.SKIP).kafka)
    allow_skip(broker.settings().bootstrap, CorruptBatch(TOPICS.clicks, 1, 1 << 40, (1 << 40) + 1, Fault.CHECKSUM))
    said += [one.stdout + one.stderr for one in (announced, key, audience, listed, replayed, stand_in, whole, planned)]
    assert PASSWORD not in "".join(said)
    assert "AuthorizationFailed" not in "".join(said)


def asked(port: int, user: str, key: str) -> bytes:
    address = f"http://127.0.0.1:{port}/v1/users/{user}/recommendations"
    request = urllib.request.Request(address, headers={"Authorization": f"Bearer {key}"})
    content: bytes = urllib.request.urlopen(request, timeout=30).read()
    return content


def bury(bootstrap: str) -> str:
    """Sends the dead letter of a click, as a worker does; returns its name."""
    origin = Coordinates(TOPICS.clicks, topic_epochs(bootstrap, [TOPICS.clicks])[TOPICS.clicks], 0, 1 << 40)
    record = PlainRecord(1 << 40, START_MS, b"reader", b"{}")
    letter = dead_letter(Source.CLICK, origin, record, Rejection(Reason.INVALID, "because"))
    with closing(KafkaProducer(bootstrap_servers=bootstrap, acks="all")) as producer:
        producer.send(TOPICS.dead_letters, key=letter.key, value=letter.value, partition=0).get(10)
    return letter.key.decode()


@pytest.mark.skipif(not EVERY_ACL, reason="trains a model: make secured")
@pytest.mark.timeout(900)
def test_a_replay_runs_with_the_least_rights(broker: SecuredBroker, tmp_path: Path) -> None:
    """Tables through a worker and an encoder that run already."""
    words = ("dataset", "synthesize", "--out", "tables", "--purchases", "150", "--seed", "1")
    synthesized = command(broker, Process.TOPICS, tmp_path, *words)  # it asks no broker
    children = [start(broker, process, tmp_path) for process in (Process.WORKER, Process.ENCODER)]
    try:
        replayed = command(broker, Process.REPLAY, tmp_path, *COMMANDS[Process.REPLAY], "--limit", "100")
    finally:
        for child in children:
            child.stop()
    assert "HR@3 / MAP@3 with the post filter" in replayed.stdout, (synthesized.stderr, replayed.stdout, replayed.stderr)
    assert "AuthorizationFailed" not in replayed.stderr + "".join(child.log.read_text() for child in children)


@pytest.mark.parametrize(
    "process", [one for one in COMMANDS if one not in READS_FIRST] if EVERY_ACL else [Process.WORKER, Process.ERASE]
)
def test_a_command_without_a_right_names_it_and_ends(broker: SecuredBroker, tmp_path: Path, process: Process) -> None:
    """By the process or command, with the command that gives it, within seconds; exit code 2."""
    right = rights_of(process, settings_of(broker, process), "one")[-1]
    broker.deny(user_of(process), right)
    try:
        ended = command(broker, process, tmp_path)
    finally:
        broker.allow(user_of(process), [right])
    assert f"User:{user_of(process)} lacks 1 of the ACLs that `isthmus {process}` needs" in ended.stderr
    assert f"{right}: kafka-acls.sh --add --allow-principal User:{user_of(process)}" in ended.stderr
    assert (ended.returncode, "Traceback" in ended.stderr) == (2, False)


@pytest.mark.timeout(1_200 if EVERY_ACL else 120)
@pytest.mark.parametrize("user", USERS)
def test_each_right_is_needed_and_named(broker: SecuredBroker, user: str) -> None:
    """Every one of a process, taken away alone; in the short form the last."""
    process = USERS[user]
    settings = settings_of(broker, process, user)
    use_security(settings.kafka)
    absent = {right.name for right in rights_of(process, settings, "one") if right.operation == "CREATE" and "one-" in right.name}
    judged = [one for one in rights_of(process, settings, "one") if one.operation != "CREATE" and one.name not in absent]  # below
    for right in judged if EVERY_ACL else judged[-1:]:
        broker.deny(user, right)
        with pytest.raises(IsthmusError, match=rf"lacks 1 of the ACLs .*\n  {right}: kafka-acls.sh"):
            require_rights(process, settings, "one")
        broker.allow(user, [right])
    require_rights(process, settings, "one")


def test_a_topic_that_may_not_be_created_is_named(broker: SecuredBroker, unique: str) -> None:
    """The broker says nothing of a topic that does not exist, so only the attempt tells."""
    topics = TopicSettings(partitions=1, clicks=unique)
    settings = settings_of(broker, Process.TOPICS)
    use_security(settings.kafka)
    broker.allow(user_of(Process.TOPICS), [Right("DESCRIBE", Kind.TOPIC, unique), Right("DESCRIBE_CONFIGS", Kind.TOPIC, unique)])
    with pytest.raises(IsthmusError, match=f"lacks the ACL CREATE on topic {unique}"):
        create_or_check(settings.kafka.bootstrap, topics, dev=True, only=[unique])


def examined(broker: SecuredBroker, process: Process, folder: Path, **changes: str) -> dict[str, list[Finding]]:
    """What `isthmus doctor` finds with the user of a process, by check."""
    kafka = broker.settings(username=user_of(process), **changes)
    use_security(kafka)
    settings = Settings(
        kafka=kafka,
        topics=TOPICS,
        delivery=DeliverySettings(guarantee="exactly_once"),
        worker=WorkerSettings(name="one", state_dir=folder / "state"),
        encoder=EncoderSettings(name="one"),
        registry=RegistrySettings(uri=f"sqlite:///{folder / 'mlflow.db'}", folder=str(folder)),
        webhook=WebhookSettings(url="http://localhost:1", secrets=[f"whsec_{b64encode(bytes(24)).decode()}"]),
    )
    found: dict[str, list[Finding]] = {}
    for one in examine(settings, [process], {}, lambda _: None):
        found.setdefault(one.check, []).append(one)
    return found


@pytest.mark.parametrize("process", SERVICES if EVERY_ACL else [Process.WORKER, Process.TRAINER])
def test_the_doctor_needs_no_other_rights_than_the_process(broker: SecuredBroker, tmp_path: Path, process: Process) -> None:
    """What it may not ask is not checked, and no failure: here Kafka's clock, and the settings of topics by a trainer."""
    found = examined(broker, process, tmp_path)
    states = {check: {one.status for one in found[check]} for check in ("broker", "security", "ACLs", "topics", "partitions")}
    assert states == {check: {Status.OK} for check in states}
    assert [one.status for one in found["clock"]] == [Status.NOT_CHECKED]
    assert Status.FAILED not in {one.status for one in found["offsets"]}
    assert found["security"][0].found == f"SASL_SSL with SCRAM-SHA-512, as User:{user_of(process)}"


def test_the_doctor_names_a_missing_acl_and_a_wrong_password(broker: SecuredBroker, tmp_path: Path) -> None:
    """The one with the command that gives it; with the other, nothing else can be asked."""
    right = Right("READ", Kind.TOPIC, TOPICS.purchases)
    broker.deny("worker", right)
    try:
        (lacking,) = examined(broker, Process.WORKER, tmp_path)["ACLs"]
    finally:
        broker.allow("worker", [right])
    assert lacking.found == "User:worker lacks READ on topic purchases for `isthmus worker`"
    assert lacking.to_do == "kafka-acls.sh --add --allow-principal User:worker --operation Read --topic purchases"
    refused = examined(broker, Process.WORKER, tmp_path, password="no")
    assert [one.status for one in refused["broker"]] == [Status.OK]
    assert [one.found for one in refused["security"]] == [
        f"the broker at {broker.address('SCRAM')} refuses user worker (SCRAM-SHA-512): check kafka.username and kafka.password"
    ]
    assert {refused[check][0].status for check in ("ACLs", "topics", "offsets", "model", "clock")} == {Status.NOT_CHECKED}
