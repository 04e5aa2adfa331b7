"""`isthmus benchmark`: the paper's comparison on a data set, a test of its second finding, and items that training has not seen."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def benchmark(
    data: Annotated[Path, typer.Option(help="tables in the paper's layout")],
    out: Annotated[Path, typer.Option(help="results: FILE.json, or FILE; FILE.md, FILE.png and FILE.runs.jsonl beside it")],
    systems: Annotated[str, typer.Option(help="all, or names, comma-separated; with --thin all means the joint systems")] = "all",
    seeds: Annotated[int, typer.Option(min=1, help="how many times to train each system, with seeds 0, 1, ...")] = 5,
    thin: Annotated[
        bool,
        typer.Option(
            "--thin",
            help="train with 0, 25, 50 and 100 % of the session-only events and evaluate on the conversation-only ones, and "
            "vice versa: does one modality help to learn from the other?",
        ),
    ] = False,
    unseen: Annotated[
        int,
        typer.Option(
            min=0,
            help="take so many items, drawn by each seed, out of training whole, and judge what systems make of them by their "
            "texts; all means popular and isthmus",
        ),
    ] = 0,
) -> None:
    """Train and compare systems on a data set, as in the paper: HR@3 and MAP@3 by event type, with errors over seeds and paired
    differences to Late fusion.

    The last 10 % of the purchase events are the test set, the last 10 % of the rest validation. Keywords come from the training
    part's calls alone. Finished runs are kept in FILE.runs.jsonl, so the same call continues where an interrupted one stopped. Runs
    of other data or other training code stay in the file and are repeated.

    Example: isthmus benchmark --data my-tables --systems popular,late_fusion,isthmus --seeds 1 --out build/results.json
    """
    from stream.cli.settings_overrides import settings_with
    from stream.services.benchmarking import BenchmarkOptions, run_benchmark

    typer.echo(run_benchmark(settings_with(), BenchmarkOptions(data, out, systems, seeds, thin, unseen), typer.echo))
