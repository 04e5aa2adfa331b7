"""One user inside one step: the stored records, decoded, and how the history is split between tail and facts.

`stream.core.fold` says what events do to a user, `stream.core.recommend` what the user is recommended.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from stream.core import history, limits
from stream.core.feedback import UserFeedback, encode_feedback
from stream.core.interactions import Session
from stream.core.kept_interactions import KeptInteraction
from stream.core.known_erasures import KnownErasures
from stream.core.outputs import Cause, Output
from stream.core.state import (
    NEVER_ERASED,
    ErasureMarker,
    Evicted,
    Facts,
    Head,
    decode_facts,
    decode_user_feedback,
    encode_state,
    erasure_marker_key,
    facts_key,
    feedback_key,
    head_key,
    holds_history,
)


class StateStore(Protocol):
    """The state records of one partition number."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The records of the keys, in their order; None for a key without a record."""
        ...


class UserState(msgspec.Struct):
    """A user's working copy.

    Attributes:
        key: Record key: the user id in UTF-8.
        user_id: The user.
        head: Working copy of the head.
        states: Where the facts are loaded from.
        stored: Whether the user was stored before the step.
        wrong_partition: A new user whose key belongs to another partition.
        facts: Working copy of the facts; None until `load_facts`.
        cached_interactions: What `head.prefix` encodes: the window before the tail, as it was when the facts were loaded.
        facts_changed: Whether the facts must be written.
        head_changed: Whether the head must be written.
        erased: Whether the step applied an erasure.
        cause: The last event applied; it causes the next list.
        broker_ms: Broker time of that event, ms.
        examples: Purchase id -> training example or tombstone to send.
        feedback: Working copy of the feedback; None until `load_feedback`.
        erasures: Erasures that are known by their ids; None where the batch holds no erasures.
    """

    key: bytes
    user_id: str
    head: Head
    states: StateStore
    stored: bool
    wrong_partition: bool = False
    facts: Facts | None = None
    cached_interactions: list[KeptInteraction] = []
    facts_changed: bool = False
    head_changed: bool = False
    erased: bool = False
    cause: Cause | None = None
    broker_ms: int = 0
    examples: dict[str, Output] = {}
    feedback: UserFeedback | None = None
    erasures: KnownErasures | None = None

    def load_facts(self) -> Facts:
        """The facts, read from the store at the first call.

        Raises:
            StatesUnreadableError: the stored facts cannot be decoded.
        """
        if self.facts is None:
            stored = self.states.get_many([facts_key(self.key)])[0] if self.stored else None
            self.facts = Facts() if stored is None else decode_facts(stored)
            self.cached_interactions = self.load_window_prefix()
        return self.facts

    def load_feedback(self) -> UserFeedback:
        """What the user was shown and answered, read from the store at the first call.

        Raises:
            StatesUnreadableError: the stored feedback cannot be decoded.
        """
        if self.feedback is None:
            stored = self.states.get_many([feedback_key(self.key)])[0]
            self.feedback = UserFeedback() if stored is None else decode_user_feedback(stored)
        return self.feedback

    def load_interactions(self) -> list[KeptInteraction]:
        """The whole history, in order."""
        return [*self.load_facts().interactions, *self.head.tail]

    def load_window_prefix(self) -> list[KeptInteraction]:
        """The last 10 interactions without those of the tail."""
        window = self.load_interactions()[-limits.WINDOW :]
        return window[: len(window) - len(self.head.tail)]

    def settle(self, interactions: list[KeptInteraction], gap_ms: int) -> bool:
        """Replaces the history: bounds it and splits it into facts and tail. Returns False if the bound evicted an interaction."""
        facts = self.load_facts()
        evicted, kept = interactions[: -limits.INTERACTIONS], interactions[-limits.INTERACTIONS :]
        if evicted:
            facts.evicted = _with_evicted(facts.evicted, evicted)
        end = len(kept) - history.count_growing(kept, self.head.newest_at, gap_ms)
        if evicted or kept[:end] != facts.interactions:
            facts.interactions = kept[:end]
            self.facts_changed = True
        self.head.tail = kept[end:]
        return not evicted

    def has_history(self) -> bool:
        """Whether there is more to keep than the fact that the user was erased."""
        return holds_history(self.head, self.load_facts())

    def may_need_list(self) -> bool:
        """Whether an event was applied that may change the user's list."""
        return self.cause is not None and (not self.erased or self.has_history())

    def write_to(self, writes: dict[bytes, bytes | None], erasure_key: bytes, now_ms: int, version: int) -> int:
        """Adds the state records to write; None deletes. Returns by how much this changes the number of stored users."""
        head = self.head
        if self.erased or (self.erasures is not None and self.erasures.is_changed):
            ids = b"" if self.erasures is None else self.erasures.ids
            marker = ErasureMarker(version, head.erased_at, now_ms, head.applied, ids)
            writes[erasure_marker_key(self.key, erasure_key)] = encode_state(marker)
        if self.feedback is not None and self.feedback.is_changed:
            writes.update(self._feedback_write(self.feedback))
        if head.erased_at != NEVER_ERASED and not self.has_history():
            if self.stored:
                writes[head_key(self.key)] = writes[facts_key(self.key)] = None
            return -self.stored
        if self.head_changed:
            writes[head_key(self.key)] = encode_state(head)
        if self.facts_changed:
            writes[facts_key(self.key)] = encode_state(self.load_facts())
        return self.head_changed and not self.stored

    def _feedback_write(self, feedback: UserFeedback) -> dict[bytes, bytes | None]:
        """Nothing for a user without a mark: such an event is recognised again by what made it leave none."""
        if feedback.marks:
            return {feedback_key(self.key): encode_feedback(feedback)}
        return {feedback_key(self.key): None} if feedback.is_stored else {}


def _with_evicted(before: Evicted, interactions: Sequence[KeptInteraction]) -> Evicted:
    sessions = sum(isinstance(interaction, Session) for interaction in interactions)
    return Evicted(
        before.sessions + sessions,
        before.conversations + len(interactions) - sessions,
        before.purchases,
        max(before.newest_started_at, *(interaction.latest_start() for interaction in interactions)),
        max(before.newest_ended_at, *(interaction.ended_at for interaction in interactions)),
    )
