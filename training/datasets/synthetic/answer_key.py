"""Reads what the users of a synthetic world had in mind: to judge reasons, never an input of a model."""

import csv
import gzip
from pathlib import Path

from training.datasets.synthetic.write_tables import ANSWERS


def read_in_mind(folder: Path) -> dict[str, list[str | None]]:
    """Returns, by the purchase's id in the examples, the item that its user had in mind in each interaction, the oldest first.

    None: no item. Empty for a folder without an answer key.
    """
    path = folder / ANSWERS
    in_mind: dict[str, list[tuple[int, str | None]]] = {}
    if path.exists():
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                purchase = f"p{row['purchase_event_id']}"  # as `training.datasets.tables.to_events` names it
                in_mind.setdefault(purchase, []).append((int(row["event_number"]), row["item_in_mind"] or None))
    return {event: [item for _, item in sorted(rows, key=lambda row: row[0])] for event, rows in in_mind.items()}
