"""What each process and command may do on the cluster, declared once: the least that it needs, by name, without a wildcard.

The reference page of ACLs is written from this, the tests give each process a principal with exactly these, and on a secured broker
each process asks at its start whether it has them (KIP-430): a client would fail at the first use, and some of them without a name.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from enum import StrEnum
from typing import Any, Final, NamedTuple

from kafka.errors import GroupAuthorizationFailedError, KafkaError, TransactionalIdAuthorizationFailedError

from stream.application import catalogue_group, encoder_group, skips_group, worker_group
from stream.core.events import INPUTS, STEP_INPUTS
from stream.kafka.cluster.access import AccessError
from stream.kafka.cluster.lag import NO_GROUP_YET
from stream.kafka.cluster.names import claim_group
from stream.kafka.cluster.security import current_security
from stream.kafka.cluster.topics import (
    admin_client,
    changelog_name,
    specs,
    transactional_id,
)
from stream.settings import Settings, names_after

_COORDINATOR_S: Final = 10.0
"""A new broker needs some seconds until it keeps groups and transactions."""
_TOPIC_NOT_AUTHORIZED: Final = 29


class Process(StrEnum):
    """Who connects. Values are the names of commands."""

    WORKER = "worker"
    ENCODER = "encoder"
    TRAINER = "train"
    API = "api"
    POSTGRES = "sink postgres"
    WEBHOOK = "sink webhook"
    TOPICS = "topics"
    SKIP = "topics skip"
    MODELS = "models"
    AUDIENCE = "audience"
    TEXT_MODEL = "text-model stand-in"
    REPLAY = "replay"
    ERASE = "erase"
    RESET = "reset"
    BACKFILL = "backfill"
    KEYS = "keys"
    DEAD_LETTERS = "dead-letters"


class Kind(StrEnum):
    """Kinds of resources, as the option of `kafka-acls.sh`."""

    TOPIC = "topic"
    GROUP = "group"
    TRANSACTIONAL_ID = "transactional-id"


class Right(NamedTuple):
    """One ACL: an operation, by Kafka's name, on one resource."""

    operation: str
    kind: Kind
    name: str

    def __str__(self) -> str:
        return f"{self.operation} on {self.kind} {self.name}"


def rights_of(process: Process, settings: Settings, name: str = "NAME") -> list[Right]:
    """The rights of a process. `name` is that of the instance, for worker and encoder."""
    reads, writes = _topics(process, settings)
    rights = [Right("READ", Kind.TOPIC, topic) for topic in reads] + [Right("WRITE", Kind.TOPIC, topic) for topic in writes]
    if process in _CHECKING:
        rights += [Right("DESCRIBE_CONFIGS", Kind.TOPIC, topic) for topic in dict.fromkeys((*reads, *writes))]
    if process in {Process.TOPICS, Process.REPLAY}:
        rights += [
            Right(operation, Kind.TOPIC, spec.name)
            for spec in specs(settings.topics, settings.application)
            for operation in ("CREATE", "DESCRIBE_CONFIGS")
        ]
        described = {*reads, *writes}  # READ and WRITE include it
        rights += [
            Right("DESCRIBE", Kind.TOPIC, spec.name)
            for spec in specs(settings.topics, settings.application)
            if spec.name not in described
        ]
    if process is Process.BACKFILL:
        rights += _rights_on_successor(settings, name)
    rights += [Right("READ", Kind.GROUP, group) for group in _groups(process, settings, name)]
    if process is Process.REPLAY:  # asks how far they are
        groups = worker_group(settings.application), encoder_group(settings.application)
        rights += [Right("DESCRIBE", Kind.GROUP, group) for group in groups]
    if process in _READING_BATCHES:
        rights.append(Right("DESCRIBE", Kind.GROUP, skips_group(settings.application)))
    return rights + [Right("WRITE", Kind.TRANSACTIONAL_ID, one) for one in _transactions(process, settings)]


def _rights_on_successor(settings: Settings, name: str) -> list[Right]:
    """What a backfill needs of the new application, by its name: to make its topics, to compare it, and to see its groups."""
    topics = settings.topics.model_copy(update=names_after(name)["topics"])
    shared = {settings.topics.items, settings.topics.applications, *(settings.topics.name_of(row.role) for row in INPUTS)}
    own = [spec.name for spec in specs(topics, name) if spec.name not in shared]
    past = [f"{name}-past-{row.default_name}" for row in INPUTS if not row.is_derived]
    changelog = changelog_name(worker_group(name))
    making = [Right(operation, Kind.TOPIC, one) for one in (*own, *past) for operation in ("CREATE", "DESCRIBE_CONFIGS")]
    reading = [Right("READ", Kind.TOPIC, one) for one in (changelog, topics.recommendations)]
    writing = [Right("WRITE", Kind.TOPIC, one) for one in (changelog, *past)]
    described = {right.name for right in (*reading, *writing)}  # READ and WRITE include it
    making += [Right("DESCRIBE", Kind.TOPIC, one) for one in own if one not in described]
    groups = [group(one) for one in (settings.application, name) for group in (worker_group, encoder_group)]
    return [*making, *reading, *writing, *(Right("DESCRIBE", Kind.GROUP, one) for one in groups)]


_CHECKING: Final = {Process.WORKER, Process.ENCODER, Process.API, Process.POSTGRES, Process.WEBHOOK}
"""Those that check their topics at the start."""
_READING_BATCHES: Final = {
    Process.WORKER,
    Process.ENCODER,
    Process.TRAINER,
    Process.AUDIENCE,
    Process.TEXT_MODEL,
    Process.REPLAY,
    Process.ERASE,
    Process.RESET,
    Process.BACKFILL,
    Process.KEYS,
    Process.DEAD_LETTERS,
    Process.API,
    Process.POSTGRES,
    Process.WEBHOOK,
    Process.TOPICS,
    Process.MODELS,
}
"""Those that ask what may be skipped where they meet a corrupt batch."""


def _topics(process: Process, settings: Settings) -> tuple[list[str], list[str]]:
    """The topics that a process reads, and those that it writes."""
    topics, application = settings.topics, settings.application
    inputs = [topics.name_of(row.role) for row in INPUTS]
    produced = [topics.name_of(row.role) for row in INPUTS if not row.is_derived]
    folded = [topics.name_of(row.role) for row in STEP_INPUTS]
    changelog = changelog_name(worker_group(application))
    flat = [topics.flat_recommendations] if topics.flat else []
    outputs = [topics.recommendations, *flat, topics.training_examples, topics.dead_letters]
    owners = topics.applications
    return {
        Process.WORKER: (
            [*folded, topics.items, topics.encoded_items, topics.models, changelog, owners],
            [*outputs, changelog],
        ),
        Process.ENCODER: (
            [topics.transcripts, topics.encoded_calls, topics.items, topics.encoded_items, owners],
            [topics.encoded_calls, topics.encoded_items, topics.dead_letters],
        ),
        Process.TRAINER: ([topics.training_examples, topics.items, owners], [topics.models]),
        Process.API: ([topics.recommendations, changelog, topics.items, topics.models, topics.api_keys, owners], produced),
        Process.POSTGRES: ([topics.recommendations, owners], []),
        Process.WEBHOOK: ([topics.recommendations, topics.replayed, owners], [topics.dead_letters, topics.replayed]),
        Process.TOPICS: ([owners], [owners]),
        Process.SKIP: ([spec.name for spec in specs(topics, application)], []),
        Process.MODELS: ([owners], [topics.models]),
        Process.AUDIENCE: ([changelog, topics.models, topics.items, owners], []),
        Process.TEXT_MODEL: ([topics.items, topics.clicks], []),
        Process.REPLAY: ([topics.training_examples], [topics.items, *produced]),
        Process.ERASE: ([topics.training_examples, owners], [topics.training_examples, topics.erasures]),
        Process.RESET: (
            [*folded, topics.transcripts, changelog, topics.recommendations, topics.training_examples, owners],
            [topics.recommendations, *flat, topics.training_examples, changelog, owners],
        ),
        Process.BACKFILL: (
            [*inputs, topics.items, changelog, topics.recommendations, owners],
            [topics.erasures, owners],
        ),
        Process.KEYS: ([topics.api_keys, owners], [topics.api_keys]),
        Process.DEAD_LETTERS: ([topics.dead_letters, topics.replayed, owners, *inputs], [topics.replayed, *produced]),
    }[process]


def _groups(process: Process, settings: Settings, name: str) -> list[str]:
    """The groups in which a process commits offsets."""
    workers, encoders = worker_group(settings.application), encoder_group(settings.application)
    claims = [claim_group(workers, name)] if settings.worker.static_membership else []
    return {
        Process.WORKER: [workers, catalogue_group(settings.application), *claims],
        Process.ENCODER: [encoders, claim_group(encoders, name)],
        Process.RESET: [workers, encoders],
        Process.API: [] if settings.api.redis_url is None else [settings.api.redis_prefix],
        Process.POSTGRES: [settings.postgres.group],
        Process.WEBHOOK: [settings.webhook.group],
        Process.SKIP: [skips_group(settings.application)],
    }.get(process, [])


def _transactions(process: Process, settings: Settings) -> list[str]:
    both = (worker_group, encoder_group)
    groups = {Process.WORKER: both[:1], Process.ENCODER: both[1:], Process.RESET: both}.get(process, ())
    if settings.delivery.guarantee != "exactly_once":
        return []
    numbers = range(settings.topics.partitions)
    return [transactional_id(group(settings.application), number) for group in groups for number in numbers]


def topics_of(rights: Iterable[Right]) -> list[str]:
    """The names of the topics among them, each once."""
    return list(dict.fromkeys(right.name for right in rights if right.kind is Kind.TOPIC))


def require_rights(process: Process, settings: Settings, name: str = "NAME") -> None:
    """Returns if this process has the rights that it needs; on a broker without security, where nobody has a name, at once.

    Raises:
        AccessError: it lacks some; the message names each, and the command that gives it.
        IsthmusError: the broker cannot be reached.
    """
    if not current_security().is_on:
        return
    missing = missing_rights(settings.kafka.bootstrap, rights_of(process, settings, name))
    if missing:
        who = principal_of(settings)
        lines = [f"{who} lacks {len(missing)} of the ACLs that `isthmus {process}` needs (docs/reference/acls.md):"]
        raise AccessError("\n".join([*lines, *(f"  {right}: {command_for(right, who)}" for right in missing)]))


def command_for(right: Right, principal: str) -> str:
    """The arguments of `kafka-acls.sh` that give a right."""
    operation = {"DESCRIBE_CONFIGS": "DescribeConfigs"}.get(right.operation, right.operation.title())
    return f"kafka-acls.sh --add --allow-principal {principal} --operation {operation} --{right.kind} {right.name}"


def principal_of(settings: Settings) -> str:
    """Who we are to the brokers, as ACLs name it."""
    kafka = settings.kafka
    return f"User:{kafka.username or kafka.client_id or 'NAME-IN-THE-CERTIFICATE'}"


def missing_rights(bootstrap: str, rights: Sequence[Right]) -> list[Right]:
    """Those that the broker does not grant. A topic that does not exist yet, and CREATE, are not judged."""
    with closing(admin_client(bootstrap)) as admin:
        described = {topic["name"]: topic for topic in admin.describe_topics(topics_of(rights))}
        groups = {name: _group_operations(admin, name) for name in _named(rights, Kind.GROUP)}
        denied = {name for name in _named(rights, Kind.TRANSACTIONAL_ID) if _is_transaction_denied(admin, name)}
    return [
        right
        for right in rights
        if (right.kind is Kind.TOPIC and _is_topic_denied(right, described[right.name], rights))
        or (right.kind is Kind.GROUP and right.operation not in groups[right.name])
        or right.name in denied
    ]


def _named(rights: Iterable[Right], kind: Kind) -> list[str]:
    return [right.name for right in rights if right.kind is kind]


def _is_topic_denied(right: Right, described: Mapping[str, Any], rights: Sequence[Right]) -> bool:
    """Whether the broker denies a right on a topic, of which it says nothing to somebody without DESCRIBE.

    READ and WRITE include that, DESCRIBE_CONFIGS does not: so it is not judged beside one that is missing.
    """
    if right.operation == "CREATE":
        return False
    if described["error_code"] == _TOPIC_NOT_AUTHORIZED:
        others = [one for one in rights if one.name == right.name and one.operation in {"READ", "WRITE", "DESCRIBE"}]
        return right.operation != "DESCRIBE_CONFIGS" or not others
    return not described["error_code"] and right.operation not in described["authorized_operations"]


def _group_operations(admin: Any, group: str) -> Sequence[str]:
    """What may be done with a group; everything, if its coordinator does not come up."""
    try:
        found: Mapping[str, Any] = _from_coordinator(lambda: admin.describe_groups([group]))
    except GroupAuthorizationFailedError:
        return ()
    except KafkaError:
        return ("READ", "DESCRIBE")
    operations: Sequence[str] = found[group].get("authorized_operations") or ("READ", "DESCRIBE")
    return operations


def _is_transaction_denied(admin: Any, name: str) -> bool:
    try:
        _from_coordinator(lambda: admin.describe_transactions([name]))
    except TransactionalIdAuthorizationFailedError:
        return True
    except KafkaError:  # there is none of this name yet, for one
        return False
    return False


def _from_coordinator(ask: Any) -> Any:
    deadline = time.monotonic() + _COORDINATOR_S
    while True:
        try:
            return ask()
        except NO_GROUP_YET:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
