"""The gate: which trained model may become champion.

On events after the last one that either model was trained on, a paired bootstrap of the difference in AP@3. The same
configuration on fresher data must be no worse than the champion within a margin; a new configuration must be better; both must
beat Popular.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES: Final = 2_000
ALPHA: Final = 0.05

Scores = NDArray[np.float64]


class Verdict(NamedTuple):
    """Whether a candidate is promoted, and why, in words with the numbers."""

    promoted: bool
    reason: str


class BootstrapInterval(NamedTuple):
    """A mean difference with its one-sided 95 % bounds."""

    mean: float
    low: float
    high: float


def bootstrap(candidate: Scores, other: Scores, rng: np.random.Generator) -> BootstrapInterval:
    """Candidate less other, paired by event: (n,), (n,)."""
    differences = candidate - other
    count = len(differences)
    means = np.array([differences[rng.integers(count, size=count)].mean() for _ in range(RESAMPLES)])  # one at a time: O(n) memory
    low, high = np.quantile(means, [ALPHA, 1 - ALPHA])
    return BootstrapInterval(float(differences.mean()), float(low), float(high))


def too_few(judged: int, min_judged: int, *, grows: bool = True) -> Verdict | None:
    """The refusal where there are not enough fresh events to judge by; known before anything is trained. Waiting helps where what
    the examples come from `grows`.
    """
    if judged >= min_judged:
        return None
    advice = f"wait for {min_judged - judged} more" if grows else "bring newer ones, or be content with fewer: --min-judged"
    return Verdict(False, f"only {judged} fresh purchase events to judge by; {min_judged} are needed: {advice}")


def decide(  # noqa: PLR0911  (one return per verdict)
    candidate: Scores,
    champion: Scores | None,
    popular: Scores,
    *,
    same_configuration: bool,
    margin: float,
    min_judged: int,
    rng: np.random.Generator,
) -> Verdict:
    """The verdict on AP@3 per fresh purchase event, (n,) each; `champion` is None where there is none yet."""
    if (refusal := too_few(len(candidate), min_judged)) is not None:
        return refusal
    against = bootstrap(candidate, popular, rng)
    if against.low <= 0:
        return Verdict(
            False, f"not better than Popular on {len(candidate)} fresh events: MAP@3 {_told(candidate, popular, against)}"
        )
    if champion is None:
        return Verdict(True, f"better than Popular on {len(candidate)} fresh events: MAP@3 {_told(candidate, popular, against)}")
    difference = bootstrap(candidate, champion, rng)
    told = f"on {len(candidate)} fresh events: MAP@3 {_told(candidate, champion, difference)}"
    if same_configuration:
        if difference.low < -margin:
            return Verdict(False, f"may be worse than the champion by more than the margin {margin} {told}")
        return Verdict(True, f"no worse than the champion within the margin {margin} {told}")
    if difference.low <= 0:
        return Verdict(False, f"a new configuration, and not better than the champion {told}")
    return Verdict(True, f"a new configuration, better than the champion {told}")


def _told(candidate: Scores, other: Scores, difference: BootstrapInterval) -> str:
    low, high = difference.low, difference.high
    means = f"{candidate.mean():.4f} against {other.mean():.4f}"
    return f"{means} (difference {difference.mean:+.4f}, 90 % interval {low:+.4f} to {high:+.4f})"
