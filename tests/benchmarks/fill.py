"""Fills the clicks topic with a job's load through librdkafka, which uses a tenth of the CPU that aiokafka would."""

import sys

import msgspec
from confluent_kafka import Producer

from tests.benchmarks.job import Job
from tests.benchmarks.load import events_of


def main() -> None:
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    producer = Producer(
        {
            "bootstrap.servers": job.bootstrap,
            "log_level": 2,
            "enable.idempotence": True,
            "linger.ms": 20,
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 100_000,
        }
    )
    for event in events_of(job):
        while True:
            try:
                producer.produce("web-clicks", event.value, event.key.encode())
                break
            except BufferError:
                producer.poll(0.01)
    if producer.flush(60):
        sys.exit("the broker did not accept all clicks")


if __name__ == "__main__":
    main()
