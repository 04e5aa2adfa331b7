"""Periodic training: every so often on what has come since, warm, until it is told to stop. A failed run is told and changes
nothing.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from stream.core.outputs import TrainingExample
from training.example_topic import TopicError
from training.loop import NotFiniteError
from training.registry import RegistryError
from training.run import Result, TooFewExamplesError

logger = logging.getLogger(__name__)
EXPECTED: Final = (TooFewExamplesError, NotFiniteError, TopicError, RegistryError, OSError, ValueError)


def retrain(
    load: Callable[[], Sequence[TrainingExample]],
    run: Callable[[Sequence[TrainingExample]], Result],
    announce: Callable[[Result], None],
    every_s: float,
    stop: threading.Event,
) -> None:
    """Loads, runs and announces once per `every_s` until `stop` is set; skips a turn when nothing has come."""
    seen: tuple[int, int] | None = None
    while not stop.is_set():
        started = time.monotonic()
        try:
            examples = load()
            mark = (len(examples), sum(example.revision for example in examples))
            if mark == seen:
                logger.info("nothing new since the last run")
            else:
                result = run(examples)
                seen = mark
                logger.info("%s", result.reason)
                announce(result)
        except EXPECTED as error:
            logger.warning("this run came to nothing, the champion stays: %s", error)
        except Exception:
            logger.exception("this run failed, the champion stays")
        stop.wait(max(0.0, every_s - (time.monotonic() - started)))
