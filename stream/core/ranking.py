"""The protocol of a ranker, the catalogue, and the post filter that chooses the top k.

A ranker is a trained model as serving sees it: numpy rows in, numpy rows out. How it computes them is its own choice (`models/`
uses torch).
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Final, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from stream.core.calibration import Calibration
from stream.core.events import Item, to_milliseconds
from stream.core.interactions import Interaction, readable_interactions

Rows = NDArray[np.float32]
_NOTHING: Final[AbstractSet[str]] = frozenset()


class Ranker(Protocol):
    """A model version. Representations are float32 rows of `width`, which is 0 for a model without any (Popular).

    `encode_many` is the reference: `advance_many`, one interaction at a time from `initial`, must give the same top 3 for at least
    99.9 % of users and scores within 1e-3. Histories are in history order, contain at most the last 10 interactions, and only what
    the ranker reads (`readable_by`). A user of whose history it reads nothing gets the prior.
    """

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def fingerprint(self) -> str:
        """The manifest's hash, which identifies the weights. A cached representation is valid for one fingerprint."""
        ...

    @property
    def items(self) -> tuple[str, ...]: ...
    @property
    def prior(self) -> Rows:
        """Each item's share of purchase events, (items,): its popularity."""
        ...

    @property
    def width(self) -> int: ...
    @property
    def text_model(self) -> str | None:
        """Hash of the text model; None for a ranker that reads no conversations."""
        ...

    @property
    def reads_sessions(self) -> bool: ...

    def initial(self) -> Rows:
        """The representation of an empty history, (width,)."""
        ...

    def advance_many(self, representations: Rows, interactions: Sequence[Interaction]) -> Rows:
        """Each row advanced by one interaction: (n, width), n interactions -> (n, width)."""
        ...

    def encode_many(self, histories: Sequence[Sequence[Interaction]]) -> Rows:
        """N histories -> (n, width)."""
        ...

    def rank_many(self, representations: Rows) -> Rows:
        """Scores in [0, 1]: (n, width) -> (n, items)."""
        ...


class Holdings(NamedTuple):
    """What a user owns and is not eligible for. Withdrawn items are no part of it: they say nothing of the user.

    Attributes:
        owned: Items owned, repeatable ones included.
        ineligible: Items of the eligibility list that holds.
    """

    owned: Sequence[str]
    ineligible: Sequence[str]


class HoldingsRanker(Ranker, Protocol):
    """A ranker that also reads what users own and are not eligible for. No representation depends on it."""

    @property
    def reads_holdings(self) -> bool:
        """True. A ranker without this attribute reads none."""
        ...

    def rank_holders(self, representations: Rows, holdings: Sequence[Holdings | None]) -> Rows:
        """As `rank_many`, with the holdings of each row's user; None: not known. `rank_many` knows of none."""
        ...


class CalibratedRanker(Ranker, Protocol):
    """A ranker whose scores can be told as probabilities."""

    @property
    def calibration(self) -> Calibration | None:
        """None, or no such attribute: its scores have an order and no other meaning."""
        ...


def calibration_of(ranker: Ranker | None) -> Calibration | None:
    """The ranker's calibration, if it has one."""
    return getattr(ranker, "calibration", None)


class TextRanker(Ranker, Protocol):
    """A ranker that can also score items that its training did not know, by the vectors of their texts."""

    @property
    def reads_item_texts(self) -> bool:
        """Whether it can. A ranker without this attribute cannot."""
        ...

    @property
    def base_items(self) -> tuple[str, ...]:
        """The items of its training. `items` begins with them."""
        ...

    @property
    def new_items(self) -> AbstractSet[str]:
        """The others, and those of its training that nobody had bought."""
        ...

    def with_new_items(self, vectors: Mapping[str, Rows]) -> "TextRanker":
        """The same ranker for its `base_items` and for these, by the vectors of their texts, (text width,) each.

        Fingerprint and representations stay the same. What depends on the vectors alone is computed here, once.
        """
        ...


def new_items_of(ranker: Ranker | None) -> AbstractSet[str]:
    """The items that a ranker knows by their texts alone."""
    return getattr(ranker, "new_items", _NOTHING)


def score_rows(ranker: Ranker, representations: Rows, holdings: Iterable[Holdings | None]) -> Rows:
    """Scores in [0, 1], (n, items), with the users' holdings if the ranker reads them."""
    if getattr(ranker, "reads_holdings", False):
        return cast("HoldingsRanker", ranker).rank_holders(representations, list(holdings))
    return ranker.rank_many(representations)


def readable_by(ranker: Ranker | None, interactions: Sequence[Interaction]) -> list[Interaction]:
    """The interactions that a ranker reads; without a ranker nobody reads any."""
    if ranker is None:
        return []
    return readable_interactions(interactions, ranker.text_model, sessions=ranker.reads_sessions)


SCORE_DIGITS: Final = 4
"""Of the scores in lists."""

_NEVER: Final = (0, 0)


class Catalogue:
    """The items that exist, in order of their ids. Immutable: a follower of the topic builds a new one at each change.

    Attributes:
        items: The items by id.
        is_published: Whether there ever was an item. If all were withdrawn, nothing is on offer; before the first, nothing is
            withdrawn.
    """

    def __init__(self, items: Iterable[Item] = (), *, is_published: bool = False) -> None:
        self.items: Mapping[str, Item] = {item.item_id: item for item in sorted(items, key=lambda item: item.item_id)}
        self.is_published = is_published or bool(self.items)
        self._offers: dict[str, tuple[int, int]] = {
            item.item_id: (
                -(2**63) if item.offered_from is None else to_milliseconds(item.offered_from),
                2**63 if item.offered_until is None else to_milliseconds(item.offered_until),
            )
            for item in self.items.values()
        }

    def offered_at(self, moment_ms: int) -> list[str]:
        """The items on offer at a time, in catalogue order."""
        return [item for item, (start, end) in self._offers.items() if start <= moment_ms < end]

    def positions_not_offered(self, items: Sequence[str], moment_ms: int) -> list[int]:
        """Positions of those items that are not on offer at a time, whatever the size of the catalogue."""
        offers = [self._offers.get(item, _NEVER) for item in items]
        return [position for position, (start, end) in enumerate(offers) if not start <= moment_ms < end]

    def is_repeatable(self, item: str) -> bool:
        entry = self.items.get(item)
        return entry is not None and entry.repeatable

    def blocked(self, owned: Sequence[str], excluded: Sequence[str]) -> AbstractSet[str]:
        """The items that one user may not be offered: those not eligible, and those owned and not repeatable."""
        if not owned and not excluded:
            return _NOTHING
        return {*excluded, *(item for item in owned if not self.is_repeatable(item))}

    def changes_between(self, start_ms: int, end_ms: int) -> bool:
        """Whether an item's offer begins or ends in (start_ms, end_ms]."""
        return any(start_ms < moment <= end_ms for start, end in self._offers.values() for moment in (start, end))


class Top(NamedTuple):
    """The best items of one user.

    Attributes:
        positions: Of the items among the ranker's, best first.
        scores: Theirs, rounded.
        probabilities: Theirs, rounded; None without a calibration.
    """

    positions: list[int]
    scores: list[float]
    probabilities: list[float] | None = None


class PostFilter:
    """Chooses the top k of a ranker's items, for one catalogue at one time. One that was never published withdraws nothing."""

    def __init__(self, items: Sequence[str], catalogue: Catalogue, moment_ms: int, new: AbstractSet[str] = _NOTHING) -> None:
        self.items = items
        self._new = new
        self._positions = {item: position for position, item in enumerate(items)}
        self._withdrawn = catalogue.positions_not_offered(items, moment_ms) if catalogue.is_published else []
        self._catalogue = catalogue
        self._moment_ms = moment_ms
        self._unranked: list[str] | None = None  # only a short list needs it, and a catalogue may be large

    def top(self, scores: Rows, blocked: Sequence[Iterable[str]], k: int) -> list[list[int]]:
        """Per row of scores (n, items): positions of the best k items that may be offered, ties in item order."""
        return [top.positions for top in self.top_scored(scores, blocked, k)]

    def top_scored(
        self, scores: Rows, blocked: Sequence[Iterable[str]], k: int, calibration: Calibration | None = None
    ) -> list[Top]:
        """`top` with the rounded scores of the items, and their probabilities."""
        masked = scores.copy()
        masked[:, self._withdrawn] = -np.inf
        order, counts = _masked_order(masked, positions_of(blocked, self._positions), k)
        values = np.take_along_axis(scores, order, axis=1).astype(np.float64)
        columns = [order.tolist(), np.round(values, SCORE_DIGITS).tolist()]
        if calibration is not None:
            columns.append(np.round(calibration.probabilities(values), SCORE_DIGITS).tolist())
        return [Top(*(row[:count] for row in rows)) for count, *rows in zip(counts, *columns, strict=True)]

    def new_positions(self) -> list[int]:
        """Positions of the new items that are on offer."""
        withdrawn = set(self._withdrawn)
        return [position for item, position in self._positions.items() if item in self._new and position not in withdrawn]

    def fill(self, blocked: AbstractSet[str], count: int) -> list[str]:
        """Up to `count` items that the ranker does not know and that may be offered, in catalogue order."""
        if count <= 0:
            return []
        if self._unranked is None:
            offered = self._catalogue.offered_at(self._moment_ms)
            self._unranked = [item for item in offered if item not in self._positions]
        if not self._unranked:
            return []
        return list(islice((item for item in self._unranked if item not in blocked), count))


def top_of(scores: Rows, positions: list[int], calibration: Calibration | None) -> Top:
    """What a list says of items that were chosen otherwise; `scores` are those of one user, (items,)."""
    values = scores[positions].astype(np.float64)
    probabilities = None if calibration is None else np.round(calibration.probabilities(values), SCORE_DIGITS).tolist()
    return Top(positions, np.round(values, SCORE_DIGITS).tolist(), probabilities)


def positions_of(blocked: Sequence[Iterable[str]], positions: Mapping[str, int]) -> list[list[int]]:
    """The positions of each row's items; unknown items are left out."""
    return [[positions[item] for item in items if item in positions] for items in blocked]


def masked_top_k(scores: Rows, masked: Sequence[Sequence[int]], k: int) -> list[list[int]]:
    """Per row of scores (n, items): the positions of the best k that are neither masked nor -inf, ties in item order.

    Overwrites the masked scores with -inf.
    """
    order, counts = _masked_order(scores, masked, k)
    return [row[:count] for row, count in zip(order.tolist(), counts, strict=True)]


def _masked_order(scores: Rows, masked: Sequence[Sequence[int]], k: int) -> tuple[NDArray[np.intp], list[int]]:
    """Positions of the best k of each row, (n, k), and how many of them are neither masked nor -inf."""
    rows = [row for row, positions in enumerate(masked) for _ in positions]
    if rows:
        scores[rows, [position for positions in masked for position in positions]] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    counts: list[int] = np.isfinite(np.take_along_axis(scores, order, axis=1)).sum(axis=1).tolist()
    return order, counts
