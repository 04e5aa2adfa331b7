"""Rows of cases: written to a JSON file as they come, and printed as a table."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write(row: dict[str, Any], path: Path, *, keep: bool) -> None:
    """Writes a row in place of the case's previous row. `keep`: keep the rows of other cases."""
    former = json.loads(path.read_text()) if keep and path.exists() else []
    path.write_text(json.dumps([*(other for other in former if other["case"] != row["case"]), row], indent=1))


def table(rows: list[dict[str, Any]], columns: Sequence[str]) -> str:
    """Returns the rows as a Markdown table, followed by notes, errors and skipped cases."""
    lines = [f"| case | {' | '.join(columns)} |", "| --- |" + " --- |" * len(columns)]
    lines += [f"| {row['case']} | {' | '.join(str(row.get(column, '')) for column in columns)} |" for row in rows]
    for row in rows:
        seen = [*row.get("notes", []), *([row["error"]] if "error" in row else [])]
        seen += [f"skipped: {row['skipped']}"] if "skipped" in row else []
        seen += [f"{row['ended_by_themselves']} unexpected process exits"] if row.get("ended_by_themselves") else []
        seen += [f"{kind}: {', '.join(names)}" for kind, names in row.get("examples_of", {}).items()]
        lines += [f"  {row['case']}: {text}" for text in seen]
    return "\n".join(lines)
