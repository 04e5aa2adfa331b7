"""`isthmus doctor`: each failure that it names, what it says to do about it, and that one check costs no other."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kafka import TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import (
    ClusterAuthorizationFailedError,
    CoordinatorNotAvailableError,
    GroupIdNotFoundError,
    KafkaConnectionError,
    TopicAuthorizationFailedError,
    UnsupportedVersionError,
)
from kafka.structs import OffsetAndMetadata, OffsetAndTimestamp
from typer.testing import CliRunner

from stream.cli.main import app
from stream.connection_settings import KafkaSettings
from stream.core.announcements import ModelAnnouncement
from stream.core.limits import DAY_MS
from stream.errors import IsthmusError
from stream.kafka.cluster import survey
from stream.kafka.cluster.access import AccessError, NoAnswerError
from stream.kafka.cluster.rights import Kind, Process, Right
from stream.kafka.cluster.survey import GroupPartition, GroupState, PartitionState, Survey
from stream.kafka.cluster.topics import TopicProblem
from stream.process_settings import ApiSettings, EncoderSettings, RegistrySettings, WorkerSettings
from stream.services.doctor import checks, examination
from stream.services.doctor.examination import bounded, examine
from stream.services.doctor.findings import Finding, Status, document, failed, ok, table, warning
from stream.services.doctor.questions import Deployment, space_of
from stream.settings import MappingSettings, Settings
from stream.text.keywords import Keywords
from stream.text.model import EncoderFacts, finish_folder
from training.registry import ModelVersion

AWAY = NoAnswerError("no broker answers at b:1 (Connection refused): check kafka.bootstrap")
REFUSED = AccessError("the broker at a:1 refuses user app (PLAIN): check kafka.username and kafka.password")
VERSION = ModelVersion("3", "popular", "/models/3", "abc", ("champion",), {}, "")
ANNOUNCED = ModelAnnouncement(role="champion", name="popular", version="2", uri="/models/2", sha256="def", published_at=0)
GIB = 1 << 30
SASL = {"sasl_mechanism": "PLAIN", "username": "app", "password": "x"}


def partition(*, has_leader: bool = True, in_sync: int = 3, needed: int = 2) -> list[PartitionState]:
    return [PartitionState("web-clicks", 0, has_leader, in_sync, 3, needed)]


def group(members: int, *places: tuple[int, int | None, int]) -> GroupState:
    """A group's places in web-clicks: (start, committed, end) of each partition number."""
    return GroupState(members, tuple(GroupPartition("web-clicks", number, *place) for number, place in enumerate(places)))


def space(free: float, size: float = 0, obstacle: str | None = None) -> checks.Space:
    return checks.Space("worker.state_dir", Path("/state"), int(free * GIB), int(size * GIB), obstacle)


CASES: dict[str, tuple[Callable[[], list[Finding]], Status, str, str]] = {
    "a misspelled variable": (
        lambda: checks.check_variables({"ISTHMUS_KAFKA_BOOTSTRAP": "ISTHMUS_KAFKA__BOOTSTRAP"}, "of our own"),
        Status.WARNING,
        "nobody reads the variable ISTHMUS_KAFKA_BOOTSTRAP: did you mean ISTHMUS_KAFKA__BOOTSTRAP?",
        "",
    ),
    "a key that everybody knows": (
        lambda: checks.check_variables({}, "isthmus"),
        Status.WARNING,
        "markers can be guessed",
        "set ISTHMUS_STEP__ERASURE_KEY",
    ),
    "no broker": (lambda: checks.check_brokers({"b:1": AWAY}, {}), Status.FAILED, "no broker answers at b:1", ""),
    "no address": (lambda: checks.check_brokers({}, {}), Status.FAILED, "kafka.bootstrap names no broker", "write host:port"),
    "one of two brokers": (
        lambda: checks.check_brokers({"a:1": None, "b:1": AWAY}, {"a:1": None}),
        Status.WARNING,
        "may try this address first: no broker answers at b:1",
        "",
    ),
    "a broker that gives an address where it is not": (
        lambda: checks.check_brokers({"a:1": None}, {"a:1": None, "b:1": AWAY}),
        Status.FAILED,
        "a broker calls itself b:1, and there: no broker answers",
        "correct advertised.listeners",
    ),
    "a wrong password": (
        lambda: checks.check_security(KafkaSettings(), [REFUSED, REFUSED], "User:app"),
        Status.FAILED,
        "refuses user app",
        "",
    ),
    "a password in the clear": (
        lambda: checks.check_security(KafkaSettings(security_protocol="SASL_PLAINTEXT", **SASL), [], "User:app"),
        Status.WARNING,
        "as User:app: the network can read the secret",
        "set kafka.security_protocol to SASL_SSL",
    ),
    "a missing ACL": (
        lambda: checks.check_rights(Process.WORKER, [Right("READ", Kind.TOPIC, "items")], "User:app"),
        Status.FAILED,
        "User:app lacks READ on topic items for `isthmus worker`",
        "kafka-acls.sh --add --allow-principal User:app --operation Read --topic items",
    ),
    "topics that do not fit": (
        lambda: checks.check_topics({name: [TopicProblem("missing", "run it")] for name in ("items", "models")}, []),
        Status.FAILED,
        "items, models: missing",
        "run it",
    ),
    "erasures that leave before what they erase": (
        lambda: checks.check_retentions("erasures", {"erasures": 7 * DAY_MS, "web-clicks": 30 * DAY_MS, "purchases": 7 * DAY_MS}),
        Status.WARNING,
        "erasures keeps its records for 7 days, and web-clicks for longer",
        "--topic erasures --add-config retention.ms=2592000000",
    ),
    "inputs that are kept for ever": (
        lambda: checks.check_retentions("erasures", {"erasures": 7 * DAY_MS, "web-clicks": -1, "purchases": 30 * DAY_MS}),
        Status.WARNING,
        "and purchases, web-clicks for longer",
        "retention.ms=-1",
    ),
    "topics that may not be described": (
        lambda: checks.check_topics({}, ["items"]),
        Status.NOT_CHECKED,
        "may not describe items",
        "",
    ),
    "a topic of another application": (
        lambda: checks.check_owners(
            ["topic items belongs to shop\nname it otherwise", "group a belongs to shop\nname it otherwise"]
        ),
        Status.FAILED,
        "topic items belongs to shop\ngroup a belongs to shop",
        "name it otherwise",
    ),
    "a record that is not in the format of its topic": (
        lambda: checks.check_formats("http://r", [], [checks.TopicFormat("web-clicks", "avro", 7, "schema 3 is not known")]),
        Status.FAILED,
        "web-clicks: the newest record, at offset 7, cannot be decoded: schema 3 is not known",
        "correct [formats], or the producer",
    ),
    "a topic whose schema nobody registered": (
        lambda: checks.check_formats("http://r", [], [checks.TopicFormat("web-clicks", "avro", None)]),
        Status.WARNING,
        "web-clicks has no record, and http://r no subject web-clicks-value",
        "nothing, if its producer names subjects otherwise",
    ),
    "no leader": (
        lambda: checks.check_partitions(partition(has_leader=False, in_sync=0)),
        Status.FAILED,
        "1 have no leader: web-clicks-0",
        "start their brokers",
    ),
    "too few replicas in sync": (
        lambda: checks.check_partitions(partition(in_sync=1)),
        Status.FAILED,
        "fewer replicas in sync than min.insync.replicas, so that nothing is written: web-clicks-0",
        "start the brokers",
    ),
    "a replica behind": (
        lambda: checks.check_partitions(partition(in_sync=2)),
        Status.WARNING,
        "have replicas that are not in sync: web-clicks-0",
        "another loss may stop",
    ),
    "an offset beyond the end": (
        lambda: checks.check_offsets("workers", group(1, (0, 17, 9)), "`it`"),
        Status.FAILED,
        "workers has committed offset 17 of web-clicks-0, which ends at 9",
        "IsthmusLogGap",
    ),
    "records deleted unread": (
        lambda: checks.check_offsets("workers", group(1, (5, 3, 9)), "`it`"),
        Status.FAILED,
        "offset 3 of web-clicks-0, which begins at 5: 2 records left it unread",
        "longer retention",
    ),
    "nobody who reads": (
        lambda: checks.check_offsets("workers", group(0, (0, 3, 9), (0, None, 1)), "`it`"),
        Status.WARNING,
        "workers: 0 in the group, 7 records behind (web-clicks-0 6, web-clicks-1 1)",
        "start `it`",
    ),
    "no champion in the registry": (
        lambda: checks.check_registry(None, None, topic_read=True),
        Status.WARNING,
        "no version is champion",
        "`isthmus train`",
    ),
    "a champion of whom nobody was told": (
        lambda: checks.check_registry(VERSION, None, topic_read=True),
        Status.FAILED,
        "version 3 (popular) is champion, and no version is announced",
        "`isthmus models announce`",
    ),
    "another champion than the one announced": (
        lambda: checks.check_registry(VERSION, ANNOUNCED, topic_read=True),
        Status.FAILED,
        "version 3 (popular) is champion, and version 2 is announced",
        "`isthmus models announce`",
    ),
    "no model": (lambda: checks.check_model(None, None), Status.WARNING, "no champion is announced", "`isthmus train`"),
    "a refused announcement": (
        lambda: checks.check_model(None, "the announcement is not signed"),
        Status.FAILED,
        "the announcement is not signed",
        "find out who wrote it",
    ),
    "a refused model": (
        lambda: checks.check_model(ANNOUNCED, "a file is missing"),
        Status.FAILED,
        "popular version 2 in /models/2 is refused: a file is missing",
        "`isthmus models promote`",
    ),
    "another text model than the champion's": (
        lambda: checks.check_text_model(Path("/text"), "aa", 9, "bb"),
        Status.FAILED,
        "/text is aa, and the champion was trained for bb",
        "set encoder.text_model to the champion's, or train again",
    ),
    "no keywords": (
        lambda: checks.check_text_model(Path("/text"), "aa", 0, "aa"),
        Status.WARNING,
        "lists no keywords",
        "`isthmus text-model stand-in`",
    ),
    "a folder that cannot be written": (
        lambda: checks.check_disk(space(9, obstacle="/state is no folder")),
        Status.FAILED,
        "/state (worker.state_dir) cannot be written: /state is no folder",
        "set worker.state_dir",
    ),
    "a full disk": (lambda: checks.check_disk(space(0.5)), Status.FAILED, "has 0.5 GiB free", "a process on a full disk ends"),
    "a disk that is nearly full": (
        lambda: checks.check_disk(space(3, 4)),
        Status.WARNING,
        "has 3.0 GiB free and holds 4.0 GiB",
        "compaction may need as much again",
    ),
    "a clock far ahead": (
        lambda: checks.check_clock(-400_000, None, 300),
        Status.FAILED,
        "clock is 400.0 s ahead of Kafka's, more than step.max_ahead_s; events that it times become dead letters",
        "synchronise",
    ),
    "a clock far behind": (lambda: checks.check_clock(400_000, None, 300), Status.FAILED, "clock is 400.0 s behind", "synchronise"),
    "a clock that differs": (
        lambda: checks.check_clock(8_000, None, 300),
        Status.WARNING,
        "is 8.0 s behind Kafka's",
        "synchronise",
    ),
    "records ahead of the clock": (
        lambda: checks.check_clock(None, 8_000, 300),
        Status.WARNING,
        "is at least 8.0 s behind Kafka's",
        "synchronise",
    ),
    "a clock that cannot be compared": (
        lambda: checks.check_clock(None, -60_000, 300),
        Status.NOT_CHECKED,
        "one that is ahead would not be seen",
        "compare it yourself",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_failure_is_named_with_what_to_do(case: str) -> None:
    """In words that an operator can search for."""
    ask, status, found, to_do = CASES[case]
    (finding,) = [one for one in ask() if one.status is not Status.OK]
    assert finding.status is status
    assert found in finding.found
    assert to_do in finding.to_do
    assert bool(to_do) == bool(finding.to_do)


@pytest.mark.parametrize(
    "findings",
    [
        checks.check_brokers({"a:1": None}, {"a:1": None}),
        checks.check_brokers({"a:1": REFUSED}, {}),
        checks.check_security(KafkaSettings(security_protocol="SASL_SSL", **SASL), [], "User:app"),
        checks.check_rights(Process.WORKER, [], "User:app"),
        checks.check_topics({"items": []}, []),
        checks.check_partitions(partition()),
        checks.check_offsets("workers", group(1, (0, 9, 9)), "`it`"),
        checks.check_offsets("workers", group(1, (2, 4, 9)), "`it`"),
        checks.check_offsets("workers", group(0, (0, None, 9)), "`it`"),
        checks.check_registry(VERSION, ANNOUNCED, topic_read=False),
        checks.check_model(ANNOUNCED, None),
        checks.check_text_model(Path("/text"), "aa", 9, "aa"),
        checks.check_text_model(Path("/text"), "aa", 9, None),
        checks.check_disk(space(9, 4)),
        checks.check_clock(-100, None, 300),
    ],
)
def test_what_is_well_is_said_to_be(findings: list[Finding]) -> None:
    """A broker that answers and refuses us is well; `security` names the refusal."""
    assert [one.status for one in findings] == [Status.OK]


def test_a_group_shows_the_lag_of_each_partition_in_its_details() -> None:
    """The table names the five that are furthest behind."""
    (finding,) = checks.check_offsets("workers", group(2, *[(0, 0, number) for number in range(8)]), "`it`")
    assert finding.found == (
        "workers: 2 in the group, 28 records behind (web-clicks-7 7, web-clicks-6 6, web-clicks-5 5, web-clicks-4 4, "
        "web-clicks-3 3, and 2 more)"
    )
    assert [one["lag"] for one in finding.details] == list(range(8))


def test_a_check_that_hangs_is_given_up() -> None:
    """The others are made."""
    forever = threading.Event()
    began = time.monotonic()

    def ask() -> list[Finding]:
        forever.wait()
        return []

    (finding,) = bounded("disk", ask, longest_s=0.05)
    assert finding.status is Status.FAILED
    assert "no answer within 0.05 s" in finding.found
    assert time.monotonic() - began < 30
    forever.set()


def test_brokers_that_stop_answering_cost_their_time_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left is not checked."""
    monkeypatch.setattr(examination, "KAFKA_S", 0.05)
    forever = threading.Event()

    def ask() -> list[Finding]:
        forever.wait()
        return []

    found = examination._ask_kafka(dict.fromkeys(("topics", "offsets", "clock"), ask), lambda _: None)
    forever.set()
    assert [one.status for one in found] == [Status.FAILED, Status.NOT_CHECKED, Status.NOT_CHECKED]


def test_an_error_of_a_check_is_its_finding() -> None:
    """A refusal of rights says nothing of what was asked for."""

    def finding_of(error: Exception) -> Finding:
        def ask() -> list[Finding]:
            raise error

        return bounded("model", ask)[0]

    assert finding_of(IsthmusError("what to do")) == failed("model", "what to do")
    assert finding_of(TopicAuthorizationFailedError()).status is Status.NOT_CHECKED
    assert finding_of(KafkaConnectionError()).status is Status.FAILED
    assert "the check itself failed (KeyError" in finding_of(KeyError("x")).found


def test_the_table_holds_each_finding_in_a_line_of_its_own_and_counts_them() -> None:
    """Commands are not folded."""
    lines = table([ok("broker", "answers"), failed("text model", "is no model", "make one"), warning("disk", "two\nlines")])
    assert lines.splitlines() == [
        "broker      ok           answers",
        "text model  FAILED       is no model",
        "                         -> make one",
        "disk        WARNING      two",
        "                         lines",
        "",
        "1 failed, 1 to look at, 1 ok",
    ]


@pytest.mark.parametrize(
    ("findings", "status"),
    [([ok("a", "")], "ok"), ([ok("a", ""), warning("b", "")], "warning"), ([warning("a", ""), failed("b", "", "do")], "failed")],
)
def test_the_document_says_how_it_is_as_a_whole(findings: list[Finding], status: str) -> None:
    """The worst counts."""
    read = json.loads(document(findings))
    assert read["status"] == status
    assert [one["check"] for one in read["findings"]] == [one.check for one in findings]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Folders of the test's own, and a broker that is away."""
    return Settings(
        kafka=KafkaSettings(bootstrap="127.0.0.1:1"),
        cache_dir=tmp_path / "cache",
        worker=WorkerSettings(state_dir=tmp_path / "state"),
        api=ApiSettings(state_dir=tmp_path / "api"),
        registry=RegistrySettings(uri=f"sqlite:///{tmp_path}/registry/mlflow.db", folder=str(tmp_path / "models")),
    )


def test_without_a_broker_the_other_checks_are_made_and_nothing_is_created(settings: Settings, tmp_path: Path) -> None:
    """What it would have asked the broker is not checked."""
    steps: list[str] = []
    everybody = [Process.WORKER, Process.ENCODER, Process.TRAINER, Process.API]
    found = {one.check: one for one in examine(settings, everybody, {}, steps.append)}
    assert found["broker"].found.startswith("no broker answers at 127.0.0.1:1 (Connection refused)")
    unasked = [name for name, one in found.items() if one.status is Status.NOT_CHECKED]
    assert unasked == ["ACLs", "topics", "partitions", "offsets", "model", "clock"]
    assert found["registry"] == warning("registry", f"{settings.registry.uri} does not exist yet", "`isthmus train` makes it")
    assert "is not a text model (manifest.json is missing)" in found["text model"].found
    assert found["disk"].status is not Status.NOT_CHECKED
    assert steps[0] == "asking the brokers at 127.0.0.1:1"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("process", "change", "words"),
    [
        (
            Process.WORKER,
            {"mapping": MappingSettings.model_validate({"clicks": {"user_id": "]"}})},
            "setting mapping.clicks.user_id: ']' is not a JMESPath",
        ),
        (Process.API, {"api": ApiSettings(token_secrets=["short"])}, "setting api.token_secrets"),
        (Process.API, {"api": ApiSettings(tls_key="/k")}, "api.tls_key is set without api.tls_certificate"),
        (Process.WEBHOOK, {}, "setting webhook.url"),
    ],
)
def test_settings_of_which_nothing_can_be_made_are_named(
    settings: Settings, process: Process, change: dict[str, object], words: str
) -> None:
    """As the process itself would at its start."""
    (finding,) = bounded("settings", Deployment(settings.model_copy(update=change), [process]).ask_settings)
    assert finding.status is Status.FAILED
    assert words in finding.found


def test_a_file_in_the_way_of_a_folder_is_named(settings: Settings, tmp_path: Path) -> None:
    """Nothing is written to find out; a folder that does not exist yet is looked for where it will be."""
    (tmp_path / "state").write_text("a file")
    assert space_of("worker.state_dir", tmp_path / "state" / "one").obstacle == f"{tmp_path}/state is no folder"
    found = Deployment(settings, [Process.WORKER, Process.API]).ask_disk()
    assert [one.found for one in found if one.status is Status.FAILED] == [
        f"{tmp_path}/state (worker.state_dir) cannot be written: {tmp_path}/state is no folder"
    ]
    assert not (tmp_path / "api").exists()


def test_a_folder_counts_what_it_holds(tmp_path: Path) -> None:
    """All files below it."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "one").write_bytes(b"x" * 1_000)
    assert space_of("worker.state_dir", tmp_path).size >= 1_000


@pytest.mark.parametrize(
    ("content", "words"),
    [("no database at all", "is no SQLite database: check registry.uri"), (None, "cannot be read (Is a directory)")],
)
def test_a_registry_that_is_none_is_named(settings: Settings, tmp_path: Path, content: str | None, words: str) -> None:
    """At once: MLflow would try to open it for minutes."""
    file = tmp_path / "registry" / "mlflow.db"
    file.parent.mkdir()
    file.mkdir() if content is None else file.write_text(content)
    (finding,) = bounded("registry", Deployment(settings, [Process.TRAINER]).ask_registry)
    assert finding.status is Status.FAILED
    assert words in finding.found


def test_a_registry_in_a_storage_without_a_package_is_named(settings: Settings) -> None:
    """The trainer would end at its start."""
    own = settings.registry.model_copy(update={"folder": "nosuch://bucket/models"})
    (finding,) = bounded("registry", Deployment(settings.model_copy(update={"registry": own}), [Process.TRAINER]).ask_registry)
    assert finding.status is Status.FAILED
    assert "nosuch://bucket/models" in finding.found


def text_model(folder: Path) -> str:
    folder.mkdir()
    for name in ("encoder.onnx", "tokenizer.json"):
        (folder / name).write_text(name)
    return finish_folder(folder, Keywords(["dog"], 2), EncoderFacts("onnx", 384, 256, "int8"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("encoder.onnx", "another", "has another encoder.onnx than its manifest says"),
        ("keywords.txt", "cat", "has another keywords.txt than its manifest says"),
        ("manifest.json", "{", "has a manifest that cannot be read"),
    ],
)
def test_a_text_model_that_was_changed_is_named(settings: Settings, tmp_path: Path, name: str, content: str, words: str) -> None:
    """Its hash would stand for something else."""
    made = text_model(tmp_path / "text")
    own = settings.model_copy(update={"encoder": EncoderSettings(text_model=tmp_path / "text")})
    ask = Deployment(own, [Process.ENCODER]).ask_text_model
    assert bounded("text model", ask) == [ok("text model", f"{tmp_path}/text is {made}, with 1 keywords")]
    (tmp_path / "text" / name).write_text(content)
    (finding,) = bounded("text model", ask)
    assert finding.status is Status.FAILED
    assert words in finding.found


def test_invalid_settings_are_the_only_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1: without settings there is nothing to ask."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ISTHMUS_TOPICS__PARTITIONS", "0")
    shown = CliRunner().invoke(app, ["doctor"])
    assert shown.exit_code == 1
    assert "settings  FAILED       setting topics.partitions (ISTHMUS_TOPICS__PARTITIONS): " in shown.stdout


def test_the_command_takes_processes_by_name_and_ends_with_code_1(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON goes to standard output alone."""
    monkeypatch.setenv("ISTHMUS_WORKER__STATE_DIR", str(settings.worker.state_dir))
    shown = CliRunner().invoke(app, ["doctor", "sink-postgres", "worker", "--bootstrap", "127.0.0.1:1", "--json"])
    assert shown.exit_code == 1
    read = json.loads(shown.stdout)
    assert read["status"] == "failed"
    assert {"registry", "text model"}.isdisjoint(one["check"] for one in read["findings"])
    assert shown.stderr.startswith("isthmus: loading libraries\n")


class Admin:
    """An admin client of a cluster that keeps one partition of web-clicks and fails as told."""

    def __init__(self, *, offsets_topic: int = 0, quorum: Exception | None = None, groups: Exception | None = None) -> None:
        self._offsets_topic, self._quorum, self._groups = offsets_topic, quorum, groups

    def describe_topics(self, names: list[str]) -> list[dict[str, object]]:
        clicks = [{"partition_index": 0, "leader_id": 1, "isr_nodes": [1], "replica_nodes": [1]}]
        codes = {"__consumer_offsets": self._offsets_topic, "secret": 29}
        return [{"name": name, "error_code": codes.get(name, 0), "partitions": clicks} for name in names]

    def describe_configs(self, *_: object, **__: object) -> dict[str, dict[str, object]]:
        return {"topic": {}}

    def list_partition_offsets(self, asked: dict[TopicPartition, OffsetSpec]) -> dict[TopicPartition, OffsetAndTimestamp]:
        return {tp: OffsetAndTimestamp(9 if spec == OffsetSpec.LATEST else 0, -1, None) for tp, spec in asked.items()}

    def list_group_offsets(self, asked: dict[str, list[TopicPartition]]) -> dict[str, object]:
        if self._groups is not None:
            raise self._groups
        return {group: {tp: OffsetAndMetadata(-1, "", None) for tp in partitions} for group, partitions in asked.items()}

    def describe_groups(self, groups: list[str]) -> dict[str, object]:
        return {group: {"members": [{}]} for group in groups}

    def describe_metadata_quorum(self) -> object:
        if self._quorum is not None:
            raise self._quorum
        now_ms = time.time_ns() // 1_000_000
        voters = [{"replica_id": 1, "last_caught_up_timestamp": 1}, {"replica_id": 2, "last_caught_up_timestamp": now_ms + 60_000}]
        return {"topics": [{"partitions": [{"leader_id": 2, "current_voters": voters}]}]}


def survey_of(monkeypatch: pytest.MonkeyPatch, admin: Admin) -> Survey:
    monkeypatch.setattr(survey, "admin_client", lambda *_: admin)
    monkeypatch.setattr(survey, "_COORDINATOR_S", 0.0)
    return Survey("a:1")


def test_groups_are_not_asked_for_where_kafka_would_make_a_topic_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has committed anything there."""
    admin = Admin(offsets_topic=3, groups=AssertionError("it was asked"))
    assert survey_of(monkeypatch, admin).group("workers", ["web-clicks"]) == group(0, (0, None, 9))


def test_a_group_that_committed_nothing_has_no_offsets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it has members or not."""
    assert survey_of(monkeypatch, Admin()).group("workers", ["web-clicks"]) == group(1, (0, None, 9))
    gone = Admin(groups=GroupIdNotFoundError())
    assert survey_of(monkeypatch, gone).group("workers", ["web-clicks"]) == group(1, (0, None, 9))


def test_a_group_that_no_broker_keeps_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It must not pass for one without commits."""
    with pytest.raises(
        IsthmusError, match=r"no broker keeps the group workers .*: look at the brokers that hold __consumer_offsets"
    ):
        survey_of(monkeypatch, Admin(groups=CoordinatorNotAvailableError())).group("workers", ["web-clicks"])


@pytest.mark.parametrize(
    "retentions", [{}, {"erasures": -1, "web-clicks": -1}, {"erasures": 9, "web-clicks": 9}, {"web-clicks": 9}]
)
def test_erasures_that_are_kept_for_as_long_as_the_inputs_are_no_finding(retentions: dict[str, int]) -> None:
    """So are retentions that this user may not read."""
    assert checks.check_retentions("erasures", retentions) == []


def test_a_topic_that_may_not_be_described_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ACLs say so."""
    assert survey_of(monkeypatch, Admin()).partitions(["secret", "web-clicks"]) == [PartitionState("web-clicks", 0, True, 1, 1)]


def test_kafkas_clock_is_that_of_the_leader_of_its_quorum(monkeypatch: pytest.MonkeyPatch) -> None:
    """None for a user who may not ask, and where there is no quorum."""
    ahead_ms = survey_of(monkeypatch, Admin()).clock_ahead_ms()
    assert ahead_ms is not None
    assert 30_000 < ahead_ms < 90_000
    for error in (ClusterAuthorizationFailedError(), UnsupportedVersionError()):
        assert survey_of(monkeypatch, Admin(quorum=error)).clock_ahead_ms() is None
