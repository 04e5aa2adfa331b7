"""A worker that dies leaves lists in the topic that no state knows of; its successor still gets each user's last list right."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from stream.core.events import Source
from stream.core.outputs import Recommendation
from stream.core.records import Batch, PlainRecord
from stream.core.state import decode_head, hash_reserve, head_key
from stream.core.step import step
from stream.kafka.delivery.redelivery import RedeliveryTracker
from tests import world
from tests.world import NOW, OrderRanker, Store

BATCH, IN_FLIGHT = 3, 2
RANKER, CATALOGUE, SETTINGS = OrderRanker(), world.catalogue(), world.settings()

clicks = st.lists(st.sampled_from(["home", "car", "price"]), min_size=1, max_size=24)
lives = st.lists(st.tuples(st.lists(st.integers(1, BATCH), max_size=5), st.integers(0, IN_FLIGHT)), max_size=4)


def records_of(tags: list[str]) -> list[PlainRecord]:
    return [
        PlainRecord(offset, NOW, b"u", msgspec.json.encode({"user_id": "u", "occurred_at": NOW - 1_000 + offset, "tags": [tag]}))
        for offset, tag in enumerate(tags)
    ]


def live(
    records: list[PlainRecord], start: int, sizes: list[int], lost: int, store: Store, topic: list[bytes], max_in_flight: int
) -> int:
    """One worker's life: batches of these sizes from `start`, whose lists are all sent; the states of the last `lost` are lost.

    Returns the offset at which its successor begins.
    """
    redelivery, own = RedeliveryTracker(max_in_flight), Store(dict(store.records))
    durable_to = start
    for number, size in enumerate(sizes):
        part = records[start : start + size]
        if not part:
            break
        notified = redelivery.notified_users(("clicks", 0), start, len(records))
        batch = Batch(Source.CLICK, world.TOPICS[Source.CLICK], 1, 0, part, notified)
        outcome = step(batch, own, RANKER, CATALOGUE, SETTINGS)
        if notified is not None:
            applied = outcome.counts["events", Source.CLICK, "applied"]
            redelivery.processed(("clicks", 0), applied, [output.key for output in outcome.recommendations])
        topic += [output.value for output in outcome.recommendations if output.value is not None]
        own.apply(outcome)
        start += len(part)
        if number < len(sizes) - lost:
            store.apply(outcome)
            durable_to = start
    return durable_to


def last_lists(tags: list[str], deaths: list[tuple[list[int], int]], max_in_flight: int) -> tuple[list[str], list[str]]:
    """The last list in the topic and the last one in the state, after the deaths and a worker that survives."""
    records, store, start = records_of(tags), Store(), 0
    topic: list[bytes] = []
    for sizes, lost in deaths:
        start = live(records, start, sizes, lost, store, topic, max_in_flight)
    live(records, start, [BATCH] * len(records), 0, store, topic, max_in_flight)
    last = msgspec.json.decode(topic[-1], type=Recommendation)
    known = decode_head(store.records[head_key(b"u")]).last_list
    assert known is not None
    sent_reserve = hash_reserve([entry.item for entry in last.reserve])
    return [*(entry.item for entry in last.items), str(sent_reserve)], [*known.items, str(known.reserve)]


@given(clicks, lives)
def test_the_last_list_sent_is_the_last_one_that_the_state_knows(tags: list[str], deaths: list[tuple[list[int], int]]) -> None:
    """However often workers die between sending a list and storing its state, and whatever batches their successors process."""
    sent, known = last_lists(tags, deaths, BATCH * IN_FLIGHT)
    assert sent == known


def test_a_dead_workers_list_would_stand_if_lists_of_redelivered_events_were_suppressed() -> None:
    """An example of what the property covers: the list changes with the second click and back with the third."""
    found = next(
        tags
        for tags in ([one, other, third] for one in "abcdef" for other in "abcdef" for third in "abcdef")
        if (lists := [last_lists(tags[:cut], [], 0)[1] for cut in (1, 2, 3)])[0] == lists[2] != lists[1]
    )
    deaths = [([1], 0), ([1], 1)]  # the state of the first click is durable; the list of the second is sent, its state lost
    sent, known = last_lists(found, deaths, 0)
    assert sent != known
    sent, known = last_lists(found, deaths, BATCH * IN_FLIGHT)
    assert sent == known
