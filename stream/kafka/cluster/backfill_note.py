"""The note of a backfill in the topic of applications: whose successor an application is, and how far its backfill has come."""

from enum import StrEnum
from hashlib import blake2b

import msgspec

from stream.errors import IsthmusError
from stream.kafka.cluster.applications_topic import read_notes, write_notes
from stream.settings import Settings


class Phase(StrEnum):
    """What is done of a backfill."""

    BEGUN = "begun"
    MARKED = "marked"
    SENT = "sent"
    READY = "ready"


class BackfillNote(msgspec.Struct, frozen=True, omit_defaults=True):
    """A backfill that has begun.

    Attributes:
        former: The application that the new one is to replace.
        key_check: Tells whether an erasure key is the one that the backfill began with.
        phase: What is done.
        files: Identifies the contents of the files; "" without files.
        begins: Kafka timestamps of the first records of the inputs' partitions, ms, by topic/number: events without
            an id that are as new are left to the inputs.
    """

    former: str
    key_check: str
    phase: Phase = Phase.BEGUN
    files: str = ""
    begins: dict[str, int] = {}


def read_backfill(settings: Settings, new: str) -> BackfillNote | None:
    """The note of an application's backfill; None: there is none.

    Raises:
        IsthmusError: the broker cannot be reached, or the backfill is another's, or has another erasure key.
    """
    found = dict(read_notes(settings)).get(_key(new))
    if found is None:
        return None
    note = msgspec.json.decode(found, type=BackfillNote)
    if note.former != settings.application:
        raise IsthmusError(f"{new} is the backfill of the application {note.former}, not of {settings.application}: name another")
    if note.key_check != key_check(settings):
        raise IsthmusError(
            f"step.erasure_key is not the one that the backfill of {new} began with, so that markers would not be found: set "
            "that key"
        )
    return note


def write_backfill(settings: Settings, new: str, note: BackfillNote | None) -> None:
    """Writes the note; None removes it."""
    write_notes(settings, {_key(new): None if note is None else msgspec.json.encode(note)})


def key_check(settings: Settings) -> str:
    """A hash under the erasure key, as the markers have, of no user."""
    key = settings.step.erasure_key.get_secret_value().encode()
    return blake2b(b"\x00backfill", key=key, digest_size=8).hexdigest()


def _key(new: str) -> bytes:
    return f"backfill/{new}".encode()
