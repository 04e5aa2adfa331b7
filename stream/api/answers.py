"""The answers of the read side, and how a list is judged again at the moment of reading.

The topic's list was right when it was sent. Since then items may have been withdrawn, or their offers may have ended: these go, and
items of the reserve take their places, then popular ones. The post filter is the core's own.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from hashlib import blake2b
from typing import Final, Literal, NamedTuple

import msgspec
import numpy as np

from stream.api.profiles import HeadSummary
from stream.api.served_lists import ServedLists
from stream.core.outputs import Fallback, Modalities, ModelName, RankedItem, Reasoning, Recommendation
from stream.core.ranking import Catalogue, PostFilter, Ranker, Rows

decode_list: Final = msgspec.json.Decoder(Recommendation).decode
Changed = Literal["filtered", "filled"]


class OfferedItem(msgspec.Struct, frozen=True, omit_defaults=True):
    """One item of an answer.

    Attributes:
        item: Item id.
        rank: Place on the list, from 1.
        name: The catalogue's name of it.
        score: The model's score; absent where no model scored it for this user.
        probability: That the item is in the user's next purchase event, given that there is one; absent likewise, and
            where the model has no calibration.
        because: The interactions that speak for the item, the strongest first, where asked for and made.
    """

    item: str
    rank: int
    name: str | None = None
    score: float | None = None
    probability: float | None = None
    because: tuple[Reasoning, ...] | None = None


class ListAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a user may be offered now.

    Attributes:
        user_id: The user; absent for a guest.
        items: Best first.
        age_s: Seconds since the store was last known to be complete.
        model: Model version that made the list.
        recommendation_id: Id of the list in the topic `recommendations`; absent where it holds none for the user.
        served_id: Stands for these items in feedback for at least 24 h; absent where they are exactly the topic's list.
        occurred_at: When that list was made, ms.
        modalities: How many interactions of each modality the list rests on.
        fallback: What ranked the list instead of the model: `popularity` or `catalogue`, as in the topic `recommendations`.
        changed: Whether items of the list went since it was made: `filtered`, or `filled` where others took their places.
        placement: The placement that was asked for, where it is declared; otherwise `other`.
        because: The first item's `because`, where asked for and made; the list's items may have gone since.
    """

    items: tuple[OfferedItem, ...]
    age_s: float
    user_id: str = ""
    model: ModelName | None = None
    recommendation_id: str | None = None
    served_id: str | None = None
    occurred_at: int | None = None
    modalities: Modalities | None = None
    fallback: Fallback | None = None
    changed: Changed | None = None
    placement: str | None = None
    because: tuple[Reasoning, ...] | None = None

    @property
    def etag(self) -> str:
        """Names the content; the age is not part of it."""
        content = (self.recommendation_id, self.served_id, self.items, self.model, self.fallback, self.placement, self.because)
        return f'"{blake2b(_encode(content), digest_size=12).hexdigest()}"'


_encode: Final = msgspec.msgpack.Encoder().encode


class Popularity(NamedTuple):
    """The champion's items with their popularity prior, (items,), and the champion itself where the process loads it.

    `published_at` is when it was announced, ms.
    """

    model: ModelName
    items: tuple[str, ...]
    prior: Rows
    ranker: Ranker | None = None
    published_at: int = 0


class Question(NamedTuple):
    """What is asked of a list, and what its answer is made with: the clock, the store's age, and who issues served ids."""

    limit: int
    now_ms: int
    age_s: float
    served: ServedLists
    placement: str | None = None
    explain: bool = False


def answer(
    user_id: str,
    kept: Recommendation | None,
    head: HeadSummary | None,
    catalogue: Catalogue,
    popularity: Popularity | None,
    question: Question,
) -> ListAnswer:
    """Returns the user's list as it may be offered now; of a user nobody knows, popularity's, or the catalogue's order."""
    blocked = set() if head is None else catalogue.blocked(head.owned, head.excluded)
    if kept is None:
        return _stranger(user_id, blocked, catalogue, popularity, question)
    made = [one.item for one in (*kept.items, *kept.reserve)]
    allowed = _allowed(made, blocked, catalogue, question)
    if len(allowed) < question.limit:
        others = _popular({*blocked, *made}, catalogue, popularity, question)
        allowed += others[: question.limit - len(allowed)]
    return ListAnswer(
        user_id=user_id,
        items=_named(allowed, _scored(kept), catalogue, explain=question.explain),
        age_s=question.age_s,
        model=kept.model,
        recommendation_id=kept.recommendation_id,
        served_id=None if made[: len(kept.items)] == allowed else _served_id(user_id, allowed, kept.model, question),
        occurred_at=kept.occurred_at,
        modalities=kept.modalities,
        fallback=kept.fallback,
        changed=_difference(made[: question.limit], allowed),
        placement=question.placement,
        because=kept.because if question.explain else None,
    )


def _served_id(user_id: str, items: Sequence[str], model: ModelName | None, question: Question) -> str | None:
    version = "" if model is None else model.version
    return question.served.issue(user_id, version, items, question.now_ms, question.placement)


def _scored(kept: Recommendation) -> dict[str, RankedItem]:
    """Those items that a model scored."""
    if kept.fallback is not None:
        return {}
    return {one.item: one for one in (*kept.items, *kept.reserve) if one.fallback is None}


def _stranger(
    user_id: str, blocked: AbstractSet[str], catalogue: Catalogue, popularity: Popularity | None, question: Question
) -> ListAnswer:
    items, model = _popular(blocked, catalogue, popularity, question), None if popularity is None else popularity.model
    return ListAnswer(
        user_id=user_id,
        items=_named(items, {}, catalogue),
        age_s=question.age_s,
        model=model,
        served_id=_served_id(user_id, items, model, question),
        fallback="catalogue" if popularity is None else "popularity",
        placement=question.placement,
    )


def _difference(made: Sequence[str], served: Sequence[str]) -> Changed | None:
    if list(made) == list(served[: len(made)]):  # what follows a list that was shorter than the limit replaces nothing
        return None
    return "filled" if len(served) >= len(made) else "filtered"


def _allowed(items: Sequence[str], blocked: AbstractSet[str], catalogue: Catalogue, question: Question) -> list[str]:
    """The items that may be offered now, in their order."""
    order = np.arange(len(items), 0, -1, dtype=np.float32)[np.newaxis]
    return _top(items, order, blocked, catalogue, question)


def _popular(blocked: AbstractSet[str], catalogue: Catalogue, popularity: Popularity | None, question: Question) -> list[str]:
    """The most popular items that may be offered now, then those that the model does not know, in the catalogue's order."""
    if popularity is None:
        return _allowed(list(catalogue.items), blocked, catalogue, question)
    return _top(popularity.items, popularity.prior[np.newaxis], blocked, catalogue, question, fill=True)


def _top(
    items: Sequence[str], scores: Rows, blocked: AbstractSet[str], catalogue: Catalogue, question: Question, *, fill: bool = False
) -> list[str]:
    if not items:
        return []
    post_filter = PostFilter(items, catalogue, question.now_ms)
    (chosen,) = post_filter.top(scores, [blocked], question.limit)
    top = [items[index] for index in chosen]
    return [*top, *post_filter.fill(blocked, question.limit - len(top))] if fill else top


def _named(
    items: Sequence[str], scored: Mapping[str, RankedItem], catalogue: Catalogue, *, explain: bool = False
) -> tuple[OfferedItem, ...]:
    known = catalogue.items
    return tuple(
        _offered(item, rank, known[item].name if item in known else None, scored.get(item), explain=explain)
        for rank, item in enumerate(items, start=1)
    )


def _offered(item: str, rank: int, name: str | None, scored: RankedItem | None, *, explain: bool) -> OfferedItem:
    if scored is None:
        return OfferedItem(item, rank, name)
    return OfferedItem(item, rank, name, scored.score, scored.probability, scored.because if explain else None)
