"""`make chaos`: runs the cases one after the other; after each, writes its row to build/chaos.json.

`CASES="kill,broker"` runs the cases whose names contain one of the words; `SEED` varies the timing of the faults.
"""

import argparse
import json
import logging
import signal
import sys
from dataclasses import replace
from typing import Any, Final

from tests.chaos.cases import CASES
from tests.chaos.stage import BUILD, run_case

COLUMNS: Final = ("events", "lost", "applied_twice", "wrong_last", "duplicates_sent", "committed_equals_end", "seconds", "ok")


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
        print(table(rows[-1:]), flush=True)
        write(rows[-1], keep=number > 1 or bool(words))
    if len(rows) > 1:
        print(table(rows))
    return 0 if all(row["ok"] for row in rows) else 1


def write(row: dict[str, Any], *, keep: bool) -> None:
    """Writes a row to build/chaos.json in place of the case's previous row. `keep`: keep the rows of other cases."""
    path = BUILD / "chaos.json"
    former = json.loads(path.read_text()) if keep and path.exists() else []
    path.write_text(json.dumps([*(other for other in former if other["case"] != row["case"]), row], indent=1))


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the rows as a Markdown table, followed by notes, errors and skipped cases."""
    lines = [f"| case | {' | '.join(COLUMNS)} |", "| --- |" + " --- |" * len(COLUMNS)]
    lines += [f"| {row['case']} | {' | '.join(str(row.get(column, '')) for column in COLUMNS)} |" for row in rows]
    for row in rows:
        seen = [*row.get("notes", []), *([row["error"]] if "error" in row else [])]
        seen += [f"skipped: {row['skipped']}"] if "skipped" in row else []
        seen += [f"{row['ended_by_themselves']} unexpected process exits"] if row.get("ended_by_themselves") else []
        seen += [f"{kind}: {', '.join(names)}" for kind, names in row.get("examples_of", {}).items()]
        lines += [f"  {row['case']}: {text}" for text in seen]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
