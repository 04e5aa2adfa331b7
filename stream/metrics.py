"""Every Prometheus metric, declared once. The step's counts (`stream.core.outputs.Outcome.counts`) find their counter by name here.

Names begin with `isthmus_`. Rates are for the query to make, over all workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from threading import Thread
from typing import Final, NamedTuple
from wsgiref.simple_server import WSGIServer

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import HistogramMetricFamily, Metric


class Declared(NamedTuple):
    """One metric. A histogram `by_batch` takes whole batches of observations (`Ages`)."""

    kind: type[Counter | Gauge | Histogram]
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    by_batch: bool = False


_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_AGES: Final = (*_SECONDS, 3_600, 86_400, 604_800)
_COUNTS: Final = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000)
_JUDGED: Final = ("model_version", "type", "fallback")

DECLARED: Final[dict[str, Declared]] = {
    "events": Declared(Counter, "events in, by what became of them", ("source", "outcome")),
    "dead_letters": Declared(Counter, "events that could not be used", ("reason",)),
    "late": Declared(
        Counter, "events older than the newest of their user, within or beyond the allowed lateness", ("source", "extent")
    ),
    "recommendations": Declared(Counter, "lists sent, and suppressed because nothing had changed", ("outcome",)),
    "examples": Declared(Counter, "training examples: first, made again (revision), erased", ("kind",)),
    "purchases_without_interactions": Declared(Counter, "purchases that gave no example, for nothing came before them"),
    "beyond_bounds": Declared(Counter, "late events whose place had left the bounded state", ("kind",)),
    "foreign_text_model": Declared(Counter, "calls encoded by another text model than the served model's"),
    "epoch_changes": Declared(Counter, "users' first events of a recreated topic", ("source",)),
    "purchases": Declared(Counter, "purchases, by the list sent last before them (unserved: none)", _JUDGED),
    "hits": Declared(Counter, "purchases with an item among the list's first three", _JUDGED),
    "popularity_hits": Declared(
        Counter, "the same purchases with an item among popularity's first three, under the same filter", _JUDGED
    ),
    "batch_records": Declared(Histogram, "records of a batch", ("source",), _COUNTS),
    "stage_seconds": Declared(Histogram, "time of a batch in each stage", ("stage",), _SECONDS),
    "age_from_event_seconds": Declared(Histogram, "from event time to acknowledged recommendation", (), _AGES, by_batch=True),
    "age_from_broker_seconds": Declared(Histogram, "from broker time to acknowledged recommendation", (), _SECONDS, by_batch=True),
    "late_batches": Declared(
        Counter,
        "batches held for want of a heartbeat within the session timeout, dropped because their partition had gone, or fenced off",
        ("outcome",),
    ),
    "late_records": Declared(
        Counter, "changelog records left out at recovery, for a worker that had lost the partition wrote them"
    ),
    "users": Declared(Gauge, "users in this worker's state"),
    "committed_offset": Declared(Gauge, "committed offset", ("topic", "partition")),
    "end_offset": Declared(Gauge, "end offset; less the committed one: the lag", ("topic", "partition")),
    "model_info": Declared(Gauge, "1 for the served model version", ("name", "version")),
    "model_published_timestamp_seconds": Declared(Gauge, "when the served model was published; its age is time() less this"),
    "model_swaps": Declared(Counter, "model versions taken into service"),
    "model_refusals": Declared(Counter, "announced model versions that this worker refused", ("reason",)),
    "catalogue_items": Declared(Gauge, "items in the catalogue"),
    "encoder_transcripts": Declared(Counter, "transcripts in, by outcome", ("outcome",)),
    "encoder_sentences": Declared(Counter, "sentences encoded"),
    "encoder_seconds": Declared(Histogram, "time to encode a batch", (), _SECONDS),
}


class Ages:
    """A histogram that takes a whole batch at once: one observation each would cost more than folding an event."""

    def __init__(self, name: str, declared: Declared, registry: CollectorRegistry) -> None:
        self._name = name
        self._text = declared.text
        self._bounds = np.array(declared.buckets)
        self._counts = np.zeros(len(declared.buckets) + 1, dtype=np.int64)
        self._sum = 0.0
        registry.register(self)

    def observe_many(self, seconds: NDArray[np.float64]) -> None:
        places = np.searchsorted(self._bounds, seconds)
        self._counts += np.bincount(places, minlength=len(self._counts))
        self._sum += float(seconds.sum())

    def collect(self) -> Iterable[Metric]:
        names = [*(str(bound) for bound in self._bounds), "+Inf"]
        counts = np.cumsum(self._counts).tolist()
        yield HistogramMetricFamily(self._name, self._text, list(zip(names, counts, strict=True)), self._sum)


class Metrics:
    """The metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._all: dict[str, Counter | Gauge | Histogram] = {}
        self._ages: dict[str, Ages] = {}
        for name, declared in DECLARED.items():
            if declared.by_batch:
                self._ages[name] = Ages(f"isthmus_{name}", declared, self.registry)
                continue
            more = {"buckets": declared.buckets} if declared.buckets else {}
            self._all[name] = declared.kind(
                f"isthmus_{name}",
                declared.text,
                declared.labels,
                registry=self.registry,
                **more,  # type: ignore[arg-type]
            )

    def count(self, counts: Mapping[tuple[str, ...], int]) -> None:
        """Adds a step's counts to their counters."""
        for (name, *labels), by in counts.items():
            self.counter(name, *labels).inc(by)

    def counter(self, name: str, *labels: str) -> Counter:
        metric = self._all[name]
        assert isinstance(metric, Counter)
        return metric.labels(*labels) if labels else metric

    def gauge(self, name: str, *labels: str) -> Gauge:
        metric = self._all[name]
        assert isinstance(metric, Gauge)
        return metric.labels(*labels) if labels else metric

    def histogram(self, name: str, *labels: str) -> Histogram:
        metric = self._all[name]
        assert isinstance(metric, Histogram)
        return metric.labels(*labels) if labels else metric

    def ages(self, name: str) -> Ages:
        return self._ages[name]

    def clear(self, name: str) -> None:
        """Forgets all label values: of partitions that went to another worker, of a model that is no longer served."""
        self._all[name].clear()

    def total(self, name: str, *labels: str) -> float:
        """The sum of a counter over all label values that begin with `labels`."""
        declared = DECLARED[name].labels
        samples = [sample for family in self._all[name].collect() for sample in family.samples if sample.name.endswith("_total")]
        wanted = dict(zip(declared, labels, strict=False))
        return sum(sample.value for sample in samples if wanted.items() <= sample.labels.items())

    def serve(self, port: int) -> tuple[WSGIServer, Thread]:
        """Serves them on all interfaces; port 0 chooses one (`server.server_port`)."""
        return start_http_server(port, registry=self.registry)
