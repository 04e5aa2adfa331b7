"""What every fold of an event needs beside its user."""

from collections import Counter
from dataclasses import dataclass, field

from stream.core.live_hit_rate import ExposureLabels
from stream.core.outputs import Count
from stream.core.ranking import Catalogue, Ranker


@dataclass(frozen=True, slots=True)
class FoldContext:
    """What folding needs beside the user.

    Attributes:
        catalogue: The items that exist.
        ranker: The served model; None before the first.
        gap_ms: A session ends after this long without a click.
        counts: Counters of the batch's outcome, incremented in place.
        is_redelivery: Whether the batch may be a redelivery, so that the newest example in the topic may not be the state's.
        labels: What is declared of feedback.
    """

    catalogue: Catalogue
    ranker: Ranker | None
    gap_ms: int
    counts: Counter[Count]
    is_redelivery: bool = False
    labels: ExposureLabels = field(default_factory=ExposureLabels)
