"""`make chaos`: runs the cases one after the other; after each, writes its row to build/chaos.json.

`CASES="kill,broker"` runs the cases whose names contain one of the words; `SEED` varies the timing of the faults.
"""

import argparse
import logging
import signal
import sys
from dataclasses import replace
from typing import Any, Final

from tests.chaos.cases import CASES
from tests.chaos.rows import table, write
from tests.chaos.stage import BUILD, run_case

COLUMNS: Final = ("events", "lost", "applied_twice", "wrong_last", "duplicates_sent", "all_committed", "seconds", "ok")


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds the context managers, which stop brokers and workers
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--cases", default="", help="comma-separated: run cases whose names contain one of these words (default: all)"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, help="events/s; default: each case's own rate")
    given = parser.parse_args()
    words = [word.strip() for word in given.cases.split(",") if word.strip()]
    chosen = [case for case in CASES.values() if not words or any(word in case.name for word in words)]
    if given.rate:
        chosen = [replace(case, rate=given.rate) for case in chosen]
    if not chosen:
        print("no such case; choose from: " + ", ".join(CASES), file=sys.stderr)
        return 2
    (BUILD / "chaos").mkdir(parents=True, exist_ok=True)
    logging.basicConfig(filename=BUILD / "chaos" / "clients.log", level=logging.WARNING)
    rows: list[dict[str, Any]] = []
    for number, case in enumerate(chosen, 1):
        print(f"[{number}/{len(chosen)}] {case.name} ...", flush=True)
        rows.append(run_case(case, BUILD / "chaos" / case.name.replace(" ", "-").replace(",", ""), given.seed))
        print(table(rows[-1:], COLUMNS), flush=True)
        write(rows[-1], BUILD / "chaos.json", keep=number > 1 or bool(words))
    if len(rows) > 1:
        print(table(rows, COLUMNS))
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
