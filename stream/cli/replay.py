"""`isthmus replay`: tables through Kafka, encoder and worker, a model trained on what comes out, judged on the last tenth."""

from __future__ import annotations

import asyncio
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stream.core.outputs import TrainingExample
    from stream.services.child_processes import ChildProcess
    from stream.settings import Settings
    from training.datasets.tables.reader import Tables

app = typer.Typer(add_completion=False, rich_markup_mode=None)
SETTLE_S: Final = 1_800.0


@app.command()
def replay(
    data: Annotated[Path, typer.Option(help="tables in the paper's layout")],
    bootstrap: Annotated[str | None, typer.Option(help="a broker where encoder and worker run already")] = None,
    local: Annotated[bool, typer.Option(help="start a local broker, encoder and worker for it")] = False,
    limit: Annotated[int | None, typer.Option(help="only the first so many purchase events")] = None,
    seed: Annotated[int, typer.Option(min=0, help="of training")] = 0,
) -> None:
    """Turn tables into events, stream them through Kafka at full speed, train on the resulting examples, and measure.

    The tables have no times: these are invented (one purchase event an hour, what came before it evenly before it). The last 10 %
    of the purchase events are the test set, as in the paper.

    Example: isthmus replay --data my-tables --local
    """
    from stream.cli.settings_overrides import settings_with
    from stream.cli.text_model import with_stand_in, words_of_tables
    from stream.errors import IsthmusError
    from stream.services.child_processes import named_or_local_broker
    from stream.services.table_examples import load_tables

    if local == (bootstrap is not None):
        raise IsthmusError("name a broker with --bootstrap HOST:PORT, or let --local start one")
    tables = load_tables(data)
    if tables.encoded is not None:
        raise IsthmusError(
            f"{data} has no transcripts for the encoder: isthmus train --data and isthmus benchmark take it as it is"
        )
    with tempfile.TemporaryDirectory(prefix="isthmus-replay-") as folder, named_or_local_broker(bootstrap, Path(folder)) as address:
        settings = with_stand_in(settings_with(address, dev=local), words_of_tables(tables), Path(folder) / "text-model")
        examples = through_kafka(settings, tables, limit, Path(folder) if local else None)
    _measure(examples, list(tables.items), seed)


def through_kafka(settings: Settings, tables: Tables, limit: int | None, folder: Path | None) -> Sequence[TrainingExample]:
    """The newest examples that the worker made of the tables; with `folder`, encoder and worker are children of ours."""
    from stream.kafka.cluster.compacted_topic import CompactedTopic, examples_in
    from stream.kafka.cluster.lag import group_lag
    from stream.kafka.cluster.producer import produce
    from stream.kafka.cluster.topics import create_or_check, source_topics
    from stream.services.child_processes import wait_for
    from training.datasets.tables.to_events import item_events, user_events

    address, topics = settings.kafka.bootstrap, settings.topics
    create_or_check(address, topics, dev=settings.kafka.dev)
    children = [] if folder is None else _children(settings, folder)
    try:
        started = time.monotonic()
        names = topics.model_dump()
        asyncio.run(produce(address, item_events(tables), names, lambda _: None))
        sent = asyncio.run(produce(address, user_events(tables, limit), names, lambda sent: typer.echo(f"sent {sent} events")))
        typer.echo(f"sent {sent} events in {time.monotonic() - started:.1f} s; waiting for encoder and worker")
        encoded = lambda: group_lag(address, "isthmus-encoder", [topics.transcripts]).lag == 0  # noqa: E731
        folded = lambda: group_lag(address, "isthmus-profiles", source_topics(topics)).lag == 0  # noqa: E731
        wait_for(encoded, children, SETTLE_S, "the encoding of all calls")
        wait_for(folded, children, SETTLE_S, "the folding of all events")
        typer.echo(f"all of it encoded, folded and acknowledged after {time.monotonic() - started:.1f} s")
    finally:
        for child in children:
            child.stop()
    with closing(CompactedTopic(address, topics.training_examples)) as sold:
        sold.read_on()
        return examples_in(sold)


def _children(settings: Settings, folder: Path) -> list[ChildProcess]:
    from stream.cli.text_model import folder_of
    from stream.services.child_processes import ChildProcess

    environment = {
        "ISTHMUS_WORKER__STATE_DIR": str(folder / "state"),
        "ISTHMUS_KAFKA__DEV": "true",
        "ISTHMUS_ENCODER__TEXT_MODEL": str(folder_of(settings)),
    }
    return [
        ChildProcess([name, "--bootstrap", settings.kafka.bootstrap, "--metrics-port", "0"], environment, folder / f"{name}.log")
        for name in ("encoder", "worker")
    ]


def _measure(examples: Sequence[TrainingExample], items: Sequence[str], seed: int) -> None:
    """Trains on the first 90 % and prints HR@3 and MAP@3 on the rest, beside Popular."""
    from models.systems import DEFAULT
    from training.loop import TrainingConfig
    from training.metrics import evaluate, popular_of, table
    from training.progress import ProgressReporter
    from training.split import split
    from training.train_system import train_system

    revised = sum(example.revision > 1 for example in examples)
    typer.echo(f"{len(examples)} examples, {revised} of them made again because something arrived late")
    training, validation, test = split(examples)
    started = time.monotonic()
    ranker = train_system(
        DEFAULT, training, validation, items, TrainingConfig(seed=seed), watch=ProgressReporter(typer.echo)
    ).ranker
    typer.echo(f"trained in {time.monotonic() - started:.1f} s\n\n{'events':<14}{'n':>6}   {'Popular':^15}   {ranker.name:^15}")
    ours, popular = table(evaluate(ranker, test)), table(evaluate(popular_of([*training, *validation], items), test))
    for row, base in zip(ours, popular, strict=True):
        typer.echo(f"{row.event_type:<14}{row.events:>6}   {base.hr3:.3f} / {base.map3:.3f}   {row.hr3:.3f} / {row.map3:.3f}")
    typer.echo("HR@3 / MAP@3 with the post filter, on the last 10 % of the purchase events")
