"""Interactions as a user's state keeps them: with a hash of the event id beside each click and each part of a call.

An id is kept with what it names. So an erasure forgets exactly the ids of what it covers, and a producer's repetition is recognised
for as long as the state holds the original. Training examples and rankers know nothing of ids (`stream.core.interactions`).
"""

from bisect import insort
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

from stream.core import limits
from stream.core.interactions import Conversation, Part, Session, Tags, pack_time, session_of, unpack_time
from stream.core.tokens import SEPARATOR, join_tokens

ID_BYTES: Final = 6
"""Of an id's hash. Only ids of one millisecond of one session, or of one conversation, are compared with each other."""

NO_ID: Final = bytes(ID_BYTES)
_TIME_BYTES: Final = 8
_ALL_TIMES_BYTES: Final = _TIME_BYTES * limits.CLICKS

ClickWithId = tuple[int, Tags, bytes]
"""Time in ms, tags, hash of the event id or `NO_ID`."""


def hash_id(event_id: str) -> bytes:
    return blake2b(event_id.encode(), digest_size=ID_BYTES).digest()


class KeptSession(Session, frozen=True, array_like=True, tag="s", gc=False):
    """A session in a user's state.

    Attributes:
        ids: Of each kept click, the hash of its event id, 6 bytes, or zeros; empty if no click has an id.
    """

    ids: bytes = b""

    def has_click(self, at_ms: int, hashed_id: bytes) -> bool:
        """Whether it keeps a click of this time and id."""
        if at_ms > self.ended_at or not self.ids:
            return False
        time = pack_time(at_ms)
        start = self.ids.find(hashed_id)
        while start >= 0:
            index, rest = divmod(start, ID_BYTES)
            if not rest and self.times[_TIME_BYTES * index : _TIME_BYTES * (index + 1)] == time:
                return True
            start = self.ids.find(hashed_id, start + 1)
        return False

    def nameless_at(self, at_ms: int) -> list[Tags]:
        """The tags of each kept click of this time without an id."""
        return [tags for other, tags, hashed_id in self.identified_clicks() if other == at_ms and hashed_id == NO_ID]

    def with_click(self, at_ms: int, tags: Tags, hashed_id: bytes = NO_ID) -> "KeptSession":
        """The session with one more click, at any time. A full session takes of a click before all others the tags only."""
        if at_ms <= self.ended_at:
            clicks, click = self.identified_clicks(), (at_ms, tags, hashed_id)
            if len(self.times) == _ALL_TIMES_BYTES and click <= clicks[0]:
                return self._with_older(at_ms, tags)
            insort(clicks, click)
            return kept_session_of(clicks, self.session_id, self.older_tags(), min(self.started_at, at_ms))
        return self.with_newest(at_ms, tags, hashed_id)

    def with_newest(self, at_ms: int, tags: Tags, hashed_id: bytes) -> "KeptSession":
        """The session with one more click after all others. Copies bytes and builds no objects."""
        text = self.tag_text + SEPARATOR
        indices = []
        for tag in tags:
            position = text.find(f"{SEPARATOR}{tag}{SEPARATOR}")
            if position >= 0:
                indices.append(text.count(SEPARATOR, 0, position))
                continue
            count = text.count(SEPARATOR) - 1
            if count < limits.SESSION_TAGS:
                text += tag + SEPARATOR
                indices.append(count)
        ids = self.ids
        if ids or hashed_id != NO_ID:
            ids = (ids or self._all_ids()) + hashed_id
        times = self.times + pack_time(at_ms)
        marks = self.marks + bytes((len(indices), *indices))
        older = self.older
        if len(times) > _ALL_TIMES_BYTES:
            first = 1 + marks[0]
            older = bytes(sorted({*older, *marks[1:first]}))
            times, marks, ids = times[_TIME_BYTES:], marks[first:], ids[ID_BYTES:]
        return KeptSession(self.started_at, at_ms, self.session_id, text[:-1], times, marks, older, ids)

    def _with_older(self, at_ms: int, tags: Tags) -> "KeptSession":
        older = self.older_tags()
        if at_ms >= self.started_at and set(tags) <= set(older):
            return self
        return kept_session_of(self.identified_clicks(), self.session_id, (*older, *tags), min(self.started_at, at_ms))

    def joined(self, other: "KeptSession") -> "KeptSession":
        """Both sessions as one, for a late click that closes the gap between them."""
        clicks = sorted([*self.identified_clicks(), *other.identified_clicks()])
        older = (*self.older_tags(), *other.older_tags())
        return kept_session_of(clicks, self.session_id, older, min(self.started_at, other.started_at))

    def lacks_before(self, moment_ms: int) -> bool:
        """Whether later clicks displaced some before `moment_ms`, so that it cannot be given as it stood then."""
        reaches_over = self.started_at < moment_ms <= self.ended_at
        return reaches_over and (bool(self.older) or self.started_at < unpack_time(self.times))

    def latest_start(self) -> int:
        """When it began, ms, whatever came late."""
        return self.started_at

    def after(self, moment_ms: int) -> "KeptSession | None":
        """The part of it after `moment_ms` (erasure), without the tags of clicks that are no longer kept: they may be older.

        If the erasure covers no kept click, such clicks may be later too, so the session begins right after `moment_ms`.
        """
        if self.started_at > moment_ms:
            return self
        clicks = [click for click in self.identified_clicks() if click[0] > moment_ms]
        if not clicks:
            return None
        is_covered = moment_ms >= unpack_time(self.times)
        return kept_session_of(clicks, self.session_id, (), clicks[0][0] if is_covered else moment_ms + 1)

    def identified_clicks(self) -> list[ClickWithId]:
        """The kept clicks by time, those of one time by tags and id."""
        ids = self.ids or self._all_ids()
        starts = range(0, len(ids), ID_BYTES)
        return [(at_ms, tags, ids[start : start + ID_BYTES]) for (at_ms, tags), start in zip(self.clicks(), starts, strict=True)]

    def _all_ids(self) -> bytes:
        return NO_ID * (len(self.times) // _TIME_BYTES)


def session_of_click(at_ms: int, tags: Tags, session_id: str = "", hashed_id: bytes = NO_ID) -> KeptSession:
    """The session that a click begins: as `kept_session_of` gives it, in a fraction of the time."""
    distinct = dict.fromkeys(tags)
    if len(distinct) < len(tags) or len(tags) > limits.SESSION_TAGS:
        return KeptSession(at_ms, at_ms, session_id, "", b"", b"").with_newest(at_ms, tags, hashed_id)
    marks = bytes((len(tags), *range(len(tags))))
    ids = b"" if hashed_id == NO_ID else hashed_id
    return KeptSession(at_ms, at_ms, session_id, join_tokens(tags), pack_time(at_ms), marks, b"", ids)


def kept_session_of(
    clicks: Iterable[ClickWithId], session_id: str = "", older: Tags = (), started_at: int | None = None
) -> KeptSession:
    """`session_of` with the ids."""
    identified = list(clicks)
    session = session_of([(at_ms, tags) for at_ms, tags, _ in identified], session_id, older, started_at)
    ids = b"".join([hashed_id for _, _, hashed_id in identified[-limits.CLICKS :]])
    return KeptSession(
        session.started_at,
        session.ended_at,
        session_id,
        session.tag_text,
        session.times,
        session.marks,
        session.older,
        ids if any(ids) else b"",
    )


class KeptConversation(Conversation, frozen=True, array_like=True, tag="c", gc=False):
    """A call in a user's state.

    Attributes:
        ids: Of each part, the hash of its identity (`stream.core.duplicates`), 6 bytes, or zeros; empty in states of 0.1.0.
        displaced_at: The earliest end of a part that later ones displaced, ms; None: none, or not known in earlier states.
    """

    ids: bytes = b""
    displaced_at: int | None = None

    def part_of(self, hashed_id: bytes) -> Part | None:
        """The part of this identity."""
        return next((part for part, other in self.identified_parts() if other == hashed_id != NO_ID), None)

    def with_part(self, part: Part, hashed_id: bytes) -> "KeptConversation":
        """The conversation with one more part, in place of an older one of the same identity."""
        identified = [entry for entry in self.identified_parts() if entry[1] != hashed_id or hashed_id == NO_ID]
        if len(identified) == limits.PARTS and _part_order((part, hashed_id)) <= _part_order(identified[0]):
            return self
        insort(identified, (part, hashed_id), key=_part_order)
        displaced_at = self.displaced_at
        if len(identified) > limits.PARTS:
            end = identified.pop(0)[0].ended_at
            displaced_at = end if displaced_at is None else min(displaced_at, end)
        return kept_conversation_of(identified, self.conversation_id, displaced_at)

    def lacks_before(self, moment_ms: int) -> bool:
        """Whether later parts displaced some that ended before `moment_ms`, and it cannot be given as it stood then, because fewer
        than 8 are left. After an erasure there may be fewer at any time.
        """
        if self.displaced_at is None or self.displaced_at >= moment_ms:
            return False
        return sum(self.displaced_at <= part.ended_at < moment_ms for part in self.parts) < limits.PARTS

    def latest_start(self) -> int:
        """The latest start that it can have had before some time, ms: a part that ends later may have begun earlier."""
        return max(self.started_at if self.displaced_at is None else self.displaced_at, *(part.started_at for part in self.parts))

    def after(self, moment_ms: int) -> "KeptConversation | None":
        """The parts that began after `moment_ms` (erasure). The displaced ones ended before all kept ones."""
        identified = [entry for entry in self.identified_parts() if entry[0].started_at > moment_ms]
        if not identified:
            return None
        displaced_at = None
        if self.displaced_at is not None and moment_ms < self.parts[0].ended_at:
            displaced_at = max(self.displaced_at, moment_ms + 1)
        return kept_conversation_of(identified, self.conversation_id, displaced_at)

    def identified_parts(self) -> list[tuple[Part, bytes]]:
        """The parts with the hashes of their identities."""
        ids = self.ids or NO_ID * len(self.parts)
        return list(zip(self.parts, [ids[start : start + ID_BYTES] for start in range(0, len(ids), ID_BYTES)], strict=True))


def _part_order(identified: tuple[Part, bytes]) -> tuple[int, int, int, bytes, bytes]:
    """Sort key in a conversation: by the end; ties by what does not depend on the order of arrival."""
    part, hashed_id = identified
    return (part.ended_at, part.started_at, part.sentences, part.vector, hashed_id)


def kept_conversation_of(
    identified: Iterable[tuple[Part, bytes]], conversation_id: str, displaced_at: int | None = None
) -> KeptConversation:
    """A conversation of parts with the hashes of their identities, ordered by their ends."""
    parts, ids = zip(*identified, strict=True)
    started_at = min(part.started_at for part in parts)
    return KeptConversation(started_at, parts[-1].ended_at, conversation_id, parts, b"".join(ids), displaced_at)


KeptInteraction = KeptSession | KeptConversation
