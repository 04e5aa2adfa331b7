"""HR@3 and MAP@3 with the post filter, as the paper's authors compute them.

AP@3 of a purchase event: the sum over ranks 1 to 3 of the precision at each rank whose item was bought, divided by the smaller of 3
and the number of items bought. HR@3: whether any of the first three was bought.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.popular import Popular, prior_of
from stream.core.examples import holdings_of
from stream.core.outputs import TrainingExample
from stream.core.ranking import Ranker, Rows, masked_top_k, positions_of, readable_by, score_rows

K: Final = 3
_CHUNK: Final = 1_000


class Evaluation(NamedTuple):
    """A ranker's results per purchase event.

    Attributes:
        types: (n,) the events' types.
        hits: (n,) the hit at 3, 0 or 1.
        average_precisions: (n,) the average precision at 3.
    """

    types: NDArray[np.str_]
    hits: NDArray[np.float64]
    average_precisions: NDArray[np.float64]


class EventTypeMetrics(NamedTuple):
    """The metrics of the events of one type, or of all ("union")."""

    event_type: str
    events: int
    hr3: float
    map3: float


def evaluate(ranker: Ranker, examples: Sequence[TrainingExample]) -> Evaluation:
    """Ranks what each example's user could be offered, and compares the first three with what was bought."""
    hits, precisions = np.zeros(len(examples)), np.zeros(len(examples))
    for start in range(0, len(examples), _CHUNK):
        chunk = examples[start : start + _CHUNK]
        scores, offered = offered_scores(ranker, chunk)
        scores[~offered] = -np.inf
        for row, top in enumerate(masked_top_k(scores, [[]] * len(chunk), K)):
            ranked = [ranker.items[position] for position in top]
            hits[start + row], precisions[start + row] = evaluate_one(ranked, set(chunk[row].items))
    return Evaluation(np.array([example.type for example in examples], dtype=np.str_), hits, precisions)


def offered_scores(ranker: Ranker, examples: Sequence[TrainingExample]) -> tuple[Rows, NDArray[np.bool_]]:
    """Returns the scores of all items, (n, items), and which of them each example's user could be offered."""
    histories = [readable_by(ranker, example.interactions) for example in examples]
    scores = score_rows(ranker, ranker.encode_many(histories), map(holdings_of, examples)).copy()
    offered = np.ones(scores.shape, dtype=bool)
    positions = {item: position for position, item in enumerate(ranker.items)}
    for row, excluded in enumerate(positions_of([example.excluded for example in examples], positions)):
        offered[row, excluded] = False
    return scores, offered


def evaluate_one(ranked: Sequence[str], bought: set[str]) -> tuple[float, float]:
    """Returns (hit, AP) at 3 of one list.

    >>> evaluate_one(["a", "b", "c"], {"a", "c"})
    (1.0, 0.8333333333333333)
    """
    hits, total = 0, 0.0
    for rank, item in enumerate(ranked[:K], start=1):
        if item in bought:
            hits += 1
            total += hits / rank
    return float(hits > 0), total / min(K, len(bought))


def metrics_by_type(evaluation: Evaluation) -> list[EventTypeMetrics]:
    """Returns the metrics by event type, the union last."""
    metrics = []
    for kind in ("conversation", "session", "both", "union"):
        chosen = np.ones(len(evaluation.types), dtype=bool) if kind == "union" else evaluation.types == kind
        count = int(chosen.sum())
        hr3 = float(evaluation.hits[chosen].mean()) if count else 0.0
        map3 = float(evaluation.average_precisions[chosen].mean()) if count else 0.0
        metrics.append(EventTypeMetrics(kind, count, hr3, map3))
    return metrics


def popular_ranker(
    examples: Sequence[TrainingExample], items: Sequence[str], version: str = "0", fingerprint: str = "popular"
) -> Popular:
    """Returns the ranker by popularity among the examples' purchases; ties keep the items' order."""
    return Popular(version, fingerprint, tuple(items), prior_of((example.items for example in examples), items))
