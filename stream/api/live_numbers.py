"""What the live page says of the whole: quality, lag, dead letters and swaps, from the metrics that workers and encoders publish.

The numbers are those of the operator's dashboards; nothing is counted a second time here.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

_PREFIX: Final = "isthmus_"
_TOTAL: Final = "_total"
_JUDGED: Final = ("purchases", "hits", "popularity_hits")
_POPULAR: Final = "popular"


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """One model version judged by the purchases since it served.

    Attributes:
        version: The model version.
        name: Its system; "" where none of its lists was seen here.
        purchases: Purchases of users who had a list that it ranked.
        hits: Those with an item among the first three of that list.
        popularity_hits: Those with an item among the first three by popularity.
    """

    version: str
    name: str
    purchases: int
    hits: int
    popularity_hits: int


class Numbers(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the whole.

    Attributes:
        quality: By model version, oldest first.
        lag: Records that wait, by input topic.
        dead_letters: By reason.
        swaps: Model versions that began to be served, in the worker with most.
        asked: Processes that were asked.
        answered: Those that answered.
    """

    quality: tuple[Quality, ...]
    lag: dict[str, int]
    dead_letters: dict[str, int]
    swaps: int
    asked: int
    answered: int


class _Sums:
    """Sums over processes. `names` are the systems of model versions."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self.judged: dict[str, Counter[str]] = {name: Counter() for name in _JUDGED}
        self.lag: Counter[str] = Counter()
        self.dead_letters: Counter[str] = Counter()
        self.swaps = 0

    def add(self, name: str, sample: Sample) -> None:
        """Adds a sample of the metric `name`, which has no prefix."""
        labels, value = sample.labels, int(sample.value)
        if name in {"end_offset", "committed_offset"}:
            self.lag[labels["topic"]] += value if name == "end_offset" else -value
        elif not sample.name.endswith(_TOTAL):
            return
        elif name in self.judged and _is_judged(labels, self._names):
            self.judged[name][labels["model_version"]] += value
        elif name == "dead_letters":
            self.dead_letters[labels["reason"]] += value
        elif name == "model_swaps":
            self.swaps = max(self.swaps, value)

    def quality(self) -> tuple[Quality, ...]:
        purchases = sorted(self.judged["purchases"].items(), key=lambda entry: (len(entry[0]), entry[0]))
        return tuple(
            Quality(
                version=version,
                name=self._names.get(version, ""),
                purchases=count,
                hits=self.judged["hits"][version],
                popularity_hits=self.judged["popularity_hits"][version],
            )
            for version, count in purchases
            if count
        )


def numbers_of(processes: Sequence[Iterable[Metric]], names: Mapping[str, str], asked: int) -> Numbers:
    """Sums the metrics of those processes that answered. `names` are the systems of model versions, as far as they are known."""
    sums = _Sums(names)
    for families in processes:
        for family in families:
            for sample in family.samples:
                sums.add(family.name.removeprefix(_PREFIX), sample)
    return Numbers(
        quality=sums.quality(),
        lag={topic: max(0, records) for topic, records in sorted(sums.lag.items())},
        dead_letters={reason: count for reason, count in sums.dead_letters.most_common() if count},
        swaps=sums.swaps,
        asked=asked,
        answered=len(processes),
    )


def _is_judged(labels: Mapping[str, str], names: Mapping[str, str]) -> bool:
    """Whether the list was ranked by its model: a fallback is not the model's work, unless the model is popularity."""
    return labels["fallback"] == ("popularity" if names.get(labels["model_version"]) == _POPULAR else "none")
