"""Which application owns a topic or a consumer group: noted on the cluster, in a compacted topic that all its applications share.

`isthmus topics` notes what its application owns and refuses what is another's, and each process that writes or commits looks at its
start. Nobody owns what is not noted, so that the topics of earlier versions, and those that others make, are taken as they are.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from typing import Final

import msgspec
from kafka.errors import GroupAuthorizationFailedError, KafkaError

from stream.application import skips_group, worker_group
from stream.errors import IsthmusError
from stream.kafka.cluster.applications_topic import Note, read_notes, write_notes
from stream.kafka.cluster.lag import NO_GROUP_YET
from stream.kafka.cluster.names import claim_group
from stream.kafka.cluster.reset_note import refuse_during_reset
from stream.kafka.cluster.rights import Kind, Process, require_rights, rights_of, topics_of
from stream.kafka.cluster.topics import admin_client, changelog_name, epochs_of, source_topics
from stream.settings import OWN_TOPICS, Settings

_VISIBLE_S: Final = 15.0
"""A topic that was just made is not in every answer yet."""
_CLAIM: Final = claim_group("", "NAME")
_RESET: Final = frozenset({Process.WORKER, Process.ENCODER})
"""The processes whose groups a reset sets back."""


class NotOursError(IsthmusError):
    """Another application owns a topic or a group."""


class Owner(msgspec.Struct, frozen=True, omit_defaults=True):
    """The application that owns a topic or a consumer group.

    Attributes:
        application: Name of the application.
        recommendations: Topic of its lists, which tells two applications apart that both go without a name of their own; empty
            where a process does not know it.
        epoch: Of an owned topic: another topic that gets its name later has another; 0 for a group.
        longest: Of the topic of flat lists: how long lists may be that were ever sent to it; 0 for all others.
    """

    application: str
    recommendations: str
    epoch: int = 0
    longest: int = 0

    def includes(self, other: "Owner") -> bool:
        """Whether the other is this application, as far as it says."""
        return self.application == other.application and other.recommendations in {"", self.recommendations}


Owned = tuple[Kind, str]
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Owner).decode


def owned_by(process: Process, settings: Settings) -> list[Owned]:
    """The topics that a process writes, the changelog also where it reads that, and the groups in which it commits.

    Inputs may be shared, and so may what an application only reads, such as another one's models.
    """
    changelog = changelog_name(worker_group(settings.application))
    ours = {changelog, *(settings.topics.name_of(role) for role, _ in OWN_TOPICS)}
    rights = rights_of(process, settings)
    uses = {"WRITE": ours, "READ": {changelog}}
    topics = dict.fromkeys(
        right.name for right in rights if right.kind is Kind.TOPIC and right.name in uses.get(right.operation, ())
    )
    groups = [right.name for right in rights if right.kind is Kind.GROUP and right.operation == "READ"]
    memberless = (skips_group(settings.application), _CLAIM)
    return [(Kind.TOPIC, name) for name in topics] + [(Kind.GROUP, name) for name in groups if not name.endswith(memberless)]


def require_access(process: Process, settings: Settings, name: str = "NAME") -> None:
    """Returns if a process may do what it does. `name` is that of the instance, for worker and encoder.

    Raises:
        AccessError: it lacks ACLs.
        IsthmusError: another application owns what it would use, or the broker cannot be reached.
    """
    require_rights(process, settings, name)
    require_owned(process, settings)


def require_owned(process: Process, settings: Settings) -> None:
    """Raises NotOursError if another application owns what a process would use, IsthmusError if it may not start during a reset."""
    owned, ours = owned_by(process, settings), _owner(settings)
    if settings.topics.recommendations not in topics_of(rights_of(process, settings)):
        ours = msgspec.structs.replace(ours, recommendations="")
    if owned:
        notes = read_notes(settings)
        _refuse(settings, ours, owned, _owners_in(notes))
        if process in _RESET:
            refuse_during_reset(settings, notes)


def require_ours(settings: Settings) -> None:
    """Raises NotOursError if another application owns a topic or group that the settings give to this one."""
    noted, group = read_owners(settings), worker_group(settings.application)
    _refuse(settings, _owner(settings), _all_owned(settings), noted)
    if (Kind.GROUP, group) not in noted:
        _refuse_other_inputs(settings, group)


def note_owned(settings: Settings, *, adopt: bool = False) -> int:
    """Notes all topics and groups of the settings as this application's, with `adopt` also those of another; returns how many were
    not noted so before.

    Raises:
        IsthmusError: another application owns one of them, or the broker does not take it.
    """
    owned, noted = _all_owned(settings), read_owners(settings)
    if not adopt:
        _refuse(settings, _owner(settings), owned, noted)
    epochs = _settled_epochs(settings, [name for kind, name in owned if kind is Kind.TOPIC])
    wanted = {one: _note(settings, one, epochs, noted.get(one)) for one in owned}
    missing = {one: owner for one, owner in wanted.items() if noted.get(one) != owner}
    write_notes(settings, {f"{kind}/{name}".encode(): _encode(owner) for (kind, name), owner in missing.items()})
    _refuse(settings, _owner(settings), owned, read_owners(settings))  # of two at the same moment, the last one's record counts
    return len(missing)


def longest_flat_list(settings: Settings) -> int:
    """How long lists may be that were ever sent to the topic of flat lists: so many ranks of a user may have a record.

    Raises:
        IsthmusError: lists are longer now, or nothing is noted of this topic.
    """
    topic = settings.topics.flat_recommendations
    note = read_owners(settings).get((Kind.TOPIC, topic))
    is_current = note is not None and note.epoch == _epochs(settings, [topic]).get(topic)
    longest = note.longest if note is not None and is_current else 0
    if longest < settings.step.list_length:
        length = settings.step.list_length
        raise IsthmusError(f"{topic} is noted for lists of {longest} items, and step.list_length is {length}: run `isthmus topics`")
    return longest


def read_owners(settings: Settings) -> dict[Owned, Owner]:
    """What is noted. A record that cannot be read says nothing.

    Raises:
        IsthmusError: the broker cannot be reached.
    """
    return _owners_in(read_notes(settings))


def _owners_in(notes: Iterable[Note]) -> dict[Owned, Owner]:
    noted: dict[Owned, Owner] = {}
    for key, value in notes:
        try:
            kind, _, name = key.decode().partition("/")
            if value is None:
                noted.pop((Kind(kind), name), None)
            else:
                noted[Kind(kind), name] = _decode(value)
        except (ValueError, msgspec.MsgspecError):
            continue
    return noted


def _all_owned(settings: Settings) -> list[Owned]:
    return list(dict.fromkeys(one for process in Process for one in owned_by(process, settings)))


def _owner(settings: Settings, epoch: int = 0) -> Owner:
    return Owner(settings.application, settings.topics.recommendations, epoch)


def _note(settings: Settings, one: Owned, epochs: Mapping[str, int], before: Owner | None) -> Owner:
    """What to note of a topic or group. Longer lists may still lie in a topic that is the same as before."""
    owner = _owner(settings, epochs[one[1]] if one[0] is Kind.TOPIC else 0)
    if one != (Kind.TOPIC, settings.topics.flat_recommendations):
        return owner
    longest = before.longest if before is not None and before.epoch == owner.epoch else 0
    return msgspec.structs.replace(owner, longest=max(longest, settings.step.list_length))


def _refuse(settings: Settings, ours: Owner, owned: Iterable[Owned], noted: Mapping[Owned, Owner]) -> None:
    """Raises IsthmusError if one of them is another application's. A topic that is gone, or was made again, is nobody's."""
    foreign = {one: noted[one] for one in owned if one in noted and not noted[one].includes(ours)}
    if not foreign:
        return
    epochs = _epochs(settings, [name for kind, name in foreign if kind is Kind.TOPIC])
    still = {one: owner for one, owner in foreign.items() if one[0] is Kind.GROUP or epochs.get(one[1]) == owner.epoch}
    if still:
        raise NotOursError("\n".join(_lines(ours, still)))


def _refuse_other_inputs(settings: Settings, group: str) -> None:
    """Raises NotOursError if workers of this group read topics and none of ours: it may be that of an earlier version, which notes
    nothing. Where this user may not ask, ACLs keep applications apart.
    """
    with closing(admin_client(settings.kafka.bootstrap)) as admin:
        try:
            found = admin.list_group_offsets({group: None})
        except (*NO_GROUP_YET, GroupAuthorizationFailedError):
            return
        except KafkaError as error:
            raise IsthmusError(f"offsets of the group {group} cannot be read: {type(error).__name__}") from error
    read = sorted({tp.topic for tp, committed in found.get(group, {}).items() if committed.offset >= 0})
    if read and set(read).isdisjoint(source_topics(settings.topics)):
        raise NotOursError(
            f"group {group} reads {', '.join(read)}, and none of this application's inputs: it is another's. Name this one "
            "(setting application, ISTHMUS_APPLICATION). If it is this one with new inputs, `isthmus topics --adopt` goes on"
        )


def _lines(ours: Owner, foreign: Mapping[Owned, Owner]) -> list[str]:
    by_application: dict[tuple[str, str], list[Owned]] = {}
    for one, owner in foreign.items():
        by_application.setdefault((owner.application, owner.recommendations), []).append(one)
    lines = [
        f"{_listed(owned)} to the application {application}, whose lists are in the topic {recommendations}"
        for (application, recommendations), owned in by_application.items()
    ]
    lists = f", whose lists are in the topic {ours.recommendations}" if ours.recommendations else ""
    who = f"This is the application {ours.application}{lists}"
    if any(owner.application == ours.application for owner in foreign.values()):
        todo = "name it otherwise (setting application, ISTHMUS_APPLICATION)"
    else:
        todo = "let the settings [topics], postgres.group, webhook.group and api.redis_prefix name others, or none"
    return [*lines, f"{who}: {todo}. If that application is gone, or is this one, `isthmus topics --adopt` takes these over"]


def _listed(owned: Sequence[Owned]) -> str:
    """Topics, then groups, and the verb that follows: "topics a, b and group c belong"."""
    named = {kind: [name for of, name in owned if of is kind] for kind in (Kind.TOPIC, Kind.GROUP)}
    parts = [f"{kind}{'s' if len(names) > 1 else ''} {', '.join(names)}" for kind, names in named.items() if names]
    return f"{' and '.join(parts)} {'belong' if len(owned) > 1 else 'belongs'}"


def _settled_epochs(settings: Settings, topics: Sequence[str]) -> dict[str, int]:
    """The epochs of all of them; waits for those that were made a moment ago.

    Raises:
        IsthmusError: one does not exist.
    """
    deadline = time.monotonic() + _VISIBLE_S
    while True:
        found = _epochs(settings, topics)
        missing = [topic for topic in topics if topic not in found]
        if not missing:
            return found
        if time.monotonic() > deadline:
            raise IsthmusError(f"topics missing at {settings.kafka.bootstrap}: {', '.join(missing)}; run `isthmus topics`")
        time.sleep(0.1)


def _epochs(settings: Settings, topics: Sequence[str]) -> dict[str, int]:
    """The epochs of those that exist."""
    if not topics:
        return {}
    with closing(admin_client(settings.kafka.bootstrap)) as admin:
        try:
            return epochs_of(admin.describe_topics(list(topics)))
        except KafkaError as error:
            raise IsthmusError(f"topics at {settings.kafka.bootstrap}: {error}") from error
