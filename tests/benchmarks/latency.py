"""Latency from produce to acknowledged recommendation: clicks at a fixed rate on real Kafka, each of another user, so that each
produces a list.

The clock of a click starts when it is due, not when it is sent, and every list is waited for; otherwise the slowest would be left
out. If the sender cannot keep the rate there is no result, as it would measure the sender. Sender and reader have their own process
(in build/bench, because librdkafka uses the least of the broker's cores).
"""

import sys
import threading
import time
from typing import Any, Final

import msgspec
import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition

from tests.benchmarks.job import cpu_s
from tests.benchmarks.load import NOW_MS, TAGS

DRAIN_S: Final = 30.0
READY_S: Final = 60.0
SENDER_LATE_MS: Final = 5.0


class Load(msgspec.Struct):
    """`pid` is the contender's process, whose CPU is measured too."""

    bootstrap: str
    rate: float
    seconds: float
    warm_s: float
    partitions: int
    pid: int


class _CausedBy(msgspec.Struct):
    event_id: str


class _List(msgspec.Struct):
    caused_by: _CausedBy


class Reader(threading.Thread):
    """Records when each list was read: a list that a consumer has read is acknowledged."""

    def __init__(self, load: Load) -> None:
        super().__init__(daemon=True)
        self.read_at: dict[str, float] = {}
        self.over = False
        self._consumer: Any = Consumer({"bootstrap.servers": load.bootstrap, "group.id": "reader", "fetch.wait.max.ms": 5})
        self._consumer.assign([TopicPartition("recommendations", number, 0) for number in range(load.partitions)])

    def run(self) -> None:
        decode = msgspec.json.Decoder(_List).decode
        while not self.over:
            for message in self._consumer.consume(1_000, timeout=0.002):
                if message.error() is None and message.value():
                    self.read_at[decode(message.value()).caused_by.event_id] = time.perf_counter()
        self._consumer.close()


def measure(load: Load) -> dict[str, float]:
    """Returns p50 and p99 in ms over `seconds`, after a warm-up of `warm_s`, and the contender's CPU as a share of a core.

    Raises:
        TimeoutError: lists are missing or the sender was late, so no percentile is meaningful: the rate is too high for the
            contender, or for the sender on this machine.
    """
    reader = Reader(load)
    reader.start()
    producer = Producer(
        {
            "bootstrap.servers": load.bootstrap,
            "log_level": 2,
            "linger.ms": 0,
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
        }
    )
    try:
        _until_served(producer, reader)
        _send(producer, load.rate, load.warm_s, "warm")
        before, began = cpu_s(load.pid), time.perf_counter()
        due, late_ms = _send(producer, load.rate, load.seconds, "timed")
        share = (cpu_s(load.pid) - before) / (time.perf_counter() - began)
        _all_there(reader, due)
    finally:
        reader.over = True
        reader.join(5)
    if late_ms > SENDER_LATE_MS:
        raise TimeoutError(f"the sender was {late_ms:.0f} ms late at p99: this machine cannot generate this load beside the broker")
    ages = [reader.read_at[event_id] - moment for event_id, moment in due.items()]
    p50, p99 = np.quantile(ages, [0.5, 0.99]) * 1_000
    return {"p50_ms": float(p50), "p99_ms": float(p99), "sender_late_p99_ms": late_ms, "cores": share}


def _until_served(producer: Any, reader: Reader) -> None:
    """Sends one click and waits for its list, which shows that the contender has started."""
    _one(producer, "first")
    producer.flush()
    deadline = time.perf_counter() + READY_S
    while "first" not in reader.read_at:
        if time.perf_counter() > deadline:
            raise TimeoutError(f"no list within {READY_S:.0f} s: the contender did not start")
        time.sleep(0.05)


def _all_there(reader: Reader, due: dict[str, float]) -> None:
    deadline = time.perf_counter() + DRAIN_S
    while missing := sum(1 for event_id in due if event_id not in reader.read_at):
        if time.perf_counter() > deadline:
            raise TimeoutError(f"{missing} of {len(due)} lists are missing {DRAIN_S:.0f} s after the last click")
        time.sleep(0.05)


def _send(producer: Any, rate: float, seconds: float, name: str) -> tuple[dict[str, float], float]:
    """Returns when each click was due, and the p99 of the delay in sending, in ms."""
    began = time.perf_counter()
    moments: dict[str, float] = {}
    late: list[float] = []
    for number in range(int(rate * seconds)):
        due = began + number / rate
        while (now := time.perf_counter()) < due:
            producer.poll(0)
            time.sleep(min(due - now, 0.001))
        late.append(now - due)
        moments[f"{name}-{number}"] = due
        _one(producer, f"{name}-{number}")
    producer.flush()
    return moments, float(np.quantile(late, 0.99)) * 1_000


def _one(producer: Any, event_id: str) -> None:
    tag = TAGS[hash(event_id) % len(TAGS)]
    value = f'{{"event_id":"{event_id}","user_id":"{event_id}","occurred_at":{NOW_MS - 1},"tags":["{tag}"]}}'.encode()
    producer.produce("web-clicks", value, event_id.encode())


if __name__ == "__main__":
    try:
        print(msgspec.json.encode(measure(msgspec.json.decode(sys.stdin.buffer.read(), type=Load))).decode())
    except TimeoutError as error:
        sys.exit(str(error))
