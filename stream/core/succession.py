"""Whether a user's state in a new application may replace the one in the former: it must not know less of the inputs."""

from enum import StrEnum
from typing import Final

from stream.core.events import Source
from stream.core.reset import Places
from stream.core.state import NEVER_ERASED, SOURCE_NUMBERS, ErasureMarker, Head

_CAUSING: Final = (Source.CLICK, Source.CALL, Source.PURCHASE, Source.ELIGIBILITY)


class Succession(StrEnum):
    """How a user's new list compares with the former."""

    NEWER = "newer"
    BEHIND = "behind"
    LOST = "lost"


def succession(former: Head, new: Head | None, marker: ErasureMarker | None, places: Places) -> Succession:
    """Compares by applied offsets, and where the inputs no longer hold the former's last events by the newest event time.

    Args:
        former: The user in the former application.
        new: The user in the new one; None: not there.
        marker: The user's erasure marker in the new one: an erased user may lack what came before.
        places: What the inputs hold.
    """
    if marker is not None and marker.erased_at >= former.newest_at:
        return Succession.NEWER
    for source in _CAUSING:
        applied, place = former.applied.get(SOURCE_NUMBERS[source]), places[source]
        if applied is None or not place.holds(applied):
            continue
        epoch, offset = (-1, -1) if new is None else new.applied.get(SOURCE_NUMBERS[source], (-1, -1))
        if epoch not in {place.epoch, applied[0]} or offset < applied[1]:
            return Succession.BEHIND
    return Succession.LOST if new is None or new.newest_at < former.newest_at else Succession.NEWER


def is_marker_newer(former: ErasureMarker, new: ErasureMarker | None) -> bool:
    """Whether the former application knows of a later erasure than the new one."""
    return former.erased_at > (NEVER_ERASED if new is None else new.erased_at)
