"""The pure step (interface first; the body follows)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from stream.core import limits
from stream.core.events import Adapter
from stream.core.outputs import Outcome
from stream.core.ranking import Catalogue, Ranker
from stream.core.records import Batch, Source


class States(Protocol):
    """The state records of one partition number, by key; None where there is none."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSettings:
    partitions: int
    list_length: int = 5
    session_gap_ms: int = 30 * limits.MINUTE_MS
    max_ahead_ms: int = 5 * limits.MINUTE_MS
    allowed_lateness_ms: int = limits.DAY_MS
    marker_retention_ms: int = 7 * limits.DAY_MS
    erasure_key: bytes = b"isthmus"
    explain: bool = False
    adapters: Mapping[Source, Adapter] = field(default_factory=dict)


def step(batch: Batch, states: States, ranker: Ranker | None, catalogue: Catalogue, settings: StepSettings) -> Outcome:
    """What one batch brings about."""
    raise NotImplementedError
