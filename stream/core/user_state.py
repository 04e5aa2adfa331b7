"""One user inside one step: his records as read, and how they are split again into the tail and the facts.

What the events do to him is `stream.core.fold`; what he is recommended is `stream.core.recommend`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from stream.core import history, limits
from stream.core.interactions import Interaction, Session
from stream.core.outputs import Cause, Output
from stream.core.state import (
    ErasureMarker,
    Evicted,
    Facts,
    Head,
    decode_facts,
    encode_state,
    erasure_marker_key,
    facts_key,
    head_key,
)


class StateStore(Protocol):
    """The state records of one partition number, by key; None where there is none."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]: ...


@dataclass(slots=True)
class UserState:
    """A user's working copy. The facts are loaded when something needs them.

    `foreign`: a new user whose key belongs to another partition. `base` is what `head.prefix` encodes: the window's interactions
    before the tail, as they were when the facts were loaded.
    """

    key: bytes
    user_id: str
    head: Head
    states: StateStore
    stored: bool
    foreign: bool = False
    loaded: Facts | None = None
    base: list[Interaction] = field(default_factory=list)
    facts_changed: bool = False
    head_changed: bool = False
    erased: bool = False
    cause: Cause | None = None
    broker_ms: int = 0
    examples: dict[str, Output] = field(default_factory=dict)

    @property
    def facts(self) -> Facts:
        if self.loaded is None:
            stored = self.states.get_many([facts_key(self.key)])[0] if self.stored else None
            self.loaded = Facts() if stored is None else decode_facts(stored)
            self.base = self.window_prefix()
        return self.loaded

    @property
    def interactions(self) -> list[Interaction]:
        """The whole history, in order."""
        return [*self.facts.interactions, *self.head.tail]

    def window_prefix(self) -> list[Interaction]:
        """The last 10 interactions less those of the tail."""
        window = self.interactions[-limits.WINDOW :]
        return window[: len(window) - len(self.head.tail)]

    def settle(self, interactions: list[Interaction], gap_ms: int) -> bool:
        """Takes over a changed history: bounds it and splits it into facts and tail. False where the bound cost an interaction."""
        facts = self.facts
        evicted, kept = interactions[: -limits.INTERACTIONS], interactions[-limits.INTERACTIONS :]
        if evicted:
            facts.gone = with_evicted(facts.gone, evicted)
        end = len(kept) - history.growing(kept, self.head.newest_at, gap_ms)
        if evicted or kept[:end] != facts.interactions:
            facts.interactions = kept[:end]
            self.facts_changed = True
        self.head.tail = kept[end:]
        return not evicted

    def is_known(self) -> bool:
        """Whether there is more to keep than the memory of an erasure."""
        facts = self.facts
        return bool(self.head.tail or facts.purchases or facts.owned_before or facts.eligibility)

    def is_asking(self) -> bool:
        """Whether an event was applied that may call for another list."""
        return self.cause is not None and (not self.erased or self.is_known())

    def writes(self, erasure_key: bytes, now_ms: int, version: int) -> dict[bytes, bytes | None]:
        """The state records to write; None deletes."""
        written: dict[bytes, bytes | None] = {}
        if self.erased:
            marker = ErasureMarker(version, self.head.erased_at, now_ms, self.head.applied)
            written[erasure_marker_key(self.key, erasure_key)] = encode_state(marker)
        if self.head.erased_at >= 0 and not self.is_known():
            if self.stored:
                written[head_key(self.key)] = written[facts_key(self.key)] = None
            return written
        if self.head_changed:
            written[head_key(self.key)] = encode_state(self.head)
        if self.facts_changed:
            written[facts_key(self.key)] = encode_state(self.facts)
        return written


def with_evicted(gone: Evicted, evicted: Sequence[Interaction]) -> Evicted:
    sessions = sum(isinstance(interaction, Session) for interaction in evicted)
    return Evicted(
        gone.sessions + sessions,
        gone.conversations + len(evicted) - sessions,
        gone.purchases,
        max(gone.newest_started_at, evicted[-1].started_at),
    )
