"""What every process that follows `models` asks of an announcement, and how it tells that it refuses one."""

import logging
from collections.abc import Iterable, Sequence
from typing import Final

from models.artifact import ModelRefused
from stream.core.announcements import AnnouncementTrust, ModelAnnouncement, RefusedAnnouncement, read_announcement
from stream.core.records import Record
from stream.metrics import Metrics

logger = logging.getLogger(__name__)
_REMEMBERED: Final = 1_000


class AnnouncedModels:
    """Reads champions from records of `models`. `kept` ends the log line of a refusal: what the process does instead."""

    def __init__(self, trust: AnnouncementTrust, metrics: Metrics, kept: str) -> None:
        self._trust = trust
        self._metrics = metrics
        self._kept = kept
        self._told: dict[tuple[str, str], None] = {}

    def newest_first(self, records: Sequence[Record]) -> list[ModelAnnouncement]:
        """The champions that the records announce. Signed ones are in order of their time, which is signed, not of their offsets:
        else whoever may write could send an old one again.

        Records that are refused are told, unless a later one is accepted.
        """
        found: list[ModelAnnouncement] = []
        for record in reversed(records):
            read = read_announcement(record.value or b"", self._trust)
            if not isinstance(read, RefusedAnnouncement):
                found.append(read)
            elif not found:
                self.refuse(read.reason, f"record {record.offset} of the topic of models: {read.text}{_TO_DO[read.reason]}")
        return sorted(found, key=lambda one: -one.published_at) if self._trust.keys else found

    def check_newer(self, announced: ModelAnnouncement, served: ModelAnnouncement | None) -> None:
        """Raises ModelRefused for a signed announcement that is older than the served one: somebody sent it again."""
        if self._trust.keys and served is not None and announced.published_at < served.published_at:
            text = f"version {announced.version!r} was announced before version {served.version!r}, which is served"
            raise ModelRefused("replayed", f"{text}: somebody sent it again, or the clock of who announces is behind")

    def refuse(self, reason: str, text: str) -> None:
        """Counts a refusal, and logs it the first time."""
        self._metrics.counter("model_refusals", reason).inc()
        if (reason, text) in self._told:
            return
        self._told[reason, text] = None
        if len(self._told) > _REMEMBERED:
            del self._told[next(iter(self._told))]
        logger.error("model refused (%s): %s; %s", reason, text, self._kept)


_TO_DO: Final = {
    "announcement": ": `isthmus models announce` sends the registry's champion again",
    "signature": ": find out who wrote it; `isthmus models announce` with the key sends the registry's champion again",
}


def champions_in(records: Iterable[Record]) -> list[Record]:
    """The records that announce a champion."""
    return [record for record in records if record.key == b"champion" and record.value]
