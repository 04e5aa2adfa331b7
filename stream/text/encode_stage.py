"""The encoder stage, a pure and total function: a batch of transcripts -> encoded calls and dead letters.

Raw text ends here: an encoded call holds vectors and keywords, and a dead letter holds the coordinates of its transcript only.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import msgspec
import numpy as np

from stream.core import limits
from stream.core.cloud_events import DEFAULT_APPLICATION
from stream.core.dead_letters import dead_letter
from stream.core.event_times import DEFAULT_RULES, TimeRule, transcript_rejection
from stream.core.events import EncodedCall, FieldMapper, Reason, Rejection, Source, ToJson, Transcript, to_milliseconds
from stream.core.outputs import Output
from stream.core.parsing import key_rejection, parse_transcript
from stream.core.poison import INFRASTRUCTURE_ERRORS, isolate_failures
from stream.core.records import Batch, Record, is_native
from stream.core.transcripts import ended_at, transcript_problem
from stream.text.model import TextModel

_encode = msgspec.msgpack.Encoder().encode
_CHARACTERS = 4_000  # longest part of a sentence that is read: far more than the encoder's 256 tokens


EncoderCount = tuple[Literal["encoder_transcripts"], Literal["encoded", "dead_letter"]] | tuple[Literal["dead_letters"], Reason]
"""A counter of the encoder: name and label values, as `stream.core.outputs.Count`."""


class TranscriptFormat(NamedTuple):
    """How to read transcripts.

    Attributes:
        mapper: Field mapping of a producer with other field names than ours.
        times: Unit and plausible times.
        max_ahead_ms: A transcript further ahead of its broker timestamp is a dead letter.
        application: Name of the application, the source of what it publishes.
        to_json: How a value becomes JSON; None where it is JSON.
    """

    mapper: FieldMapper | None = None
    times: TimeRule = DEFAULT_RULES[Source.CALL]
    max_ahead_ms: int = 5 * limits.MINUTE_MS
    application: bytes = DEFAULT_APPLICATION
    to_json: ToJson | None = None


NATIVE: Final = TranscriptFormat()


class Encoded(NamedTuple):
    """The result of a batch.

    Attributes:
        calls: Encoded calls.
        timestamps: The Kafka timestamps of the calls' origins, ms: the step's clock.
        dead_letters: Dead letters of the transcripts that cannot be encoded.
        sentences: How many sentences were encoded.
        counts: Counts by metric and labels.
    """

    calls: list[Output]
    timestamps: list[int]
    dead_letters: list[Output]
    sentences: int
    counts: Counter[EncoderCount]


def encode_batch(batch: Batch, model: TextModel, form: TranscriptFormat = NATIVE) -> Encoded:
    """Every record becomes one encoded call or one dead letter, in order.

    A transcript that makes the encoder raise is isolated, as the step's events are (`stream.core.poison`).
    """
    try:
        return _encode_all(batch, model, form)
    except INFRASTRUCTURE_ERRORS:
        raise
    except Exception:  # noqa: BLE001  (isolation is for bugs)
        return _in_pieces(batch, model, form)


def _in_pieces(batch: Batch, model: TextModel, form: TranscriptFormat) -> Encoded:
    whole = Encoded([], [], [], 0, Counter())
    sentences = 0

    def attempt(records: Sequence[Record]) -> None:
        nonlocal sentences
        piece = _encode_all(batch._replace(records=records), model, form)
        whole.calls.extend(piece.calls)
        whole.timestamps.extend(piece.timestamps)
        whole.dead_letters.extend(piece.dead_letters)
        whole.counts.update(piece.counts)
        sentences += piece.sentences

    for record, error in isolate_failures(batch.records, attempt):
        _bury(batch, record, Rejection(Reason.POISON, error), whole, form.application)
    return whole._replace(sentences=sentences)


def _encode_all(batch: Batch, model: TextModel, form: TranscriptFormat) -> Encoded:
    encoded = Encoded([], [], [], 0, Counter())
    usable: list[tuple[Record, Transcript, list[str]]] = []
    for record in batch.records:
        read = _read(record, form)
        if isinstance(read, Rejection):
            _bury(batch, record, read, encoded, form.application)
        else:
            usable.append((record, read, [text for sentence in read.sentences if (text := sentence.text.strip()[:_CHARACTERS])]))
    vectors = model.encode([text for _, _, texts in usable for text in texts])
    start = 0
    for record, transcript, texts in usable:
        end = start + len(texts)
        total = vectors[start:end].sum(axis=0, dtype=np.float32)
        call = _call(batch, record, transcript, len(texts), total.astype("<f4").tobytes(), model.keywords.find(texts), model.hash)
        encoded.calls.append(Output(transcript.user_id.encode(), _encode(call)))
        encoded.timestamps.append(record.timestamp)
        encoded.counts["encoder_transcripts", "encoded"] += 1
        start = end
    return encoded._replace(sentences=start)


def _bury(batch: Batch, record: Record, rejection: Rejection, encoded: Encoded, application: bytes) -> None:
    encoded.dead_letters.append(dead_letter(batch.source, batch.coordinates(record), record, rejection, application))
    encoded.counts["encoder_transcripts", "dead_letter"] += 1
    encoded.counts["dead_letters", rejection.reason] += 1


def _read(record: Record, form: TranscriptFormat) -> Transcript | Rejection:
    if is_native(record.headers):
        transcript = parse_transcript(record.value)
    else:
        transcript = parse_transcript(record.value, form.mapper, form.times.unit, form.to_json)
    return transcript if isinstance(transcript, Rejection) else _usable(record, transcript, form)


def _usable(record: Record, transcript: Transcript, form: TranscriptFormat) -> Transcript | Rejection:
    rejection = key_rejection(record.key, transcript.user_id)
    rejection = rejection or transcript_rejection(transcript, record.timestamp, form.times, form.max_ahead_ms)
    return rejection or transcript_problem(transcript) or transcript


def _call(
    batch: Batch, record: Record, transcript: Transcript, sentences: int, total: bytes, keywords: Sequence[str], text_model: str
) -> EncodedCall:
    origin = batch.coordinates(record)
    return EncodedCall(
        user_id=transcript.user_id,
        conversation_id=transcript.conversation_id,
        started_at=to_milliseconds(transcript.started_at),
        ended_at=ended_at(transcript),
        event_id=transcript.event_id or origin.event_id,
        sentences=sentences,
        vector_sum=total,
        keywords=tuple(keywords),
        text_model=text_model,
        origin_topic=origin.topic,
        origin_epoch=origin.epoch,
        origin_partition=origin.partition,
        origin_offset=origin.offset,
        has_event_id=transcript.event_id is not None,
        piece=msgspec.UNSET if transcript.piece is None else transcript.piece,
    )
