"""Are the named reasons true? How the first item's score falls when the interactions that its reasons name are deleted.

The more faithful the reasons, the lower the area under that curve (Samek and others 2017). Histories in which an interaction is
repeated are judged apart: there, without either one of the two, nothing changes.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.core.examples import holdings_of
from stream.core.explain import REASONS, coalition_scores, strongest
from stream.core.interactions import Interaction
from stream.core.limits import WINDOW
from stream.core.outputs import TrainingExample
from stream.core.ranking import Holdings, Ranker, masked_top_k, positions_of, readable_by, score_rows

EVENTS: Final = 200
"""At most so many purchase events are judged, the first of the test part."""
LEAST: Final = 3
"""Only histories of so many interactions and more: of two, one deletion in two is right by chance."""
ORDERS: Final = 8
"""Random orders for each event."""

InMind = Mapping[str, Sequence[str | None]]
"""Purchase event -> the item that its user had in mind in each interaction, the oldest first; None: no item."""


class Faithfulness(msgspec.Struct, frozen=True):
    """Curves are the first item's score after the first, second and third deletion, as a share of the score before; means.

    Attributes:
        events: how many were judged.
        named: the curve of the interactions that the reasons name, the strongest first.
        random: the curve of as many in random order.
        repeated_named: as `named`, of the same histories with one interaction, drawn at random, in them twice.
        repeated_random: as `random`, likewise.
        planted: how many events had an interaction in which the user had the first item in mind, and another without; 0 for data
            that does not tell.
        found: share of these whose strongest reason is such an interaction.
        found_by_chance: share of such interactions in these histories.
    """

    events: int
    named: tuple[float, ...]
    random: tuple[float, ...]
    repeated_named: tuple[float, ...]
    repeated_random: tuple[float, ...]
    planted: int = 0
    found: float = 0.0
    found_by_chance: float = 0.0


class _Explained(NamedTuple):
    """The first item of a list and its reasons: positions of interactions, the strongest first."""

    item: int
    score: float
    named: list[int]


def faithfulness(ranker: Ranker, examples: Sequence[TrainingExample], in_mind: InMind | None = None) -> Faithfulness | None:
    """Returns the faithfulness of the reasons on the first `EVENTS` examples whose history is long enough; None without any."""
    rng = np.random.default_rng(0)
    as_they_are, repeated = _Curves(ranker, rng), _Curves(ranker, rng)
    found: list[tuple[bool, float]] = []
    for example in examples:
        window = readable_by(ranker, example.interactions)
        if len(window) < LEAST:
            continue
        explained = as_they_are.add(example, window)
        repeated.add(example, _with_repetition(window, rng))
        planted = _planted(example, window, ranker.items[explained.item], in_mind or {})
        if 0 < len(planted) < len(window):
            found.append((explained.named[:1] != [] and explained.named[0] in planted, len(planted) / len(window)))
        if len(as_they_are.of_named) == EVENTS:
            break
    if not as_they_are.of_named:
        return None
    return Faithfulness(
        events=len(as_they_are.of_named),
        named=_mean(as_they_are.of_named),
        random=_mean(as_they_are.of_random),
        repeated_named=_mean(repeated.of_named),
        repeated_random=_mean(repeated.of_random),
        planted=len(found),
        found=float(np.mean([right for right, _ in found])) if found else 0.0,
        found_by_chance=float(np.mean([chance for _, chance in found])) if found else 0.0,
    )


class _Curves:
    """The curves of the histories that were added: relative scores after each deletion."""

    def __init__(self, ranker: Ranker, rng: np.random.Generator) -> None:
        self._ranker, self._rng = ranker, rng
        self._positions = {item: position for position, item in enumerate(ranker.items)}
        self.of_named: list[NDArray[np.float64]] = []
        self.of_random: list[NDArray[np.float64]] = []

    def add(self, example: TrainingExample, window: Sequence[Interaction]) -> _Explained:
        """Adds the curves of one history, and returns what they are about."""
        holdings = holdings_of(example)
        scores = coalition_scores(window, self._ranker, holdings)
        excluded = positions_of([example.excluded], self._positions)
        first = masked_top_k(scores[:1].copy(), excluded, 1)[0]
        item = first[0] if first else 0
        explained = _Explained(item, float(scores[0, item]), strongest(scores[:, item]))
        named = len(explained.named)
        orders = [explained.named, *(self._rng.permutation(len(window))[:named].tolist() for _ in range(ORDERS))]
        curves = self._curves(explained, window, orders, holdings)
        self.of_named.append(curves[0])
        self.of_random.append(curves[1:].mean(axis=0))
        return explained

    def _curves(
        self, explained: _Explained, window: Sequence[Interaction], orders: Sequence[Sequence[int]], holdings: Holdings | None
    ) -> NDArray[np.float64]:
        """Returns a row for each order, (orders, REASONS). After the last named interaction a curve stays where it is."""
        deleted = [set(order[:count]) for order in orders for count in range(1, REASONS + 1)]
        histories = [[one for index, one in enumerate(window) if index not in gone] for gone in deleted]
        scores = score_rows(self._ranker, self._ranker.encode_many(histories), [holdings] * len(histories))[:, explained.item]
        shares: NDArray[np.float64] = scores.astype(np.float64).reshape(len(orders), REASONS) / max(explained.score, 1e-9)
        return shares


def _with_repetition(window: Sequence[Interaction], rng: np.random.Generator) -> list[Interaction]:
    repeated = window[int(rng.integers(len(window)))]
    at = window.index(repeated)
    return [*window[:at], repeated, *window[at:]][-WINDOW:]


def _planted(example: TrainingExample, window: Sequence[Interaction], item: str, in_mind: InMind) -> set[int]:
    """Returns the interactions in which the user had the item in mind; none where the data does not tell it of each."""
    minds = in_mind.get(example.purchase_id, ())[-WINDOW:]
    if len(minds) != len(window):
        return set()
    return {index for index, mind in enumerate(minds) if mind == item}


def _mean(curves: Sequence[NDArray[np.float64]]) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in np.mean(curves, axis=0))
