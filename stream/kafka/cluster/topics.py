"""Topics: their specifications, how they are created and checked, and the epochs by which a recreated topic is recognized.

`isthmus topics` and the workers' start use it, over kafka-python's admin client, because aiokafka does not return topic ids.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from uuid import UUID

from kafka.admin import ConfigResource, ConfigResourceType, NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError, TopicAuthorizationFailedError

from stream.application import DEFAULT, worker_group
from stream.core import limits
from stream.core.events import INPUTS, STEP_INPUTS, InputTopic, Source
from stream.errors import IsthmusError
from stream.kafka.cluster.access import reason_of
from stream.kafka.cluster.clients import AdminClient
from stream.settings import TopicSettings

TABLE: Final = "users"
TOMBSTONE_RETENTION_MS: Final = 7 * limits.DAY_MS
"""How long compacted topics keep a tombstone at least."""
_COMPACTED: Final = {
    "cleanup.policy": "compact",
    "max.compaction.lag.ms": str(limits.DAY_MS),
    "delete.retention.ms": str(TOMBSTONE_RETENTION_MS),
}
_LARGE: Final = {**_COMPACTED, "max.message.bytes": str(limits.RECORD_BYTES)}
_DERIVED: Final = {"cleanup.policy": "delete", "retention.ms": str(7 * limits.DAY_MS)}
_INPUT: Final = {**_DERIVED, "message.timestamp.type": "LogAppendTime"}


_UNDIVIDED: Final = frozenset({"items", "encoded_items", "models", "api_keys", "applications", "replayed"})
_ONE_ALWAYS: Final = "delete it, run `isthmus topics`, and send its records again; only topics keyed by user may have more"


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """What one topic must be.

    Attributes:
        role: What it is for, as in the settings.
        name: Its name on the broker.
        keyed_by: What its keys are; documentation only.
        partitions: Their number; checked.
        settings: Its configuration; what matters of it is checked.
    """

    role: str
    name: str
    keyed_by: str
    partitions: int
    settings: Mapping[str, str] = field(default_factory=dict)


class TopicProblem(NamedTuple):
    """What of a topic does not match its specification, and what to do."""

    found: str
    to_do: str

    def __str__(self) -> str:
        return f"{self.found}: {self.to_do}"


def changelog_name(group: str) -> str:
    """The topic that the user table of a group of workers is restored from, as Faust names it."""
    return f"{group}-{TABLE}-changelog"


def group_of(changelog: str) -> str:
    """The consumer group that a changelog belongs to.

    >>> group_of(changelog_name("isthmus-profiles"))
    'isthmus-profiles'
    """
    return changelog.removesuffix(f"-{TABLE}-changelog")


def transactional_id(group: str, number: int) -> str:
    """The transactional id of a group's partition number, with exactly once."""
    return f"{group}-{number}"


def specs(topics: TopicSettings, application: str = DEFAULT) -> list[TopicSpec]:
    """All topics of an application, by its name. Raw text lives in `transcripts` alone, for 7 days."""
    keyed = topics.partitions
    return [
        *(TopicSpec(row.role, topics.name_of(row.role), "user", keyed, _input_settings(row)) for row in INPUTS),
        TopicSpec("items", topics.items, "item", 1, _COMPACTED),
        TopicSpec("encoded_items", topics.encoded_items, "item", 1, _COMPACTED),
        TopicSpec("models", topics.models, "role", 1, _COMPACTED),
        TopicSpec("recommendations", topics.recommendations, "user", keyed, _COMPACTED),
        *(
            [TopicSpec("flat_recommendations", topics.flat_recommendations, "user and rank (Avro)", keyed, _COMPACTED)]
            if topics.flat
            else []
        ),
        TopicSpec("training_examples", topics.training_examples, "user and purchase id (msgpack)", keyed, _LARGE),
        TopicSpec(
            "dead_letters",
            topics.dead_letters,
            "topic/epoch/partition/offset",
            keyed,
            {**_DERIVED, "retention.ms": str(30 * limits.DAY_MS)},
        ),
        TopicSpec("api_keys", topics.api_keys, "key id", 1, _COMPACTED),
        TopicSpec("applications", topics.applications, "topic/name or group/name", 1, _COMPACTED),
        TopicSpec("replayed", topics.replayed, "topic/epoch/partition/offset, or run", 1, _COMPACTED),
        TopicSpec(
            "changelog",
            changelog_name(worker_group(application)),
            "state record",
            keyed,
            {**_LARGE, "min.compaction.lag.ms": str(limits.HOUR_MS)},
        ),
    ]


def source_topics(topics: TopicSettings) -> dict[str, Source]:
    """The inputs of the profile agent, by topic name."""
    return {topics.name_of(row.role): row.source for row in STEP_INPUTS}


def _input_settings(row: InputTopic) -> dict[str, str]:
    settings = _DERIVED if row.is_derived else _INPUT
    return settings if row.record_bytes is None else {**settings, "max.message.bytes": str(row.record_bytes)}


def create_or_check(
    bootstrap: str,
    topics: TopicSettings,
    application: str = DEFAULT,
    *,
    dev: bool = False,
    create: bool = True,
    only: Collection[str] | None = None,
    tombstones_ms: int = TOMBSTONE_RETENTION_MS,
) -> list[str]:
    """Creates missing topics of an application and checks the others; returns one line per topic. `only` limits it to some names.
    `tombstones_ms` is as in `topic_problems`.

    Raises:
        IsthmusError: the broker cannot be reached, a topic is missing (`create` off), or one does not match its specification.
    """
    admin = admin_client(bootstrap)
    lines: list[str] = []
    problems: list[str] = []
    try:
        wanted = [spec for spec in specs(topics, application) if only is None or spec.name in only]
        described = admin.describe_topics([spec.name for spec in wanted])
        partitions = counts_of(described)
        for spec in wanted:
            if spec.name not in partitions and create:
                _create(admin, spec, dev=dev)
                lines.append(f"{spec.name}: created, {spec.partitions} partitions")
            elif found := topic_problems(admin, spec, partitions.get(spec.name), tombstones_ms):
                problems.append(f"{spec.name}: {'; '.join(map(str, found))}")
            else:
                lines.append(f"{spec.name}: as it must be")
    except KafkaError as error:
        raise IsthmusError(f"topics at {bootstrap}: {error}") from error
    finally:
        admin.close()
    if problems:
        raise IsthmusError("\n".join(["topics that do not fit:", *problems]))
    return lines


class TopicShape(NamedTuple):
    """Which topic of its name one is, and its number of partitions."""

    epoch: int
    partitions: int


def topic_shape(bootstrap: str, name: str) -> TopicShape:
    """Raises IsthmusError where the broker cannot be reached, or the topic is missing."""
    return shapes_of(_described(bootstrap, [name]))[name]


def topic_epochs(bootstrap: str, names: Iterable[str]) -> dict[str, int]:
    """Each topic's epoch: 63 bits of its Kafka topic id, which changes when a topic is recreated.

    Raises:
        IsthmusError: the broker cannot be reached, or a topic is missing.
    """
    return epochs_of(_described(bootstrap, names))


def _described(bootstrap: str, names: Iterable[str]) -> list[Mapping[str, Any]]:
    """Topics as an admin client describes them; raises IsthmusError where one is missing."""
    admin = admin_client(bootstrap)
    try:
        described: list[Mapping[str, Any]] = admin.describe_topics(list(names))
    except KafkaError as error:
        raise IsthmusError(f"topics at {bootstrap}: {error}") from error
    finally:
        admin.close()
    missing = [topic["name"] for topic in described if topic["error_code"]]
    if missing:
        raise IsthmusError(f"topics missing at {bootstrap}: {', '.join(missing)}; run `isthmus topics`")
    return described


def epochs_of(described: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """The epochs of the topics that exist, from an admin client's descriptions."""
    return {topic["name"]: UUID(str(topic["topic_id"])).int >> 65 for topic in described if not topic["error_code"]}


def counts_of(described: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """The partition counts of the topics that exist, from an admin client's descriptions."""
    return {topic["name"]: len(topic["partitions"]) for topic in described if not topic["error_code"]}


def shapes_of(described: Iterable[Mapping[str, Any]]) -> dict[str, TopicShape]:
    """The shapes of the topics that exist, from an admin client's descriptions."""
    counts = counts_of(described := list(described))
    return {name: TopicShape(epoch, counts[name]) for name, epoch in epochs_of(described).items()}


def require_one_count(bootstrap: str, topics: TopicSettings) -> None:
    """Checks that topics keyed by user have one partition count, before a command sends or looks for records by their keys.

    Topics that this user may not describe are left out.

    Raises:
        IsthmusError: the broker cannot be reached, or the counts differ.
    """
    admin = admin_client(bootstrap)
    try:
        roles = (*(row.role for row in INPUTS), "recommendations", "training_examples", "dead_letters")
        counts = counts_of(admin.describe_topics([topics.name_of(role) for role in roles]))
    except KafkaError as error:
        raise IsthmusError(f"topics at {bootstrap}: {error}") from error
    finally:
        admin.close()
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        raise IsthmusError(
            f"topics keyed by user must have one partition count, and these have: {found}. Nothing was sent, because it would not "
            "reach the worker that holds the user. `isthmus topics --check` says which topics do not fit"
        )


def admin_client(bootstrap: str, answer_ms: int = 30_000) -> Any:
    """Connects an admin client.

    Raises:
        IsthmusError: no broker answers, or none lets this process in.
    """
    try:
        return AdminClient(
            bootstrap_servers=bootstrap, client_id="isthmus-topics", request_timeout_ms=answer_ms, bootstrap_timeout_ms=answer_ms
        )
    except KafkaError as error:
        raise IsthmusError(reason_of(bootstrap, error)) from error


def _create(admin: Any, spec: TopicSpec, *, dev: bool) -> None:
    settings = dict(spec.settings) if dev else {**spec.settings, "min.insync.replicas": "2"}
    new = NewTopic(spec.name, num_partitions=spec.partitions, replication_factor=1 if dev else 3, topic_configs=settings)
    try:
        admin.create_topics([new])
    except TopicAlreadyExistsError:
        return
    except TopicAuthorizationFailedError:
        raise IsthmusError(f"{spec.name} could not be created: this user lacks the ACL CREATE on topic {spec.name}") from None
    except KafkaError as error:
        hint = "" if dev else " (one broker only? use --dev)"
        raise IsthmusError(f"{spec.name} could not be created: {error}{hint}") from error


def topic_problems(
    admin: Any, spec: TopicSpec, partitions: int | None, tombstones_ms: int = TOMBSTONE_RETENTION_MS
) -> list[TopicProblem]:
    """What of a topic does not match its specification; `partitions` is None if it is missing.

    `tombstones_ms` is how long the reader that asks relies on tombstones.
    """
    if partitions is None:
        return [TopicProblem("missing", "run `isthmus topics` without --check")]
    problems = []
    if partitions != spec.partitions:
        to_do = _ONE_ALWAYS if spec.role in _UNDIVIDED else f"a count cannot be changed; set topics.partitions = {partitions}"
        problems.append(TopicProblem(f"has {partitions} partitions, not {spec.partitions}", to_do))
    resource = ConfigResource(ConfigResourceType.TOPIC, spec.name)
    described = admin.describe_configs([resource], config_filter="all")["topic"][spec.name]  # defaults too
    values = {key: setting["value"] for key, setting in described.items()}
    for key, wanted in spec.settings.items() if values else ():  # there are none for a user without the ACL
        if not _fits(key, wanted, values.get(key), tombstones_ms):
            to_do = f"kafka-configs --alter --topic {spec.name} --add-config {key}={wanted}"
            problems.append(TopicProblem(f"{key} is {values.get(key)}, not {wanted}", to_do))
    return problems


def _fits(key: str, wanted: str, found: str | None, tombstones_ms: int) -> bool:
    """Whether a topic's setting is one that the readers can rely on. What only costs space may differ."""
    if key in {"cleanup.policy", "message.timestamp.type"}:
        return found == wanted
    least = {"max.message.bytes": int(wanted), "delete.retention.ms": tombstones_ms} if found is not None else {}
    return key not in least or int(found or 0) >= least[key]
