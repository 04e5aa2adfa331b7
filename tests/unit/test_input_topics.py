"""An input topic is declared once, in `stream.core.events.INPUTS`; whatever else knows of input topics follows."""

from typing import get_args

import pytest

from stream.core.events import INPUTS, STEP_INPUTS, Source, UserEvent
from stream.core.state import SOURCE_NUMBERS
from stream.errors import IsthmusError
from stream.kafka.cluster.topics import source_topics, specs
from stream.services.process import step_config
from stream.settings import MappingSettings, Settings, TopicSettings


def test_the_stored_numbers_of_the_sources_never_change() -> None:
    """A user's applied offsets are stored under them; a new source takes the next number."""
    assert list(SOURCE_NUMBERS.items())[:5] == [
        (Source.CLICK, 0),
        (Source.CALL, 1),
        (Source.PURCHASE, 2),
        (Source.ELIGIBILITY, 3),
        (Source.ERASURE, 4),
    ]


def test_the_step_reads_one_topic_per_source() -> None:
    """And its event types are those of `UserEvent`."""
    assert [row.source for row in STEP_INPUTS] == list(Source)
    assert {row.event_type for row in STEP_INPUTS} == set(get_args(UserEvent))


def test_every_input_has_its_settings_and_its_topic() -> None:
    """A name each; a field mapping each, but for what our own stages write."""
    topics = TopicSettings()
    assert [topics.name_of(row.role) for row in INPUTS] == [row.default_name for row in INPUTS]
    assert list(MappingSettings.model_fields) == [*(row.role for row in INPUTS if not row.is_derived), "items"]
    assert [spec.role for spec in specs(topics)][: len(INPUTS)] == [row.role for row in INPUTS]
    assert source_topics(topics) == {row.default_name: row.source for row in STEP_INPUTS}


def test_a_wrong_mapping_is_named_by_its_setting() -> None:
    """The setting's name, not the source's: `mapping.purchases`."""
    settings = Settings(mapping=MappingSettings(purchases={"items": "["}))  # type: ignore[call-arg]
    with pytest.raises(IsthmusError, match=r"setting mapping\.purchases\.items"):
        step_config(settings)


def test_each_mapping_reaches_its_source() -> None:
    """Those of the step; the transcripts' mapping is the encoder's."""
    mapped = {row.role: {"user_id": "id"} for row in INPUTS if not row.is_derived}
    mappers = step_config(Settings(mapping=MappingSettings(**mapped))).mappers
    assert set(mappers) == {row.source for row in STEP_INPUTS if not row.is_derived}
