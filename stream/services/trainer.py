"""The trainer as a process: where examples come from, one run or one per interval, and where announcements go."""

from __future__ import annotations

import signal
import threading
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from stream.core.catalogue_records import ItemTable
from stream.errors import IsthmusError
from stream.kafka.cluster.clients import TopicError
from stream.kafka.cluster.compacted_topic import CompactedTopic, announce, examples_in, read_items
from stream.kafka.cluster.owners import require_access
from stream.kafka.cluster.rights import Process
from stream.services.process import item_format

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from stream.core.announcements import ModelAnnouncement
    from stream.core.outputs import TrainingExample
    from stream.services.startup import Startup
    from stream.settings import Settings
    from training.progress import ProgressReporter
    from training.registry import Registry
    from training.text_vectors import TextVectors
    from training.training_run import RunConfig, RunResult


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """What one call of the trainer was asked for; the rest is settings.

    Attributes:
        system: The name of the system to train.
        examples: A file of examples to train on instead of the topic.
        data: A folder of tables to train on instead of the topic.
        items: Item ids to rank; None: the catalogue's, or those bought.
        resume: A folder of checkpoints to continue from.
        announce_file: A file that gets announcements instead of the models topic.
    """

    system: str
    examples: Path | None = None
    data: Path | None = None
    items: list[str] | None = None
    resume: Path | None = None
    announce_file: Path | None = None

    @property
    def offline(self) -> bool:
        return self.examples is not None or self.data is not None


class ExampleSource(NamedTuple):
    """Examples and item ids, read when they are asked for.

    Attributes:
        examples: Reads the newest examples, in order of time.
        item_ids: Reads the items to rank, after the examples.
        texts: Returns the items' texts by id, as they were read with the ids; empty where there are none.
        text_model: The folder of the text model that encoded the examples' calls; None: the one that the settings name.
    """

    examples: Callable[[], Sequence[TrainingExample]]
    item_ids: Callable[[], Sequence[str]]
    texts: Callable[[], Mapping[str, str]] = dict
    text_model: Callable[[], Path | None] = lambda: None


def train_and_announce(
    settings: Settings, options: TrainerOptions, say: Callable[[str], None], startup: Startup
) -> RunResult | None:
    """Trains, registers, judges and announces once. Returns the result in the main process, None in the others.

    `startup` reports the steps until training begins.

    Raises:
        IsthmusError: there is nothing to train on, or registry or broker cannot be used; the champion stays.
    """
    from training import distributed

    startup.step("reading examples")
    config, source, send = run_config(settings, options), example_source(settings, options, say), _sender(settings, options)
    with distributed.process_group():
        examples, item_ids = distributed.broadcast(lambda: (source.examples(), source.item_ids()))
        texts = text_vectors_of(settings, source, examples, say)
        with distributed.main_process_first():
            registry = _open_registry(settings, startup)
        startup.end(f"training on {len(examples)} examples")
        task = TrainingTask(examples, item_ids, texts)
        result = _train(registry, task, config, lambda finished: _announce(finished, send), options.resume, say)
        return result if distributed.rank() == 0 else None


def train_periodically(
    settings: Settings, options: TrainerOptions, every_s: float, say: Callable[[str], None], startup: Startup
) -> None:
    """Trains once per `every_s` seconds on what has arrived since, until SIGTERM or SIGINT.

    `startup` reports the steps until the first run.

    Raises:
        IsthmusError: registry or broker cannot be used at the start, or torchrun started several processes.
    """
    from training import distributed
    from training.progress import ProgressReporter
    from training.retraining import Announcer, StoppedError, retrain
    from training.training_run import champion_announcement

    if distributed.launched_processes() > 1:
        raise IsthmusError("torchrun trains once: start a trainer with --every as one process")
    startup.step("looking for examples")
    config, source, send = run_config(settings, options), example_source(settings, options, say), _sender(settings, options)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def say_unless_stopped(line: str) -> None:
        if stop.is_set():  # between two epochs: nothing is registered yet, or all of it is
            raise StoppedError
        say(line)

    registry = _open_registry(settings, startup)
    announcer = Announcer(send, lambda: champion_announcement(registry))
    announcer.catch_up()
    startup.end(f"training every {every_s:g} s")

    def run(examples: Sequence[TrainingExample]) -> RunResult:
        task = TrainingTask(examples, source.item_ids(), text_vectors_of(settings, source, examples, say))
        return _run(registry, task, config, announcer.announce, ProgressReporter(say_unless_stopped))

    retrain(source.examples, run, announcer, every_s, stop)


def run_config(settings: Settings, options: TrainerOptions) -> RunConfig:
    from training.loop import TrainingConfig
    from training.training_run import RunConfig

    own = settings.training
    return RunConfig(
        system=options.system,
        training=TrainingConfig(seed=own.seed),
        margin=own.margin,
        min_judged=own.min_judged,
        grows=not options.offline,
    )


def _open_registry(settings: Settings, startup: Startup) -> Registry:
    startup.step(f"opening registry {settings.registry.uri}")
    from models.trusted_folders import located
    from stream.services.model_trust import folder_trust

    located(settings.registry_folder, settings.trusted_folders)  # now, and not after an hour of training
    from training.registry import Registry

    return Registry(settings.registry.uri, settings.registry_folder, settings.application, trust=folder_trust(settings))


def text_vectors_of(
    settings: Settings, source: ExampleSource, examples: Sequence[TrainingExample], say: Callable[[str], None]
) -> TextVectors | None:
    """Returns the vectors of the items' texts, if there are any and the text model of the newest call is at hand."""
    from stream.services.text_models import folder_of
    from stream.services.text_vectors import text_vectors
    from training.example_arrays import newest_text_model

    texts, needed = source.texts(), newest_text_model(examples)
    if needed is None or not any(texts.values()):
        return None
    folder = source.text_model() or folder_of(settings)
    try:
        found = text_vectors(folder, texts)
    except IsthmusError as error:
        say(f"the model will not rank new items by their texts: {error}")
        return None
    if found.text_model != needed:
        say(
            f"the model will not rank new items by their texts: {folder} is text model {found.text_model}, and calls were encoded "
            f"with {needed}: set encoder.text_model of the trainer as the encoder's"
        )
        return None
    return found


class TrainingTask(NamedTuple):
    """What one run learns from.

    Attributes:
        examples: In order of time.
        item_ids: The items to rank.
        texts: The vectors of their texts; None where there are none.
    """

    examples: Sequence[TrainingExample]
    item_ids: Sequence[str]
    texts: TextVectors | None


def _train(
    registry: Registry,
    task: TrainingTask,
    config: RunConfig,
    publish: Callable[[RunResult], None],
    resume: Path | None,
    say: Callable[[str], None],
) -> RunResult:
    from training import distributed
    from training.progress import SILENT, progress_bar

    try:
        with progress_bar(say) as reporter:
            own = reporter if distributed.rank() == 0 else SILENT
            result = _run(registry, task, config, publish, own, resume)
    except TopicError as error:
        raise IsthmusError(not_announced(error)) from None
    try:
        publish(result)
    except TopicError as error:
        raise IsthmusError(f"{result.reason}\n{not_announced(error)}") from None
    return result


def _run(
    registry: Registry,
    task: TrainingTask,
    config: RunConfig,
    publish: Callable[[RunResult], None],
    reporter: ProgressReporter,
    resume: Path | None = None,
) -> RunResult:
    """One training run. Where there is no champion yet, popularity is published first, so that workers have something to serve."""
    from training import distributed, training_run

    examples, item_ids, texts = task
    with distributed.main_process_first():
        if registry.version_in_role("champion") is None and examples:
            known = examples[: max(1, len(examples) * 8 // 10)]  # what is newer stays fresh for the gate
            first = training_run.publish_popular(known, item_ids, registry)
            publish(first)
            reporter.log(first.reason)
    return training_run.train_once(examples, item_ids, registry, config, reporter, resume, texts)


def _announce(result: RunResult, send: Callable[[ModelAnnouncement], None]) -> None:
    if result.announcement is not None:
        send(result.announcement)


def not_announced(error: IsthmusError) -> str:
    """What to say when the registry was changed and the announcement failed."""
    return f"{error}; the registry is changed, the workers are not told: `isthmus models announce` tells them of the champion"


def example_source(settings: Settings, options: TrainerOptions, say: Callable[[str], None]) -> ExampleSource:
    """Where examples and item ids come from: tables, a file, or the topics.

    Raises:
        IsthmusError: a topic cannot be read.
    """
    if options.data is not None:
        return _source_of_tables(settings, options.data, say)
    if options.examples is not None:
        return _source_of_file(options.examples, options.items)
    return _source_of_topics(settings)


def _source_of_tables(settings: Settings, folder: Path, say: Callable[[str], None]) -> ExampleSource:
    from stream.services.dataset_cache import examples_to_train_on

    read = cache(lambda: examples_to_train_on(settings, folder, say))
    return ExampleSource(lambda: read().examples, lambda: read().items, lambda: read().item_texts, lambda: read().text_model)


def _source_of_file(file: Path, items: list[str] | None) -> ExampleSource:
    from stream.core.examples import in_time_order
    from training.datasets.example_file import read_examples

    def read() -> Sequence[TrainingExample]:
        return in_time_order(read_examples(file))

    return ExampleSource(read, lambda: _items_to_rank(read(), items))


def _source_of_topics(settings: Settings) -> ExampleSource:
    from stream.text.item_texts import item_text

    require_access(Process.TRAINER, settings)
    examples = CompactedTopic(settings.kafka.bootstrap, settings.topics.training_examples)
    catalogue, table = CompactedTopic(settings.kafka.bootstrap, settings.topics.items), ItemTable(item_format(settings))

    def read() -> Sequence[TrainingExample]:
        examples.read_on()
        return examples_in(examples)

    def texts() -> Mapping[str, str]:
        return {item.item_id: item_text(item.name, item.text) for item in table.items.values()}

    def item_ids() -> Sequence[str]:
        items = [item.item_id for item in read_items(catalogue, table)]
        if table.is_published and not items:
            raise IsthmusError(f"every item of topic {settings.topics.items} is withdrawn: publish the items that may be offered")
        return items or _bought(examples_in(examples))

    return ExampleSource(read, item_ids, texts)


def _items_to_rank(examples: Sequence[TrainingExample], items: list[str] | None) -> Sequence[str]:
    """The items that were named, or else those bought."""
    bought = _bought(examples)
    if items is not None and bought and set(bought).isdisjoint(items):
        raise IsthmusError(f"--items names none of the items that were bought: {', '.join(bought[:5])} ...")
    return items or bought


def _bought(examples: Sequence[TrainingExample]) -> list[str]:
    return sorted({item for example in examples for item in example.items})


def _sender(settings: Settings, options: TrainerOptions) -> Callable[[ModelAnnouncement], None]:
    """Where announcements go, signed: a file, or the topic; nowhere when training from files without one."""
    from stream.core.announcements import encode_announcement
    from stream.services.model_trust import outgoing

    def send(champion: ModelAnnouncement) -> None:
        announcement = outgoing(settings, champion)
        if options.announce_file is not None:
            with options.announce_file.open("ab") as file:
                file.write(encode_announcement(announcement) + b"\n")
        elif not options.offline:
            announce(settings.kafka.bootstrap, settings.topics.models, announcement)

    return send
