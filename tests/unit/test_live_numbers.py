"""What the live page reads from the metrics of workers and encoders."""

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from stream.api.live_numbers import numbers_of
from stream.metrics import Metrics
from stream.services.metrics_reader import scrape


def process(version: str = "7") -> Metrics:
    """A worker that has judged four purchases."""
    metrics = Metrics()
    metrics.count(
        {
            ("purchases", version, "session", "none"): 3,
            ("purchases", version, "session", "popularity"): 5,
            ("purchases", "0", "none", "unserved"): 9,
            ("hits", version, "session", "none"): 2,
            ("hits", version, "session", "popularity"): 4,
            ("popularity_hits", version, "session", "none"): 1,
            ("dead_letters", "not_json"): 2,
        }
    )
    metrics.gauge("end_offset", "web-clicks", "0").set(50)
    metrics.gauge("committed_offset", "web-clicks", "0").set(47)
    metrics.counter("model_swaps").inc(2)
    return metrics


def test_numbers_are_summed_over_processes_and_fallbacks_are_not_the_models_work() -> None:
    """Quality by version, lag by topic, dead letters by reason; swaps are those of one worker."""
    numbers = numbers_of([process().registry.collect(), process().registry.collect()], {"7": "isthmus"}, asked=3)
    (quality,) = numbers.quality
    assert (quality.version, quality.name, quality.purchases, quality.hits, quality.popularity_hits) == ("7", "isthmus", 6, 4, 2)
    assert numbers.lag == {"web-clicks": 6}
    assert numbers.dead_letters == {"not_json": 4}
    assert (numbers.swaps, numbers.asked, numbers.answered) == (2, 3, 2)


def test_of_popularity_its_own_lists_are_judged() -> None:
    """They are under the fallback `popularity`, which is its work."""
    (quality,) = numbers_of([process().registry.collect()], {"7": "popular"}, asked=1).quality
    assert (quality.purchases, quality.hits) == (5, 4)


def test_scraped_numbers_are_those_of_the_process() -> None:
    """Over HTTP, and without those processes that do not answer."""
    metrics = process()
    server, thread = metrics.serve(0)
    try:
        url = f"http://127.0.0.1:{server.server_port}/metrics"
        found = scrape([url, "http://127.0.0.1:1/metrics"])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    text = generate_latest(metrics.registry).decode()
    assert len(found) == 1
    assert numbers_of(found, {}, 2) == numbers_of([text_string_to_metric_families(text)], {}, 2)
