"""`isthmus train`: one training run, or one every so often."""

from __future__ import annotations

import re
import signal
import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from models.systems import DEFAULT, SYSTEMS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stream.core.announcements import ModelAnnouncement
    from stream.core.outputs import TrainingExample
    from stream.settings import Settings
    from training.progress import ProgressReporter
    from training.registry import Registry
    from training.training_run import Result, RunConfig

app = typer.Typer(add_completion=False, rich_markup_mode=None)
REFUSED = 3


@app.command()
def train(
    bootstrap: Annotated[str | None, typer.Option(help="host:port of a broker; default: setting kafka.bootstrap")] = None,
    examples: Annotated[Path | None, typer.Option(help="train on a file of examples instead of the topic")] = None,
    data: Annotated[Path | None, typer.Option(help="train on tables in the paper's layout instead of the topic")] = None,
    items: Annotated[str | None, typer.Option(help="with --examples: item ids, comma-separated; default: those bought")] = None,
    every: Annotated[str | None, typer.Option(help="train again every 15m, 1h, 30s ... on what has come since")] = None,
    system: Annotated[str, typer.Option(help=f"one of {', '.join(SYSTEMS)}")] = DEFAULT,
    seed: Annotated[int | None, typer.Option(min=0, help="default: setting training.seed")] = None,
    resume: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="keep checkpoints in this folder, and go on from those of an interrupted run"),
    ] = None,
    min_judged: Annotated[
        int | None, typer.Option(help="fresh purchases for the gate; default: setting training.min_judged")
    ] = None,
    announce_file: Annotated[
        Path | None, typer.Option(help="append announcements to this file instead of the models topic")
    ] = None,
) -> None:
    """Train a system, register the version, and promote it if it passes the gate.

    Where encoder.text_model is not set, --data makes keywords of the training part's calls, and says which text model came of it:
    the encoder must have the same one when the trained model is served.

    With `torchrun -m stream.cli.main train ...` several processes train as one.

    Exit codes: 0 promoted (or --every was ended by a signal), 3 refused by the gate (the reason is printed), 2 wrong use or
    surroundings (what to do is printed), 1 a bug. Whatever fails, the champion stays in place.

    Example: isthmus train --bootstrap localhost:9092 --every 15m
    """
    from stream.cli.settings_overrides import log_to_stderr, settings_with, with_changes
    from stream.errors import IsthmusError
    from training import distributed

    if system not in SYSTEMS:
        raise IsthmusError(f"no system is called {system!r}: choose one of {', '.join(SYSTEMS)}")
    if resume is not None and every is not None:
        raise IsthmusError("--resume goes on with one run, --every trains on ever new examples: leave one of them out")
    settings = with_changes(settings_with(bootstrap), "training", seed=seed, min_judged=min_judged)
    offline = examples is not None or data is not None
    config = _config(settings, system, grows=not offline)
    log_to_stderr()
    load, names = _source(settings, examples, data, None if items is None else _listed(items))
    send = _sender(settings, announce_file, offline=offline)
    if every is not None:
        if distributed.launched_processes() > 1:
            raise IsthmusError("torchrun trains once: start a trainer with --every as one process")
        _periodically(settings, load, names, config, send, seconds(every))
        return
    with distributed.process_group():
        found, listed = distributed.broadcast(lambda: (load(), names()))
        result = _once(settings, found, listed, config, lambda told: _tell(told, send), resume)
        first = distributed.rank() == 0
    if first:
        typer.echo(result.reason)
    if first and result.announcement is None:
        raise typer.Exit(REFUSED)


def _config(settings: Settings, system: str, *, grows: bool) -> RunConfig:
    from training.loop import TrainingConfig
    from training.training_run import RunConfig

    own = settings.training
    return RunConfig(
        system=system, training=TrainingConfig(seed=own.seed), margin=own.margin, min_judged=own.min_judged, grows=grows
    )


def seconds(text: str) -> float:
    """Seconds in 30s, 15m, 1h or a bare number."""
    from stream.errors import IsthmusError

    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if match is None or float(match[1]) <= 0:
        raise IsthmusError(f"{text!r} is no duration: write 30s, 15m or 1h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3_600}[match[2]]


def _once(
    settings: Settings,
    examples: Sequence[TrainingExample],
    names: Sequence[str],
    config: RunConfig,
    tell: Callable[[Result], None],
    resume: Path | None,
) -> Result:
    from stream.errors import IsthmusError
    from stream.kafka.cluster.compacted_topic import TopicError
    from training import distributed
    from training.checkpoints import CheckpointError
    from training.loop import NotFiniteError
    from training.progress import SILENT, shown
    from training.registry import Registry, RegistryError
    from training.stages import NothingToLearnError
    from training.training_run import TooFewExamplesError

    try:
        with distributed.main_process_first():
            registry = Registry(settings.registry.uri, settings.registry.folder)
        with shown(typer.echo) as watch:
            own = watch if distributed.rank() == 0 else SILENT
            result = _run(registry, examples, names, config, tell, own, resume)
    except (TooFewExamplesError, NothingToLearnError, NotFiniteError, CheckpointError, RegistryError) as error:
        raise IsthmusError(str(error)) from None
    except TopicError as error:
        raise IsthmusError(_untold(error)) from None
    try:
        tell(result)
    except TopicError as error:
        raise IsthmusError(f"{result.reason}\n{_untold(error)}") from None
    return result


def _tell(result: Result, send: Callable[[ModelAnnouncement], None]) -> None:
    if result.announcement is not None:
        send(result.announcement)


def _untold(error: Exception) -> str:
    return f"{error}; the registry is changed, the workers are not told: `isthmus models announce` tells them"


def _run(
    registry: Registry,
    examples: Sequence[TrainingExample],
    names: Sequence[str],
    config: RunConfig,
    tell: Callable[[Result], None],
    watch: ProgressReporter,
    resume: Path | None = None,
) -> Result:
    """A training run; before the first of all, popularity is published, so that something is served meanwhile."""
    from training import distributed
    from training.training_run import publish_popular, train_once

    with distributed.main_process_first():
        if registry.holder("champion") is None and examples:
            known = examples[: max(1, len(examples) * 8 // 10)]  # what is newer stays fresh for the gate
            first = publish_popular(known, names, registry)
            tell(first)
            watch.say(first.reason)
    return train_once(examples, names, registry, config, watch, resume)


def _periodically(
    settings: Settings,
    load: Callable[[], Sequence[TrainingExample]],
    names: Callable[[], Sequence[str]],
    config: RunConfig,
    send: Callable[[ModelAnnouncement], None],
    every_s: float,
) -> None:
    from stream.errors import IsthmusError
    from stream.kafka.cluster.compacted_topic import TopicError
    from training.progress import ProgressReporter
    from training.registry import Registry, RegistryError
    from training.retraining import Announcer, StoppedError, retrain
    from training.training_run import champion_of

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def say(line: str) -> None:
        if stop.is_set():  # between two epochs: nothing is registered yet, or all of it is
            raise StoppedError
        typer.echo(line)

    try:
        registry = Registry(settings.registry.uri, settings.registry.folder)
        announcer = Announcer(send, lambda: champion_of(registry))
        announcer.catch_up()
    except (RegistryError, TopicError) as error:
        raise IsthmusError(str(error)) from None
    retrain(
        load, lambda found: _run(registry, found, names(), config, announcer.tell, ProgressReporter(say)), announcer, every_s, stop
    )


def _source(
    settings: Settings, examples: Path | None, data: Path | None, items: list[str] | None
) -> tuple[Callable[[], Sequence[TrainingExample]], Callable[[], Sequence[str]]]:
    """Where the examples and the item ids come from."""
    if data is not None:
        from stream.services.dataset_cache import to_train_on

        made = cache(lambda: to_train_on(settings, data, typer.echo))
        return (lambda: made()[0]), (lambda: made()[1])
    if examples is not None:
        from stream.core.examples import in_time_order
        from stream.errors import IsthmusError
        from training.datasets.example_file import ExampleFileError, read_examples

        def load() -> Sequence[TrainingExample]:
            try:
                return in_time_order(read_examples(examples))
            except ExampleFileError as error:
                raise IsthmusError(str(error)) from None

        return load, lambda: _sold(load(), items)
    from stream.errors import IsthmusError
    from stream.kafka.cluster.compacted_topic import CompactedTopic, TopicError, examples_in, items_in

    try:
        sold = CompactedTopic(settings.kafka.bootstrap, settings.topics.training_examples)
        catalogue = CompactedTopic(settings.kafka.bootstrap, settings.topics.items)
    except TopicError as error:
        raise IsthmusError(str(error)) from None

    def read() -> Sequence[TrainingExample]:
        sold.read_on()
        return examples_in(sold)

    def listed() -> Sequence[str]:
        catalogue.read_on()
        return items_in(catalogue) or sorted({item for example in examples_in(sold) for item in example.items})

    return read, listed


def _listed(items: str) -> list[str]:
    """The ids in `--items`."""
    return [item for text in items.split(",") if (item := text.strip())]


def _sold(examples: Sequence[TrainingExample], items: list[str] | None) -> Sequence[str]:
    """The items that were named, or else those bought."""
    from stream.errors import IsthmusError

    bought = {item for example in examples for item in example.items}
    if items is not None and bought and bought.isdisjoint(items):
        raise IsthmusError(f"--items names none of the items that were bought: {', '.join(sorted(bought)[:5])} ...")
    return items or sorted(bought)


def _sender(settings: Settings, file: Path | None, *, offline: bool) -> Callable[[ModelAnnouncement], None]:
    """Where announcements go: a file, or the topic; nowhere when training from files without one."""
    from stream.core.announcements import encode_announcement
    from stream.kafka.cluster.compacted_topic import announce

    def send(announcement: ModelAnnouncement) -> None:
        if file is not None:
            with file.open("ab") as opened:
                opened.write(encode_announcement(announcement) + b"\n")
        elif not offline:
            announce(settings.kafka.bootstrap, settings.topics.models, announcement)

    return send
