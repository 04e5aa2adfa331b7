"""The gate: decides whether a trained model becomes champion.

It compares candidate and champion by a paired bootstrap of the difference in AP@3, on events later than all that either was
trained on. The same configuration on newer data must be no worse than the champion within a margin; a new configuration must be
better. Both must beat Popular.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES: Final = 2_000
ALPHA: Final = 0.05

Precisions = NDArray[np.float64]
"""AP@3 per purchase event, (n,)."""


class Verdict(NamedTuple):
    """Whether a candidate is promoted, and the reason with its numbers."""

    promoted: bool
    reason: str


class BootstrapInterval(NamedTuple):
    """A mean difference and its one-sided 95 % bounds."""

    mean: float
    low: float
    high: float


def bootstrap(candidate: Precisions, other: Precisions, rng: np.random.Generator) -> BootstrapInterval:
    """Returns the interval of candidate minus other, paired by event."""
    differences = candidate - other
    count = len(differences)
    means = np.array([differences[rng.integers(count, size=count)].mean() for _ in range(RESAMPLES)])  # one at a time: O(n) memory
    low, high = np.quantile(means, [ALPHA, 1 - ALPHA])
    return BootstrapInterval(float(differences.mean()), float(low), float(high))


def refuse_too_few(fresh: int, min_judged: int, *, grows: bool = True) -> Verdict | None:
    """Returns a refusal where there are not enough fresh events for a comparison; None where there are.

    The advice is to wait where the source of the examples `grows`.
    """
    if fresh >= min_judged:
        return None
    advice = f"wait for {min_judged - fresh} more" if grows else "add newer ones, or accept fewer with --min-judged"
    return Verdict(False, f"only {fresh} fresh purchase events to compare on; {min_judged} are needed: {advice}")


def decide(  # noqa: PLR0911  (one return per verdict)
    candidate: Precisions,
    champion: Precisions | None,
    popular: Precisions,
    *,
    same_configuration: bool,
    margin: float,
    min_judged: int,
    rng: np.random.Generator,
) -> Verdict:
    """Returns the verdict on AP@3 per fresh purchase event; `champion` is None before the first one."""
    if (refusal := refuse_too_few(len(candidate), min_judged)) is not None:
        return refusal
    from_popular = bootstrap(candidate, popular, rng)
    numbers = _describe(candidate, popular, from_popular)
    if from_popular.low <= 0:
        return Verdict(False, f"not better than Popular {numbers}")
    if champion is None:
        return Verdict(True, f"better than Popular {numbers}")
    difference = bootstrap(candidate, champion, rng)
    numbers = _describe(candidate, champion, difference)
    if same_configuration:
        if difference.low < -margin:
            return Verdict(False, f"may be worse than the champion by more than the margin {margin} {numbers}")
        return Verdict(True, f"no worse than the champion within the margin {margin} {numbers}")
    if difference.low <= 0:
        return Verdict(False, f"a new configuration, and not better than the champion {numbers}")
    return Verdict(True, f"a new configuration, better than the champion {numbers}")


def _describe(candidate: Precisions, other: Precisions, difference: BootstrapInterval) -> str:
    low, high = difference.low, difference.high
    means = f"MAP@3 {candidate.mean():.4f} against {other.mean():.4f}"
    return f"on {len(candidate)} fresh events: {means} (difference {difference.mean:+.4f}, 90 % interval {low:+.4f} to {high:+.4f})"
