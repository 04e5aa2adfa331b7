"""`isthmus audience`: who should hear of an item."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from stream.cli.options import Bootstrap

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Form(StrEnum):
    CSV = "csv"
    PARQUET = "parquet"


@app.command()
def audience(
    item: Annotated[str, typer.Argument(help="item id")],
    top: Annotated[int, typer.Option(min=1, help="how many users at most; they are held in memory")] = 10_000,
    min_score: Annotated[float, typer.Option(min=0, max=1, help="lowest score")] = 0.0,
    form: Annotated[Form, typer.Option("--format", help="csv, or parquet with --out")] = Form.CSV,
    out: Annotated[Path | None, typer.Option(help="file to write; default: CSV on standard output")] = None,
    bootstrap: Bootstrap = None,
) -> None:
    """Score all users for an item with the champion, and list the best, without those who own it or are not eligible.

    Users' states are read from the changelog into a temporary folder, which is removed in the end. With fallback `popularity` the
    score is the item's popularity, because the model reads nothing of the user's history.

    Example: isthmus audience car-insurance --top 5000 --min-score 0.2 --format parquet --out audience.parquet
    """
    from stream.cli.settings_overrides import settings_with
    from stream.errors import IsthmusError
    from stream.services.audience import cleaning_up_at_signals, find_audience, write_audience

    if form is Form.PARQUET and out is None:
        raise IsthmusError("--format parquet needs --out FILE")
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise IsthmusError(f"--out {out} cannot be written: name a file in a folder that exists")
    with cleaning_up_at_signals():
        found = find_audience(settings_with(bootstrap), item, top, min_score, lambda line: typer.echo(line, err=True))
        write_audience(found, form, out)
    typer.echo(f"{len(found)} users", err=True)
