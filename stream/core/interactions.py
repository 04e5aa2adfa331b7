"""Interactions as the state keeps them, examples carry them and rankers read them: one form everywhere.

A `Session` packs its clicks into bytes, so that a state at its bounds is copied, not rebuilt, when one click is added. Both kinds
are functions of the *set* of their events: whatever the order of arrival, `clicks()`, `parts` and the set of `tags` are the same
(the order of `Session.tags` alone may differ).
"""

from bisect import bisect_right
from collections.abc import Iterable
from struct import Struct as Packing
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.core import limits
from stream.core.tokens import SEPARATOR, join_tokens, split_tokens

Modality = Literal["session", "conversation"]
Tags = tuple[str, ...]
TimedTags = tuple[int, Tags]

_TIME: Final = Packing("<q")


class Session(msgspec.Struct, frozen=True, array_like=True, tag="s", gc=False):
    """Clicks with gaps under 30 minutes, or of one explicit `session_id` ("" where there is none).

    `tag_text` holds the distinct tags of all its clicks, U+001F before each. Of each of the last 64 clicks, in time order, `times`
    holds 8 bytes (ms, little-endian) and `marks` the number of its tags and their places in `tags`, a byte each. `older` are the
    places of the tags of the clicks that are no longer kept.
    """

    started_at: int
    ended_at: int
    session_id: str
    tag_text: str
    times: bytes
    marks: bytes
    older: bytes = b""

    @property
    def modality(self) -> Modality:
        return "session"

    @property
    def order(self) -> tuple[int, str, str]:
        """The place in a history: by start, ties by what cannot depend on arrival."""
        return (self.started_at, "session", self.session_id)

    @property
    def tags(self) -> Tags:
        """The distinct tags of all its clicks."""
        return split_tokens(self.tag_text)

    def clicks(self) -> list[TimedTags]:
        """The kept clicks in time order, (ms, tags) each; at most 64."""
        clicks = []
        at = 0
        tags, marks = self.tags, self.marks
        for (time,) in _TIME.iter_unpack(self.times):
            end = at + 1 + marks[at]
            clicks.append((time, tuple([tags[place] for place in marks[at + 1 : end]])))
            at = end
        return clicks

    def older_tags(self) -> Tags:
        tags = self.tags
        return tuple(tags[place] for place in self.older)

    def with_click(self, at: int, tags: Tags) -> "Session":
        """The session and one click more, wherever in time it falls."""
        if at < self.ended_at:
            clicks = self.clicks()
            clicks.insert(bisect_right(clicks, at, key=lambda click: click[0]), (at, tags))
            return session_of(clicks, self.session_id, self.older_tags(), min(self.started_at, at))
        text = self.tag_text + SEPARATOR
        places = []
        for tag in tags:
            found = text.find(f"{SEPARATOR}{tag}{SEPARATOR}")
            place = text.count(SEPARATOR, 0, found) if found >= 0 else text.count(SEPARATOR) - 1
            if found < 0:
                if place == limits.SESSION_TAGS:
                    continue
                text += tag + SEPARATOR
            places.append(place)
        times = self.times + _TIME.pack(at)
        marks = self.marks + bytes((len(places), *places))
        older = self.older
        if len(times) > _TIME.size * limits.CLICKS:
            first = 1 + marks[0]
            older = bytes(sorted({*older, *marks[1:first]}))
            times, marks = times[_TIME.size :], marks[first:]
        return Session(self.started_at, at, self.session_id, text[:-1], times, marks, older)

    def joined(self, other: "Session") -> "Session":
        """Two sessions as one, when a late click has closed the gap between them."""
        clicks = sorted([*self.clicks(), *other.clicks()], key=lambda click: click[0])
        older = (*self.older_tags(), *other.older_tags())
        return session_of(clicks, self.session_id, older, min(self.started_at, other.started_at))

    def before(self, moment: int) -> "Session | None":
        """What of it came before `moment`; None where nothing did, or where too few clicks are kept to tell."""
        if self.ended_at < moment:
            return self
        clicks = [click for click in self.clicks() if click[0] < moment]
        return session_of(clicks, self.session_id, self.older_tags(), self.started_at) if clicks else None

    def after(self, moment: int) -> "Session | None":
        """What of it came after `moment` (erasure); the tags of clicks no longer kept go where their times may lie before it."""
        if self.started_at > moment:
            return self
        clicks = [click for click in self.clicks() if click[0] > moment]
        return session_of(clicks, self.session_id, (), clicks[0][0]) if clicks else None


def session_of(clicks: Iterable[TimedTags], session_id: str = "", older: Tags = (), started_at: int | None = None) -> Session:
    """A session of `clicks` in time order, bounded: of more than 64 clicks the first keep only their tags."""
    kept = list(clicks)
    evicted, kept = kept[: -limits.CLICKS], kept[-limits.CLICKS :]
    places: dict[str, int] = {}
    for tags in (older, *(tags for _, tags in evicted), *(tags for _, tags in kept)):
        for tag in tags:
            if len(places) < limits.SESSION_TAGS:
                places.setdefault(tag, len(places))
    older_places = {places[tag] for tags in (older, *(tags for _, tags in evicted)) for tag in tags if tag in places}
    marks = bytearray()
    for _, tags in kept:
        known = [places[tag] for tag in tags if tag in places]
        marks += bytes((len(known), *known))
    first = (evicted or kept)[0][0]
    return Session(
        started_at=first if started_at is None else started_at,
        ended_at=kept[-1][0],
        session_id=session_id,
        tag_text=join_tokens(places),
        times=b"".join(_TIME.pack(time) for time, _ in kept),
        marks=bytes(marks),
        older=bytes(sorted(older_places)),
    )


class Part(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One encoded transcript event: `vector` is the mean sentence vector, little-endian float16 of the text encoder's width;
    `keyword_text` holds the keywords, U+001F before each (in records of earlier versions they are a list).
    """

    started_at: int
    ended_at: int
    sentences: int
    vector: bytes
    keyword_text: str | tuple[str, ...]
    text_model: str

    @property
    def keywords(self) -> tuple[str, ...]:
        return split_tokens(self.keyword_text) if isinstance(self.keyword_text, str) else self.keyword_text


class Conversation(msgspec.Struct, frozen=True, array_like=True, tag="c", gc=False):
    """The parts of one call, in the order of their ends; the last 8."""

    started_at: int
    ended_at: int
    conversation_id: str
    parts: tuple[Part, ...]

    @property
    def modality(self) -> Modality:
        return "conversation"

    @property
    def order(self) -> tuple[int, str, str]:
        return (self.started_at, "conversation", self.conversation_id)

    @property
    def sentences(self) -> int:
        return sum(part.sentences for part in self.parts)

    @property
    def keywords(self) -> tuple[str, ...]:
        """Distinct, in order of first mention."""
        return tuple(dict.fromkeys([keyword for part in self.parts for keyword in part.keywords]))

    def vector(self) -> NDArray[np.float32]:
        """The mean sentence vector over all parts, float32 (width,)."""
        vectors = np.frombuffer(b"".join([part.vector for part in self.parts]), dtype="<f2").astype(np.float32)
        if len(self.parts) == 1:
            return vectors
        sentences = np.array([part.sentences for part in self.parts], dtype=np.float32)
        mean: NDArray[np.float32] = sentences @ vectors.reshape(len(self.parts), -1) / sentences.sum()
        return mean

    def with_part(self, part: Part) -> "Conversation":
        parts = list(self.parts)
        parts.insert(bisect_right(parts, part.ended_at, key=lambda other: other.ended_at), part)
        return conversation_of(parts[-limits.PARTS :], self.conversation_id)

    def before(self, moment: int) -> "Conversation | None":
        """The parts that *ended* before `moment`: agents sell during calls, and what they say then is the label."""
        if self.ended_at < moment:
            return self
        parts = [part for part in self.parts if part.ended_at < moment]
        return conversation_of(parts, self.conversation_id) if parts else None

    def after(self, moment: int) -> "Conversation | None":
        """The parts that began after `moment` (erasure)."""
        parts = [part for part in self.parts if part.started_at > moment]
        return conversation_of(parts, self.conversation_id) if parts else None

    def for_text_model(self, text_model: str) -> "Conversation | None":
        """The parts that this text model encoded; facts of another mean nothing to a model trained for this one."""
        if all(part.text_model == text_model for part in self.parts):
            return self
        parts = [part for part in self.parts if part.text_model == text_model]
        return conversation_of(parts, self.conversation_id) if parts else None


def conversation_of(parts: Iterable[Part], conversation_id: str) -> Conversation:
    """A conversation of `parts` in the order of their ends."""
    kept = tuple(parts)
    return Conversation(min(part.started_at for part in kept), kept[-1].ended_at, conversation_id, kept)


Interaction = Session | Conversation
