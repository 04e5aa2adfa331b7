"""The erasure markers of an application, also those that it should have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from stream.core.reset import marker_of
from stream.core.state import (
    ERASURE_MARKER_PREFIX,
    NEVER_ERASED,
    ErasureMarker,
    Head,
    StatesUnreadableError,
    decode_erasure_marker,
    erasure_marker_key,
)
from stream.errors import IsthmusError
from stream.services.reset.holdings import STATES, readable_head

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from stream.services.reset.holdings import Holdings


def markers_of(holdings: Holdings, number: int, erasure_key: bytes, now_ms: int) -> Iterator[tuple[bytes, ErasureMarker]]:
    """The markers of a partition number by key, without applied offsets: they keep out what came before an erasure, and nothing
    because it was applied before. A later one of a key replaces the former.
    """
    for key, value in holdings.items(STATES, number, ERASURE_MARKER_PREFIX):
        yield key, msgspec.structs.replace(decode_erasure_marker(value), applied={})
    for user, head in erased_heads(holdings, number):
        key = erasure_marker_key(user, erasure_key)
        made = marker_of(head, stored_marker(holdings, number, key), now_ms)
        if made is not None:
            yield key, made


def stored_marker(holdings: Holdings, number: int, key: bytes) -> ErasureMarker | None:
    """The marker of a key."""
    (stored,) = holdings.states(number, [key])
    return None if stored is None else decode_erasure_marker(stored)


def require_readable_markers(holdings: Holdings, numbers: Iterable[int], erasure_key: bytes) -> None:
    """Raises IsthmusError where markers cannot be read, or users who came back have theirs under another key."""
    found = lost = markers = 0
    for number in numbers:
        for _, value in holdings.items(STATES, number, ERASURE_MARKER_PREFIX):
            markers += 1
            try:
                decode_erasure_marker(value)
            except StatesUnreadableError as error:
                raise IsthmusError("an erasure marker cannot be read: a later version wrote it; use that one") from error
        for user, _ in erased_heads(holdings, number):
            is_found = holdings.states(number, [erasure_marker_key(user, erasure_key)]) != [None]
            found, lost = found + is_found, lost + (not is_found)
    if markers and lost and not found:
        raise IsthmusError(
            "step.erasure_key is not the one of the workers: erased users who came back have their markers under another. Set "
            "the workers' key, or these users' erasures would be forgotten"
        )


def erased_heads(holdings: Holdings, number: int) -> Iterator[tuple[bytes, Head]]:
    """The users of a partition number who were erased and came back."""
    for user, stored in holdings.heads(number):
        head = readable_head(stored)
        if head is not None and head.erased_at != NEVER_ERASED:
            yield user, head
