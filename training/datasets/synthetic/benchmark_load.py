"""The load of benchmarks: synthetic clicks and nothing else, generated as fast as one core can.

Sessions are drawn once and repeated by many users; only user, time and event id are new in each click.
"""

from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np

from training.datasets.synthetic.catalogue import CATALOGUE
from training.datasets.synthetic.random_draws import RandomDraws
from training.datasets.synthetic.sessions import write_session
from training.datasets.synthetic.world import World

_SESSIONS: Final = 2_000
_BLOCK: Final = 4_096


def clicks(
    world: World, rng: np.random.Generator, *, users: int, start_ms: int, step_ms: float = 1.0
) -> Iterator[tuple[bytes, bytes]]:
    """Yields (key, JSON value) of clicks without end, each of a random one of `users`, `step_ms` apart in event time."""
    draws = RandomDraws(rng)
    drawn = [write_session(draws, draws.one_of(CATALOGUE).number, world.flipped) for _ in range(_SESSIONS)]
    tags = [msgspec.json.encode(click) for session in drawn for click in session]
    number = 0
    at = 0
    while True:
        for user in rng.integers(users, size=_BLOCK).tolist():
            key = b"load-%d" % user
            moment = start_ms + int(number * step_ms)
            yield key, b'{"event_id":"l%d","user_id":"%b","occurred_at":%d,"tags":%b}' % (number, key, moment, tags[at])
            number += 1
            at = at + 1 if at + 1 < len(tags) else 0
