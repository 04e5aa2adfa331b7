"""`make bench`: compares Isthmus with other implementations on one machine; `make bench PARTS=throughput,latency` selects parts.

Writes build/bench.json and build/bench.png and prints the tables of tests/benchmarks/README.md. Rows of parts that were not run are
kept. BENCH_ROUNDS repeats the throughput part; BENCH_SCALE shrinks all counts, to try the program rather than to measure.
"""

import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks import encoder_throughput, growth, latencies, ready, scale, serving, sharing, throughput
from tests.benchmarks.exclusive import exclusive_run
from tests.benchmarks.field import OTHERS
from tests.benchmarks.network import write_network
from tests.benchmarks.table import as_tables, plot, with_ratios

ROUNDS = int(os.environ.get("BENCH_ROUNDS") or "1")
SCALE = float(os.environ.get("BENCH_SCALE") or "1")
OUT = Path("build/bench.json")


class Bench:
    """One run: the network, a folder for brokers and states, and the rows so far."""

    def __init__(self, folder: Path, rows: list[dict[str, Any]]) -> None:
        self.folder = folder
        self.rows = rows
        self.model = folder / "model"
        self.sha256 = write_network(self.model)

    def throughput(self) -> Iterable[dict[str, Any]]:
        return throughput.rows(self.folder, self.model, ROUNDS, SCALE)

    def latency(self) -> Iterable[dict[str, Any]]:
        found = [row for row in self.rows if row["part"] == "throughput" and row["users"] == "new users" and row["scored"]]
        capacity = {row["contender"]: row["events_per_s"] for row in found}
        return latencies.rows(self.folder, self.model, self.sha256, capacity, SCALE)

    def ready(self) -> Iterable[dict[str, Any]]:
        return ready.rows(self.folder, self.model, self.sha256, SCALE)

    def workers(self) -> Iterable[dict[str, Any]]:
        return sharing.rows(self.folder, self.model, SCALE)

    def history(self) -> Iterable[dict[str, Any]]:
        return growth.history_rows(self.folder, self.model, SCALE)

    def users(self) -> Iterable[dict[str, Any]]:
        return growth.user_rows(self.folder, self.model, SCALE)

    def encoder(self) -> Iterable[dict[str, Any]]:
        return encoder_throughput.rows(self.folder, SCALE)

    def systems(self) -> Iterable[dict[str, Any]]:
        return serving.rows(self.folder, SCALE)

    def scale(self) -> Iterable[dict[str, Any]]:
        return scale.rows(self.model)


PARTS: dict[str, Callable[[Bench], Iterable[dict[str, Any]]]] = {
    "throughput": Bench.throughput,
    "latency": Bench.latency,
    "ready": Bench.ready,
    "workers": Bench.workers,
    "history": Bench.history,
    "users": Bench.users,
    "encoder": Bench.encoder,
    "systems": Bench.systems,
    "scale": Bench.scale,
}


def chosen() -> list[str]:
    names = [name for name in (os.environ.get("BENCH_PARTS") or ",".join(PARTS)).split(",") if name]
    if unknown := set(names) - set(PARTS):
        sys.exit(f"no such part: {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    return names


def main() -> None:
    names, failed = chosen(), list[str]()
    with exclusive_run(), tempfile.TemporaryDirectory(prefix="isthmus-bench-") as temporary:
        psutil.Process().cpu_affinity(OTHERS)
        rows = json.loads(OUT.read_text()) if OUT.exists() else []
        bench = Bench(Path(temporary), [row for row in rows if row.get("part") in PARTS])
        for name in names:
            began = time.monotonic()
            found: list[dict[str, Any]] = []
            try:
                found += ({**row, "part": name} for row in PARTS[name](bench))
            except Exception:  # noqa: BLE001  (the other parts still run)
                traceback.print_exc()
                failed.append(name)
            bench.rows = with_ratios([*(row for row in bench.rows if row["part"] != name), *found])
            OUT.parent.mkdir(exist_ok=True)
            OUT.write_text(json.dumps(bench.rows, indent=2))
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    plot(bench.rows, OUT.with_suffix(".png"))
    print(as_tables([row for row in bench.rows if row["part"] in names]))
    if failed:
        sys.exit(f"failed parts: {', '.join(failed)}")


if __name__ == "__main__":
    main()
