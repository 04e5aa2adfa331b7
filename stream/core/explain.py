"""Which interactions a list rests on: the reasons that `step.explain` adds to each item."""

from collections.abc import Sequence
from typing import Final

from stream.core import limits
from stream.core.interactions import Interaction
from stream.core.outputs import Reasoning
from stream.core.ranking import SCORE_DIGITS, Holdings, Ranker, Rows, readable_by, score_rows
from stream.core.user_state import UserState

REASONS: Final = 3


def reasons_for(user: UserState, ranker: Ranker, positions: Sequence[int]) -> list[tuple[Reasoning, ...]]:
    """The reasons for each of the ranker's items at `positions`: at most three interactions that speak for it, the strongest first.

    Encodes up to 22 histories, whatever the number of items.
    """
    window = readable_by(ranker, user.load_interactions()[-limits.WINDOW :])
    scores = coalition_scores(window, ranker, Holdings(user.head.owned, user.head.excluded))
    return [_reasons(window, scores[:, position]) for position in positions]


def coalition_scores(window: Sequence[Interaction], ranker: Ranker, holdings: Holdings | None) -> Rows:
    """Scores, (2 n + 2, items), of these parts of n interactions: all, none, all but each one, each one alone."""
    alone = [[one] for one in window]
    without = [[*window[:index], *window[index + 1 :]] for index in range(len(window))]
    histories = [[*window], [], *without, *alone]
    return score_rows(ranker, ranker.encode_many(histories), [holdings] * len(histories))


def contributions(scores: Rows) -> Rows:
    """What each of n interactions adds to a score, (n,), from the scores of `coalition_scores`, (2 n + 2,).

    The mean of what it adds to all others and of what it adds to nothing: the first and the last term of its Shapley value
    (Shapley 1953). By the first alone, of two interactions that say the same neither would count.
    """
    everything, nothing = scores[0], scores[1]
    without, alone = scores[2:].reshape(2, -1)
    added: Rows = (everything - without + alone - nothing) / 2
    return added


def strongest(scores: Rows) -> list[int]:
    """The positions of at most three interactions that speak for an item, the strongest first, from the scores of
    `coalition_scores`, (2 n + 2,).
    """
    added = contributions(scores).tolist()
    return sorted((index for index, one in enumerate(added) if one > 0), key=lambda index: -added[index])[:REASONS]


def _reasons(window: Sequence[Interaction], scores: Rows) -> tuple[Reasoning, ...]:
    everything, _, *parts = [round(float(score), SCORE_DIGITS) for score in scores]
    without, alone = parts[: len(window)], parts[len(window) :]
    return tuple(
        Reasoning(window[index].modality, window[index].started_at, everything, without[index], alone[index])
        for index in strongest(scores)
    )
