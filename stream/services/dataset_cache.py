"""Data sets prepared for benchmark and training, cached.

The keyword list comes from the training part's calls alone. It and the examples are kept in the cache directory under a hash of
everything they depend on. A second hash identifies the code that trains on them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from pathlib import Path

    from stream.core.outputs import TrainingExample
    from stream.settings import Settings
    from stream.text.keywords import Keywords
    from training.datasets.tables.reader import Tables
    from training.text_vectors import TextVectors

_TRAINING: Final = (
    "anchors",
    "calibration",
    "checkpoints",
    "distributed",
    "evaluation/explanations",
    "example_arrays",
    "loop",
    "metrics",
    "recipes",
    "split",
    "stages",
    "text_vectors",
    "train_system",
)
"""The modules of `training` that a system's result depends on."""
_BESIDES: Final = {
    "thin": ("evaluation/modality_ablation",),
    "unseen": ("evaluation/text_similarity", "evaluation/unseen_items"),
}
"""What other comparisons than the paper's depend on besides."""
_EXAMPLES: Final = ("split", "datasets/example_file", "datasets/examples_from_tables")
"""The modules of `training` that examples depend on, besides the tables' package."""
_SERVICES: Final = ("dataset_cache", "table_examples", "text_vectors")
"""The modules of this package that examples depend on."""


class Prepared(NamedTuple):
    """A prepared data set.

    Attributes:
        examples: In order of time.
        items: The item ids, in the tables' order.
        fingerprint: The hash of everything the examples depend on.
        text_model: The folder of the text model that encoded the transcripts; None if there are no transcripts.
        item_texts: Item -> its text, "" where it has none.
    """

    examples: list[TrainingExample]
    items: list[str]
    fingerprint: str
    text_model: Path | None
    item_texts: Mapping[str, str]

    def texts(self) -> TextVectors | None:
        """Loads the text model and encodes the items' texts; None if there is no text model."""
        from stream.services.text_vectors import text_vectors

        return None if self.text_model is None else text_vectors(self.text_model, self.item_texts)


def prepare(settings: Settings, folder: Path, say: Callable[[str], None]) -> Prepared:
    """Reads, checks and encodes a folder of tables, or reads the result of an earlier call on the same data from the cache.

    Raises:
        IsthmusError: the tables or the text model cannot be used.
    """
    from stream.services.table_examples import encode_tables
    from stream.services.text_models import folder_of
    from stream.services.text_vectors import texts_of_tables
    from stream.text.model import with_keywords
    from training.datasets.example_file import read_examples, write_examples
    from training.datasets.tables.reader import read_tables

    tables = read_tables(folder)
    fingerprint = _fingerprint(folder, folder_of(settings))
    cached = settings.cache_dir / "benchmark" / fingerprint
    text_model = cached / "text-model" if tables.conversations else None
    if not (cached / "examples").exists():
        cached.mkdir(parents=True, exist_ok=True)
        if text_model is not None:
            listed = training_keywords(tables)
            say(f"{len(listed.listed)} keywords from the calls of the training part; encoding, once for this data ...")
            with_keywords(folder_of(settings), text_model, listed)
        examples = encode_tables(settings, folder, tables, cached / "text-model")
        write_examples(cached / "unfinished", examples)
        (cached / "unfinished").replace(cached / "examples")
    said = texts_of_tables(tables.items, tables.texts)
    return Prepared(list(read_examples(cached / "examples")), list(tables.items), fingerprint, text_model, said)


def examples_to_train_on(settings: Settings, folder: Path, say: Callable[[str], None]) -> Prepared:
    """Returns a data set as `prepare` does, but with the text model that the settings name, if they name one.

    Raises:
        IsthmusError: the tables or the text model cannot be used.
    """
    from stream.services.table_examples import encode_tables
    from stream.services.text_vectors import texts_of_tables
    from stream.text.model import described
    from training.datasets.tables.reader import read_tables

    named = settings.encoder.text_model
    if named is not None:
        tables = read_tables(folder)
        examples = encode_tables(settings, folder, tables, named)
        return Prepared(examples, list(tables.items), "", named, texts_of_tables(tables.items, tables.texts))
    prepared = prepare(settings, folder, say)
    if prepared.text_model is not None:
        say(f"calls are encoded with text model {described(prepared.text_model)}; a model trained on them works with no other:")
        say(f"set the encoder's encoder.text_model to {prepared.text_model}, or to a copy")
    return prepared


def training_keywords(tables: Tables, unseen: Collection[str] = ()) -> Keywords:
    """Returns the keywords of the calls before the training part's purchase events, without those of validation and test, and
    without the calls before a purchase of an unseen item.
    """
    from stream.text.keywords import keywords_of
    from training.split import split

    training, _, _ = split(sorted({row.purchase_event_id for row in tables.interactions}))
    known = set(training)
    before = {event for event in tables.purchases if not set(unseen).isdisjoint(tables.purchases[event])}
    gone = {row.conversation_id for row in tables.interactions if row.purchase_event_id in before}
    calls_by_user: dict[str, dict[str, None]] = {}
    for row in tables.interactions:
        if row.conversation_id is not None and row.purchase_event_id in known and row.conversation_id not in gone:
            calls_by_user.setdefault(row.user_id, {})[row.conversation_id] = None
    return keywords_of(
        {user: [text for call in calls for _, text in tables.conversations[call]] for user, calls in calls_by_user.items()}
    )


def training_code(versions: str, comparison: str = "") -> str:
    """Returns a hash of the code and configuration that train and evaluate, and of the versions that they run on."""
    return _hash(training_sources(comparison), versions)


def training_sources(comparison: str = "") -> list[Path]:
    """Returns the files that a system's result depends on: in the paper's comparison, or in "thin" or "unseen". A missing one is an
    error when it is hashed.
    """
    from pathlib import Path

    import models
    import training

    names = [*_TRAINING, *_BESIDES.get(comparison, ())]
    return [*sorted(Path(models.__path__[0]).rglob("*.py")), *_modules(training.__path__[0], names)]


def example_sources() -> list[Path]:
    """Returns the files that turn tables into examples. A missing one is an error when it is hashed."""
    from pathlib import Path

    import stream.core
    import stream.services
    import stream.text
    import training.datasets.tables

    packages = (stream.core, stream.text, training.datasets.tables)
    return [
        *(path for package in packages for path in sorted(Path(package.__path__[0]).rglob("*.py"))),
        *_modules(training.__path__[0], _EXAMPLES),
        *_modules(stream.services.__path__[0], _SERVICES),
    ]


def _modules(package: str, names: Iterable[str]) -> list[Path]:
    from pathlib import Path

    return [Path(package) / f"{name}.py" for name in names]


def _fingerprint(folder: Path, text_model: Path) -> str:
    """Returns a hash of the tables, the text encoder, and the code that turns them into examples."""
    manifest = text_model / "manifest.json"  # missing if the tables hold no text and none was imported
    return _hash([*_tables(folder), *([manifest] if manifest.exists() else []), *example_sources()])


def _hash(paths: Iterable[Path], more: str = "") -> str:
    from hashlib import blake2b, file_digest

    total = blake2b(more.encode(), digest_size=12)
    for path in paths:
        with path.open("rb") as file:
            total.update(path.name.encode() + file_digest(file, "blake2b").digest())
    return total.hexdigest()


def _tables(folder: Path) -> Iterator[Path]:
    tables = "data_*", "items", "item_texts", "data_*/data_*"
    names = (f"{table}.csv{packed}" for table in tables for packed in ("", ".gz"))
    yield from sorted(path for name in names for path in folder.glob(name))
