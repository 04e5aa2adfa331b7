"""A replay: tables through Kafka, encoder and worker, and a model trained on what comes out, evaluated on the last tenth."""

from __future__ import annotations

import asyncio
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stream.application import encoder_group, worker_group
from stream.errors import IsthmusError
from stream.services.child_processes import ChildProcess, named_or_local_broker, wait_for
from stream.services.text_models import folder_of, with_stand_in, words_of_tables
from stream.settings import with_changes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stream.core.outputs import TrainingExample
    from stream.settings import Settings
    from training.datasets.tables.reader import Tables

SETTLE_S: Final = 1_800.0


def run_replay(settings: Settings, data: Path, *, limit: int | None, seed: int, local: bool, say: Callable[[str], None]) -> None:
    """Streams the tables in `data` through Kafka, trains on the resulting examples, and reports HR@3 and MAP@3.

    `local` starts a broker, an encoder and a worker for it; otherwise those at `settings.kafka.bootstrap` are used. `limit` is how
    many purchase events are taken; None takes all.

    Raises:
        IsthmusError: the tables hold no transcripts, or broker or processes fail.
    """
    from training.datasets.tables.reader import read_tables

    tables = read_tables(data)
    if tables.encoded is not None:
        raise IsthmusError(
            f"{data} has no transcripts for the encoder: isthmus train --data and isthmus benchmark take it as it is"
        )
    named = None if local else settings.kafka.bootstrap
    with tempfile.TemporaryDirectory(prefix="isthmus-replay-") as name, named_or_local_broker(named, Path(name)) as address:
        folder = Path(name)
        settings = with_changes(settings, "kafka", bootstrap=address)
        settings = with_stand_in(settings, words_of_tables(tables), folder / "text-model")
        examples = through_kafka(settings, tables, limit, folder if local else None, say)
    _measure(examples, list(tables.items), seed, say)


def through_kafka(
    settings: Settings, tables: Tables, limit: int | None, folder: Path | None, say: Callable[[str], None]
) -> Sequence[TrainingExample]:
    """Returns the newest examples that the worker made of the tables; with `folder`, encoder and worker are started as children."""
    from stream.kafka.cluster.compacted_topic import CompactedTopic, examples_in
    from stream.kafka.cluster.event_sink import HEADERS
    from stream.kafka.cluster.lag import group_lag
    from stream.kafka.cluster.producer import produce
    from stream.kafka.cluster.rights import Process, require_rights
    from stream.kafka.cluster.topics import create_or_check, source_topics
    from training.datasets.tables.to_events import item_events, user_events

    address, topics = settings.kafka.bootstrap, settings.topics
    require_rights(Process.REPLAY, settings)
    create_or_check(address, topics, settings.application, dev=settings.kafka.dev)
    children = [] if folder is None else _children(settings, folder)
    try:
        started = time.monotonic()
        names = topics.model_dump()
        asyncio.run(produce(address, item_events(tables), names, lambda _: None, HEADERS))
        sent = asyncio.run(produce(address, user_events(tables, limit), names, lambda sent: say(f"sent {sent} events"), HEADERS))
        say(f"sent {sent} events in {time.monotonic() - started:.1f} s; waiting for encoder and worker")
        encoders, workers = encoder_group(settings.application), worker_group(settings.application)
        encoded = lambda: group_lag(address, encoders, [topics.transcripts]).lag == 0  # noqa: E731
        folded = lambda: group_lag(address, workers, source_topics(topics)).lag == 0  # noqa: E731
        wait_for(encoded, children, SETTLE_S, "the encoding of all calls")
        wait_for(folded, children, SETTLE_S, "the folding of all events")
        say(f"all of it encoded, folded and acknowledged after {time.monotonic() - started:.1f} s")
    finally:
        for child in children:
            child.stop()
    with closing(CompactedTopic(address, topics.training_examples)) as examples:
        examples.read_on()
        return examples_in(examples)


def _children(settings: Settings, folder: Path) -> list[ChildProcess]:
    environment = {
        "ISTHMUS_WORKER__STATE_DIR": str(folder / "state"),
        "ISTHMUS_KAFKA__DEV": "true",
        "ISTHMUS_ENCODER__TEXT_MODEL": str(folder_of(settings)),
    }
    return [
        ChildProcess([name, "--bootstrap", settings.kafka.bootstrap, "--metrics-port", "0"], environment, folder / f"{name}.log")
        for name in ("encoder", "worker")
    ]


def _measure(examples: Sequence[TrainingExample], items: Sequence[str], seed: int, say: Callable[[str], None]) -> None:
    """Trains on the first 90 % and reports HR@3 and MAP@3 on the rest, beside Popular."""
    from models.systems import DEFAULT
    from training.loop import TrainingConfig
    from training.metrics import evaluate, metrics_by_type, popular_ranker
    from training.progress import ProgressReporter
    from training.split import split
    from training.train_system import train_system

    revised = sum(example.revision > 1 for example in examples)
    say(f"{len(examples)} examples, {revised} of them revised because something arrived late")
    training, validation, test = split(examples)
    started = time.monotonic()
    ranker = train_system(DEFAULT, training, validation, items, TrainingConfig(seed=seed), progress=ProgressReporter(say)).ranker
    say(f"trained in {time.monotonic() - started:.1f} s\n\n{'events':<14}{'n':>6}   {'Popular':^15}   {ranker.name:^15}")
    ours, popular = (
        metrics_by_type(evaluate(ranker, test)),
        metrics_by_type(evaluate(popular_ranker([*training, *validation], items), test)),
    )
    for row, base in zip(ours, popular, strict=True):
        say(f"{row.event_type:<14}{row.events:>6}   {base.hr3:.3f} / {base.map3:.3f}   {row.hr3:.3f} / {row.map3:.3f}")
    say("HR@3 / MAP@3 with the post filter, on the last 10 % of the purchase events")
