"""Which transcripts can be encoded, and when a call ended."""

from typing import Final

from stream.core.events import Reason, Rejection, Transcript, to_milliseconds

_PIECES: Final = range(-(2**63), 2**64)
"""Numbers that an encoded call can hold: the integers of msgpack."""


def transcript_problem(transcript: Transcript) -> Rejection | None:
    """Why a transcript cannot be encoded, whatever its times are compared with, or None."""
    if not any(sentence.text.strip() for sentence in transcript.sentences):
        return Rejection(Reason.INVALID, "no sentence has text")
    if ended_at(transcript) < to_milliseconds(transcript.started_at):
        return Rejection(Reason.INVALID, "it ends before it begins")
    if transcript.piece is not None and transcript.piece not in _PIECES:
        return Rejection(Reason.INVALID, "its piece is no 64-bit integer")
    return None


def ended_at(transcript: Transcript) -> int:
    """The end of a transcript, ms: its `ended_at`, else the time of its last sentence, else its start."""
    if transcript.ended_at is not None:
        return to_milliseconds(transcript.ended_at)
    times = [to_milliseconds(sentence.at) for sentence in transcript.sentences if sentence.at is not None]
    return max(times, default=to_milliseconds(transcript.started_at))
