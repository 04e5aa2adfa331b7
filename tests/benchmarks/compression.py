"""`make bench-compression`: what each codec saves of each topic that Isthmus writes, and the CPU that it costs.

    python -m tests.benchmarks.compression [--events 6000]

The step makes lists, examples and states of clicks and purchases with a network of the served size; calls have random vectors,
which hardly compress, as those of a text encoder. Each topic's records are sent to a local broker once per codec, as a worker does:
in batches of 1,000 records of a partition, as under load, and of 20. Bytes are what the broker keeps. CPU is that of the producing
process beyond sending without compression, and that of the broker. Writes build/compression.json and prints it.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import psutil
from kafka.admin import NewTopic

from models.artifact import load_ranker
from stream.core.events import EncodedCall, Purchase, Source
from stream.core.outputs import Output
from stream.core.ranking import Ranker
from stream.core.records import Batch, PlainRecord
from stream.core.step import StepConfig, step
from stream.kafka.cluster.batch_sender import KafkaSender
from stream.kafka.cluster.clients import async_producer
from stream.kafka.cluster.local_broker import LocalKafka
from stream.kafka.cluster.topics import admin_client
from tests.benchmarks.contenders import CATALOGUE
from tests.benchmarks.exclusive import exclusive_run
from tests.benchmarks.load import ITEMS, NOW_MS, Sent, after
from tests.benchmarks.network import write_network
from tests.log_sizes import stored_bytes
from tests.world import Store

CODECS: Final = (None, "gzip", "snappy", "lz4", "zstd")
BATCHES: Final = (1_000, 20)
CLICKS_OF_A_USER: Final = 6
TEXT_WIDTH: Final = 384
"""Of the packaged text encoder's vectors."""
WORKERS_BATCH_BYTES: Final = 262_144
OUT: Final = Path("build/compression.json")


def outputs_of(ranker: Ranker, events: int) -> dict[str, list[Output]]:
    """Returns what Isthmus writes for so many clicks and a purchase of every user after them, by topic."""
    users = max(1, events // CLICKS_OF_A_USER)
    clicks = list(after(CLICKS_OF_A_USER, users, 0))
    bought = [Sent("purchases", f"past-{user}", _purchase(user)) for user in range(users)]
    store = Store()
    made: dict[str, list[Output]] = {"recommendations": [], "training-examples": [], "changelog": []}
    for source, sent in ((Source.CLICK, clicks), (Source.PURCHASE, bought)):
        records = [PlainRecord(number, NOW_MS, one.key.encode(), one.value) for number, one in enumerate(sent)]
        for start in range(0, len(records), users):  # one event a user, as in a batch of many users
            batch = Batch(source, source.value, 1, 0, records[start : start + users])
            outcome = step(batch, store, ranker, CATALOGUE, StepConfig(partitions=1))
            store.apply(outcome)
            made["recommendations"] += outcome.recommendations
            made["training-examples"] += outcome.examples
            made["changelog"] += [Output(key, value) for key, value in outcome.writes.items()]
    taken = [Output(one.key.encode(), one.value) for one in clicks]
    return {**made, "encoded-calls": list(_calls(users)), "clicks of the API": taken}


def _purchase(user: int) -> bytes:
    return msgspec.json.encode(Purchase(f"past-{user}", NOW_MS - 60_000, (ITEMS[user % len(ITEMS)],), event_id=f"p{user}"))


def _calls(count: int) -> Iterator[Output]:
    rng = np.random.default_rng(5)
    for number in range(count):
        call = EncodedCall(
            user_id=f"past-{number}",
            conversation_id=f"call-{number}",
            started_at=NOW_MS,
            ended_at=NOW_MS + 60_000,
            event_id=f"c{number}",
            sentences=12,
            vector_sum=rng.normal(size=TEXT_WIDTH).astype("<f4").tobytes(),
            keywords=("dog insurance", "price"),
            text_model="0" * 64,
            origin_topic="call-transcripts",
            origin_epoch=1,
            origin_partition=0,
            origin_offset=number,
        )
        yield Output(call.user_id.encode(), msgspec.msgpack.encode(call))


async def send(bootstrap: str, topic: str, outputs: Sequence[Output], together: int, codec: str | None) -> float:
    """Sends all of them; returns this process's CPU seconds."""
    producer = async_producer(
        bootstrap, compression_type=codec, linger_ms=2, max_batch_size=WORKERS_BATCH_BYTES, max_request_size=8 << 20
    )
    await producer.start()
    try:
        sender = KafkaSender(lambda: producer)
        began = time.process_time()
        for start in range(0, len(outputs), together):
            await (await sender.send(topic, 0, outputs[start : start + together]))
        return time.process_time() - began
    finally:
        await producer.stop()


def trial(broker: LocalKafka, topic: str, outputs: Sequence[Output], together: int, codec: str | None) -> dict[str, float]:
    """Sends all outputs to a new topic; returns bytes and CPU us per record."""
    with closing(admin_client(broker.bootstrap)) as admin:
        admin.create_topics([NewTopic(topic, 1, 1)])
    process = psutil.Process(broker.pid)
    before = process.cpu_times()
    cpu_s = asyncio.run(send(broker.bootstrap, topic, outputs, together, codec))
    now = process.cpu_times()
    broker_s = now.user + now.system - before.user - before.system
    found = {"bytes": stored_bytes(broker.bootstrap, topic), "cpu_us": cpu_s * 1e6, "broker_us": broker_s * 1e6}
    return {name: value / len(outputs) for name, value in found.items()}


def rows_of(broker: LocalKafka, made: Mapping[str, Sequence[Output]]) -> Iterator[dict[str, Any]]:
    """Yields one row per topic, batch size and codec."""
    for what, outputs in made.items():
        for together in BATCHES:
            topic = f"{what.replace(' ', '-')}-{together}"
            found = {codec: trial(broker, f"{topic}-{codec}", outputs, together, codec) for codec in CODECS}
            plain = found[None]
            for codec, row in found.items():
                saved = 1 - row["bytes"] / plain["bytes"]
                more = {"saved": saved, "more_cpu_us": row["cpu_us"] - plain["cpu_us"], "broker_us": row["broker_us"]}
                yield {"topic": what, "batch": together, "codec": codec or "none", "bytes": row["bytes"], **more}


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--events", type=int, default=6_000)
    chosen = options.parse_args()
    with exclusive_run(), tempfile.TemporaryDirectory() as temporary:
        write_network(Path(temporary) / "model")
        made = outputs_of(load_ranker(str(Path(temporary) / "model")), chosen.events)
        print(f"{'topic':<20} {'batch':>6} {'codec':>7} {'bytes':>8} {'saved':>6} {'CPU us more':>12} {'broker us':>10}")
        rows = []
        with LocalKafka(Path(temporary) / "kafka") as broker:
            trial(broker, "warm-up", made["recommendations"], BATCHES[0], None)
            for row in rows_of(broker, made):
                rows.append(row)
                text = f"{row['topic']:<20} {row['batch']:>6,} {row['codec']:>7} {row['bytes']:>8.0f} {row['saved']:>6.0%}"
                print(f"{text} {row['more_cpu_us']:>12.1f} {row['broker_us']:>10.1f}", flush=True)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
