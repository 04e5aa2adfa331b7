"""`isthmus replay`: tables through Kafka, encoder and worker, a model trained on what comes out, evaluated on the last tenth."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def replay(
    data: Annotated[Path, typer.Option(help="tables in the paper's layout")],
    bootstrap: Annotated[str | None, typer.Option(help="a broker where encoder and worker run already")] = None,
    local: Annotated[bool, typer.Option(help="start a local broker, an encoder and a worker for this replay")] = False,
    limit: Annotated[int | None, typer.Option(help="how many purchase events to take, from the first on; default: all")] = None,
    seed: Annotated[int, typer.Option(min=0, help="of training")] = 0,
) -> None:
    """Turn tables into events, stream them through Kafka at full speed, train on the resulting examples, and measure.

    The tables have no times, so times are invented: one purchase event an hour, its interactions evenly spread before it. The last
    10 % of the purchase events are the test set, as in the paper.

    Example: isthmus replay --data my-tables --local
    """
    from stream.cli.settings_overrides import settings_with
    from stream.errors import IsthmusError
    from stream.services.replay import run_replay

    if local == (bootstrap is not None):
        raise IsthmusError("name a broker with --bootstrap HOST:PORT, or let --local start one")
    run_replay(settings_with(bootstrap, dev=local), data, limit=limit, seed=seed, local=local, say=typer.echo)
