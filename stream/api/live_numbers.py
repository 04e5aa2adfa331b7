"""What the live page says of the whole: quality, lag, dead letters and swaps, from the metrics that workers and encoders publish.

The numbers are those of the operator's dashboards; nothing is counted a second time here.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
from prometheus_client.metrics_core import Metric

_PREFIX: Final = "isthmus_"
_TOTAL: Final = "_total"
_JUDGED: Final = ("purchases", "hits", "popularity_hits")
POPULAR: Final = "popular"


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


def numbers_of(processes: Iterable[Iterable[Metric]], names: Mapping[str, str], asked: int) -> Numbers:
    """Sums the metrics of processes. `names` are the systems of model versions, as far as they are known."""
    judged: dict[str, Counter[str]] = {name: Counter() for name in _JUDGED}
    lag: Counter[str] = Counter()
    dead_letters: Counter[str] = Counter()
    swaps = answered = 0
    for families in processes:
        answered += 1
        for family in families:
            name = family.name.removeprefix(_PREFIX)
            for sample in family.samples:
                labels, value = sample.labels, int(sample.value)
                if name in judged and sample.name.endswith(_TOTAL) and _is_judged(labels, names):
                    judged[name][labels["model_version"]] += value
                elif name in {"end_offset", "committed_offset"}:
                    lag[labels["topic"]] += value if name == "end_offset" else -value
                elif name == "dead_letters" and sample.name.endswith(_TOTAL):
                    dead_letters[labels["reason"]] += value
                elif name == "model_swaps" and sample.name.endswith(_TOTAL):
                    swaps = max(swaps, value)
    quality = [
        Quality(
            version=version,
            name=names.get(version, ""),
            purchases=count,
            hits=judged["hits"][version],
            popularity_hits=judged["popularity_hits"][version],
        )
        for version, count in sorted(judged["purchases"].items(), key=lambda entry: (len(entry[0]), entry[0]))
        if count
    ]
    return Numbers(
        quality=tuple(quality),
        lag={topic: max(0, records) for topic, records in sorted(lag.items())},
        dead_letters={reason: count for reason, count in dead_letters.most_common() if count},
        swaps=swaps,
        asked=asked,
        answered=answered,
    )


def _is_judged(labels: Mapping[str, str], names: Mapping[str, str]) -> bool:
    """Whether the list was ranked by its model: a fallback is not the model's work, unless the model is popularity."""
    return labels["fallback"] == ("popularity" if names.get(labels["model_version"]) == POPULAR else "none")
