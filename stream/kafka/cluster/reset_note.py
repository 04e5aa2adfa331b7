"""The note of a reset that is under way, in the topic of applications: while it is there, no worker or encoder starts.

A reset that was interrupted leaves some states deleted and others not. The note keeps its target, so that the command goes on with
that when it is run again.
"""

from collections.abc import Iterable

import msgspec

from stream.errors import IsthmusError
from stream.kafka.cluster.applications_topic import Note, read_notes, write_notes
from stream.settings import Settings


class ResetNote(msgspec.Struct, frozen=True, omit_defaults=True):
    """A reset that has begun.

    Attributes:
        began_at: When, ms.
        since_ms: Its target, a time; None: the beginning of the inputs.
        are_outputs_done: Whether its tombstones for lists and examples are sent: they follow from the states, which go next.
    """

    began_at: int
    since_ms: int | None = None
    are_outputs_done: bool = False


def read_note(settings: Settings) -> ResetNote | None:
    """The note of this application's reset; None: none is under way."""
    return _note_in(settings, read_notes(settings))


def write_note(settings: Settings, note: ResetNote | None) -> None:
    """Writes the note; None removes it."""
    write_notes(settings, {_key(settings): None if note is None else msgspec.json.encode(note)})


def refuse_during_reset(settings: Settings, notes: Iterable[Note]) -> None:
    """Raises IsthmusError while a reset of this application is under way, or was interrupted. `notes` are those of the topic."""
    if _note_in(settings, notes) is not None:
        raise IsthmusError(
            f"a reset of the application {settings.application} is under way, or was interrupted: let it end, or run "
            "`isthmus reset` again, which goes on with it"
        )


def _note_in(settings: Settings, notes: Iterable[Note]) -> ResetNote | None:
    found = dict(notes).get(_key(settings))
    return None if found is None else msgspec.json.decode(found, type=ResetNote)


def _key(settings: Settings) -> bytes:
    return f"reset/{settings.application}".encode()
