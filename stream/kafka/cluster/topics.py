"""The topics: what each must be, creating and checking them, and the epochs that tell a recreated topic from its predecessor.

`isthmus topics` and the workers' start use it, over kafka-python's admin client (aiokafka does not tell topic ids).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from kafka.admin import ConfigResource, ConfigResourceType, NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError

from stream.core import limits
from stream.core.events import INPUTS, STEP_INPUTS, InputTopic, Source
from stream.errors import IsthmusError
from stream.kafka.cluster.clients import AdminClient
from stream.settings import TopicSettings

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
TABLE: Final = "users"

_COMPACTED: Final = {
    "cleanup.policy": "compact",
    "max.compaction.lag.ms": str(DAY_MS),
    "delete.retention.ms": str(7 * DAY_MS),
}
_LARGE: Final = {**_COMPACTED, "max.message.bytes": str(limits.RECORD_BYTES)}
_DERIVED: Final = {"cleanup.policy": "delete", "retention.ms": str(7 * DAY_MS)}
_INPUT: Final = {**_DERIVED, "message.timestamp.type": "LogAppendTime"}


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """What one topic must be. `keyed_by` is for the reader; `partitions` and `settings` are checked."""

    role: str
    name: str
    keyed_by: str
    partitions: int
    settings: Mapping[str, str] = field(default_factory=dict)


def changelog_name(application: str) -> str:
    """The topic that restores a worker's user table, named as Faust names it."""
    return f"{application}-{TABLE}-changelog"


def specs(topics: TopicSettings, application: str = "isthmus-profiles") -> list[TopicSpec]:
    """All topics. Raw text lives in `transcripts` alone, for 7 days."""
    keyed = topics.partitions
    return [
        *(TopicSpec(row.role, topics.name_of(row.role), "user", keyed, _input_settings(row)) for row in INPUTS),
        TopicSpec("items", topics.items, "item", 1, _COMPACTED),
        TopicSpec("models", topics.models, "role", 1, _COMPACTED),
        TopicSpec("recommendations", topics.recommendations, "user", keyed, _COMPACTED),
        TopicSpec("training_examples", topics.training_examples, "user and purchase id (msgpack)", keyed, _LARGE),
        TopicSpec(
            "dead_letters",
            topics.dead_letters,
            "topic/epoch/partition/offset",
            keyed,
            {**_DERIVED, "retention.ms": str(30 * DAY_MS)},
        ),
        TopicSpec("replayed", topics.replayed, "topic/epoch/partition/offset, or run", 1, _COMPACTED),
        TopicSpec(
            "changelog", changelog_name(application), "state record", keyed, {**_LARGE, "min.compaction.lag.ms": str(HOUR_MS)}
        ),
    ]


def source_topics(topics: TopicSettings) -> dict[str, Source]:
    """The inputs of the profile agent, by topic name."""
    return {topics.name_of(row.role): row.source for row in STEP_INPUTS}


def _input_settings(row: InputTopic) -> dict[str, str]:
    settings = _DERIVED if row.is_derived else _INPUT
    return settings if row.record_bytes is None else {**settings, "max.message.bytes": str(row.record_bytes)}


def create_or_check(bootstrap: str, topics: TopicSettings, *, dev: bool = False, create: bool = True) -> list[str]:
    """Creates what is missing and checks the rest; one line per topic.

    Raises:
        IsthmusError: the broker cannot be reached, a topic is missing (`create` off), or one is not as it must be.
    """
    admin = admin_client(bootstrap)
    try:
        present = {
            found["name"]: found
            for found in admin.describe_topics([spec.name for spec in specs(topics)])
            if not found["error_code"]
        }
        lines: list[str] = []
        wrong: list[str] = []
        for spec in specs(topics):
            if spec.name in present:
                problems = _problems(admin, spec, len(present[spec.name]["partitions"]))
                (wrong if problems else lines).append(f"{spec.name}: {'; '.join(problems) or 'as it must be'}")
            elif create:
                _create(admin, spec, dev=dev)
                lines.append(f"{spec.name}: created, {spec.partitions} partitions")
            else:
                wrong.append(f"{spec.name}: missing; run `isthmus topics` without --check")
    except KafkaError as error:
        raise IsthmusError(f"topics at {bootstrap}: {error}") from error
    finally:
        admin.close()
    if wrong:
        raise IsthmusError("\n".join(["topics that do not fit:", *wrong]))
    return lines


def topic_epochs(bootstrap: str, names: Iterable[str]) -> dict[str, int]:
    """Each topic's epoch: 63 bits of its Kafka topic id, which a recreated topic does not share."""
    admin = admin_client(bootstrap)
    try:
        found = admin.describe_topics(list(names))
    except KafkaError as error:
        raise IsthmusError(f"topics at {bootstrap}: {error}") from error
    finally:
        admin.close()
    missing = [topic["name"] for topic in found if topic["error_code"]]
    if missing:
        raise IsthmusError(f"topics missing at {bootstrap}: {', '.join(missing)}; run `isthmus topics`")
    return epochs_of(found)


def epochs_of(described: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """The epochs of those topics that exist, from an admin client's descriptions."""
    return {topic["name"]: UUID(str(topic["topic_id"])).int >> 65 for topic in described if not topic["error_code"]}


def admin_client(bootstrap: str, answer_ms: int = 30_000) -> Any:
    try:
        return AdminClient(
            bootstrap_servers=bootstrap, client_id="isthmus-topics", request_timeout_ms=answer_ms, bootstrap_timeout_ms=answer_ms
        )
    except KafkaError as error:
        raise IsthmusError(
            f"no broker answers at {bootstrap} ({type(error).__name__}): check kafka.bootstrap or --bootstrap"
        ) from error


def _create(admin: Any, spec: TopicSpec, *, dev: bool) -> None:
    settings = dict(spec.settings) if dev else {**spec.settings, "min.insync.replicas": "2"}
    new = NewTopic(spec.name, num_partitions=spec.partitions, replication_factor=1 if dev else 3, topic_configs=settings)
    try:
        admin.create_topics([new])
    except TopicAlreadyExistsError:
        return
    except KafkaError as error:
        hint = "" if dev else " (one broker only? use --dev)"
        raise IsthmusError(f"{spec.name} could not be created: {error}{hint}") from error


def _problems(admin: Any, spec: TopicSpec, partitions: int) -> list[str]:
    problems = []
    if partitions != spec.partitions:
        problems.append(
            f"has {partitions} partitions, not {spec.partitions}: a count cannot be changed; set topics.partitions = {partitions}"
        )
    described = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, spec.name)])["topic"][spec.name]
    values = {key: setting["value"] for key, setting in described.items()}
    for key, wanted in spec.settings.items():
        differs = key in {"cleanup.policy", "message.timestamp.type"} and values.get(key) != wanted
        if differs or (key == "max.message.bytes" and int(values[key]) < int(wanted)):
            problems.append(
                f"{key} is {values.get(key)}, not {wanted}: kafka-configs --alter --topic {spec.name} --add-config {key}={wanted}"
            )
    return problems
