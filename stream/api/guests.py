"""Lists for guests, of whom nothing is kept: clicks and sentences of one request go through the core, the text encoder and the
champion as a user's events would, in this process, and are forgotten.

One thread computes, so that the event loop goes on answering. How many requests may wait for it is bounded.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from stream.api.answers import decode_list
from stream.api.bodies import LIMIT
from stream.api.catalogue import CurrentCatalogue
from stream.api.ingest import Clock
from stream.api.problems import ApiError
from stream.core import limits
from stream.core.events import Click, EncodedCall, Id, Sentence, Source, Tag, Timestamp, Transcript, to_milliseconds
from stream.core.fold import fold_event, is_usable
from stream.core.fold_context import FoldContext
from stream.core.outputs import Cause, Outcome, Recommendation
from stream.core.ranking import Catalogue, Ranker
from stream.core.recommend import PendingUsers, recommend
from stream.core.records import Batch, PlainRecord
from stream.core.state import Head
from stream.core.tokens import SEPARATOR
from stream.core.user_state import UserState
from stream.text.encode_stage import encode_batch
from stream.text.model import TextModel

CLICKS: Final = limits.WINDOW * limits.CLICKS
SENTENCES: Final = 100
_CHARACTERS: Final = 4_000
_GUEST: Final = "guest"


class GuestClick(msgspec.Struct, frozen=True, gc=False):
    """One action of a guest.

    Attributes:
        tags: Action tags: section, object, type and the like.
        occurred_at: When it happened; default: now.
        session_id: Explicit session; without one a session ends after a gap without clicks (`step.session_gap_s`).
    """

    tags: Annotated[tuple[Tag, ...], Meta(min_length=1, max_length=limits.TAGS)]
    occurred_at: Timestamp | None = None
    session_id: Id | None = None


class GuestBody(msgspec.Struct, frozen=True):
    """What is known of a guest. Without anything the answer is popularity's list.

    Attributes:
        clicks: What the guest did, in any order.
        sentences: What the guest said or wrote: one conversation that ends now.
        limit: Items of the list; default: the step's list length.
        placement: Where the list is shown; echoed.
    """

    clicks: Annotated[tuple[GuestClick, ...], Meta(max_length=CLICKS)] = ()
    sentences: Annotated[tuple[Annotated[str, Meta(max_length=_CHARACTERS)], ...], Meta(max_length=SENTENCES)] = ()
    limit: Annotated[int, Meta(ge=1, le=LIMIT)] | None = None
    placement: Annotated[str, Meta(max_length=limits.ID_CHARACTERS)] | None = None


class _NoStates:
    """Of a guest nothing is stored."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [None for _ in keys]


class Guests:
    """Makes lists for guests with the champion of the moment: a model that is swapped in ranks the next request."""

    def __init__(self, current: CurrentCatalogue, text_model: TextModel, gap_ms: int, max_waiting: int) -> None:
        self._current = current
        self._text_model = text_model
        self._gap_ms = gap_ms
        self._max_waiting = max_waiting
        self._waiting = 0
        self._thread = ThreadPoolExecutor(1, "guests")

    async def made(self, body: GuestBody, k: int, clock: Clock) -> Recommendation | None:
        """Returns the guest's list; None where nothing is known of the guest.

        Raises:
            ApiError: a click cannot be used, too many requests wait, or this replica has another text model than the champion.
        """
        popularity, catalogue = self._current.popularity, self._current.catalogue
        ranker = None if popularity is None else popularity.ranker
        clicks, sentences = _clicks(body, clock), [text for text in body.sentences if text.strip()]
        if not clicks and not sentences:
            return None
        if sentences and ranker is not None and ranker.text_model not in {None, self._text_model.hash}:
            raise ApiError(
                503, "sentences cannot be read here: the champion was trained for another text model", {"Retry-After": "60"}
            )
        if self._waiting >= self._max_waiting:
            raise ApiError(503, "too many guests wait here", {"Retry-After": "1"})
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._thread, self._list, clicks, sentences, ranker, catalogue, k, clock.now_ms
            )
        finally:
            self._waiting -= 1

    def _list(
        self, clicks: Sequence[Click], sentences: Sequence[str], ranker: Ranker | None, catalogue: Catalogue, k: int, now_ms: int
    ) -> Recommendation | None:
        user = UserState(_GUEST.encode(), _GUEST, Head(), _NoStates(), stored=False, broker_ms=now_ms)
        context = FoldContext(catalogue, ranker, self._gap_ms, Counter())
        for click in clicks:
            at_ms = to_milliseconds(click.occurred_at)
            user.head.newest_at = max(user.head.newest_at, at_ms)
            user.cause = Cause(str(click.event_id), Source.CLICK, at_ms)
            fold_event(user, click, user.cause, context)
        call = self._encoded(sentences, now_ms)
        if call is not None:
            user.head.newest_at = max(user.head.newest_at, now_ms)
            user.cause = Cause(call.event_id, Source.CALL, now_ms)
            fold_event(user, call, user.cause, context)
        outcome = Outcome()
        recommend([PendingUsers([user], outcome, None)], ranker, catalogue, k, 0, explain=False)
        return decode_list(outcome.recommendations[0].value or b"") if outcome.recommendations else None

    def _encoded(self, sentences: Sequence[str], now_ms: int) -> EncodedCall | None:
        """The sentences as the encoder would send them."""
        if not sentences:
            return None
        transcript = Transcript(_GUEST, _GUEST, now_ms, tuple(Sentence(text) for text in sentences), ended_at=now_ms)
        record = PlainRecord(0, now_ms, _GUEST.encode(), msgspec.json.encode(transcript))
        encoded = encode_batch(Batch(Source.CALL, _GUEST, 1, 0, [record]), self._text_model)
        call = msgspec.msgpack.decode(encoded.calls[0].value or b"", type=EncodedCall) if encoded.calls else None
        return call if call is not None and is_usable(call) else None

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)


def _clicks(body: GuestBody, clock: Clock) -> list[Click]:
    """The clicks as events, in the order of their times."""
    found = []
    for index, click in enumerate(body.clicks):
        at_ms = clock.now_ms if click.occurred_at is None else to_milliseconds(click.occurred_at)
        rejection = clock.times["clicks"].rejection(at_ms, clock.now_ms, clock.max_ahead_ms)
        if rejection is not None:
            raise ApiError(400, f"clicks[{index}]: {rejection.error}")
        if SEPARATOR in "".join(click.tags):
            raise ApiError(400, f"clicks[{index}]: a tag holds the control character U+001F")
        found.append(Click(_GUEST, at_ms, click.tags, str(index), click.session_id))
    return sorted(found, key=lambda click: to_milliseconds(click.occurred_at))
