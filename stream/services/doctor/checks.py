"""The checks of `isthmus doctor` as functions of what was read: nothing here asks a broker, a file or a clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from stream.core import limits
from stream.kafka.cluster.access import NoAnswerError
from stream.kafka.cluster.rights import command_for
from stream.services.doctor.findings import Finding, failed, not_checked, ok, warning
from stream.variables import warnings_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from stream.connection_settings import KafkaSettings
    from stream.core.announcements import ModelAnnouncement
    from stream.errors import IsthmusError
    from stream.kafka.cluster.rights import Process, Right
    from stream.kafka.cluster.survey import GroupPartition, GroupState, PartitionState
    from stream.kafka.cluster.topics import TopicProblem
    from training.registry import ModelVersion

DEFAULT_ERASURE_KEY: Final = "isthmus"
FULL_BYTES: Final = 1 << 30
"""Less free space than this is a failure: RocksDB ends its process where it cannot write."""
NOTICED_S: Final = 5.0
"""A clock that differs by more is not synchronised."""
_SHOWN: Final = 5


def check_variables(unread: Mapping[str, str | None], erasure_key: str) -> list[Finding]:
    """Variables that nobody reads, and a key that everybody knows."""
    found = [warning("settings", line) for line in warnings_of(unread)]
    if erasure_key == DEFAULT_ERASURE_KEY:
        text, to_do = "erasure markers can be guessed", "set ISTHMUS_STEP__ERASURE_KEY to a secret of your own"
        found.append(warning("settings", text, to_do))
    return found


def check_brokers(named: Mapping[str, IsthmusError | None], advertised: Mapping[str, IsthmusError | None]) -> list[Finding]:
    """Whether the brokers answer, under the addresses of the settings and under those that they say of themselves.

    An address has None if it lets us in, and otherwise its refusal. That a broker answers and none lets us in is the affair of
    `check_security`.
    """
    if not named:
        return [failed("broker", "kafka.bootstrap names no broker", "write host:port of one or more")]
    away = [error for error in named.values() if isinstance(error, NoAnswerError)]
    if len(away) == len(named):
        return [failed("broker", str(error)) for error in away]
    found = []
    if None in named.values():
        found = [warning("broker", f"clients may try this address first: {error}") for error in named.values() if error is not None]
    to_do = "clients use this address: correct advertised.listeners of the broker, or let this machine reach it"
    for address, error in advertised.items():
        if error is not None and address not in named:
            found.append(failed("broker", f"a broker calls itself {address}, and there: {error}", to_do))
    answering = ", ".join(address for address, error in named.items() if not isinstance(error, NoAnswerError))
    return found or [ok("broker", f"{answering} answers{f'; brokers of the cluster: {len(advertised)}' if advertised else ''}")]


def check_security(kafka: KafkaSettings, refusals: Sequence[IsthmusError], who: str) -> list[Finding]:
    """Whether the brokers that answer let us in. `refusals` are theirs and the token server's."""
    if refusals:
        return [failed("security", text) for text in dict.fromkeys(map(str, refusals))]
    if kafka.security_protocol == "PLAINTEXT":
        return [ok("security", "PLAINTEXT: no encryption, and nobody has a name")]
    how = f"{kafka.security_protocol}{f' with {kafka.sasl_mechanism}' if kafka.sasl_mechanism else ''}, as {who}"
    if kafka.security_protocol == "SASL_PLAINTEXT" and kafka.sasl_mechanism in {"PLAIN", "OAUTHBEARER"}:
        return [warning("security", f"{how}: the network can read the secret", "set kafka.security_protocol to SASL_SSL")]
    return [ok("security", how)]


def check_rights(process: Process, missing: Sequence[Right], who: str) -> list[Finding]:
    """The ACLs that a process lacks."""
    if not missing:
        return [ok("ACLs", f"{who} has what `isthmus {process}` needs")]
    return [failed("ACLs", f"{who} lacks {right} for `isthmus {process}`", command_for(right, who)) for right in missing]


def check_topics(problems: Mapping[str, Sequence[TopicProblem]], unseen: Sequence[str]) -> list[Finding]:
    """What of the topics does not match; `unseen` are those that this user may not describe."""
    alike: dict[TopicProblem, list[str]] = {}
    for name, several in problems.items():
        for one in several:
            alike.setdefault(one, []).append(name)
    found = [failed("topics", f"{', '.join(names)}: {one.found}", one.to_do) for one, names in alike.items()]
    if unseen:
        found.append(not_checked("topics", f"this user may not describe {', '.join(unseen)}"))
    return found or [ok("topics", f"{len(problems)} topics are as they must be")]


def check_retentions(erasures: str, retentions_ms: Mapping[str, int]) -> list[Finding]:
    """Whether the topic of erasures keeps its records for as long as the inputs whose users they erase; -1 is for ever.

    A new application, or one whose changelog is lost, knows of erasures only what their topic still holds.
    """
    own = retentions_ms.get(erasures, -1)
    longer = [name for name, kept_ms in retentions_ms.items() if own >= 0 and (kept_ms < 0 or kept_ms > own)]
    if not longer:
        return []
    most = -1 if any(retentions_ms[name] < 0 for name in longer) else max(retentions_ms[name] for name in longer)
    found = f"{erasures} keeps its records for {own / limits.DAY_MS:g} days, and {', '.join(sorted(longer))} for longer: an "
    found += "application that reads them anew, after its changelog was lost or under a new name, brings erased users back"
    return [warning("topics", found, f"kafka-configs --alter --topic {erasures} --add-config retention.ms={most}")]


class TopicFormat(NamedTuple):
    """A topic whose values are framed.

    Attributes:
        topic: Name of the topic.
        form: Its format in the settings.
        offset: Offset of its newest record that is not our own JSON; None without one.
        problem: Why that record cannot be decoded; None where it can.
    """

    topic: str
    form: str
    offset: int | None
    problem: str | None = None


def check_formats(url: str, subjects: Sequence[str], found: Sequence[TopicFormat]) -> list[Finding]:
    """Whether a registry that answers has what the topics need."""
    findings = []
    for one in found:
        if one.problem is not None:
            text = f"{one.topic}: the newest record, at offset {one.offset}, cannot be decoded: {one.problem}"
            findings.append(failed("formats", text, "correct [formats], or the producer; then replay the dead letters"))
        elif one.offset is not None:
            findings.append(ok("formats", f"{one.topic}: the newest record is {one.form} and decodes"))
        elif f"{one.topic}-value" not in subjects:
            text = f"{one.topic} has no record, and {url} no subject {one.topic}-value"
            findings.append(warning("formats", text, "nothing, if its producer names subjects otherwise or has not begun"))
        else:
            findings.append(ok("formats", f"{one.topic} has no record yet; {url} has the subject {one.topic}-value"))
    return findings


def check_owners(refusals: Sequence[str]) -> list[Finding]:
    """What belongs to another application. The last line of a refusal says what to do."""
    lines = dict.fromkeys(line for refusal in refusals for line in refusal.splitlines()[:-1])
    return [failed("topics", "\n".join(lines), refusals[0].splitlines()[-1])] if refusals else []


def check_partitions(partitions: Sequence[PartitionState]) -> list[Finding]:
    """Whether each partition can be read and written, and keeps its replicas."""
    leaderless = [one for one in partitions if not one.has_leader]
    blocked = [one for one in partitions if one.has_leader and one.in_sync < one.needed]
    behind = [one for one in partitions if one.has_leader and one.needed <= one.in_sync < one.replicas]
    found = []
    if leaderless:
        to_do = "start their brokers; nothing of these partitions is read or written until then"
        found.append(failed("partitions", f"{len(leaderless)} have no leader: {_names(leaderless)}", to_do))
    if blocked:
        text = f"{len(blocked)} have fewer replicas in sync than min.insync.replicas, so that nothing is written: {_names(blocked)}"
        found.append(failed("partitions", text, "start the brokers that hold the others"))
    if behind:
        to_do = "look at the brokers that hold the others: another loss may stop these partitions"
        found.append(warning("partitions", f"{len(behind)} have replicas that are not in sync: {_names(behind)}", to_do))
    return found or [ok("partitions", f"{len(partitions)} partitions have a leader and all their replicas")]


def _names(partitions: Sequence[PartitionState]) -> str:
    return _some([f"{one.topic}-{one.number}" for one in partitions])


def _some(words: Sequence[str]) -> str:
    return ", ".join([*words[:_SHOWN], *([f"and {len(words) - _SHOWN} more"] if len(words) > _SHOWN else [])])


def check_offsets(group: str, state: GroupState, start: str) -> list[Finding]:
    """A group's committed offsets against what its partitions hold. `start` is the command that starts a member."""
    found = []
    for one in state.partitions:
        found += [] if one.committed is None else _misplaced(group, one, one.committed)
    waiting = sorted((one for one in state.partitions if one.lag), key=lambda one: -one.lag)
    details = [{**one._asdict(), "lag": one.lag} for one in state.partitions]
    text = f"{group}: {state.members} in the group, {sum(one.lag for one in waiting)} records behind"
    text += f" ({_some([f'{one.topic}-{one.number} {one.lag}' for one in waiting])})" if waiting else ""
    if all(one.committed is None for one in state.partitions):
        return [*found, ok("offsets", f"{group}: nothing is committed yet", details)]
    if waiting and not state.members:
        return [*found, warning("offsets", text, f"nobody reads them: start {start}", details)]
    return [*found, ok("offsets", text, details)]


def _misplaced(group: str, one: GroupPartition, committed: int) -> list[Finding]:
    where = f"{group} has committed offset {committed} of {one.topic}-{one.number}"
    if committed > one.end:
        to_do = "the log lost its end, or somebody set the offset: see IsthmusLogGap in docs/guides/operate.md"
        return [failed("offsets", f"{where}, which ends at {one.end}", to_do)]
    if committed < one.start:
        to_do = "they are lost unless their producers send them again; give the topic a longer retention than the longest outage"
        return [failed("offsets", f"{where}, which begins at {one.start}: {one.start - committed} records left it unread", to_do)]
    return []


def check_registry(champion: ModelVersion | None, announced: ModelAnnouncement | None, *, topic_read: bool) -> list[Finding]:
    """The registry's champion against the announced one."""
    if champion is None:
        return [warning("registry", "no version is champion", "`isthmus train` makes the first")]
    text = f"version {champion.version} ({champion.kind}) is champion"
    if not topic_read or (announced is not None and announced.sha256 == champion.sha256):
        return [ok("registry", text)]
    told = "no version is announced" if announced is None else f"version {announced.version} is announced to the workers"
    return [failed("registry", f"{text}, and {told}", "`isthmus models announce` announces the champion")]


def check_model(announced: ModelAnnouncement | None, refusal: str | None) -> list[Finding]:
    """Whether the announced model can be served; `refusal` says why its folder, or the announcement itself, is refused."""
    if announced is None:
        if refusal is not None:
            return [
                failed("model", refusal, "find out who wrote it; `isthmus models announce` announces the registry's champion again")
            ]
        to_do = "until `isthmus train` makes one, lists are in the catalogue's order"
        return [warning("model", "no champion is announced", to_do)]
    which = f"{announced.name} version {announced.version} in {announced.uri}"
    if refusal is not None:
        to_do = (
            "let this machine read registry.folder, check registry.trusted_folders, promote another version (`isthmus models "
            "promote`), or train again"
        )
        return [failed("model", f"{which} is refused: {refusal}", to_do)]
    return [ok("model", f"{which} is whole")]


def check_text_model(folder: Path, own: str, keywords: int, champions: str | None) -> list[Finding]:
    """A text model, against the one that the champion was trained for; None: it reads none, or is not known."""
    if champions is not None and champions != own:
        text = f"{folder} is {own}, and the champion was trained for {champions}: it reads nothing of new calls"
        return [failed("text model", text, "set encoder.text_model to the champion's, or train again: `isthmus train`")]
    if not keywords:
        return [warning("text model", f"{folder} lists no keywords", "make a list with `isthmus text-model stand-in`")]
    return [ok("text model", f"{folder} is {own}, with {keywords} keywords")]


class Space(NamedTuple):
    """A folder that a process writes, or will make.

    Attributes:
        setting: The setting that names it.
        folder: The folder.
        free: Bytes that are free where it is.
        size: Bytes of what it holds.
        obstacle: Why nothing can be written there; None where it can.
    """

    setting: str
    folder: Path
    free: int
    size: int
    obstacle: str | None = None


def check_disk(space: Space) -> list[Finding]:
    """Whether a folder can be written and has room to grow: compaction may need as much again as the store holds."""
    where = f"{space.folder} ({space.setting})"
    if space.obstacle is not None:
        return [failed("disk", f"{where} cannot be written: {space.obstacle}", f"correct it, or set {space.setting}")]
    text = f"{where} has {_gigabytes(space.free)} free and holds {_gigabytes(space.size)}"
    if space.free < FULL_BYTES:
        return [failed("disk", text, f"make room, or set {space.setting} to a larger disk: a process on a full disk ends")]
    if space.free < space.size:
        return [warning("disk", text, f"make room, or set {space.setting} to a larger disk: compaction may need as much again")]
    return [ok("disk", text)]


def _gigabytes(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"


def check_clock(ahead_ms: float | None, newest_ahead_ms: float | None, max_ahead_s: float) -> list[Finding]:
    """Compares this machine's clock with Kafka's.

    Args:
        ahead_ms: How far Kafka's is ahead; None where it cannot be asked.
        newest_ahead_ms: How far the newest record is ahead, which the broker stamped; None without records.
        max_ahead_s: How far an event may be ahead of its Kafka timestamp.
    """
    if ahead_ms is None and (newest_ahead_ms is None or newest_ahead_ms <= NOTICED_S * 1_000):
        text = "this user may not ask Kafka for its time (DESCRIBE on the cluster), and no record is ahead of this clock"
        return [not_checked("clock", f"{text}; one that is ahead would not be seen", "compare it yourself where it matters")]
    off_s = (newest_ahead_ms if ahead_ms is None else ahead_ms) / 1_000  # type: ignore[operator]
    least = "at least " if ahead_ms is None else ""
    text = f"this machine's clock is {least}{abs(off_s):.1f} s {'behind' if off_s > 0 else 'ahead of'} Kafka's"
    to_do = "synchronise the clocks of this machine and of the brokers (chrony, systemd-timesyncd)"
    if abs(off_s) > max_ahead_s:
        harm = "; events that it times become dead letters" if off_s < 0 else ""
        return [failed("clock", f"{text}, more than step.max_ahead_s{harm}", to_do)]
    if abs(off_s) > NOTICED_S:
        return [warning("clock", text, to_do)]
    return [ok("clock", text)]
