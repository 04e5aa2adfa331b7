"""Interactions, in one form for training examples and rankers; `stream.core.kept_interactions` adds what a state keeps of them.

A `Session` packs its clicks into bytes, so that adding a click to a full state copies bytes and builds no objects. Both kinds are
functions of the *set* of their events: `clicks()`, `parts` and the set of `tags` do not depend on the order of arrival (the order
of `Session.tags` does).
"""

from collections.abc import Iterable, Sequence
from struct import Struct as Packing
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.core import limits
from stream.core.tokens import join_tokens, split_tokens

Modality = Literal["session", "conversation"]
Tags = tuple[str, ...]
TimedTags = tuple[int, Tags]

_TIME: Final = Packing("<q")


def pack_time(at_ms: int) -> bytes:
    """Milliseconds as `Session.times` holds them."""
    return _TIME.pack(at_ms)


def unpack_time(times: bytes) -> int:
    """The first of packed times."""
    at_ms: int = _TIME.unpack_from(times)[0]
    return at_ms


class Session(msgspec.Struct, frozen=True, array_like=True, tag="s", gc=False):
    """Clicks of one user with short gaps between them, or of one explicit `session_id`.

    Attributes:
        started_at: Time of the first click, ms.
        ended_at: Time of the last click, ms.
        session_id: Explicit id; "" without one.
        tag_text: Distinct tags of all clicks, U+001F before each.
        times: Of each of the last 64 clicks in time order: 8 bytes, ms, little-endian.
        marks: Of each of these clicks: the number of its tags and their indices in `tags`, a byte each.
        older: Indices of the tags of clicks that are no longer kept, a byte each.
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
        """Sort key in a history: by start; ties by what does not depend on the order of arrival."""
        return (self.started_at, "session", self.session_id)

    @property
    def tags(self) -> Tags:
        """The distinct tags of all its clicks."""
        return split_tokens(self.tag_text)

    @property
    def click_count(self) -> int:
        """How many clicks it keeps; at most 64."""
        return len(self.times) // _TIME.size

    def clicks(self) -> list[TimedTags]:
        """The kept clicks in time order, (ms, tags) each; at most 64."""
        clicks = []
        start = 0
        tags, marks = self.tags, self.marks
        for (time,) in _TIME.iter_unpack(self.times):
            end = start + 1 + marks[start]
            clicks.append((time, tuple([tags[index] for index in marks[start + 1 : end]])))
            start = end
        return clicks

    def older_tags(self) -> Tags:
        """The tags of the clicks that are no longer kept."""
        tags = self.tags
        return tuple(tags[index] for index in self.older)

    def before(self, moment_ms: int) -> "Session | None":
        """The part of it before `moment_ms`; None if there is none, or if the clicks that would show it are no longer kept."""
        if self.ended_at < moment_ms:
            return self
        clicks = [click for click in self.clicks() if click[0] < moment_ms]
        return session_of(clicks, self.session_id, self.older_tags(), self.started_at) if clicks else None


def session_of(clicks: Iterable[TimedTags], session_id: str = "", older: Tags = (), started_at: int | None = None) -> Session:
    """A session of `clicks` in time order. Of more than 64 clicks, only the tags of the first ones are kept."""
    kept = list(clicks)
    evicted, kept = kept[: -limits.CLICKS], kept[-limits.CLICKS :]
    indices: dict[str, int] = {}
    for tags in (older, *(tags for _, tags in evicted), *(tags for _, tags in kept)):
        for tag in tags:
            if len(indices) < limits.SESSION_TAGS:
                indices.setdefault(tag, len(indices))
    older_indices = {indices[tag] for tags in (older, *(tags for _, tags in evicted)) for tag in tags if tag in indices}
    marks = bytearray()
    for _, tags in kept:
        known = [indices[tag] for tag in tags if tag in indices]
        marks += bytes((len(known), *known))
    first = (evicted or kept)[0][0]
    return Session(
        started_at=first if started_at is None else started_at,
        ended_at=kept[-1][0],
        session_id=session_id,
        tag_text=join_tokens(indices),
        times=b"".join(_TIME.pack(time) for time, _ in kept),
        marks=bytes(marks),
        older=bytes(sorted(older_indices)),
    )


class Part(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One encoded transcript event.

    Attributes:
        started_at: Start of the part, ms.
        ended_at: End of the part, ms.
        sentences: Number of sentences.
        vector: Mean sentence vector, little-endian float16 of the text encoder's width.
        keyword_text: Keywords, U+001F before each; a list in records of earlier versions.
        text_model: Hash of the text model that encoded it.
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
    """One call.

    Attributes:
        started_at: Start of the earliest kept part, ms.
        ended_at: End of the last part, ms.
        conversation_id: The call's id.
        parts: The last 8 parts, ordered by their ends.
    """

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
        """Distinct keywords in order of first mention."""
        return tuple(dict.fromkeys([keyword for part in self.parts for keyword in part.keywords]))

    def vector(self) -> NDArray[np.float32]:
        """The mean sentence vector over all parts, float32 (width,)."""
        vectors = np.frombuffer(b"".join([part.vector for part in self.parts]), dtype="<f2").astype(np.float32)
        if len(self.parts) == 1:
            return vectors
        sentences = np.array([part.sentences for part in self.parts], dtype=np.float32)
        mean: NDArray[np.float32] = sentences @ vectors.reshape(len(self.parts), -1) / sentences.sum()
        return mean

    def before(self, moment_ms: int) -> "Conversation | None":
        """The parts that *ended* before `moment_ms`: agents sell during calls, so the part with the sale reveals the label."""
        if self.ended_at < moment_ms:
            return self
        parts = [part for part in self.parts if part.ended_at < moment_ms]
        return conversation_of(parts, self.conversation_id) if parts else None

    def for_text_model(self, text_model: str) -> "Conversation | None":
        """The parts that this text model encoded: vectors and keywords of another are meaningless to a ranker trained for this."""
        if all(part.text_model == text_model for part in self.parts):
            return self
        parts = [part for part in self.parts if part.text_model == text_model]
        return conversation_of(parts, self.conversation_id) if parts else None


def conversation_of(parts: Iterable[Part], conversation_id: str) -> Conversation:
    """A conversation of `parts`, ordered by their ends."""
    kept = tuple(parts)
    return Conversation(min(part.started_at for part in kept), kept[-1].ended_at, conversation_id, kept)


Interaction = Session | Conversation


def readable_interactions(
    interactions: Sequence[Interaction], text_model: str | None, *, sessions: bool = True
) -> list[Interaction]:
    """What a ranker can read of a history, in serving and in training: the parts of conversations that `text_model` encoded (None:
    no conversation) and, unless `sessions` is false, the sessions.
    """
    readable: list[Interaction] = []
    for interaction in interactions:
        if isinstance(interaction, Session):
            if sessions:
                readable.append(interaction)
        elif text_model is not None:
            conversation = interaction.for_text_model(text_model)
            if conversation is not None:
                readable.append(conversation)
    return readable
