"""One user's events by topic from a seed: ids that several events share, and repetitions of every source.

Drawn with numpy, because many cases find more than few that shrink well.
"""

from collections.abc import Callable, Mapping

import msgspec
import numpy as np

from stream.core.events import Click, Eligibility, EncodedCall, Erasure, Feedback, Purchase, Source, UserEvent
from stream.core.feedback import ACTIONS
from tests import world

Events = dict[Source, list[UserEvent]]

TAGS = ("home", "car", "price", "claim", "dog")
IDS = (None, None, "e1", "e2", "e3")
SESSION_IDS = (None, None, None, "s1", "s2")
PIECES = (msgspec.UNSET, msgspec.UNSET, 1, 2)
COUNTS = {Source.CLICK: 10, Source.CALL: 5, Source.PURCHASE: 5, Source.ELIGIBILITY: 6, Source.ERASURE: 2, Source.FEEDBACK: 9}
MOST_REPETITIONS = 3
EVERYWHERE = (0, 150)
SPANS = {Source.PURCHASE: (90, 150), Source.ERASURE: (30, 110)}
"""Where most purchases and erasures lie, in minutes: behind clicks and calls, and between them."""
UNTIMED = 0.4
"""Share of the erasures that have no time: their id says when the broker receives the first record (`crashes.broker_time`)."""
GRIDS = (1, 1, 20)
"""Minutes to which all times of a user are rounded: on the coarse grid, most events share their time with others."""


def random_events(rng: np.random.Generator, size: float, *, erasures: bool = True) -> Events:
    """Events in any order of time, within the bounds of the state. `size` in [0, 1] scales their number and their span of time."""
    events: Events = {}
    grid = int(GRIDS[rng.integers(len(GRIDS))])
    for source, count in COUNTS.items():
        most = round(size * count) if erasures or source is not Source.ERASURE else 0
        topic = [_event(source, rng, size, grid) for _ in range(int(rng.integers(most + 1)))]
        for _ in range(int(rng.integers(min(MOST_REPETITIONS, 2 * len(topic)) + 1)) if topic else 0):
            first = int(rng.integers(len(topic)))
            topic.insert(int(rng.integers(first + 1, len(topic) + 1)), topic[first])
        events[source] = topic
    lists = [event for event in events[Source.ELIGIBILITY] if isinstance(event, Eligibility)]
    times = list(dict.fromkeys(event.occurred_at for event in lists))[:4]
    events[Source.ELIGIBILITY] = [event for event in lists if event.occurred_at in times]
    events[Source.CALL] = [msgspec.structs.replace(call, origin_offset=offset) for offset, call in enumerate(events[Source.CALL])]
    return events


def outgrowing_events(rng: np.random.Generator) -> Events:
    """Events without erasures, with one session, one call or eligibility lists that are more than a state keeps, or all of these.

    Clicks and lists come in any order, parts of calls in theirs: a call forgets a part that is older than all that it keeps.
    """
    events = random_events(rng, 0.7, erasures=False)
    is_in_order = rng.random() < 0.7
    for source, draw in OUTGROWING.items():
        if rng.random() < 0.6:
            more = [draw(rng, number) for number in range(int(rng.integers(*MOST[source])))]
            topic = [*events[source], *more]
            rng.shuffle(topic)
            events[source] = topic
        if is_in_order or source is Source.CALL:
            events[source].sort(key=_moment)
    events[Source.CALL] = [msgspec.structs.replace(call, origin_offset=offset) for offset, call in enumerate(events[Source.CALL])]
    return events


def _click_of_one_session(rng: np.random.Generator, number: int) -> Click:
    return Click("u", _any_time(rng), (TAGS[rng.integers(len(TAGS))],), f"long-{number}", "long")


def _part_of_one_call(rng: np.random.Generator, number: int) -> EncodedCall:
    at = _any_time(rng)
    call = world.call("long", at, at + int(rng.integers(4)) * world.MINUTE, number)
    return msgspec.structs.replace(call, event_id=f"long-{number}", has_event_id=True)


def _list_of_its_own_time(rng: np.random.Generator, number: int) -> Eligibility:
    return Eligibility("u", _any_time(rng) + number, (world.ITEMS[rng.integers(len(world.ITEMS))],))


def _any_time(rng: np.random.Generator) -> int:
    return world.NOW - 200 * world.MINUTE + int(rng.integers(EVERYWHERE[1])) * world.MINUTE


def _moment(event: UserEvent) -> int:
    moment = event.ended_at if isinstance(event, EncodedCall) else event.occurred_at
    assert type(moment) is int
    return moment


OUTGROWING: Mapping[Source, Callable[[np.random.Generator, int], UserEvent]] = {
    Source.CLICK: _click_of_one_session,
    Source.CALL: _part_of_one_call,
    Source.ELIGIBILITY: _list_of_its_own_time,
}
MOST = {Source.CLICK: (40, 100), Source.CALL: (6, 16), Source.ELIGIBILITY: (2, 9)}


def _event(source: Source, rng: np.random.Generator, size: float, grid: int) -> UserEvent:
    first, last = SPANS.get(source, EVERYWHERE) if rng.random() < 0.6 else EVERYWHERE
    minute = grid * round(size * rng.uniform(first, last) / grid)
    at = world.NOW - 200 * world.MINUTE + minute * world.MINUTE
    event_id = IDS[rng.integers(len(IDS))]
    some_items = tuple(world.ITEMS[number] for number in rng.permutation(len(world.ITEMS))[: 1 + rng.integers(2)])
    match source:
        case Source.CLICK:
            tags = tuple(TAGS[number] for number in rng.integers(len(TAGS), size=1 + rng.integers(3)))
            return Click("u", at, tags, event_id, SESSION_IDS[rng.integers(len(SESSION_IDS))])
        case Source.CALL:
            return _call(rng, at, event_id)
        case Source.PURCHASE:
            return Purchase("u", at, some_items, event_id, "cancelled" if rng.random() < 0.3 else "bought")
        case Source.ELIGIBILITY:
            return Eligibility("u", at, some_items, event_id)
        case Source.ERASURE:
            return Erasure("u", None, str(at)) if rng.random() < UNTIMED else Erasure("u", at, event_id)
        case Source.FEEDBACK:
            return _feedback(rng, at, event_id)


def _feedback(rng: np.random.Generator, at: int, event_id: str | None) -> Feedback:
    """Mostly of what was shown, and at few minutes, so that impressions without an id repeat at other seconds of theirs."""
    names = ("hero", "hero", "unknown")
    return Feedback(
        "u",
        at - at % (20 * world.MINUTE) + int(rng.integers(60)) * 1_000,
        ("web", "shop")[rng.integers(2)],
        ACTIONS[int(rng.integers(5)) if rng.random() < 0.5 else 0],
        tuple(world.ITEMS[number] for number in rng.integers(3, size=1 + rng.integers(3))),
        event_id,
        (None, None, "r1")[rng.integers(3)],
        names[rng.integers(3)],
        (None, "1", "2")[rng.integers(3)],
    )


def _call(rng: np.random.Generator, at: int, event_id: str | None) -> EncodedCall:
    """A part of a call, with an id of its own, a number, or neither."""
    call = world.call(f"c{rng.integers(1, 3)}", at, at + int(rng.integers(21)) * world.MINUTE, int(rng.integers(10)))
    piece = PIECES[rng.integers(len(PIECES))]
    return msgspec.structs.replace(call, event_id=event_id or call.event_id, has_event_id=event_id is not None, piece=piece)
