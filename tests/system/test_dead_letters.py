"""Dead letters on real Kafka: listed, shown, and replayed once each after the cause is fixed; erasure by command."""

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.admin import NewPartitions
from kafka.errors import KafkaTimeoutError
from typer.testing import CliRunner, Result

from stream.cli.main import app
from stream.core import limits
from stream.core.dead_letters import dead_letter
from stream.core.events import FIRST_ORIGIN_HEADER, FIRST_RECEIVED_HEADER, ORIGIN_HEADER, Click, Reason, Rejection, Source
from stream.core.outputs import example_key
from stream.core.partitioner import partition_of
from stream.core.records import Coordinates, PlainRecord
from stream.errors import IsthmusError
from stream.kafka.cluster import clients, dead_letter_replay
from stream.kafka.cluster.dead_letter_replay import DeadLetterFilter, read_dead_letters
from stream.kafka.cluster.lag import group_lag
from stream.kafka.cluster.topic_reader import open_topic_reader
from stream.kafka.cluster.topics import admin_client, create_or_check, source_topics, topic_epochs
from stream.services.child_processes import ChildProcess, wait_for
from stream.settings import TopicSettings
from tests.system.exact import assert_exact, newest, read_all

TOPICS = TopicSettings(partitions=2)
START_MS = 1_750_000_000_000
MAPPING = {"user_id": "user_id", "occurred_at": "occurred_at", "tags": "tags", "event_id": "event_id"}


@pytest.fixture
def bootstrap(empty_kafka: str) -> str:
    """A broker with empty topics."""
    create_or_check(empty_kafka, TOPICS, dev=True)
    return empty_kafka


def isthmus(bootstrap: str, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--bootstrap", bootstrap])


def replay(bootstrap: str, *arguments: str) -> Result:
    return isthmus(bootstrap, "dead-letters", "replay", *arguments)


def listed(bootstrap: str, *arguments: str) -> list[dict[str, Any]]:
    result = isthmus(bootstrap, "dead-letters", "list", "--json", *arguments)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def worker(bootstrap: str, folder: Path, mapping: dict[str, str] | None = None) -> ChildProcess:
    variables = {
        "ISTHMUS_WORKER__STATE_DIR": str(folder / "state"),
        "ISTHMUS_TOPICS__PARTITIONS": "2",
        "ISTHMUS_KAFKA__DEV": "true",
        "ISTHMUS_MAPPING__CLICKS": json.dumps(mapping or {}),
    }
    return ChildProcess(["worker", "--bootstrap", bootstrap, "--metrics-port", "0"], variables, folder / "worker.log")


def folded(bootstrap: str, records: int) -> bool:
    progress = group_lag(bootstrap, "isthmus-profiles", source_topics(TOPICS))
    return progress.end >= records and progress.lag == 0


def send(bootstrap: str, topic: str, rows: Sequence[tuple[bytes | None, bytes | None]]) -> None:
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", max_request_size=4 << 20)
    for key, value in rows:
        number = 0 if key is None else partition_of(key, 2)
        producer.send(topic, key=key, value=value, headers=[("trace", b"t1")], partition=number).get(10)
    producer.close()


def clicks(count: int) -> list[tuple[bytes, bytes]]:
    """Returns clicks of 7 users; the fourth is larger than a dead letter may hold."""
    rows = []
    for number in range(count):
        fields = {"user_id": f"user-{number % 7}", "occurred_at": START_MS + number * 1_000, "tags": ["home", f"tag{number % 3}"]}
        fields |= {"event_id": f"e{number}"} | ({"more": "x" * (limits.ORIGINAL_BYTES + 5)} if number == 3 else {})
        rows.append((f"user-{number % 7}".encode(), msgspec.json.encode(fields)))
    return rows


def stamps(bootstrap: str, topic: str) -> list[bytes]:
    with open_topic_reader(bootstrap) as found:
        return [value for record in found.records(topic) for name, value in record.headers if name == ORIGIN_HEADER]


def test_events_lost_to_a_broken_mapping_are_replayed_once_after_the_fix(bootstrap: str, tmp_path: Path) -> None:
    """After the replay histories and lists are exact; a second replay changes nothing."""
    sent = clicks(60)
    broken = worker(bootstrap, tmp_path, MAPPING | {"user_id": "userid"})
    try:
        send(bootstrap, TOPICS.clicks, sent)
        wait_for(lambda: folded(bootstrap, 60), [broken], 60, "the dead letters of all events")
    finally:
        broken.stop()
    assert [row["reason"] for row in listed(bootstrap)] == ["invalid"] * 60
    assert not newest(read_all(bootstrap, TOPICS.recommendations))
    dry = replay(bootstrap, "--reason", "invalid", "--dry-run")
    assert (dry.exit_code, dry.stdout.count("would be replayed")) == (0, 60)
    assert not stamps(bootstrap, TOPICS.clicks)
    mended = worker(bootstrap, tmp_path, MAPPING)
    try:
        assert replay(bootstrap, "--reason", "invalid").exit_code == 0
        again = replay(bootstrap, "--all")
        assert "replayed: 0, already replayed: 60, refused: 0" in again.output
        wait_for(lambda: folded(bootstrap, 120), [mended], 60, "the folding of what was replayed")
    finally:
        mended.stop()
    assert sorted(stamps(bootstrap, TOPICS.clicks)) == sorted(row["coordinates"].encode() for row in listed(bootstrap))
    assert all(row["replayed"] for row in listed(bootstrap))
    assert len(newest(read_all(bootstrap, TOPICS.recommendations))) == 7
    assert assert_exact(bootstrap, TOPICS, None) == 7


def bury(bootstrap: str, *, reason: Reason, offset: int, value: bytes | None, key: bytes | None = b"u", topic: str = "") -> str:
    """Sends a dead letter as worker and encoder do; returns its name."""
    epoch = topic_epochs(bootstrap, [topic or TOPICS.clicks])[topic or TOPICS.clicks]
    record = PlainRecord(offset, START_MS + offset, key, value, (("trace", b"t1"),))
    origin = Coordinates(topic or TOPICS.clicks, epoch, 0, offset)
    source = Source.CALL if topic == TOPICS.transcripts else Source.CLICK
    letter = dead_letter(source, origin, record, Rejection(reason, "because"))
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all")
    producer.send(TOPICS.dead_letters, key=letter.key, value=letter.value, partition=0).get(10)
    producer.close()
    return letter.key.decode()


def test_transcripts_are_shown_and_replayed_from_their_origin_while_it_retains_them(bootstrap: str) -> None:
    """The dead letter has neither text nor key; once the origin topic has dropped the record, the replay is refused."""
    text = b'{"user_id":"u","sentences":"of a secret kind"}'
    send(bootstrap, TOPICS.transcripts, [(b"u", text)] * 2)
    place = partition_of(b"u", 2)
    epoch = topic_epochs(bootstrap, [TOPICS.transcripts])[TOPICS.transcripts]
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all")
    names = []
    for record in read_all(bootstrap, TOPICS.transcripts)[place]:
        origin = Coordinates(TOPICS.transcripts, epoch, place, record.offset)
        letter = dead_letter(Source.CALL, origin, record, Rejection(Reason.POISON, "x"))
        producer.send(TOPICS.dead_letters, key=letter.key, value=letter.value).get(10)
        names.append(letter.key.decode())
    producer.close()
    shown = isthmus(bootstrap, "dead-letters", "show", names[0])
    assert "of a secret kind" in shown.stdout
    assert "secret" not in isthmus(bootstrap, "dead-letters", "list").output
    assert replay(bootstrap, names[0]).exit_code == 0
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.delete_records({TopicPartition(TOPICS.transcripts, place): 2})
    admin.close()
    refused = replay(bootstrap, names[1])
    assert refused.exit_code == 3
    assert "no longer retains the record" in refused.stdout
    (again,) = [record.value for record in read_all(bootstrap, TOPICS.transcripts)[place]]
    assert again == text


def test_unusable_dead_letters_are_refused_and_the_others_can_be_filtered(bootstrap: str) -> None:
    """Refused: without a key, empty, or truncated without an origin. Filters: reason, time and coordinates."""
    keyless = bury(bootstrap, reason=Reason.MISSING_KEY, offset=0, value=b"{}", key=None)
    empty = bury(bootstrap, reason=Reason.EMPTY, offset=1, value=None)
    cut = bury(bootstrap, reason=Reason.NOT_JSON, offset=2, value=b"x" * (limits.ORIGINAL_BYTES + 1))
    plain = bury(bootstrap, reason=Reason.TOO_FAR_AHEAD, offset=3, value=b"{}")
    assert [row["coordinates"] for row in listed(bootstrap)] == [keyless, empty, cut, plain]
    assert [row["coordinates"] for row in listed(bootstrap, "--reason", "empty")] == [empty]
    assert listed(bootstrap, "--topic", TOPICS.purchases) == listed(bootstrap, "--since", "1h") == []
    until = "2025-06-15T15:06:40.002Z"  # START_MS + 2
    assert [row["coordinates"] for row in listed(bootstrap, "--until", until)] == [keyless, empty]
    result = replay(bootstrap, "--all")
    assert result.exit_code == 3
    assert "replayed: 1, already replayed: 0, refused: 3" in result.output
    for name, why in ((keyless, "no key"), (empty, "is empty"), (cut, "contains the first 65536 of 65537 bytes")):
        assert any(line.startswith(name) and why in line for line in result.stdout.splitlines())
    (record,) = read_all(bootstrap, TOPICS.clicks)[partition_of(b"u", 2)]
    assert (record.key, record.value) == (b"u", b"{}")
    received = (FIRST_RECEIVED_HEADER, str(START_MS + 3).encode())
    first = (FIRST_ORIGIN_HEADER, plain.encode())
    assert tuple(record.headers) == (received, first, ("trace", b"t1"), (ORIGIN_HEADER, plain.encode()))


def test_an_interrupted_replay_resumes_without_sending_twice(bootstrap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted after everything was sent but nothing recorded: the next run recognizes the header in the origin topic."""
    for offset in range(5):
        bury(bootstrap, reason=Reason.MAPPING, offset=offset, value=b'{"n":%d}' % offset, key=b"u%d" % offset)

    class Dying(KafkaProducer):  # type: ignore[misc]
        def send(self, topic: str, *args: Any, **more: Any) -> Any:
            if topic == TOPICS.replayed and more["key"] != dead_letter_replay.RUN_KEY:
                raise KafkaTimeoutError
            return super().send(topic, *args, **more)

    with monkeypatch.context() as patched:
        patched.setattr(clients, "KafkaProducer", Dying)
        cut = replay(bootstrap, "--all")
        assert cut.exit_code != 0
    assert len(stamps(bootstrap, TOPICS.clicks)) == 5
    bury(bootstrap, reason=Reason.MAPPING, offset=5, value=b"{}", key=b"u5")
    assert "replayed: 1, already replayed: 5" in replay(bootstrap, "--all").output
    assert "replayed: 0, already replayed: 6" in replay(bootstrap, "--all").output
    assert len(stamps(bootstrap, TOPICS.clicks)) == len(set(stamps(bootstrap, TOPICS.clicks))) == 6
    with open_topic_reader(bootstrap) as found:
        assert len(list(read_dead_letters(found, TOPICS.dead_letters, DeadLetterFilter(reason="mapping")))) == 6


def test_a_replay_without_a_filter_and_unknown_coordinates_are_refused(bootstrap: str) -> None:
    """A slip must not replay everything."""
    for arguments, message in (
        (["replay"], "choose dead letters by"),
        (["show", "web-clicks/1/0/0"], "no dead letter has"),
        (["list", "--reason", "ugly"], "is not a reason"),
        (["list", "--since", "yesterday"], "is not a time"),
    ):
        result = isthmus(bootstrap, "dead-letters", *arguments)
        assert result.exit_code != 0
        assert message in str(result.exception)


def test_an_erased_user_is_forgotten(bootstrap: str, tmp_path: Path) -> None:
    """State, list and history are deleted; another user's remain."""
    send(bootstrap, TOPICS.clicks, [(user.encode(), msgspec.json.encode(Click(user, START_MS, ("home",)))) for user in ("u", "v")])
    child = worker(bootstrap, tmp_path)
    try:
        wait_for(lambda: folded(bootstrap, 2), [child], 60, "the folding of the clicks")
        assert newest(read_all(bootstrap, TOPICS.recommendations)).keys() == {b"u", b"v"}
        assert isthmus(bootstrap, "erase", "u", "--yes").exit_code == 0
        assert isthmus(bootstrap, "erase", "u", "--yes", "--at", "2099-01-01T00:00:00Z").exit_code != 0
        wait_for(lambda: folded(bootstrap, 3), [child], 30, "the erasure")
    finally:
        child.stop()
    assert newest(read_all(bootstrap, TOPICS.recommendations)).keys() == {b"v"}
    assert assert_exact(bootstrap, TOPICS, None) == 1


def test_an_erasure_by_command_reaches_examples_that_no_state_knows(bootstrap: str) -> None:
    """As after states were rebuilt from inputs that no longer hold the purchases. Other users' examples and foreign keys stay."""
    sent = {user: [example_key(user, f"{user}-{number}") for number in range(3)] for user in ("u", "v", "w")}
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    for user, keys in sent.items():
        for key in [*keys, b"no example"]:
            number = partition_of(user.encode(), TOPICS.partitions)
            producer.send(TOPICS.training_examples, key=key, value=b"an example", partition=number).get(10)
    producer.close()
    result = isthmus(bootstrap, "erase", "u", "w", "nobody", "--yes")
    assert result.exit_code == 0, result.output
    assert "3 erasures sent, 6 training examples removed" in result.output
    assert newest(read_all(bootstrap, TOPICS.training_examples)).keys() == {*sent["v"], b"no example"}
    assert "1 erasures sent, 0 training examples removed" in isthmus(bootstrap, "erase", "u", "--yes").output


@pytest.mark.parametrize("command", [("erase", "u", "--yes"), ("dead-letters", "replay", "--all")], ids=["erase", "replay"])
def test_nothing_is_sent_by_key_where_partitions_were_added_to_topics(bootstrap: str, command: tuple[str, ...]) -> None:
    """It would go to partitions that no worker reads: users would stay, though the command says that they are erased."""
    bury(bootstrap, reason=Reason.MAPPING, offset=0, value=b"{}", key=b"u")
    key = example_key("u", "p")
    send(bootstrap, TOPICS.training_examples, [(key, b"an example")])
    with closing(admin_client(bootstrap)) as admin:
        admin.create_partitions({TOPICS.erasures: NewPartitions(4), TOPICS.training_examples: NewPartitions(4)})
    result = isthmus(bootstrap, *command)
    assert isinstance(result.exception, IsthmusError)
    assert "must have one partition count" in str(result.exception)
    assert f"{TOPICS.erasures} 4" in str(result.exception)
    assert newest(read_all(bootstrap, TOPICS.training_examples)).keys() == {key}
    assert not newest(read_all(bootstrap, TOPICS.clicks))
