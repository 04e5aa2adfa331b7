"""Every Prometheus metric, declared once. The step's counts (`stream.core.outputs.Outcome.counts`) find their counter by name here.

Names begin with `isthmus_`. Rates are computed by queries, over all workers.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from itertools import product
from threading import Thread
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar, cast
from wsgiref.simple_server import make_server

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app
from prometheus_client.core import HistogramMetricFamily, Metric

from stream.core.events import Reason, Source
from stream.errors import IsthmusError
from stream.health import Health
from stream.metrics_server import MetricsServer, SilentHandler

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

AnyCount = TypeVar("AnyCount", bound=tuple[str, ...])


class Declared(NamedTuple):
    """One metric.

    Attributes:
        kind: Its Prometheus type.
        text: Its help text.
        labels: The names of its labels.
        buckets: The upper bounds of a histogram.
        by_batch: Whether it is a histogram that takes whole batches of observations (`Ages`).
        from_start: Values of its labels that are exported as 0 from the start: Prometheus does not count the first value of a
            series that appears later as an increase.
        bounded: Whether producers choose its label `model_version`.
    """

    kind: type[Counter | Gauge | Histogram]
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    by_batch: bool = False
    from_start: tuple[tuple[str, ...], ...] = ()
    bounded: bool = False


_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_AGES: Final = (*_SECONDS, 3_600, 86_400, 604_800)
_COUNTS: Final = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000)
_JUDGED: Final = ("model_version", "type", "fallback")
_VERSION: Final = "model_version"
_EXPOSURE: Final = (_VERSION, "placement", "channel", "rank")
MOST_VERSIONS: Final = 50
"""Model versions that producers may name in the labels of one process; further ones count as `other`."""

DECLARED: Final[dict[str, Declared]] = {
    "events": Declared(
        Counter,
        "events read, by outcome",
        ("source", "outcome"),
        from_start=tuple(product([*Source, "item"], ("applied", "dead_letter"))),
    ),
    "dead_letters": Declared(Counter, "events that could not be used", ("reason",), from_start=tuple((one,) for one in Reason)),
    "late": Declared(
        Counter,
        "events older than the newest of their user, within or beyond step.allowed_lateness_s; both are applied",
        ("source", "extent"),
    ),
    "recommendations": Declared(Counter, "lists that were sent, or suppressed because nothing had changed", ("outcome",)),
    "examples": Declared(Counter, "training examples: first, revised, sent again unchanged (resent), erased", ("kind",)),
    "purchases_without_interactions": Declared(Counter, "purchases without an example, because no interaction came before them"),
    "beyond_bounds": Declared(Counter, "late events whose place is no longer kept, and what newer events push out", ("kind",)),
    "erasures_without_effect": Declared(Counter, "erasures of users of whom nothing is as old as the erasure's time"),
    "unusable_scores": Declared(Counter, "lists ranked by popularity because the served model's scores were not finite"),
    "foreign_text_model": Declared(Counter, "calls encoded with another text model than the served model needs"),
    "epoch_changes": Declared(Counter, "first events of users in a recreated topic", ("source",)),
    "purchases": Declared(Counter, "purchases, by the last list sent before them (unserved: none was sent)", _JUDGED),
    "hits": Declared(Counter, "purchases with an item among the first three of the list", _JUDGED),
    "popularity_hits": Declared(
        Counter, "purchases with an item among the first three by popularity, with the same post filter", _JUDGED
    ),
    "feedback_items": Declared(
        Counter,
        "items of feedback, each impression once; an answer counts under what the item's last impression before it says",
        ("action", *_EXPOSURE),
        bounded=True,
    ),
    "bought_after_shown": Declared(
        Counter,
        "items bought within feedback.attribution_days of having been shown, by their last impression before the purchase",
        _EXPOSURE,
        bounded=True,
    ),
    "batch_records": Declared(Histogram, "records in a batch", ("source",), _COUNTS),
    "stage_seconds": Declared(
        Histogram, "time of a stage: step and send per group of batches handled together, finish per batch", ("stage",), _SECONDS
    ),
    "age_from_event_seconds": Declared(
        Histogram, "time from the event to the acknowledged recommendation", (), _AGES, by_batch=True
    ),
    "age_from_broker_seconds": Declared(
        Histogram, "time from the record's Kafka timestamp to the acknowledged recommendation", (), _SECONDS, by_batch=True
    ),
    "late_batches": Declared(
        Counter,
        "batches that were computed too late to be sent: held because no heartbeat was answered within the session timeout, "
        "dropped because their partition was revoked, or fenced by the broker",
        ("outcome",),
    ),
    "late_records": Declared(
        Counter, "changelog records that a worker wrote too late, after it had lost the partition; recovery skips them"
    ),
    "log_gaps": Declared(
        Counter,
        "times that a partition did not continue what was applied: its log was cut below that, records were deleted unread, "
        "the group's offset was moved past some (they are read all the same), the topic was recreated, or the changelog "
        "lost what was applied (lost)",
        ("topic", "kind"),
    ),
    "users": Declared(Gauge, "users in this worker's state"),
    "committed_offset": Declared(Gauge, "committed offset", ("topic", "partition")),
    "end_offset": Declared(Gauge, "end offset; minus the committed offset, it is the lag", ("topic", "partition")),
    "model_info": Declared(Gauge, "1 for the served model version", ("name", "version")),
    "model_published_timestamp_seconds": Declared(Gauge, "when the served model was published; its age is time() minus this"),
    "model_swaps": Declared(Counter, "model versions that began to be served"),
    "model_refusals": Declared(Counter, "announcements of models that this process refused", ("reason",)),
    "catalogue_items": Declared(Gauge, "items in the catalogue"),
    "new_items": Declared(Gauge, "items that the served model ranks by their texts alone"),
    "foreign_items": Declared(Gauge, "items encoded with another text model than the served model needs: it does not rank them"),
    "live": Declared(Gauge, "1 while /livez returns 200: the event loop is not blocked and no partition is stalled"),
    "ready": Declared(Gauge, "1 while /readyz returns 200: partitions are assigned, tables restored, catalogue and models read"),
    "stalled_partitions": Declared(Gauge, "partitions that have work and whose committed offset does not move"),
    "stopped_partitions": Declared(Gauge, "partitions of inputs and of followed topics that stopped at a damaged batch"),
    "waiting_partitions": Declared(Gauge, "partitions that wait for a schema, because the registry does not say what it is"),
    "misfit_topics": Declared(
        Gauge, "topics of this process whose settings were changed so that it would not start with them; looked at every 5 minutes"
    ),
    "schema_requests": Declared(
        Counter,
        "questions to the schema registry for a schema that was not known: fetched, denied (it has none with this id, and the "
        "records become dead letters), or failed, and asked again",
        ("outcome",),
        from_start=(("fetched",), ("denied",), ("failed",)),
    ),
    "unusable_items": Declared(Gauge, "items of the catalogue whose newest record cannot be used; all workers report the same"),
    "unreadable_records": Declared(
        Counter,
        "records of followed topics that do not parse, left out",
        ("topic",),
        from_start=(("items",), ("encoded-items",), ("models",)),
    ),
    "encoder_transcripts": Declared(
        Counter, "transcripts read, by outcome", ("outcome",), from_start=(("encoded",), ("dead_letter",))
    ),
    "encoder_items": Declared(Counter, "texts of items encoded, by outcome", ("outcome",), from_start=(("encoded",), ("failed",))),
    "encoder_sentences": Declared(Counter, "sentences encoded"),
    "encoder_seconds": Declared(Histogram, "time to encode a batch", (), _SECONDS),
    "api_requests": Declared(Counter, "answers of the API", ("route", "status")),
    "api_request_seconds": Declared(Histogram, "time to the first byte of an answer", ("route",), _SECONDS),
    "api_lists": Declared(Counter, "lists served: as they were sent, filtered, filled, or the fallback's", ("placement", "kind")),
    "api_streams": Declared(Gauge, "open event streams"),
    "api_connections": Declared(Gauge, "open connections of clients"),
    "api_refused_connections": Declared(
        Counter,
        "connections of clients that were closed because of a bound or a malformed request",
        ("reason",),
        from_start=(("too_many_connections",), ("too_many_of_an_address",)),
    ),
    "api_store_age_seconds": Declared(Gauge, "time since the store was last known to be complete"),
    "api_store_away": Declared(Gauge, "whether the shared store does not answer, so that no list can be read (1) or does (0)"),
    "api_reconciled": Declared(Counter, "partitions that were read from their beginning"),
    "api_jwks_reads": Declared(
        Counter, "readings of the identity provider's keys; after a failed one the former keys stay", ("outcome",)
    ),
    "api_audit_lines": Declared(
        Counter,
        "lines of the audit log; what could not be written was not shown",
        ("outcome",),
        from_start=(("written",), ("failed",)),
    ),
    "api_unreadable": Declared(Counter, "state records that could not be read, and count as absent"),
    "sink_records": Declared(
        Counter,
        "records that a sink brought out: written, deleted (tombstones), superseded by a later one of the batch, refused, "
        "because the system on the other side cannot hold them, or undelivered: given up, and now dead letters",
        ("sink", "outcome"),
        from_start=(("postgres", "refused"), ("webhook", "refused"), ("webhook", "undelivered")),
    ),
    "sink_seconds": Declared(Histogram, "time to bring out a batch", ("sink",), _SECONDS),
    "sink_reconciled": Declared(Counter, "partitions that a sink read from their beginning", ("sink",)),
    "webhook_attempts": Declared(
        Counter, "attempts to post a message: accepted, refused (another status than 2xx), or unreachable", ("outcome",)
    ),
    "sink_age_seconds": Declared(Gauge, "time since the sink was last known to have brought out everything", ("sink",)),
    "metrics_connections_closed": Declared(
        Counter,
        "connections to the port of metrics and health that were closed: slow, or crowded out by newer ones",
        ("reason",),
        from_start=(("slow",), ("crowded_out",)),
    ),
}


class Ages:
    """A histogram that takes a whole batch at once: a call per observation would cost more than folding an event."""

    def __init__(self, name: str, declared: Declared, registry: CollectorRegistry) -> None:
        self._name = name
        self._text = declared.text
        self._bounds = np.array(declared.buckets)
        self._counts = np.zeros(len(declared.buckets) + 1, dtype=np.int64)
        self._sum = 0.0
        registry.register(self)

    def observe_many(self, seconds: NDArray[np.float64]) -> None:
        buckets = np.searchsorted(self._bounds, seconds)
        self._counts += np.bincount(buckets, minlength=len(self._counts))
        self._sum += float(seconds.sum())

    def collect(self) -> Iterable[Metric]:
        names = [*(str(bound) for bound in self._bounds), "+Inf"]
        counts = np.cumsum(self._counts).tolist()
        yield HistogramMetricFamily(self._name, self._text, list(zip(names, counts, strict=True)), self._sum)


class Metrics:
    """The metrics of one process, in their own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._all: dict[str, Counter | Gauge | Histogram] = {}
        self._ages: dict[str, Ages] = {}
        self._versions: set[str] = set()
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

            for labels in declared.from_start:
                self._all[name].labels(*labels)

    def count(self, counts: Mapping[AnyCount, int]) -> None:
        """Adds the counts of a step or an encoded batch to their counters."""
        for (name, *labels), by in counts.items():
            if DECLARED[name].bounded:
                labels = self._with_bounded_version(name, labels)  # noqa: PLW2901
            self.counter(name, *labels).inc(by)

    def _with_bounded_version(self, name: str, labels: list[str]) -> list[str]:
        at = DECLARED[name].labels.index(_VERSION)
        version = labels[at]
        if len(self._versions) < MOST_VERSIONS:
            self._versions.add(version)
        return [*labels[:at], version if version in self._versions else "other", *labels[at + 1 :]]

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
        """Removes all label values, such as those of partitions that another worker has taken over, or of a replaced model."""
        self._all[name].clear()

    def total(self, name: str, *labels: str) -> float:
        """The sum of a counter over all label values that begin with `labels`."""
        declared = DECLARED[name].labels
        samples = [sample for family in self._all[name].collect() for sample in family.samples if sample.name.endswith("_total")]
        wanted = dict(zip(declared, labels, strict=False))
        return sum(sample.value for sample in samples if wanted.items() <= sample.labels.items())

    def serve(self, port: int, health: Health | None = None, host: str = "") -> tuple[MetricsServer, Thread]:
        """Serves /metrics, and /livez and /readyz (200, or 503 with what is wrong), on an address, by default on all interfaces;
        port 0 chooses one (`server.server_port`).

        Raises:
            IsthmusError: the port is taken, or the address is not this machine's.
        """
        checks = health or Health()
        self.gauge("live").set_function(lambda: float(not Health.wrong(checks.live)))
        self.gauge("ready").set_function(lambda: float(not Health.wrong(checks.ready)))
        try:
            server = make_server(host, port, _pages(self.registry, checks), MetricsServer, SilentHandler)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                problem = f"port {port} is taken: choose another with --metrics-port, or the setting metrics_port"
            else:
                problem = f"metrics cannot be served on {host!r} ({error}): see the setting health.metrics_host"
            raise IsthmusError(problem) from error
        server.note = lambda reason: self.counter("metrics_connections_closed", reason).inc()
        thread = Thread(target=server.serve_forever, daemon=True, name="metrics")
        thread.start()
        return server, thread


def _pages(registry: CollectorRegistry, health: Health) -> WSGIApplication:
    metrics = make_wsgi_app(registry)
    checks = {"/livez": health.live, "/readyz": health.ready}

    def page(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return cast("Iterable[bytes]", metrics(environ, start_response))
        known = path in checks
        wrong = Health.wrong(checks[path]) if known else ["/metrics, /livez and /readyz are here"]
        status = "200 OK" if not wrong else "503 Service Unavailable" if known else "404 Not Found"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return ["".join(f"{line}\n" for line in wrong or ["ok"]).encode()]

    return page
