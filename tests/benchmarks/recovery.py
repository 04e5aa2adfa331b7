"""`make bench-recovery`: restores a table of a million users from its changelog, compared with a bare reader of the same changelog
that does only the RocksDB writes. Each runs once, on one core, one after the other.

Writes build/recovery.json and prints the table. Also measures how soon a worker that kept its store is ready, its memory while it
folds clicks of users spread over the table, and the size of the store. RECOVERY_USERS sets the number of users.
"""

import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from faust.stores.rocksdb import RocksDBOptions
from rocksdict import WriteBatch

from models.artifact import load_ranker
from stream.core.events import EncodedCall, Purchase, Source
from stream.core.partitioner import partition_of
from stream.core.records import Batch, PlainRecord
from stream.core.step import StepConfig, step
from stream.kafka.agents.profile_agent import ProfileContext
from stream.kafka.agents.served_model import ServedModel
from stream.kafka.app import add_profile_agent, make_app, run_until_stopped
from stream.kafka.cluster.local_broker import LocalKafka
from stream.kafka.cluster.producer import produce
from stream.kafka.cluster.topics import changelog_name, create_or_check, source_topics, topic_epochs
from stream.kafka.faust.changelog import term_headers
from stream.kafka.faust.user_table import ROCKSDB
from stream.metrics import Metrics
from stream.settings import TopicSettings
from tests.benchmarks.contenders import CATALOGUE
from tests.benchmarks.exclusive import exclusive_run
from tests.benchmarks.field import OTHERS
from tests.benchmarks.job import peak_rss_bytes
from tests.benchmarks.load import NOW_MS, TAGS, Sent
from tests.benchmarks.network import write_network
from tests.world import Store
from training.datasets.synthetic import calibration

USERS = int(os.environ.get("RECOVERY_USERS", "1000000"))
ROUNDS = int(os.environ.get("RECOVERY_ROUNDS", "2"))
CLICKS = min(50_000, USERS)
TEMPLATES = min(400, USERS)
TOPICS = TopicSettings(partitions=4)
CHANGELOG = changelog_name("isthmus-profiles")
OUT = Path("build/recovery.json")
SESSION_CLICKS, KEYWORDS, WIDTH = 4, 8, 384


def interactions(rng: np.random.Generator) -> tuple[int, int]:
    """Returns a user's sessions and conversations, as many as in the paper's purchase events (2.4 on average)."""
    kind = rng.choice(calibration.TYPES, p=np.array(calibration.TYPE_SHARES) / sum(calibration.TYPE_SHARES))
    sessions = 1 + int(rng.choice(7, p=_shares(calibration.SESSIONS_PER_SESSION_EVENT)))
    calls = 1 + int(rng.choice(7, p=_shares(calibration.CONVERSATIONS_PER_CONVERSATION_EVENT)))
    both = np.array(calibration.BOTH_COUNTS).ravel()
    both_calls, both_sessions = divmod(int(rng.choice(both.size, p=both / both.sum())), 5)
    found = {"session": (sessions, 0), "conversation": (0, calls), "both": (both_sessions + 1, both_calls + 1)}
    return found[kind]


def _shares(values: tuple[float, ...]) -> Any:
    return np.array(values) / sum(values)


def templates(model: str) -> list[dict[bytes, bytes]]:
    """Returns state records by key prefix (`h`, `f`), built by the step: sessions of 4 clicks, calls of one part, one purchase."""
    rng, ranker = np.random.default_rng(7), load_ranker(model)
    made = []
    for number in range(TEMPLATES):
        user, store, at = f"user-{number:07}", Store(), NOW_MS - 3_000_000_000
        sessions, calls = interactions(rng)
        for _ in range(sessions):
            at += 90_000_000
            for click in range(SESSION_CLICKS):
                tags = [TAGS[tag] for tag in rng.integers(len(TAGS), size=3)]
                value = msgspec.json.encode({"event_id": f"{at}-{click}", "user_id": user, "occurred_at": at + click, "tags": tags})
                _fold(store, Source.CLICK, user, value, ranker)
        for call in range(calls):
            at += 90_000_000
            _fold(store, Source.CALL, user, msgspec.msgpack.encode(_call(user, at, call, rng)), ranker)
        _fold(store, Source.PURCHASE, user, msgspec.json.encode(Purchase(user, at + 9_000_000, ("3",), event_id="p")), ranker)
        made.append({key[:1]: value for key, value in store.records.items()})
    return made


def _call(user: str, at: int, number: int, rng: np.random.Generator) -> EncodedCall:
    vector = rng.normal(size=WIDTH).astype("<f4").tobytes()
    words = tuple(f"keyword {word}" for word in rng.integers(300, size=KEYWORDS))
    return EncodedCall(
        user, f"c{number}", at, at + 300_000, f"e{number}", 12, vector, words, "none", "call-transcripts", 1, 0, number
    )


def _fold(store: Store, source: Source, user: str, value: bytes, ranker: Any) -> None:
    offset = len(store.recommendations) + int.from_bytes(value[-3:], "little")
    batch = Batch(source, source, 1, 0, [PlainRecord(offset, NOW_MS, user.encode(), value)])
    store.apply(step(batch, store, ranker, CATALOGUE, StepConfig(partitions=1)))


async def write_changelog(bootstrap: str, states: list[dict[bytes, bytes]]) -> int:
    """Writes each user's newest records, as compaction leaves them, and returns the mean bytes of state per user."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, max_batch_size=1 << 18, enable_idempotence=True)
    await producer.start()
    waiting: dict[int, Any] = {}
    sent: list[Any] = []
    size, headers = 0, list(term_headers(1))

    async def close(number: int) -> None:
        batch = waiting.pop(number)
        batch.close()
        sent.append(await producer.send_batch(batch, CHANGELOG, partition=number))
        if len(sent) > 64:
            await asyncio.gather(*sent)
            sent.clear()

    for user in range(USERS):
        key = b"user-%07d" % user
        number = partition_of(key, TOPICS.partitions)
        for prefix, value in states[user % TEMPLATES].items():
            size += len(key) + 1 + len(value)
            batch = waiting.setdefault(number, producer.create_batch())
            if batch.append(key=prefix + key, value=value, timestamp=None, headers=headers) is None:
                await close(number)
                waiting[number] = producer.create_batch()
                waiting[number].append(key=prefix + key, value=value, timestamp=None, headers=headers)
    for number in list(waiting):
        await close(number)
    await producer.stop()
    return size // USERS


def clicks() -> Iterator[Sent]:
    """Returns clicks of users spread over the table, each in its user's current session."""
    rng = np.random.default_rng(3)
    for number, user in enumerate(rng.integers(USERS, size=CLICKS)):
        value = {
            "event_id": f"n{number}",
            "user_id": f"user-{user:07}",
            "occurred_at": NOW_MS + number,
            "tags": [TAGS[number % 150]],
        }
        yield Sent("clicks", f"user-{user:07}", msgspec.json.encode(value))


async def bare(job: dict[str, Any]) -> dict[str, float]:
    """Restores with aiokafka and RocksDB alone: same records, fetches, write batches and options."""
    began, began_cpu = time.perf_counter(), time.process_time()
    consumer = AIOKafkaConsumer(
        bootstrap_servers=job["bootstrap"],
        enable_auto_commit=False,
        isolation_level="read_committed",
        max_partition_fetch_bytes=8 << 20,
    )
    await consumer.start()
    tps = [TopicPartition(CHANGELOG, number) for number in range(TOPICS.partitions)]
    consumer.assign(tps)
    await consumer.seek_to_beginning(*tps)
    ends = await consumer.end_offsets(tps)
    stores = {tp: RocksDBOptions(**ROCKSDB).open(Path(job["folder"]) / f"{tp.partition}") for tp in tps}
    while [tp for tp in tps if await consumer.position(tp) < ends[tp]]:
        for tp, records in (await consumer.getmany(timeout_ms=200, max_records=2_000)).items():
            batch = WriteBatch(raw_mode=True)
            for record in records:
                batch.put(record.key, record.value)
            batch.put(b"offset", b"%d" % records[-1].offset)
            stores[tp].write(batch)
    row = {"seconds": time.perf_counter() - began, "cpu_s": time.process_time() - began_cpu}
    await consumer.stop()
    return row


async def ours(job: dict[str, Any]) -> dict[str, float]:
    """Runs the worker's app until it is ready and, if asked, until it has folded the clicks."""
    metrics, sources = Metrics(), source_topics(TOPICS)
    serving = ServedModel(load_ranker(job["model"]), CATALOGUE)
    epochs = topic_epochs(job["bootstrap"], sources)
    began, began_cpu = time.perf_counter(), time.process_time()
    app = make_app("isthmus-profiles", f"kafka://{job['bootstrap']}", data=Path(job["folder"]), partitions=TOPICS.partitions)
    step = StepConfig(partitions=TOPICS.partitions)
    context = ProfileContext(sources=sources, epochs=epochs, served=serving, step=step, topics=TOPICS, metrics=metrics)
    add_profile_agent(app, context)
    stop = asyncio.Event()
    running = asyncio.create_task(run_until_stopped(app, stop))
    while not running.done() and not app.tables.actives_ready:
        await asyncio.wait([running], timeout=0.01)
    row = {"seconds": time.perf_counter() - began, "cpu_s": time.process_time() - began_cpu}
    row["users"] = metrics.gauge("users")._value.get()
    while not running.done() and metrics.total("events") < job["clicks"]:
        await asyncio.wait([running], timeout=0.05)
    stop.set()
    await running
    return {**row, "peak_rss_bytes": peak_rss_bytes()}


def _child(name: str, job: dict[str, Any]) -> dict[str, float]:
    began = time.perf_counter()
    command = [sys.executable, "-m", "tests.benchmarks.recovery", name]
    done = subprocess.run(
        command, input=json.dumps(job).encode(), stdout=subprocess.PIPE, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    row: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(name, row, f"{time.perf_counter() - began:.1f} s in all", file=sys.stderr, flush=True)
    return row


def measure(folder: Path) -> dict[str, Any]:
    model = folder / "model"
    write_network(model)
    with LocalKafka(folder / "kafka") as broker:
        psutil.Process(broker.pid).cpu_affinity(OTHERS)
        create_or_check(broker.bootstrap, TOPICS, dev=True)
        state_bytes = asyncio.run(write_changelog(broker.bootstrap, templates(str(model))))
        job = {"bootstrap": broker.bootstrap, "model": str(model), "clicks": 0}
        trials: dict[str, list[dict[str, float]]] = {"bare": [], "ours": []}
        for number in range(ROUNDS):
            for name, found in trials.items():
                place = folder / f"{name}-{number}"
                place.mkdir()
                found.append(_child(name, {**job, "folder": str(place)}))
                if name == "bare" or number < ROUNDS - 1:
                    shutil.rmtree(place)
        kept = folder / f"ours-{ROUNDS - 1}"
        again = _child("ours", {**job, "folder": str(kept)})
        disk = sum(file.stat().st_size for file in kept.rglob("*") if file.is_file())
        asyncio.run(produce(broker.bootstrap, clicks(), TOPICS.model_dump(), lambda _: None))
        busy = _child("ours", {**job, "folder": str(kept), "clicks": CLICKS})
    medians = {
        f"{name}_{key}": statistics.median(row[key] for row in found)
        for name, found in trials.items()
        for key in ("seconds", "cpu_s")
    }
    return {
        "users": int(again["users"]),
        **medians,
        "ratio": medians["ours_seconds"] / medians["bare_seconds"],
        "cpu_ratio": medians["ours_cpu_s"] / medians["bare_cpu_s"],
        "ready_with_store_s": again["seconds"],
        "peak_rss_bytes": busy["peak_rss_bytes"],
        "disk_bytes_per_user": disk / USERS,
        "state_bytes_per_user": state_bytes,
        "trials": trials,
    }


def as_table(row: dict[str, Any]) -> str:
    cells = {
        "users": f"{row['users']:,}",
        "restored in, s": f"{row['ours_seconds']:.1f}",
        "bare reader, s": f"{row['bare_seconds']:.1f}",
        "ratio": f"{row['ratio']:.2f}",
        "ratio of CPU": f"{row['cpu_ratio']:.2f}",
        "ready with its store, s": f"{row['ready_with_store_s']:.1f}",
        "peak MiB": f"{row['peak_rss_bytes'] / 2**20:,.0f}",
        "disk, bytes/user": f"{row['disk_bytes_per_user']:,.0f}",
        "state, bytes/user": f"{row['state_bytes_per_user']:,}",
    }
    return "\n".join(f"| {' | '.join(line)} |" for line in (cells, ["---"] * len(cells), cells.values()))


def main() -> None:
    if len(sys.argv) > 1:
        import uvloop

        os.sched_setaffinity(0, {0})
        job = json.loads(sys.stdin.read())
        print(json.dumps(uvloop.run({"bare": bare, "ours": ours}[sys.argv[1]](job))))
        return
    with exclusive_run(), tempfile.TemporaryDirectory(prefix="isthmus-recovery-") as temporary:
        psutil.Process().cpu_affinity(OTHERS)
        row = measure(Path(temporary))
        OUT.parent.mkdir(exist_ok=True)
        OUT.write_text(json.dumps(row, indent=2))
        print(as_table(row))


if __name__ == "__main__":
    main()
