"""The Quix Streams contender: a streaming data frame with a stateful fold, at least once, with the default commit interval of 5 s.

Runs in the benchmarks' environment (build/bench), because its dependencies differ from the project's. State is stored as bytes:
encoding the representation as JSON would take longer than the network.
"""

import os
from typing import Any

from quixstreams import Application

from stream.settings import TopicSettings
from tests.benchmarks.bare import Bare, decode_click, decode_state, encode_state, recommendation
from tests.benchmarks.job import Clock, Job, read_job


def run(job: Job) -> Clock:
    topics, bare, clock, done = TopicSettings(), Bare(job.model), Clock(job), 0

    def count(*_: Any) -> None:
        nonlocal done
        done += 1
        if clock.row is None and clock.look(done):
            app.stop()

    app = Application(
        broker_address=job.bootstrap,
        consumer_group="quix",
        auto_offset_reset="earliest",
        state_dir=job.folder,
        loglevel="WARNING",
        producer_extra_config={"log_level": 2, **({"linger.ms": 2} if job.serve else {})},
        consumer_poll_timeout=0.1,
        on_message_processed=count,
    )

    def fold(value: bytes, state: Any) -> Any:
        click, own = decode_click(value), decode_state(state.get_bytes("state"))
        bare.fold(own, click)
        ranked = bare.lists([own])[0]
        state.set_bytes("state", encode_state(own))
        return None if ranked is None else recommendation(click, ranked, click.occurred_at)

    clicks = app.topic(topics.clicks, value_deserializer="bytes", key_deserializer="bytes")
    lists = app.topic(topics.recommendations, value_serializer="json", key_serializer="bytes")
    frame = app.dataframe(clicks)
    frame = frame.apply(fold, stateful=True).filter(lambda value: value is not None)
    frame.to_topic(lists)
    app.run()
    return clock


if __name__ == "__main__":
    the_job = read_job()
    os.sched_setaffinity(0, {0})
    run(the_job).report()
