"""Periodic training: every so often on what has come since, warm, until it is told to stop.

A failed run is told and changes nothing. A champion that could not be announced is announced at the next turn: until then the
registry and the workers disagree.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from stream.core.announcements import ModelAnnouncement
from stream.core.outputs import TrainingExample
from stream.errors import IsthmusError
from training.loop import NotFiniteError
from training.registry import RegistryError
from training.training_run import Result, TooFewExamplesError

logger = logging.getLogger(__name__)
EXPECTED: Final = (TooFewExamplesError, NotFiniteError, RegistryError, IsthmusError, OSError, ValueError)


class StoppedError(Exception):
    """A run was broken off because the trainer was told to stop."""


class Announcer:
    """Tells of new champions. Where that failed, and at first, for a trainer may have died before it told anybody, `catch_up` tells
    of `champion`: whoever is it then, for somebody may have rolled back meanwhile.
    """

    def __init__(self, send: Callable[[ModelAnnouncement], None], champion: Callable[[], ModelAnnouncement | None]) -> None:
        self._send = send
        self._champion = champion
        self.is_behind = True
        """Whether the registry has a champion of which the workers do not know."""

    def tell(self, result: Result) -> None:
        """Raises what `send` raises."""
        if result.announcement is not None:
            self.is_behind = True
            self._send(result.announcement)
            self.is_behind = False

    def catch_up(self) -> None:
        """Raises what `send` and `champion` raise."""
        if self.is_behind:
            announcement = self._champion()
            if announcement is not None:
                self._send(announcement)
            self.is_behind = False


def retrain(
    load: Callable[[], Sequence[TrainingExample]],
    run: Callable[[Sequence[TrainingExample]], Result],
    announcer: Announcer,
    every_s: float,
    stop: threading.Event,
) -> None:
    """Loads, runs and announces once per `every_s` until `stop` is set; skips a turn when nothing has come.

    `run` may raise StoppedError between two epochs once `stop` is set.
    """
    seen: frozenset[tuple[str, str, int]] | None = None
    while not stop.is_set():
        started = time.monotonic()
        try:
            announcer.catch_up()
            examples = load()
            known = revisions_of(examples)
            if known == seen:
                logger.info("nothing new since the last run")
            else:
                result = run(examples)
                seen = known
                logger.info("%s", result.reason)
                announcer.tell(result)
        except StoppedError:
            logger.info("stopped in the middle of a run, the champion stays")
            return
        except EXPECTED as error:
            logger.warning("%s: %s", _what_it_means(announcer), error)
        except Exception:
            logger.exception("%s", _what_it_means(announcer))
        stop.wait(max(0.0, every_s - (time.monotonic() - started)))


def revisions_of(examples: Sequence[TrainingExample]) -> frozenset[tuple[str, str, int]]:
    """What tells whether anything came, changed or was erased."""
    return frozenset((example.user_id, example.purchase_id, example.revision) for example in examples)


def _what_it_means(announcer: Announcer) -> str:
    if announcer.is_behind:
        return "the new champion could not be announced; it is at the next turn"
    return "this run came to nothing, the champion stays"
