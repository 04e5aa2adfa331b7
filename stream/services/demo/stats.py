"""What the demo has seen so far, from the parts' metrics and output topics. The view shows it; the summary is written from it."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import psutil

from stream.core.outputs import ModelName

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prometheus_client.metrics_core import Metric

LATEST = 6
RECENT = 400


class _MadeBy(msgspec.Struct):
    """The part of a recommendation that names its model."""

    model: ModelName


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `--summary FILE`. Times are in seconds since the start; None: it did not happen."""

    events: int
    recommendations: int
    dead_letters: int
    planted_dead_letters: int
    first_recommendation_s: float | None
    trained_model_s: float | None
    swaps: int
    hit_rate_3: dict[str, float]
    peak_rss_bytes: dict[str, int]


@dataclass
class DemoStats:
    """The counts of one demo."""

    started: float = field(default_factory=time.monotonic)
    sent: int = 0
    planted: int = 0
    metrics_at: str = ""
    model: str = "none yet"
    published_at: float = 0.0
    swaps: int = 0
    recommendations: int = 0
    dead_letters: int = 0
    first_recommendation_s: float | None = None
    trained_model_s: float | None = None
    latest: deque[bytes] = field(default_factory=lambda: deque(maxlen=LATEST))
    recent: deque[bytes] = field(default_factory=lambda: deque(maxlen=RECENT))
    news: deque[str] = field(default_factory=lambda: deque(maxlen=4))
    names: dict[str, str] = field(default_factory=dict)
    purchases: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    popularity_hits: Counter[str] = field(default_factory=Counter)
    peak_rss: dict[str, int] = field(default_factory=dict)

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started

    def saw_recommendations(self, values: Iterable[bytes | None]) -> None:
        for value in values:
            if value:
                self.recommendations += 1
                self.latest.append(value)
                self.recent.append(value)
        if self.recommendations and self.first_recommendation_s is None:
            self.first_recommendation_s = round(self.elapsed_s, 2)

    def read(self, workers: list[Iterable[Metric]]) -> None:
        """Updates the counts from the workers' metrics."""
        counters: dict[str, Counter[str]] = {"purchases": Counter(), "hits": Counter(), "popularity_hits": Counter()}
        swaps = [0]
        for families in workers:
            for family in families:
                name = family.name.removeprefix("isthmus_")
                for sample in family.samples:
                    if name in counters and sample.name.endswith("_total") and self._is_judged(sample.labels):
                        counters[name][sample.labels["model_version"]] += int(sample.value)
                    elif name == "model_swaps" and sample.name.endswith("_total"):
                        swaps.append(int(sample.value))
                    elif name == "model_info" and sample.value:
                        self._serves(sample.labels["name"], sample.labels["version"])
                    elif name == "model_published_timestamp_seconds":
                        self.published_at = max(self.published_at, sample.value)
        for value in self.latest:
            made_by = msgspec.json.decode(value, type=_MadeBy).model
            self.names[made_by.version] = made_by.name
        self.purchases, self.hits, self.popularity_hits = counters["purchases"], counters["hits"], counters["popularity_hits"]
        self.swaps = max(self.swaps, *swaps)

    def _is_judged(self, labels: Mapping[str, str]) -> bool:
        """Whether a purchase's list was ranked by its model: a fallback is not the model's work, unless the model is popularity."""
        is_popular = self.names.get(labels["model_version"]) == "popular"
        return labels["fallback"] == ("popularity" if is_popular else "none")

    def _serves(self, name: str, version: str) -> None:
        self.names[version] = name
        self.model = f"{name} version {version}"
        if name != "popular" and self.trained_model_s is None:
            self.trained_model_s = round(self.elapsed_s, 2)

    def hit_rates(self) -> dict[str, float]:
        """HR@3 by model. `popularity` is measured on the same purchases as the trained models, with the same post filter."""
        bought: Counter[str] = Counter()
        hit: Counter[str] = Counter()
        popular, trained = 0, 0
        for version, count in self.purchases.items():
            name = self.names.get(version, f"version {version}")
            bought[name] += count
            hit[name] += self.hits[version]
            if name != "popular":
                popular += self.popularity_hits[version]
                trained += count
        rates = {name: round(hit[name] / count, 4) for name, count in bought.items() if count}
        return rates | ({"popularity": round(popular / trained, 4)} if trained else {})

    def weigh(self, pids: dict[str, int]) -> None:
        """Keeps the highest resident memory of each process."""
        for name, pid in pids.items():
            try:
                rss = psutil.Process(pid).memory_info().rss
            except psutil.NoSuchProcess:
                continue
            self.peak_rss[name] = max(self.peak_rss.get(name, 0), rss)

    def summary(self) -> Summary:
        return Summary(
            events=self.sent,
            recommendations=self.recommendations,
            dead_letters=self.dead_letters,
            planted_dead_letters=self.planted,
            first_recommendation_s=self.first_recommendation_s,
            trained_model_s=self.trained_model_s,
            swaps=self.swaps,
            hit_rate_3=self.hit_rates(),
            peak_rss_bytes=self.peak_rss,
        )
