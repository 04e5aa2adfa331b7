"""How true a model's probabilities are: what its manifest tells of them."""

import msgspec


class ReliabilityBin(msgspec.Struct, frozen=True):
    """Listed items of about the same probability.

    Attributes:
        predicted: their mean probability.
        bought: the share of them that was bought.
        pairs: how many they are, as pairs of purchase event and item.
    """

    predicted: float
    bought: float
    pairs: int


class Reliability(msgspec.Struct, frozen=True):
    """The reliability curve of one model on events that it did not learn from.

    Attributes:
        error: expected calibration error (Naeini and others 2015): the mean of |predicted - bought|, weighted by pairs.
        bins: the curve, lowest first.
    """

    error: float
    bins: tuple[ReliabilityBin, ...]
