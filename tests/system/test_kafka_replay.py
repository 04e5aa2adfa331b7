"""`isthmus replay` on real Kafka: the newest examples are those that the step builds from the files.

Events are sent at full speed, so purchases overtake the encoding of calls.
"""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from stream.connection_settings import KafkaSettings
from stream.core.interactions import Conversation, Interaction
from stream.core.outputs import TrainingExample
from stream.services.replay import through_kafka
from stream.services.table_examples import examples_from_tables
from stream.settings import Settings
from training.datasets.synthetic.write_tables import write_tables
from training.datasets.tables.reader import read_tables

EVENTS = 150


def without_vectors(example: TrainingExample) -> TrainingExample:
    """Returns the example without its revision and its vectors, whose seventh digit depends on what was encoded together."""
    return msgspec.structs.replace(example, revision=0, interactions=tuple(_bare(one) for one in example.interactions))


def _bare(interaction: Interaction) -> Interaction:
    if not isinstance(interaction, Conversation):
        return interaction
    return msgspec.structs.replace(
        interaction, parts=tuple(msgspec.structs.replace(part, vector=b"") for part in interaction.parts)
    )


def vectors(examples: list[TrainingExample]) -> np.ndarray:
    return np.stack([one.vector() for example in examples for one in example.interactions if isinstance(one, Conversation)])


@pytest.mark.timeout(170)
def test_examples_through_kafka_are_those_built_from_the_files(empty_kafka: str, tmp_path: Path) -> None:
    """Events are sent at full speed to separate encoder and worker processes."""
    write_tables(tmp_path / "tables", EVENTS, 3)
    tables = read_tables(tmp_path / "tables")
    settings = Settings(kafka=KafkaSettings(bootstrap=empty_kafka, dev=True))
    streamed = list(through_kafka(settings, tables, None, tmp_path, print))
    built, items = examples_from_tables(settings, tmp_path / "tables")
    assert len(items) == 24
    assert len(built) > EVENTS / 2
    assert [without_vectors(example) for example in streamed] == [without_vectors(example) for example in built]
    assert np.abs(vectors(streamed) - vectors(built)).max() < 2e-3
