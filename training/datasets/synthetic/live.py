"""Synthetic users as a stream: the events of all input topics in the order of their delivery, for the demo, tests and files.

Event time runs faster than the wall clock, from a start in the past: `Rates.speed` seconds of it per second. Users arrive at
random; the sender paces the events with `wall_s`. The users are invented and do not react to recommendations.

The defaults suit one machine with two cores. 66 purchases/s come with about 680 clicks/s and 35 records of calls/s with some 135
short sentences/s (below .2 an event), of which an encoder handles 400/s. More than 2,000 purchases are delivered in the first 40 s,
more than 1,500 in the first 20,000 events. Event time runs at two hours per second, so that the hours between a user's interactions
pass in seconds, while encoding a call seldom takes longer than that.
"""

import heapq
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from stream.core.events import Reason
from stream.core.limits import DAY_MS
from training.datasets.synthetic import NOTICE
from training.datasets.synthetic.catalogue import items
from training.datasets.synthetic.lifetimes import LiveEvent, Pace, events_of
from training.datasets.synthetic.patterns import event_count
from training.datasets.synthetic.random_draws import RandomDraws
from training.datasets.synthetic.world import World, draw_life

__all__ = ["LiveEvent", "Pace", "Rates", "planted", "start_for", "stream_events", "wall_s", "write_events"]

ROLES: Final = ("items", "clicks", "transcripts", "purchases", "eligibility", "erasures", "feedback")
_json: Final = msgspec.json.Encoder().encode
_USERS_PER_PURCHASE: Final = 1 / 1.2029  # calibration: purchase events per user
# Broken events: role, key (None: no key), value, and the reason of the dead letter that each must become.
_BROKEN: Final[tuple[tuple[str, str | None, bytes | None, Reason], ...]] = (
    ("clicks", "broken-1", b'{"user_id": "broken-1", ', Reason.NOT_JSON),
    ("clicks", "broken-7", b'{"user_id":"broken-7","occurred_at":1}', Reason.INVALID),
    ("purchases", "broken-2", b'{"user_id":"broken-2","occurred_at":1,"items":[]}', Reason.INVALID),
    ("clicks", "broken-3", b'{"user_id":"somebody","occurred_at":1,"tags":["x"]}', Reason.KEY_MISMATCH),
    ("clicks", None, b'{"user_id":"broken-4","occurred_at":1,"tags":["x"]}', Reason.MISSING_KEY),
    ("eligibility", "broken-5", None, Reason.EMPTY),
    ("transcripts", "broken-6", b'{"user_id":"broken-6","conversation_id":"x","started_at":1,"sentences":[]}', Reason.INVALID),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """The rates of a stream.

    Attributes:
        purchases_per_s: on the wall clock.
        speed: seconds of event time per second of the wall clock.
        horizon_ms: the world's whole period, over which popularity and event types drift; afterwards they stay as at its end.
        broken_every: plants one broken event after so many others; 0: none.
        pace: of each user.
    """

    purchases_per_s: float = 66.0
    speed: float = 7_200.0
    horizon_ms: int = 60 * DAY_MS
    broken_every: int = 0
    pace: Pace = field(default_factory=Pace)


def start_for(now_ms: int, seconds: float, speed: float) -> int:
    """Returns the start of event time with which it reaches now after so many seconds of the wall clock, and not before."""
    return now_ms - int(seconds * speed * 1000)


def wall_s(event: LiveEvent, start_ms: int, rates: Rates) -> float:
    """Returns when to send an event, in seconds of the wall clock since the start."""
    return (event.delivery_ms - start_ms) / (1000 * rates.speed)


def planted(number: int, at_ms: int) -> LiveEvent:
    """Returns the broken event of this number (from 0); the kinds alternate."""
    role, key, value, reason = _BROKEN[number % len(_BROKEN)]
    return LiveEvent(role, key, value, at_ms, at_ms, str(reason))


def stream_events(
    world: World, rng: np.random.Generator, start_ms: int, *, rates: Rates | None = None, until_ms: int | None = None
) -> Iterator[LiveEvent]:
    """Yields the catalogue, then all events in the order of `delivery_ms`, without end or until delivery reaches `until_ms`.

    The same world, generator state, start and rates give the same events. User ids contain a number drawn from `rng`, so two
    streams share no user.
    """
    rates = Rates() if rates is None else rates
    for item in items():
        yield LiveEvent("items", item.item_id, _json(item), start_ms, start_ms)
    for sent, event in enumerate(_in_order(world, rng, start_ms, rates), 1):
        if until_ms is not None and event.delivery_ms >= until_ms:
            return
        yield event
        if rates.broken_every and sent % rates.broken_every == 0:
            yield planted(sent // rates.broken_every - 1, event.delivery_ms)


def _in_order(world: World, rng: np.random.Generator, start_ms: int, rates: Rates) -> Iterator[LiveEvent]:
    """Yields the events of users who arrive at random, in order of delivery.

    No event of a user is delivered before the user's arrival, so a heap of pending events suffices.
    """
    draws = RandomDraws(rng)
    stream_id = f"{int(rng.integers(1 << 32)):08x}"
    between_ms = 1000 * rates.speed / (rates.purchases_per_s * _USERS_PER_PURCHASE)
    pending: list[tuple[int, int, LiveEvent]] = []
    arrival_ms, users, order = float(start_ms), 0, 0
    while True:
        while pending and pending[0][0] <= arrival_ms:
            yield heapq.heappop(pending)[2]
        users += 1
        moment = min((arrival_ms - start_ms) / rates.horizon_ms, 1 - 1e-9)
        life = draw_life(world, draws, [moment] * event_count(draws))
        for event in events_of(world, draws, life, f"user-{stream_id}-{users}", int(arrival_ms) + 1, rates.pace):
            order += 1
            heapq.heappush(pending, (event.delivery_ms, order, event))
        arrival_ms += draws.exponential(between_ms)


def write_events(
    out: Path,
    world: World,
    rng: np.random.Generator,
    start_ms: int,
    purchases: int,
    *,
    rates: Rates | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> dict[str, int]:
    """Writes one file of JSON lines per role, in order of delivery, up to so many purchases. Returns the lines in each.

    `progress` is called with each purchase written. A line is {"key", "event_ms", "delivery_ms", "value"}, `value` being the
    event. A README beside the files says that they are synthetic.

    Raises:
        ValueError: `rates` plant broken events, which are not JSON.
    """
    if rates is not None and rates.broken_every:
        raise ValueError("broken events cannot be written as JSON lines: set broken_every to 0")
    out.mkdir(parents=True, exist_ok=True)
    (out / "README.md").write_text(f"# Synthetic events\n\nThis is {NOTICE}.\n")
    counts = dict.fromkeys(ROLES, 0)
    with ExitStack() as stack:
        files = {role: stack.enter_context((out / f"{role}.jsonl").open("wb")) for role in ROLES}
        for event in stream_events(world, rng, start_ms, rates=rates):
            files[event.role].write(_line_of(event))
            counts[event.role] += 1
            if event.role == "purchases":
                progress(counts["purchases"])
            if counts["purchases"] == purchases:
                break
    return counts


def _line_of(event: LiveEvent) -> bytes:
    value = msgspec.Raw(event.value or b"null")
    return _json({"key": event.key, "event_ms": event.event_ms, "delivery_ms": event.delivery_ms, "value": value}) + b"\n"
