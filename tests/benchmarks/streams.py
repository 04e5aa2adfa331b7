"""`make bench-streams`: from a purchase sent by HTTP to the changed list on its user's event stream, through Kafka and one worker.

    python -m tests.benchmarks.streams [--seconds 30] [--warm 5] [--streams 300,1000] [--rate 200]

A local broker, one worker, one API process and this client share the machine. A user buys the first item of his list, so that each
purchase changes it. Writes build/streams.json: a row for each number of open streams.
"""

import argparse
import asyncio
import itertools
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from kafka import TopicPartition

from stream.api.streams import LOOK_S
from stream.core.events import Item
from stream.core.outputs import Recommendation
from stream.kafka.cluster.clients import ConsumerClient
from stream.kafka.cluster.producer import InputRecord, produce
from tests.benchmarks.deployment import TOPICS, Deployment, deployment, say, used
from tests.benchmarks.event_streams import Sent, Streams, send
from tests.benchmarks.exclusive import exclusive_run

DRAIN_S: Final = 60.0
OUT: Final = Path("build/streams.json")


class Plan(NamedTuple):
    """One turn: open streams, purchases a second, and for how long they are measured after a warm-up."""

    streams: int
    rate: float
    seconds: float
    warm_s: float

    @property
    def purchases_of_a_user(self) -> int:
        return int(self.rate * (self.seconds + self.warm_s)) // self.streams + 1


class _Caused(NamedTuple):
    """A list of the topic: its id, and when its producer sent it, ms since 1970."""

    recommendation_id: str
    at_ms: int


class _Log(NamedTuple):
    """What the topics say: when the API produced each purchase, the list that each caused, and each user's lists in order."""

    produced_ms: dict[str, int]
    caused: dict[str, _Caused]
    lists: dict[str, list[str]]


def turn(plan: Plan, folder: Path) -> dict[str, Any]:
    """Runs one turn on its own broker and returns its row.

    Raises:
        TimeoutError: some lists did not come, so that no percentile means anything.
    """
    began = time.perf_counter()
    with deployment(folder) as running:
        items = [f"item-{number:03}" for number in range(plan.purchases_of_a_user + 20)]
        records = [InputRecord("items", item, msgspec.json.encode(Item(item, item.title()))) for item in items]
        asyncio.run(produce(running.bootstrap, records, TOPICS.model_dump(), lambda _: None))
        api, worker = running.start_api(), running.start("worker")
        running.wait_until_ready(120)
        say(began, f"the API is ready; opening {plan.streams} streams")
        streams, sent = asyncio.run(_measure(plan, running, items, began))
        processes = {"api_process": used(api), "worker_process": used(worker)}
        log = _read(running.bootstrap)
    return {**plan._asdict(), **correctness(streams, sent, log), **latencies(streams, sent, log), **processes}


async def _measure(plan: Plan, running: Deployment, items: Sequence[str], began: float) -> tuple[Streams, list[Sent]]:
    users = [f"user-{number}" for number in range(plan.streams)]
    streams = Streams(running.port, running.key, users)
    purchases = _purchases(users, items)
    first = list(itertools.islice(purchases, int(plan.rate * plan.warm_s)))
    timed = list(itertools.islice(purchases, int(plan.rate * plan.seconds)))
    try:
        await streams.open()
        say(began, f"sending {plan.rate:g} purchases a second to warm up")
        warm = await send(running.port, running.key, first, plan.rate)
        await _all_there(streams, warm)
        say(began, f"sending {plan.rate:g} purchases a second for {plan.seconds:g} s")
        sent = await send(running.port, running.key, timed, plan.rate)
        await _all_there(streams, sent)
        await asyncio.sleep(LOOK_S + 1)  # a list that comes twice comes when the stream looks next
        streams.check()
    finally:
        await streams.close()
    say(began, f"{len(sent)} purchases, all on their streams")
    return streams, sent


def _purchases(users: Sequence[str], items: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Each user in turn buys the first item, then each the second: an item that is on his list, so that the list changes."""
    for item in items:
        for user in users:
            yield user, item, f"{user}-{item}"


async def _all_there(streams: Streams, sent: Sequence[Sent]) -> None:
    deadline = time.perf_counter() + DRAIN_S
    while missing := sum(1 for one in sent if arrival_of(streams, one) is None):
        streams.check()
        if time.perf_counter() > deadline:
            raise TimeoutError(f"{missing} of {len(sent)} lists did not come within {DRAIN_S:.0f} s of the last purchase")
        await asyncio.sleep(0.2)


def arrival_of(streams: Streams, one: Sent) -> Any:
    """The first list on the user's stream, after the purchase, that no longer offers its item."""
    arrivals = (found for found in streams.arrivals[one.user] if found.at >= one.due)
    return next((found for found in arrivals if one.item not in {offered.item for offered in found.answer.items}), None)


def correctness(streams: Streams, sent: Sequence[Sent], log: _Log) -> dict[str, int]:
    """How often a stream had what it should not have; all but `merged` and `judged_again` must be 0.

    `merged` are lists of the topic that a newer one overtook before the stream sent them. `judged_again` are lists that were
    filtered at the reading, because the user's state came before his new list.
    """
    found = dict.fromkeys(("foreign", "repeated", "unknown", "out_of_order", "not_the_last", "merged", "judged_again"), 0)
    for user, arrivals in streams.arrivals.items():
        own = log.lists.get(user, [])
        found["foreign"] += sum(one.answer.user_id != user for one in arrivals)
        found["repeated"] += len(arrivals) - len({one.event_id for one in arrivals})
        found["judged_again"] += sum(one.answer.changed is not None for one in arrivals)
        ids = [str(one.answer.recommendation_id) for one in arrivals if one.answer.recommendation_id and one.answer.changed is None]
        found["unknown"] += len(set(ids) - set(own))
        places = [own.index(one) for one in ids if one in own]
        found["out_of_order"] += sum(after <= before for before, after in itertools.pairwise(places))
        found["not_the_last"] += bool(own) and (not ids or ids[-1] != own[-1])
        found["merged"] += len(set(own) - set(ids))
    return {"purchases": len(sent), **found}


def latencies(streams: Streams, sent: Sequence[Sent], log: _Log) -> dict[str, Any]:
    """End to end, and its three parts: HTTP to produced, produced to the worker's list produced, that to the stream; in ms.

    The parts are of the lists that were not merged with another, by Kafka's timestamps, which producers set, in whole ms.
    """
    whole: list[float] = []
    parts: dict[str, list[float]] = {"http_to_kafka": [], "worker": [], "kafka_to_stream": []}
    for one in sent:
        arrival = arrival_of(streams, one)
        whole.append((arrival.at - one.due) * 1_000)
        caused = log.caused.get(one.event_id)
        if caused is None or arrival.answer.recommendation_id != caused.recommendation_id:
            continue
        produced_ms = log.produced_ms[one.event_id]
        parts["http_to_kafka"].append(produced_ms - one.due_ms)
        parts["worker"].append(caused.at_ms - produced_ms)
        parts["kafka_to_stream"].append(arrival.at_ms - caused.at_ms)
    return {"end_to_end": _percentiles(whole), **{name: _percentiles(values) for name, values in parts.items()}}


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    p50, p99 = np.quantile(values, [0.5, 0.99])
    return {"p50_ms": round(float(p50), 1), "p99_ms": round(float(p99), 1), "max_ms": round(max(values), 1), "of": len(values)}


class _Event(msgspec.Struct):
    event_id: str


def _read(bootstrap: str) -> _Log:
    log = _Log({}, {}, {})
    for record in _records(bootstrap, TOPICS.purchases):
        log.produced_ms[msgspec.json.decode(record.value, type=_Event).event_id] = record.timestamp
    for record in _records(bootstrap, TOPICS.recommendations):
        made = msgspec.json.decode(record.value, type=Recommendation)
        log.caused[made.caused_by.event_id] = _Caused(made.recommendation_id, record.timestamp)
        log.lists.setdefault(made.user_id, []).append(made.recommendation_id)
    return log


def _records(bootstrap: str, topic: str) -> Iterator[Any]:
    """All records of a topic that have a value."""
    with closing(ConsumerClient(bootstrap_servers=bootstrap)) as consumer:
        partitions = [TopicPartition(topic, number) for number in range(TOPICS.partitions)]
        consumer.assign(partitions)
        ends = consumer.end_offsets(partitions)
        while any(consumer.position(one) < ends[one] for one in partitions):
            for records in consumer.poll(500).values():
                yield from (record for record in records if record.value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", default="300,1000", help="open streams, a turn for each number")
    parser.add_argument("--rate", type=float, default=200, help="purchases a second")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--warm", type=float, default=5)
    options = parser.parse_args()
    rows = []
    with exclusive_run():
        for count in options.streams.split(","):
            plan = Plan(int(count), options.rate, options.seconds, options.warm)
            with tempfile.TemporaryDirectory(prefix="isthmus-streams-") as folder:
                rows.append(turn(plan, Path(folder)))
            OUT.parent.mkdir(exist_ok=True)
            OUT.write_text(json.dumps(rows, indent=1))
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
