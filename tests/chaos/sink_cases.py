"""Faults of sinks: kills, rebalances, pauses, cut connections, and absence while users are erased."""

import time
from contextlib import closing
from typing import Final

from kafka.admin import ConfigResource, ConfigResourceType

from stream.kafka.cluster.topics import admin_client, create_or_check
from tests.chaos.publisher import USERS, Publisher
from tests.chaos.sinks import TOPICS, SinkCase, SinkStage
from tests.published_lists import send
from tests.sink_processes import dead_letters
from tests.system.exact import read_all

KILLS, CUTS, AWAY_S, ERASED = 15, 20, 60.0, 150
PAST_SESSION_S: Final = 45.0
SHORT_LIVED: Final = {"delete.retention.ms": "65000", "segment.ms": "1000", "min.cleanable.dirty.ratio": "0.01"}
"""Settings of the topic. A running follower tolerates an absence of a minute, so tombstones must live longer."""
RECONCILED: Final = {f"ISTHMUS_{section}__RECONCILE_AFTER_S": "50" for section in ("POSTGRES", "WEBHOOK")}


def kills(stage: SinkStage) -> None:
    """Also during the first load."""
    for _ in range(KILLS):
        stage.pause(0.05, 1.5)
        stage.sinks.kill()
        stage.sinks.start()
        stage.wait_for_progress()


def rebalances(stage: SinkStage) -> None:
    """Two more join; one leaves with SIGTERM, one with SIGKILL; both return while the first is killed."""
    for _ in range(2):
        stage.sinks.start()
        stage.pause(2, 6)
    stage.wait_until_ready()
    stage.sinks.stop(1)
    stage.pause(1, 4)
    stage.sinks.kill(1)
    stage.wait(35)  # past the session timeout: its partitions are taken over
    stage.wait_for_progress()
    for _ in range(2):
        stage.sinks.start()
        stage.pause(0.1, 2)
    stage.sinks.kill(0)
    stage.wait_until_ready()


def pauses(stage: SinkStage) -> None:
    """A process is paused beyond its session timeout, resumes after the other has taken over, and runs beside it."""
    stage.wait_until_ready()
    for number in (0, 1):
        stage.pause(0.5, 3)
        stage.sinks.pause(number)
        stage.wait(PAST_SESSION_S)
        stage.sinks.resume(number)
        stage.wait_for_progress()
        stage.pause(3, 8)


def away(stage: SinkStage) -> None:
    """Lists that the endpoint does not accept within 20 s become dead letters, which are replayed."""
    stage.wait_until_ready()
    stage.target.leave()
    stage.wait(AWAY_S)
    stage.target.come_back()
    stage.wait_for_progress()
    stage.wait(5)
    if stage.target.kind == "webhook":
        stage.notes.append(dead_letters(stage.variables, "replay", "--reason", "undelivered").strip())


def cuts(stage: SinkStage) -> None:
    """The sink cannot know whether its last change was taken."""
    for _ in range(CUTS):
        stage.pause(0.05, 1.5)
        stage.until(stage.target.cut(), 60, "a change to cut")
    stage.wait_for_progress()


def erased_while_down(stage: SinkStage) -> None:
    """Users are erased while the sink is down, and others while it is paused. Their tombstones are gone when it returns."""
    shorten_lives(stage)
    stage.wait_until_ready()
    stage.sinks.kill()
    erase_for_good(stage, [f"u{number}" for number in range(ERASED)])
    stage.sinks.start()
    stage.wait_until_ready()
    stage.sinks.pause()
    erase_for_good(stage, [f"u{number}" for number in range(ERASED, 2 * ERASED)])
    stage.sinks.resume()
    stage.wait_for_progress()


def shorten_lives(stage: SinkStage) -> None:
    with closing(admin_client(stage.bootstrap)) as admin:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, TOPICS.recommendations, configs=SHORT_LIVED)])


def erase_for_good(stage: SinkStage, users: list[str]) -> None:
    """Sends tombstones, and waits until the topic holds neither them nor any list of these users."""
    stage.publisher.spared |= {*users}
    stage.wait(2)  # past what is on its way
    send(stage.bootstrap, TOPICS, ((user, None) for user in users))
    gone, began = {user.encode() for user in users}, time.monotonic()

    def are_gone() -> bool:
        time.sleep(2)
        return not any(
            record.key in gone for records in read_all(stage.bootstrap, TOPICS.recommendations).values() for record in records
        )

    stage.until(are_gone, 240, "the compaction of the tombstones")
    stage.notes.append(f"{len(users)} users erased, their tombstones gone after {time.monotonic() - began:.0f} s")


def recreated(stage: SinkStage) -> None:
    """The topic is deleted and recreated while the sink runs, with lists of fewer users."""
    stage.wait_until_ready()
    stage.publisher.stop()
    with closing(admin_client(stage.bootstrap)) as admin:
        admin.delete_topics([TOPICS.recommendations])
    stage.wait(3)
    create_or_check(stage.bootstrap, TOPICS, dev=True)
    stage.publisher = Publisher(stage.bootstrap, TOPICS, stage.rng.randrange(1_000), stage.rate)
    stage.publisher.spared = frozenset(f"u{number}" for number in range(USERS // 2))
    stage.publisher.start()
    stage.wait(35)  # topics are compared every 30 s
    stage.wait_for_progress()


def broker_killed(stage: SinkStage) -> None:
    for _ in range(3):
        stage.pause(1, 4)
        stage.broker.kill()
        stage.pause(0.5, 8)
        stage.broker.start()
        stage.wait_for_progress()


CASES: Final = (
    SinkCase(name="killed", faults=kills),
    SinkCase(name="several in rebalances", faults=rebalances),
    SinkCase(name="paused past its session", faults=pauses, sinks=2),
    SinkCase(name="target away for 60 s", faults=away),
    SinkCase(name="answer cut", faults=cuts),
    SinkCase(name="down while users are erased", faults=erased_while_down, variables=RECONCILED),
    SinkCase(name="topic recreated", faults=recreated),
    SinkCase(name="broker killed", faults=broker_killed),
)
