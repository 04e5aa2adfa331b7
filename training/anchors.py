"""The choice of anchors for Relative Representation:

purchase events with one interaction of each modality, spread over the items.
"""

import numpy as np

from models.vocabulary import Indices
from training.example_arrays import Examples


def anchor_events(examples: Examples, count: int, rng: np.random.Generator) -> Indices:
    """Returns at most `count` events with exactly one conversation and one session, in order of time.

    Each item gets its share of all purchases, at least one. An event with several items counts for the rarest of them.
    """
    labels = examples.labels.numpy()
    sold = labels.sum(axis=0)
    quotas = np.where(sold > 0, np.maximum(np.round(sold / max(sold.sum(), 1) * count), 1), 0).astype(np.int64)
    while quotas.sum() > count:  # rounding and the minimum of one can exceed the count
        quotas[quotas.argmax()] -= 1
    suitable = ((examples.types == "both") & (examples.lengths == 2) & labels.any(axis=1)).nonzero()[0]
    rarest = np.where(labels[suitable] > 0, sold, np.inf).argmin(axis=1)
    chosen = [rng.permutation(suitable[rarest == item])[:quota] for item, quota in enumerate(quotas)]
    return np.sort(np.concatenate(chosen))
