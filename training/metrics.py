"""HR@3 and MAP@3 with the post filter, as the paper's authors compute them.

AP@3 of a purchase event: the sum over ranks 1 to 3 of (precision at the rank, if the item there was bought), divided by the
smaller of 3 and the items bought. HR@3: whether any of the first three was bought.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.popular import Popular, prior_of
from stream.core.interactions import readable_interactions
from stream.core.outputs import TrainingExample
from stream.core.ranking import Ranker, masked_top_k, positions_of

K: Final = 3
_CHUNK: Final = 1_000
Scores = NDArray[np.float64]


class Evaluation(NamedTuple):
    """Per purchase event, (n,) each: its type, the hit at 3 and the average precision at 3."""

    types: NDArray[np.str_]
    hits: Scores
    average_precisions: Scores


class Row(NamedTuple):
    """One row of a results table."""

    event_type: str
    events: int
    hr3: float
    map3: float


def evaluate(ranker: Ranker, examples: Sequence[TrainingExample]) -> Evaluation:
    """Ranks for each example what its user could be offered, and judges the first three."""
    hits, precisions = np.zeros(len(examples)), np.zeros(len(examples))
    positions = {item: position for position, item in enumerate(ranker.items)}
    for start in range(0, len(examples), _CHUNK):
        chunk = examples[start : start + _CHUNK]
        histories = [readable_interactions(example.interactions, ranker.text_model) for example in chunk]
        scores = ranker.rank_many(ranker.encode_many(histories)).copy()
        excluded = positions_of([example.excluded for example in chunk], positions)
        for row, top in enumerate(masked_top_k(scores, excluded, K)):
            ranked = [ranker.items[position] for position in top]
            hits[start + row], precisions[start + row] = evaluate_one(ranked, set(chunk[row].items))
    return Evaluation(np.array([example.type for example in examples], dtype=np.str_), hits, precisions)


def evaluate_one(ranked: Sequence[str], bought: set[str]) -> tuple[float, float]:
    """(hit, AP) at 3 of one list.

    >>> evaluate_one(["a", "b", "c"], {"a", "c"})
    (1.0, 0.8333333333333333)
    """
    found, total = 0, 0.0
    for rank, item in enumerate(ranked[:K], start=1):
        if item in bought:
            found += 1
            total += found / rank
    return float(found > 0), total / min(K, len(bought))


def table(judged: Evaluation) -> list[Row]:
    """By event type, and the union."""
    rows = []
    for kind in ("conversation", "session", "both", "union"):
        chosen = np.ones(len(judged.types), dtype=bool) if kind == "union" else judged.types == kind
        count = int(chosen.sum())
        hr3, map3 = (float(judged.hits[chosen].mean()), float(judged.average_precisions[chosen].mean())) if count else (0.0, 0.0)
        rows.append(Row(kind, count, hr3, map3))
    return rows


def popular_of(
    examples: Sequence[TrainingExample], items: Sequence[str], version: str = "0", fingerprint: str = "popular"
) -> Popular:
    """Popularity among the examples' purchases; ties by item order."""
    return Popular(version, fingerprint, tuple(items), prior_of((example.items for example in examples), items))
