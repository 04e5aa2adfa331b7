"""How far the states of a partition number contain each input: a record beside them, written with every batch.

An offset alone does not identify a record: a log that lost its end (a lost disk, an unclean election) continues at offsets that the
states already contain. The record's broker timestamp says whether the log still holds what was applied; the boundaries say which
offsets were written after such a cut, and so have another epoch.
"""

from typing import Final

import msgspec

from stream.core.events import EncodedCall, Source
from stream.core.parsing import parse
from stream.core.records import Record, epoch_at, is_older_epoch, later_epoch
from stream.core.state import WATERMARK_PREFIX

VERSION: Final = 1
_MAX_BOUNDARIES: Final = 16


class Watermark(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How far the states contain one partition of an input.

    Attributes:
        version: Version of the stored form.
        epoch: Of the topic.
        offset: Of the last record that the states contain.
        timestamp: Broker time of that record, ms; -1: not known.
        boundaries: Where the partition was cut, see `stream.core.records.Boundaries`; the last 16.
    """

    version: int
    epoch: int
    offset: int
    timestamp: int
    boundaries: tuple[tuple[int, int], ...] = ()

    def advanced(self, offset: int, timestamp: int) -> "Watermark":
        """The watermark once a later record is contained."""
        return Watermark(VERSION, self.epoch, offset, timestamp, self.boundaries)

    def cut(self, first: int) -> "Watermark":
        """The watermark of a partition that was cut and whose new records begin at `first`."""
        before = tuple(boundary for boundary in self.boundaries if boundary[0] < first)
        return Watermark(VERSION, self.epoch, first - 1, -1, (*before, (first, later_epoch(self.last_epoch)))[-_MAX_BOUNDARIES:])

    def epoch_at(self, offset: int) -> int:
        return epoch_at(offset, self.epoch, self.boundaries)

    @property
    def last_epoch(self) -> int:
        """Of the partition since its last cut."""
        return self.boundaries[-1][1] if self.boundaries else self.epoch


class CommittedMark(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What an app without states stores as the metadata of a committed offset.

    Attributes:
        watermark: How far the app has read; also over records that gave no output.
        written: Offset of the last record since the partition's last cut that gave an output; -1: not known.
    """

    watermark: Watermark
    written: int = -1


def watermark_key(topic: str) -> bytes:
    return WATERMARK_PREFIX + topic.encode()


encode_watermark: Final = msgspec.msgpack.Encoder().encode
decode_watermark: Final = msgspec.msgpack.Decoder(Watermark).decode


def encode_mark(mark: CommittedMark) -> str:
    return msgspec.json.encode(mark).decode()


def decode_mark(text: str) -> CommittedMark | None:
    """None where somebody else committed the offset: a reset of the group, or a version without marks."""
    try:
        return msgspec.json.decode(text, type=CommittedMark)
    except msgspec.MsgspecError:
        return None


def furthest(mark: CommittedMark | None, output: Watermark | None, epoch: int) -> Watermark | None:
    """How far an app without states has read a partition of a topic with `epoch`.

    The mark is behind the output if the app ended between the two. An output that lacks what the mark says was written has lost its
    end; then the output counts.
    """
    if mark is None or output is None:
        return output if mark is None else mark.watermark
    known = mark.watermark
    if known.last_epoch != output.last_epoch:
        is_earlier = is_older_epoch(output.last_epoch, known.last_epoch) or known.epoch == epoch != output.epoch
        return known if is_earlier and mark.written < 0 else output
    if output.offset > known.offset:
        return known.advanced(output.offset, output.timestamp)
    return output if output.offset < mark.written else known


def watermark_of_call(record: Record, topic: str, epoch: int) -> Watermark | None:
    """How far the encoded calls up to this record contain the transcripts of a partition; None if it does not say.

    Earlier boundaries are not known: all offsets count as those of the last continuation.
    """
    call = parse(Source.CALL, record.value)
    if not isinstance(call, EncodedCall) or call.origin_topic != topic:
        return None
    if is_older_epoch(epoch, call.origin_epoch):
        return Watermark(VERSION, epoch, call.origin_offset, record.timestamp, ((0, call.origin_epoch),))
    return Watermark(VERSION, call.origin_epoch, call.origin_offset, record.timestamp)
