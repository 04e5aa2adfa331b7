"""Reads the metrics of other processes over HTTP, for the demo and the live page."""

from __future__ import annotations

import asyncio
import urllib.request
from typing import TYPE_CHECKING, Final

from stream.kafka.cluster.tokens import NoRedirect

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prometheus_client.metrics_core import Metric

    from stream.api.live_view import ReadMetrics

_TIMEOUT_S: Final = 2.0
_LARGEST: Final = 8 << 20
_opener: Final = urllib.request.build_opener(NoRedirect)


def scrape(urls: Iterable[str]) -> list[Iterable[Metric]]:
    """The metrics of those processes that answer."""
    from prometheus_client.parser import text_string_to_metric_families

    metrics: list[Iterable[Metric]] = []
    for url in urls:
        try:
            with _opener.open(url, timeout=_TIMEOUT_S) as answer:
                content = answer.read(_LARGEST + 1)
            if len(content) <= _LARGEST:
                metrics.append(list(text_string_to_metric_families(content.decode())))
        except (OSError, ValueError):
            continue
    return metrics


def reader_of_metrics(urls: Sequence[str]) -> ReadMetrics | None:
    """Reads these processes; None where there are none."""
    if not urls:
        return None

    async def read() -> tuple[list[Iterable[Metric]], int]:
        return await asyncio.to_thread(scrape, urls), len(urls)

    return read
