"""The value of a record that does not parse as a record: it travels with its batch and becomes a dead letter like any bad event."""

from collections.abc import Iterable
from typing import Any, Self


class UnreadableValue(bytes):
    """Stands for the value of a record that does not parse.

    Its one byte is invalid for all our decoders, so only the error path looks at the type.

    Attributes:
        error: What does not parse, without personal data.
        original: The value, where it is whole; else None.
    """

    error: str
    original: bytes | None

    @classmethod
    def of(cls, error: str, original: bytes | None = None) -> Self:
        unreadable = cls(b"\0")
        unreadable.error, unreadable.original = error, original
        return unreadable


def readable(records: Iterable[Any]) -> list[Any]:
    """The records whose values parse."""
    return [record for record in records if not isinstance(record.value, UnreadableValue)]
