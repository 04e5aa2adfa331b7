"""What the routes ask: lists, profiles and erasures of users, from the store. Nothing here knows HTTP."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec

from stream.api.answers import ListAnswer, Question, answer, decode_list
from stream.api.catalogue import CurrentCatalogue
from stream.api.profile_answer import Profile, profile_of
from stream.api.profiles import (
    FactsSummary,
    HeadSummary,
    decode_facts_summary,
    decode_feedback_summary,
    decode_head_summary,
    decode_marker_summary,
)
from stream.api.served_lists import ServedLists
from stream.api.store import Store, Table
from stream.core.events import Erasure
from stream.core.known_erasures import KnownErasures
from stream.core.outputs import Recommendation
from stream.core.partitioner import partition_of
from stream.core.state import erasure_marker_key, facts_key, feedback_key, head_key

Key = tuple[int, bytes]


class Trace(NamedTuple):
    """What a stream watches beside the list.

    Attributes:
        is_known: Whether the store holds anything of the user.
        erased_at: Up to when the user was erased, ms; -1: never.
    """

    is_known: bool
    erased_at: int


class ReadService:
    """Answers from a store and the current catalogue."""

    def __init__(
        self,
        store: Store,
        current: CurrentCatalogue,
        partitions: int,
        erasure_key: bytes,
        age_ms: Callable[[], int],
        clock_ms: Callable[[], int],
        served: ServedLists,
    ) -> None:
        """`partitions` of the topics that are keyed by user; `erasure_key` hides the users of erasure markers;
        `age_ms` is the store's age.
        """
        self._store = store
        self._partitions = partitions
        self._erasure_key = erasure_key
        self._age_ms = age_ms
        self.clock_ms = clock_ms
        self.served = served
        self.current = current

    def age_s(self) -> float:
        return self._age_ms() / 1_000

    async def lists(
        self, users: Sequence[str], limit: int, placement: str | None = None, *, explain: bool = False
    ) -> list[ListAnswer]:
        """Returns what each user may be offered now, in order."""
        question = Question(limit, self.clock_ms(), self.age_s(), self.served, placement, explain)
        catalogue, popularity = self.current.catalogue, self.current.popularity
        lists, heads = await self._lists_and_heads(users)
        return [
            answer(user, kept, head, catalogue, popularity, question) for user, kept, head in zip(users, lists, heads, strict=True)
        ]

    def guest_list(self, made: Recommendation | None, limit: int, placement: str | None = None) -> ListAnswer:
        """Returns what a guest may be offered: the list that was made, or popularity's."""
        question = Question(limit, self.clock_ms(), self.age_s(), self.served, placement)
        found = answer("", made, None, self.current.catalogue, self.current.popularity, question)
        served_id = found.served_id or self.served.issue(
            "", "" if found.model is None else found.model.version, [one.item for one in found.items], question.now_ms, placement
        )
        return msgspec.structs.replace(found, recommendation_id=None, served_id=served_id)

    async def _lists_and_heads(self, users: Sequence[str]) -> tuple[list[Recommendation | None], list[HeadSummary | None]]:
        keys = [self._key(user) for user in users]
        lists = await self._store.read(Table.LISTS, keys)
        heads = await self._store.read(Table.STATES, [(number, head_key(key)) for number, key in keys])
        return [_list(value) for value in lists], [None if value is None else decode_head_summary(value) for value in heads]

    async def last_lists(self, users: Iterable[str]) -> dict[str, Recommendation]:
        """Returns the last list of each user that has one."""
        asked = list(users)
        values = await self._store.read(Table.LISTS, [self._key(user) for user in asked])
        return {user: kept for user, value in zip(asked, values, strict=True) if (kept := _list(value)) is not None}

    async def profile(self, user: str) -> Profile | None:
        """Returns what is known of a user; None where nothing is."""
        number, key = self._key(user)
        keys = [(number, state_key(key)) for state_key in (head_key, facts_key, feedback_key)]
        head, facts, feedback = await self._store.read(Table.STATES, keys)
        if head is None and feedback is None:
            return None
        summary = HeadSummary() if head is None else decode_head_summary(head)
        counts = FactsSummary() if facts is None else decode_facts_summary(facts)
        answers = None if feedback is None else decode_feedback_summary(feedback)
        return profile_of(user, summary, counts, answers, self.age_s(), self.current.catalogue.items, self.current.by_hash)

    async def trace(self, user: str) -> Trace:
        """Returns whether the user is known and up to when the user was erased, in two reads."""
        number, key = self._key(user)
        (kept,) = await self._store.read(Table.LISTS, [(number, key)])
        head, erased_at = await self._head_and_erasure(number, key)
        return Trace(kept is not None or head is not None, erased_at)

    async def is_erased(self, user: str, until_ms: int, event_id: str | None = None) -> bool:
        """Whether the store holds nothing of the user from before an erasure. One that was sent again reaches up to the first."""
        (kept,), (head,) = await self._lists_and_heads([user])
        number, key = self._key(user)
        keys = [(number, feedback_key(key)), (number, erasure_marker_key(key, self._erasure_key))]
        feedback, marker = await self._store.read(Table.STATES, keys)
        if event_id is not None and marker is not None:
            erased = decode_marker_summary(marker)
            if KnownErasures(key, self._erasure_key, erased.erasure_ids).contains(Erasure(user, event_id=event_id)):
                until_ms = min(until_ms, erased.erased_at)
        if head is not None and head.erased_at < until_ms:
            return False
        if feedback is not None and decode_feedback_summary(feedback).oldest_at <= until_ms:
            return False
        return kept is None or kept.occurred_at >= until_ms

    async def erased_at(self, user: str) -> int:
        """Returns up to when the user was erased, ms; -1: never, as far as states and the erasure markers of users remember."""
        _, erased_at = await self._head_and_erasure(*self._key(user))
        return erased_at

    async def _head_and_erasure(self, number: int, key: bytes) -> tuple[HeadSummary | None, int]:
        keys = [(number, head_key(key)), (number, erasure_marker_key(key, self._erasure_key))]
        value, marker = await self._store.read(Table.STATES, keys)
        head = None if value is None else decode_head_summary(value)
        by_head = -1 if head is None else head.erased_at
        return head, max(by_head, -1 if marker is None else decode_marker_summary(marker).erased_at)

    def _key(self, user: str) -> Key:
        key = user.encode()
        return partition_of(key, self._partitions), key


def _list(value: bytes | None) -> Recommendation | None:
    """A kept list; one that a later version wrote and that cannot be read counts as none."""
    try:
        return None if value is None else decode_list(value)
    except msgspec.MsgspecError:
        return None
