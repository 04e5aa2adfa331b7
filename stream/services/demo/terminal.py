"""The demo's view: live tables in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Self

import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table

if TYPE_CHECKING:
    from types import TracebackType

    from stream.services.demo.stats import DemoStats

PLAIN_EVERY_S = 3.0
NOTICE = "Everybody here is synthetic, and does not react to what is recommended."


class TerminalView:
    """Shows the statistics; `refresh` may be called at any rate."""

    def __init__(self, stats: DemoStats) -> None:
        self._stats = stats
        self._console = Console()
        self._live = Live(console=self._console, refresh_per_second=4) if sys.stdout.isatty() else None
        self._last_line = 0.0
        self._rates: deque[tuple[float, int]] = deque(maxlen=20)

    def __enter__(self) -> Self:
        self._console.print(f"Isthmus: clicks and calls in, recommendations out. {NOTICE}", highlight=False)
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, line: str) -> None:
        """Prints a line, above the live view if there is one. Threads may call it."""
        self._console.print(line, highlight=False, soft_wrap=True)

    def refresh(self) -> None:
        stats = self._stats
        self._rates.append((stats.elapsed_s, stats.sent))
        if self._live is not None:
            self._live.update(self._screen())
        elif time.monotonic() - self._last_line >= PLAIN_EVERY_S:
            self._last_line = time.monotonic()
            while stats.news:
                print(f"          {stats.news.popleft()}", flush=True)
            rates = "  ".join(f"{name} {rate:.3f}" for name, rate in stats.hit_rates().items())
            print(
                f"{stats.elapsed_s:6.0f} s  {self._per_second():5.0f} events/s  {stats.recommendations} recommendations  "
                f"model {stats.model} ({self._age()})  HR@3 {rates or '-'}",
                flush=True,
            )

    def _per_second(self) -> float:
        (first_s, first), (last_s, last) = self._rates[0], self._rates[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0

    def _age(self) -> str:
        published = self._stats.published_at
        return f"{time.time() - published:.0f} s old" if published else "-"

    def _screen(self) -> Group:
        stats = self._stats
        numbers = Table.grid(padding=(0, 3))
        numbers.add_row("events/s", f"{self._per_second():.0f}", "recommendations", str(stats.recommendations))
        numbers.add_row("model", f"{stats.model} ({self._age()})", "swaps", str(stats.swaps))
        numbers.add_row("dead letters", f"{stats.dead_letters} ({stats.planted} planted)", "metrics", stats.metrics_at)
        rates = Table("live hit rate at 3", "", box=None)
        for name, rate in stats.hit_rates().items():
            rates.add_row(name, f"{rate:.3f} {'█' * round(rate * 30)}")
        lists = Table("user", "because of", "recommended", "model", box=None)
        for value in reversed(stats.latest):
            found = msgspec.json.decode(value)
            items = ", ".join(item["item"] for item in found["items"])
            seen = found["modalities"]
            cause = f"{found['caused_by']['type']} ({seen['session']} sessions, {seen['conversation']} calls)"
            lists.add_row(found["user_id"], cause, items, f"{found['model']['name']} {found['model']['version']}")
        news = "\n".join(stats.news) or "collecting purchases to learn from"
        return Group(Panel(numbers, title=f"{stats.elapsed_s:.0f} s"), rates, Panel(lists, title="latest recommendations"), news)


def print_summary(stats: DemoStats) -> None:
    """Prints the summary of a demo."""
    done = stats.summary()
    first = "none" if done.first_recommendation_s is None else f"{done.first_recommendation_s:.1f} s after the start"
    trained = "none yet" if done.trained_model_s is None else f"{done.trained_model_s:.1f} s after the start"
    rates = ", ".join(f"{name} {rate:.3f}" for name, rate in done.hit_rate_3.items()) or "no purchase evaluated yet"
    memory = ", ".join(f"{name} {rss / 2**20:.0f} MiB" for name, rss in done.peak_rss_bytes.items())
    print(
        f"\n{done.events} events, {done.recommendations} recommendations, {done.dead_letters} dead letters "
        f"({done.planted_dead_letters} planted)\n"
        f"first recommendation: {first}; first trained model serving: {trained}; swaps: {done.swaps}\n"
        f"live hit rate at 3: {rates}\npeak memory: {memory}\n{NOTICE}"
    )
