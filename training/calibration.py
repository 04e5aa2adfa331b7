"""Fits and judges the probabilities of a trained model (`stream.core.calibration`).

Fitted and judged are pairs of a purchase event and an item that its user could be offered; the item was bought or it was not.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.reliability import Reliability, ReliabilityBin
from stream.core.calibration import Calibration, logits
from stream.core.outputs import TrainingExample
from stream.core.ranking import Ranker, calibration_of, masked_top_k, readable_by
from training.metrics import K, offered_scores

BINS: Final = 10
_ROUNDS: Final = 50
_CLOSE: Final = 1e-8
_LEAST_BOUGHT: Final = 10
_RIDGE: Final = 1e-9

Values = NDArray[np.float64]


class Pairs(NamedTuple):
    """n pairs of event and item.

    Attributes:
        scores: (n,) the model's.
        bought: (n,) whether the event bought the item.
        listed: (n,) whether the item is among the first three of the event's list.
    """

    scores: Values
    bought: NDArray[np.bool_]
    listed: NDArray[np.bool_]


def pairs_of(ranker: Ranker, examples: Sequence[TrainingExample]) -> Pairs:
    """Returns the pairs of those examples of which the ranker reads something: of others, popularity ranks."""
    readable = [example for example in examples if readable_by(ranker, example.interactions)]
    scores, offered = offered_scores(ranker, readable)
    bought, listed = np.zeros(scores.shape, dtype=bool), np.zeros(scores.shape, dtype=bool)
    columns = {item: column for column, item in enumerate(ranker.items)}
    for row, example in enumerate(readable):
        bought[row, [columns[item] for item in example.items if item in columns]] = True
    for row, top in enumerate(masked_top_k(np.where(offered, scores, -np.inf).astype(np.float32), [[]] * len(readable), K)):
        listed[row, top] = True
    return Pairs(scores[offered].astype(np.float64), bought[offered], listed[offered])


def fit_calibration(pairs: Pairs) -> Calibration | None:
    """Returns the calibration of least cross-entropy; None where too little was bought to tell, or where higher scores mean fewer
    purchases.

    `pairs` must be of events that the ranker did not learn from: of others, its scores are too sure. Targets are Platt's: one
    more pair of each kind than there is, so that there is a minimum however well the scores separate what was bought.
    """
    bought = int(pairs.bought.sum())
    others = len(pairs.bought) - bought
    if bought < _LEAST_BOUGHT or others < _LEAST_BOUGHT:
        return None
    targets = np.where(pairs.bought, (bought + 1) / (bought + 2), 1 / (others + 2))
    slope, intercept = _newton(np.stack([logits(pairs.scores), np.ones(len(pairs.scores))]), targets).tolist()
    return Calibration(slope, intercept) if slope > 0 else None


def _newton(inputs: Values, targets: Values) -> Values:
    """Returns the weights (2,) of a logistic regression on inputs (2, n), by Newton's method with halved steps."""
    weights = np.array([1.0, 0.0])
    loss = _cross_entropy(weights @ inputs, targets)
    for _ in range(_ROUNDS):
        found = 1 / (1 + np.exp(-(weights @ inputs)))
        curvature = (inputs * (found * (1 - found))) @ inputs.T + _RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, inputs @ (found - targets))
        while (after := _cross_entropy((weights - step) @ inputs, targets)) > loss and np.abs(step).max() > _CLOSE:
            step /= 2
        if np.abs(step).max() <= _CLOSE:
            break
        weights, loss = weights - step, after
    return weights


def _cross_entropy(odds: Values, targets: Values) -> float:
    return float((np.logaddexp(0, odds) - targets * odds).mean())


def reliability(ranker: Ranker, examples: Sequence[TrainingExample]) -> Reliability | None:
    """Returns the reliability of what lists say of their first three items; None without a calibration or anything to judge."""
    calibration = calibration_of(ranker)
    pairs = pairs_of(ranker, examples) if calibration is not None else None
    if calibration is None or pairs is None or not pairs.listed.any():
        return None
    return reliability_of(calibration.probabilities(pairs.scores[pairs.listed]).astype(np.float64), pairs.bought[pairs.listed])


def reliability_of(probabilities: Values, bought: NDArray[np.bool_], bins: int = BINS) -> Reliability:
    """Returns the reliability of probabilities (n,), in bins of equal size.

    >>> reliability_of(np.array([0.2] * 5 + [0.9] * 5), np.array([True] + [False] * 4 + [True] * 5), bins=2).error
    0.05
    """
    order = np.argsort(probabilities, kind="stable")
    curve = [
        ReliabilityBin(round(float(probabilities[part].mean()), 6), round(float(bought[part].mean()), 6), len(part))
        for part in np.array_split(order, min(bins, len(order)))
    ]
    error = sum(one.pairs * abs(one.predicted - one.bought) for one in curve) / len(order)
    return Reliability(round(error, 6), tuple(curve))
