"""Periodic training: at a fixed interval, with a warm start, until it is stopped.

A failed run is logged and changes nothing. A champion that could not be announced is announced again before the next run; until
then the registry and the workers disagree.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from stream.core.announcements import ModelAnnouncement
from stream.core.examples import fingerprint
from stream.core.outputs import TrainingExample
from stream.errors import IsthmusError
from training.training_run import RunResult

logger = logging.getLogger(__name__)
EXPECTED_ERRORS: Final = (IsthmusError, OSError, ValueError)
"""Logged without a traceback; the next run may succeed."""


class StoppedError(Exception):
    """A run was interrupted because the trainer was asked to stop."""


class Announcer:
    """Publishes champion announcements.

    `catch_up` re-publishes the current champion after a failure, and after a start, because a former trainer may have stopped
    between promotion and announcement. It asks the registry for the champion, which may have been rolled back meanwhile.
    """

    def __init__(self, send: Callable[[ModelAnnouncement], None], champion: Callable[[], ModelAnnouncement | None]) -> None:
        self._send = send
        self._champion = champion
        self.is_behind = True
        """Whether the workers may not know the registry's champion."""

    def announce(self, result: RunResult) -> None:
        """Publishes the new champion, if the run has one. Raises what `send` raises."""
        if result.announcement is not None:
            self.is_behind = True
            self._send(result.announcement)
            self.is_behind = False

    def catch_up(self) -> None:
        """Publishes the current champion if the workers may not know it. Raises what `send` and `champion` raise."""
        if self.is_behind:
            announcement = self._champion()
            if announcement is not None:
                self._send(announcement)
            self.is_behind = False


def retrain(
    load: Callable[[], Sequence[TrainingExample]],
    run: Callable[[Sequence[TrainingExample]], RunResult],
    announcer: Announcer,
    every_s: float,
    stop: threading.Event,
) -> None:
    """Loads, runs and announces once per `every_s` until `stop` is set; skips the run when no example has changed.

    `run` may raise StoppedError between two epochs once `stop` is set.
    """
    trained_on: frozenset[bytes] | None = None
    while not stop.is_set():
        started = time.monotonic()
        try:
            announcer.catch_up()
            examples = load()
            contents = contents_of(examples)
            if contents == trained_on:
                logger.info("nothing new since the last run")
            else:
                result = run(examples)
                trained_on = contents
                logger.info("%s", result.reason)
                announcer.announce(result)
        except StoppedError:
            logger.info("stopped during a run; the champion stays")
            return
        except EXPECTED_ERRORS as error:
            logger.warning("%s: %s", _consequence(announcer), error)
        except Exception:
            logger.exception("%s", _consequence(announcer))
        stop.wait(max(0.0, every_s - (time.monotonic() - started)))


def contents_of(examples: Sequence[TrainingExample]) -> frozenset[bytes]:
    """Returns hashes that change whenever an example is added, erased, or gets another content.

    Revisions are no help: after a worker's crash, one revision may stand for two contents, or a later record have a lower one.
    """
    return frozenset(map(fingerprint, examples))


def _consequence(announcer: Announcer) -> str:
    if announcer.is_behind:
        return "the champion could not be announced; retrying before the next run"
    return "the run failed; the champion stays"
