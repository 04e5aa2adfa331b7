"""What a dead letter may hold follows from the declaration of its input topic: `InputTopic.carries_text`."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from stream.core.events import INPUTS, InputTopic, Source
from stream.core.outputs import DeadLetter, Output
from stream.core.ranking import Catalogue
from stream.core.records import Batch, PlainRecord
from stream.core.step import StepConfig, StepInput
from stream.text.encode_stage import encode_batch
from tests import world

SECRET = b"a word that only the record holds"
RECORD = PlainRecord(3, world.NOW, SECRET, b'{"user_id":1,"text":"' + SECRET + b'"}', [("h", SECRET)])


class TextModel:
    """Encodes nothing: no transcript of these tests is usable."""

    width, hash = world.WIDTH, "text-1"

    def encode(self, sentences: Sequence[str]) -> Any:
        return np.zeros((len(sentences), self.width), dtype=np.float32)


@pytest.mark.parametrize("topic", INPUTS, ids=lambda topic: topic.role)
def test_a_rejected_record_is_quoted_unless_its_input_carries_text(topic: InputTopic) -> None:
    """Neither original, key nor headers of a text: any of them may quote it. Elsewhere all three, so that it can be replayed."""
    (letter,) = rejected(topic)
    assert_withheld(letter, topic)


@pytest.mark.parametrize("topic", [topic for topic in INPUTS if topic.is_step_input], ids=lambda topic: topic.role)
def test_a_poisoned_record_is_quoted_unless_its_input_carries_text(topic: InputTopic, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead letter with the reason `poison` is written elsewhere than one of the step, under the same rule."""
    from stream.core import poison

    def broken(*_: object) -> None:
        raise RuntimeError(SECRET.decode())

    monkeypatch.setattr(poison, "step_many", broken)
    monkeypatch.setattr(poison, "step", broken)
    inputs = [StepInput(batch_of(topic), world.Store())]
    (outcome,) = poison.step_many_isolating_poison(inputs, None, Catalogue(), StepConfig(partitions=1))
    (letter,) = outcome.dead_letters
    assert_withheld(letter, topic)


def test_calls_carry_text() -> None:
    """Transcripts, and the features of them that the encoder sends."""
    assert {topic.role for topic in INPUTS if topic.carries_text} >= {"transcripts", "encoded_calls"}
    assert all(topic.carries_text for topic in INPUTS if topic.source is Source.CALL)


def rejected(topic: InputTopic) -> list[Output]:
    batch = batch_of(topic)
    if not topic.is_step_input:
        return encode_batch(batch, TextModel()).dead_letters  # type: ignore[arg-type]
    return world.run(world.Store(), batch).dead_letters


def batch_of(topic: InputTopic) -> Batch:
    return Batch(topic.source, topic.default_name, 1, 0, [RECORD])


def assert_withheld(output: Output, topic: InputTopic) -> None:
    letter = msgspec.json.decode(output.value or b"", type=DeadLetter)
    expected = (None, (), None) if topic.carries_text else (RECORD.key, (("h", SECRET),), RECORD.value)
    assert (letter.key, letter.headers, letter.original) == expected
    assert SECRET.decode() not in letter.error
