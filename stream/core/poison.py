"""The step made total: an event that makes it raise becomes a dead letter, and the rest of its batch is handled without it.

A bug in the step or a ranker must not stop a partition for ever. What is no event's fault (memory, disk, a state store that cannot
be read) is raised: a restart tries again. The same for worker, embedded mode and replay; the encoder stage sifts its batches too.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from stream.core.dead_letters import dead_letter
from stream.core.events import EncodedCall, Reason, Rejection, Source, parse
from stream.core.outputs import Outcome
from stream.core.ranking import Catalogue, Ranker
from stream.core.records import Batch, Record
from stream.core.state import StatesUnreadableError
from stream.core.step import StepConfig, StepInput, coordinates_of, step, step_many
from stream.core.user_state import StateStore

ATTEMPTS: Final = 2  # a record must fail so often by itself: once may be chance
_FRAMES: Final = 3


INFRASTRUCTURE_ERRORS: Final = (MemoryError, OSError, StatesUnreadableError)


def step_isolating_poison(
    batch: Batch, states: StateStore, ranker: Ranker | None, catalogue: Catalogue, settings: StepConfig
) -> Outcome:
    """As `step`; where that raises, the outcome of the batch cut in halves, again and again, until what raises stands alone.

    Each record is tried at most log2(records) + 3 times. Raises MemoryError, OSError and StatesUnreadableError only.
    """
    return step_many_isolating_poison([StepInput(batch, states)], ranker, catalogue, settings)[0]


def step_many_isolating_poison(
    parts: Sequence[StepInput], ranker: Ranker | None, catalogue: Catalogue, settings: StepConfig
) -> list[Outcome]:
    """As `step_many`; where that raises, each batch by itself, and one that stands alone in pieces."""
    try:
        return step_many(parts, ranker, catalogue, settings)
    except INFRASTRUCTURE_ERRORS:
        raise
    except Exception:  # noqa: BLE001  (a bug is what this is for)
        again = step_isolating_poison if len(parts) > 1 else _in_pieces
        return [again(*part, ranker, catalogue, settings) for part in parts]


def _in_pieces(batch: Batch, states: StateStore, ranker: Ranker | None, catalogue: Catalogue, settings: StepConfig) -> Outcome:
    whole = Outcome()
    layered = _Layered(states, whole.writes)

    def attempt(records: Sequence[Record]) -> None:
        _merge(whole, step(batch._replace(records=records), layered, ranker, catalogue, settings))

    for record, error in isolate_failures(batch.records, attempt):
        event = parse(batch.source, record.value) if batch.source is Source.CALL else None
        origin = coordinates_of(record, event if isinstance(event, EncodedCall) else None, batch)
        with_original = batch.source is not Source.CALL
        whole.dead_letters.append(dead_letter(origin, record, Rejection(Reason.POISON, error), with_original=with_original))
        whole.counts["events", batch.source, "dead_letter"] += 1
        whole.counts["dead_letters", Reason.POISON] += 1
    return whole


def isolate_failures(records: Sequence[Record], attempt: Callable[[Sequence[Record]], None]) -> list[tuple[Record, str]]:
    """Calls `attempt` on pieces of the records, in order, halving those that raise; gives each record that raised alone, and where.

    `attempt` must have no effect when it raises.
    """
    pieces = deque([records])
    poison: list[tuple[Record, str]] = []
    tries = 0
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
            tries += 1
            if tries < ATTEMPTS:
                pieces.appendleft(piece)
                continue
            poison.append((piece[0], failure_location(error)))
        tries = 0
    return poison


def failure_location(error: Exception) -> str:
    """An exception's type and the innermost places of the code; not its message, which may quote personal data."""
    places = []
    trace = error.__traceback__
    while trace is not None:
        places.append(f"{trace.tb_frame.f_globals.get('__name__', '?')}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{type(error).__name__} at {' > '.join(places[-_FRAMES:])}"


class _Layered:
    """States with the writes of the pieces before on top."""

    def __init__(self, states: StateStore, writes: Mapping[bytes, bytes | None]) -> None:
        self._states = states
        self._writes = writes

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        try:
            stored = self._states.get_many(keys)
        except Exception as error:
            raise StatesUnreadableError("the users' states cannot be read") from error
        return [self._writes.get(key, value) for key, value in zip(keys, stored, strict=True)]


def _merge(whole: Outcome, piece: Outcome) -> None:
    whole.writes.update(piece.writes)
    whole.recommendations += piece.recommendations
    whole.examples += piece.examples
    whole.dead_letters += piece.dead_letters
    whole.moments += piece.moments
    whole.counts.update(piece.counts)
    whole.new_users += piece.new_users
