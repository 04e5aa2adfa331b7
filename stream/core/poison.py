"""Isolation of poison: an event that makes the step raise becomes a dead letter, and the rest of its batch is handled without it.

A bug in the step or a ranker must not stop a partition for ever. Failures that no event causes (memory, disk, an unreadable state
store) are raised, so that a restart tries again. Worker, embedded mode and replay share this code; the encoder isolates poisoned
transcripts with `isolate_failures`.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from stream.core.dead_letters import dead_letter
from stream.core.events import EncodedCall, Reason, Rejection
from stream.core.outputs import Outcome
from stream.core.parsing import parse
from stream.core.ranking import Catalogue, Ranker
from stream.core.records import Batch, Record
from stream.core.state import StatesUnreadableError
from stream.core.step import StepConfig, StepInput, coordinates_of, step, step_many
from stream.core.user_state import StateStore

ATTEMPTS: Final = 2  # a record must fail this often alone: the first failure may be transient
_FRAMES: Final = 3

INFRASTRUCTURE_ERRORS: Final = (MemoryError, OSError, StatesUnreadableError)


def step_isolating_poison(
    batch: Batch, states: StateStore, ranker: Ranker | None, catalogue: Catalogue, config: StepConfig
) -> Outcome:
    """`step`; if that raises, the batch is halved until the records that raise stand alone, and these become dead letters.

    Each record is tried at most log2(records) + 3 times. Raises MemoryError, OSError and StatesUnreadableError only.
    """
    return step_many_isolating_poison([StepInput(batch, states)], ranker, catalogue, config)[0]


def step_many_isolating_poison(
    inputs: Sequence[StepInput], ranker: Ranker | None, catalogue: Catalogue, config: StepConfig
) -> list[Outcome]:
    """`step_many`; if that raises, each batch by itself, and a single batch by halves."""
    try:
        return step_many(inputs, ranker, catalogue, config)
    except INFRASTRUCTURE_ERRORS:
        raise
    except Exception:  # noqa: BLE001  (a bug is what this is for)
        if len(inputs) == 1:
            return [_step_by_halves(*inputs[0], ranker, catalogue, config)]
        return [step_isolating_poison(*part, ranker, catalogue, config) for part in inputs]


def _step_by_halves(batch: Batch, states: StateStore, ranker: Ranker | None, catalogue: Catalogue, config: StepConfig) -> Outcome:
    merged = Outcome()
    layered = _LayeredStates(states, merged.writes)

    def attempt(records: Sequence[Record]) -> None:
        _merge(merged, step(batch._replace(records=records), layered, ranker, catalogue, config))

    for record, error in isolate_failures(batch.records, attempt):
        event = parse(batch.source, record.value)  # an encoded call names its origin
        origin = coordinates_of(record, event if isinstance(event, EncodedCall) else None, batch)
        merged.dead_letters.append(dead_letter(batch.source, origin, record, Rejection(Reason.POISON, error), config.application))
        merged.counts["events", batch.source, "dead_letter"] += 1
        merged.counts["dead_letters", Reason.POISON] += 1
    return merged


def isolate_failures(records: Sequence[Record], attempt: Callable[[Sequence[Record]], None]) -> list[tuple[Record, str]]:
    """Calls `attempt` on pieces of the records, in order, and halves those that raise.

    `attempt` must have no effect when it raises. Returns each record that raised alone, with the location of the failure.
    """
    pieces = deque([records])
    poison: list[tuple[Record, str]] = []
    failures = 0  # consecutive failures of the current piece
    while pieces:
        piece = pieces.popleft()
        try:
            attempt(piece)
        except INFRASTRUCTURE_ERRORS:
            raise
        except Exception as error:  # noqa: BLE001  (whatever it is, it must not stop the partition)
            half = len(piece) // 2
            if half:
                pieces.extendleft((piece[half:], piece[:half]))
                continue
            failures += 1
            if failures < ATTEMPTS:
                pieces.appendleft(piece)
                continue
            poison.append((piece[0], failure_location(error)))
        failures = 0
    return poison


def failure_location(error: Exception) -> str:
    """An exception's type and its innermost stack frames, without its message, which may quote personal data."""
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(f"{trace.tb_frame.f_globals.get('__name__', '?')}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{type(error).__name__} at {' > '.join(frames[-_FRAMES:])}"


class _LayeredStates:
    """States on top of which the writes of earlier pieces are visible."""

    def __init__(self, states: StateStore, writes: Mapping[bytes, bytes | None]) -> None:
        self._states = states
        self._writes = writes

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        try:
            stored = self._states.get_many(keys)
        except Exception as error:
            raise StatesUnreadableError("the users' states cannot be read") from error
        return [self._writes.get(key, value) for key, value in zip(keys, stored, strict=True)]


def _merge(merged: Outcome, piece: Outcome) -> None:
    merged.writes.update(piece.writes)
    merged.recommendations += piece.recommendations
    merged.examples += piece.examples
    merged.dead_letters += piece.dead_letters
    merged.cause_times += piece.cause_times
    merged.counts.update(piece.counts)
    merged.new_users += piece.new_users
