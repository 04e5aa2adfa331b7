"""From a model's scores to probabilities that mean what they say, by two numbers that were fitted after training."""

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

_LEAST: Final = 1e-6
_FURTHEST: Final = 30.0  # log odds: beyond, a probability is 0 or 1


class Calibration(msgspec.Struct, frozen=True, gc=False):
    """Platt scaling (Platt 1999): sigmoid(slope x logit(score) + intercept). It keeps the order of scores.

    The probability is that the item is in the user's next purchase event, given that there is one and that the item may be offered.

    Attributes:
        slope: Above 0; below 1 if the scores are too sure.
        intercept: Above 0 if the scores are too low.
    """

    slope: float
    intercept: float

    def probabilities(self, scores: NDArray[np.floating]) -> NDArray[np.floating]:
        """Probabilities of scores in [0, 1], of the same shape."""
        odds = np.clip(self.slope * logits(scores) + self.intercept, -_FURTHEST, _FURTHEST)
        found: NDArray[np.floating] = 1 / (1 + np.exp(-odds))
        return found


def logits(scores: NDArray[np.floating]) -> NDArray[np.floating]:
    """Log odds; scores of 0 and 1 count as a millionth more and less, so that they have some."""
    bounded = np.clip(scores, _LEAST, 1 - _LEAST)
    found: NDArray[np.floating] = np.log(bounded / (1 - bounded))
    return found
