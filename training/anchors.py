"""The choice of anchors for Relative Representation: purchase events that show both modalities once, spread over the items."""

import numpy as np

from models.features import Places
from training.example_arrays import Examples


def anchor_events(examples: Examples, count: int, rng: np.random.Generator) -> Places:
    """At most `count` events with exactly one conversation and one session, in order of time: of each item as many as its share of
    all purchases, at least one. An event of several items stands for the rarest of them.
    """
    labels = examples.labels.numpy()
    sold = labels.sum(axis=0)
    wanted = np.where(sold > 0, np.maximum(np.round(sold / max(sold.sum(), 1) * count), 1), 0).astype(np.int64)
    while wanted.sum() > count:  # rounding and the least of one may ask for more
        wanted[wanted.argmax()] -= 1
    fitting = ((examples.types == "both") & (examples.lengths == 2) & labels.any(axis=1)).nonzero()[0]
    rarest = np.where(labels[fitting] > 0, sold, np.inf).argmin(axis=1)
    found = []
    for item, most in enumerate(wanted):
        own = fitting[rarest == item]
        found.append(rng.permutation(own)[:most])
    return np.sort(np.concatenate(found))
