"""What the Kafka clients log while a broker is away: one line when it begins, one a minute, one when it ends.

aiokafka and kafka-python log each attempt to connect, hundreds a second. Here such lines are counted. Of other warnings and errors,
each kind passes once a minute. Nothing here knows the clients but by the names of their loggers and what they write.
"""

import logging
import re
import threading
import time
from collections.abc import Callable
from typing import Final

logger = logging.getLogger("isthmus")
CLIENTS: Final = ("aiokafka", "kafka")
QUIET_S: Final = 10.0
REMIND_S: Final = 60.0
_NUMBER: Final = re.compile(r"\d+")
_MAX_KINDS: Final = 1_000
_CONNECTION: Final = re.compile(
    r"connect|NodeNotReady|RequestTimedOut|KafkaTimeoutError|bootstrap|metadata|network data|marking the coordinator dead"
    r"|not started or not valid|Coordinator(Load|Not)|NotCoordinator|heartbeat session expired|Abort \(|no brokers available",
    re.IGNORECASE,
)


def is_connection_trouble(text: str) -> bool:
    """Whether a client's line says that a broker cannot be reached.

    >>> is_connection_trouble("Unable connect to node with id 1: [Errno 111] Connection refused")
    True
    >>> is_connection_trouble("Heartbeat failed for group isthmus-profiles because it is rebalancing")
    False
    """
    return _CONNECTION.search(text) is not None


class ConnectionTrouble:
    """Turns lines about a broker that cannot be reached into a few; each method returns the line to write, or None.

    Trouble ends after `QUIET_S` without such a line: a cluster may answer while one of its brokers is away. Times in seconds of one
    monotonic clock.
    """

    def __init__(self) -> None:
        self._began: float | None = None
        self._last = 0.0
        self._reminded = 0.0
        self._left_out = 0

    @property
    def is_on(self) -> bool:
        return self._began is not None

    def note(self, text: str, now_s: float) -> str | None:
        """A client wrote such a line."""
        self._last = now_s
        if self._began is None:
            self._began = self._reminded = now_s
            self._left_out = 0
            return f"trouble with the connection to Kafka: {text}. What the clients write about it is counted until it ends"
        self._left_out += 1
        return None

    def look(self, now_s: float) -> str | None:
        """To be called every second while trouble is on."""
        if self._began is None:
            return None
        for_s = self._last - self._began
        if now_s - self._last >= QUIET_S:
            self._began = None
            return f"the connection to Kafka has had no trouble for {QUIET_S:.0f} s; it lasted {for_s:.0f} s, {self._lines()}"
        if now_s - self._reminded >= REMIND_S:
            self._reminded = now_s
            return f"trouble with the connection to Kafka for {now_s - self._began:.0f} s, {self._lines()}"
        return None

    def _lines(self) -> str:
        return f"{self._left_out} lines of the clients left out"


class Repetitions:
    """Lets each kind of line pass once in `REMIND_S`, and counts the others. Lines of one kind differ in digits only."""

    def __init__(self) -> None:
        self._passed: dict[str, tuple[float, int]] = {}

    def note(self, text: str, now_s: float) -> int | None:
        """How many lines of the kind were left out before this one; None if this one is left out too."""
        kind = _NUMBER.sub("#", text)
        if len(self._passed) > _MAX_KINDS:
            self._passed.clear()
        passed_s, left_out = self._passed.get(kind, (-REMIND_S, 0))
        if now_s - passed_s < REMIND_S:
            self._passed[kind] = passed_s, left_out + 1
            return None
        self._passed[kind] = now_s, 0
        return left_out


class ClientLogHandler(logging.Handler):
    """Condenses the clients' warnings and errors; what passes goes on to the root logger's handlers."""

    def __init__(self, trouble: ConnectionTrouble, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._trouble = trouble
        self._clock = clock
        self._repetitions = Repetitions()
        self._looking = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno < logging.WARNING:
            logging.getLogger().callHandlers(record)
            return
        if not is_connection_trouble(text):
            self._pass_once_a_minute(record, text)
            return
        with self._looking:
            line = self._trouble.note(f"{record.name}: {text}", self._clock())
        if line is not None:
            logger.error(line)
            threading.Thread(target=self._watch, daemon=True, name="client-log").start()

    def _pass_once_a_minute(self, record: logging.LogRecord, text: str) -> None:
        with self._looking:
            left_out = self._repetitions.note(text, self._clock())
        if left_out is None:
            return
        if left_out:
            record.msg, record.args = f"{text} ({left_out} lines like this were left out)", ()
        logging.getLogger().callHandlers(record)

    def _watch(self) -> None:
        """Looks every second until the trouble ends."""
        while True:
            time.sleep(1.0)
            with self._looking:
                line = self._trouble.look(self._clock())
                is_on = self._trouble.is_on
            if line is not None:
                logger.log(logging.ERROR if is_on else logging.WARNING, line)
            if not is_on:
                return


def condense_client_logs() -> None:
    """Gives the clients' loggers the handler, once."""
    handler = ClientLogHandler(ConnectionTrouble())
    for name in CLIENTS:
        client = logging.getLogger(name)
        if not any(isinstance(known, ClientLogHandler) for known in client.handlers):
            client.addHandler(handler)
            client.propagate = False
