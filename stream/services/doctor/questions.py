"""Reads what the checks of `isthmus doctor` judge: topics, groups, registry, models, disk, clock.

It creates nothing, joins no group, and asks nothing that the processes themselves may not.
"""

from __future__ import annotations

import os
import shutil
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from models import folders
from models.artifact import Manifest, ModelRefused, read_prior, verify_folder
from stream.application import catalogue_group, encoder_group, worker_group
from stream.core.events import INPUTS, UndecodableError, ValueFormat
from stream.core.records import is_native
from stream.errors import IsthmusError
from stream.kafka.agents.followers import check_items
from stream.kafka.cluster.compacted_topic import AnnouncementError, announced_champion, read_catalogue
from stream.kafka.cluster.owners import NotOursError, longest_flat_list, require_owned
from stream.kafka.cluster.rights import Kind, Process, Right, missing_rights, principal_of, rights_of, topics_of
from stream.kafka.cluster.security import current_security
from stream.kafka.cluster.survey import Survey
from stream.kafka.cluster.topic_reader import newest_records
from stream.kafka.cluster.topics import source_topics, specs
from stream.services.doctor import checks
from stream.services.doctor.findings import Finding, failed, not_checked, ok, warning
from stream.services.instance_name import first_name
from stream.services.model_trust import announcement_trust, folder_trust

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from stream.core.announcements import ModelAnnouncement
    from stream.settings import Settings

    Ask = Callable[[], list[Finding]]

_SQLITE: Final = "sqlite:///"


class Champion(NamedTuple):
    """The announced champion, and its folder's manifest where that is whole."""

    announced: ModelAnnouncement | None
    manifest: Manifest | None = None


class ConsumerGroup(NamedTuple):
    """A consumer group, the topics that it reads, and the command that starts a member."""

    group: str
    topics: Collection[str]
    command: str


class Deployment:
    """The settings, and the processes that run with them."""

    def __init__(self, settings: Settings, processes: Sequence[Process]) -> None:
        self._settings = settings
        self._processes = processes
        self._champion: Champion | None = None
        """None: not read."""

    @property
    def who(self) -> str:
        return principal_of(self._settings)

    def questions_to_kafka(self) -> dict[str, Ask]:
        """The checks that need a broker, by name."""
        return {
            "ACLs": self.ask_rights,
            "topics": self.ask_topics,
            **({"formats": self.ask_formats} if self._framed_roles() else {}),
            "partitions": self.ask_partitions,
            "offsets": self.ask_offsets,
            "model": self.ask_model,
            "clock": self.ask_clock,
        }

    def other_questions(self) -> dict[str, Ask]:
        """The checks that can be made without one; made last, because they compare with the champion if it is known."""
        asked: dict[str, Ask] = {}
        if Process.TRAINER in self._processes:
            asked["registry"] = self.ask_registry
        if Process.ENCODER in self._processes or (Process.API in self._processes and self._settings.api.guests):
            asked["text model"] = self.ask_text_model
        asked["disk"] = self.ask_disk
        return asked

    def ask_settings(self) -> list[Finding]:
        """Whether all that is made of the settings at a start can be made."""
        from stream.services.process import item_format, step_config, transcript_format

        settings = self._settings
        for make in (step_config, item_format, transcript_format):
            make(settings)
        if settings.topics.flat:
            from stream.services.formats import schemas_of

            schemas_of(settings)
        if Process.API in self._processes:
            from stream.services.api import signer_of
            from stream.services.http_server import check_tls

            signer_of(settings.api)
            check_tls(settings.api)
        if Process.WEBHOOK in self._processes:
            from stream.services import sinks

            sinks.endpoint_of(settings.webhook)
            sinks.signer_of(settings.webhook)
        return [ok("settings", "they go together")]

    def ask_rights(self) -> list[Finding]:
        if not current_security().is_on:
            return [ok("ACLs", "none: without security nobody has a name")]
        bootstrap = self._settings.kafka.bootstrap
        return [
            finding
            for process in self._processes
            for finding in checks.check_rights(process, missing_rights(bootstrap, self._rights(process)), self.who)
        ]

    def ask_topics(self) -> list[Finding]:
        names = self._topics()
        wanted = [spec for spec in specs(self._settings.topics, self._settings.application) if spec.name in names]
        with self._survey() as survey:
            problems = survey.topics(wanted)
            produced = [self._settings.topics.name_of(row.role) for row in INPUTS if not row.is_derived]
            retentions_ms = survey.retentions_ms(set(produced) & names)
        found = checks.check_topics(problems, [spec.name for spec in wanted if spec.name not in problems])
        found += checks.check_retentions(self._settings.topics.erasures, retentions_ms)
        return [*found, *self._check_flat_lists(names), *checks.check_owners(self._foreign())]

    def _check_flat_lists(self, names: Collection[str]) -> list[Finding]:
        """Whether a worker's lists are longer than the topic of flat lists is noted for."""
        if self._settings.topics.flat and self._settings.topics.flat_recommendations in names:
            try:
                longest_flat_list(self._settings)
            except IsthmusError as error:
                return [failed("topics", str(error))]
        return []

    def _foreign(self) -> list[str]:
        """What is said of topics and groups that belong to another application."""
        said = []
        for process in self._processes:
            try:
                require_owned(process, self._settings)
            except NotOursError as error:
                said.append(str(error))
        return said

    def _framed_roles(self) -> list[str]:
        """The inputs that these processes read and that are not JSON."""
        settings = self._settings
        roles = [role for role in type(settings.formats).model_fields if settings.formats.of(role) is not ValueFormat.JSON]
        return [role for role in roles if any(self._reads(one, settings.topics.name_of(role)) for one in self._processes)]

    def _reads(self, process: Process, topic: str) -> bool:
        return Right("READ", Kind.TOPIC, topic) in self._rights(process)

    def ask_formats(self) -> list[Finding]:
        """Whether the registry answers, and the newest record of each topic that is not JSON can be decoded."""
        from stream.services.formats import schemas_of

        registry = schemas_of(self._settings).registry
        subjects = registry.subjects()
        return checks.check_formats(registry.url, subjects, [self._format_of(role) for role in self._framed_roles()])

    def _format_of(self, role: str) -> checks.TopicFormat:
        from stream.services.formats import topic_decoder

        topic, form, decoder = (
            self._settings.topics.name_of(role),
            self._settings.formats.of(role),
            topic_decoder(self._settings, role),
        )
        assert decoder is not None
        records = [one for one in newest_records(self._settings.kafka.bootstrap, topic, 1) if not is_native(one.headers)]
        if not records:
            return checks.TopicFormat(topic, form, None)
        newest = max(records, key=lambda record: record.timestamp)
        try:
            decoder.schemas.settle(decoder.unsettled([newest]))
            decoder(newest.value)
        except UndecodableError as error:
            return checks.TopicFormat(topic, form, newest.offset, error.error)
        return checks.TopicFormat(topic, form, newest.offset)

    def ask_partitions(self) -> list[Finding]:
        with self._survey() as survey:
            return checks.check_partitions(survey.partitions(self._topics()))

    def ask_offsets(self) -> list[Finding]:
        consumers = [one for process in self._processes for one in self._consumers(process)]
        with self._survey() as survey:
            states = [(one, survey.group(one.group, one.topics)) for one in consumers]
        found = [finding for one, state in states for finding in checks.check_offsets(one.group, state, one.command)]
        return found or [not_checked("offsets", "these processes commit none")]

    def ask_clock(self) -> list[Finding]:
        stamped = [self._settings.topics.name_of(row.role) for row in INPUTS if not row.is_derived]
        with self._survey() as survey:
            ahead_ms = survey.clock_ahead_ms()
            newest_ms = survey.newest_ahead_ms(set(stamped) & self._topics()) if ahead_ms is None else None
        return checks.check_clock(ahead_ms, newest_ms, self._settings.step.max_ahead_s)

    def ask_model(self) -> list[Finding]:
        topic = self._settings.topics.models
        if current_security().is_on and not any(Right("READ", Kind.TOPIC, topic) in self._rights(one) for one in self._processes):
            return [not_checked("model", f"these processes do not read {topic}")]
        trust = folder_trust(self._settings)
        try:
            announced = announced_champion(self._settings.kafka.bootstrap, topic, announcement_trust(self._settings))
        except AnnouncementError as refused:
            return checks.check_model(None, str(refused))
        self._champion = Champion(announced)
        refusal = None
        if announced is not None:
            try:
                self._champion = Champion(announced, verify_folder(announced.uri, announced.sha256, trust))
                self._check_items(announced)
            except ModelRefused as refused:
                refusal = str(refused)
        return checks.check_model(announced, refusal)

    def _check_items(self, announced: ModelAnnouncement) -> None:
        """Raises ModelRefused where the workers would refuse the model for its items."""
        from stream.services.process import item_format

        settings = self._settings
        catalogue = read_catalogue(settings.kafka.bootstrap, settings.topics.items, item_format(settings))
        items, _ = read_prior(announced.uri, announced.sha256, folder_trust(settings))
        check_items(items, catalogue, announced.uri)

    def load(self, step: Callable[[str], None]) -> None:
        """Loads what takes seconds on a busy machine, so that the time of a check is its own."""
        if Process.TRAINER in self._processes and self._has_registry():
            from training.registry import load_library

            step("loading the registry's library")
            load_library()

    def _has_registry(self) -> bool:
        uri = self._settings.registry.uri
        return not uri.startswith(_SQLITE) or Path(uri.removeprefix(_SQLITE)).exists()

    def ask_registry(self) -> list[Finding]:
        from training.registry import Registry

        uri, folder, name = self._settings.registry.uri, self._settings.registry_folder, self._settings.application
        folders.check_opens(folder)
        if not self._has_registry():
            return [warning("registry", f"{uri} does not exist yet", "`isthmus train` makes it")]
        champion = Registry(uri, folder, name, create=False).version_in_role("champion")
        known = self._champion
        return checks.check_registry(champion, None if known is None else known.announced, topic_read=known is not None)

    def ask_text_model(self) -> list[Finding]:
        from stream.services.text_models import folder_of
        from stream.text.model import read_keywords, verified_hash

        folder = folder_of(self._settings)
        own = verified_hash(folder)
        manifest = None if self._champion is None else self._champion.manifest
        return checks.check_text_model(
            folder, own, len(read_keywords(folder).listed), None if manifest is None else manifest.text_model
        )

    def ask_disk(self) -> list[Finding]:
        return [finding for setting, folder in self._folders().items() for finding in checks.check_disk(space_of(setting, folder))]

    def _survey(self) -> closing[Survey]:
        return closing(Survey(self._settings.kafka.bootstrap))

    def _rights(self, process: Process) -> list[Right]:
        own = {Process.WORKER: self._settings.worker.name, Process.ENCODER: self._settings.encoder.name}
        return rights_of(process, self._settings, first_name(own.get(process), self._settings.host))

    def _topics(self) -> set[str]:
        """The topics that the processes read or write."""
        return {name for process in self._processes for name in topics_of(self._rights(process))}

    def _consumers(self, process: Process) -> list[ConsumerGroup]:
        """The groups in which a process commits offsets of what it has read."""
        topics, application = self._settings.topics, self._settings.application
        return {
            Process.WORKER: [
                ConsumerGroup(worker_group(application), source_topics(topics), "`isthmus worker`"),
                ConsumerGroup(catalogue_group(application), [topics.items], "`isthmus worker`"),
            ],
            Process.ENCODER: [ConsumerGroup(encoder_group(application), [topics.transcripts], "`isthmus encoder`")],
            Process.WEBHOOK: [ConsumerGroup(self._settings.webhook.group, [topics.recommendations], "`isthmus sink webhook`")],
        }.get(process, [])

    def _folders(self) -> dict[str, Path]:
        """What the processes write on this machine, by the setting that names it."""
        settings, found = self._settings, dict[str, Path]()
        if {Process.WORKER, Process.ENCODER} & set(self._processes):
            found["worker.state_dir"] = settings.worker_state_dir
        if Process.API in self._processes and settings.api.redis_url is None:
            found["api.state_dir"] = settings.api_state_dir
        if Process.TRAINER in self._processes and not folders.is_url(settings.registry_folder):
            found["registry.folder"] = Path(settings.registry_folder)
        return found


def space_of(setting: str, folder: Path) -> checks.Space:
    """What a folder holds and the room that it has. Nothing is written: who may write is asked of the system."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    obstacle = None
    if not existing.is_dir():
        obstacle = f"{existing} is no folder"
    elif not os.access(existing, os.W_OK | os.X_OK):
        obstacle = f"this user may not write in {existing}"
    return checks.Space(setting, folder, shutil.disk_usage(existing).free, _size(folder), obstacle)


def _size(folder: Path) -> int:
    """Bytes of the files below a folder. Processes that run meanwhile delete some."""
    size = 0
    for path in folder.rglob("*") if folder.is_dir() else ():
        with suppress(FileNotFoundError):
            size += path.stat().st_size
    return size
