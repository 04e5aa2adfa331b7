"""The benchmarks' load: clicks of synthetic users, new ones and ones whose state is at its bounds, and a network of the served
size.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models.folder import write_ranker
from stream.core import limits
from tests.rankers import random_ranker

ITEMS = tuple(str(number) for number in range(1, 25))
TAGS = tuple(f"{section}-{thing}" for section in ("view", "compare", "price", "claim", "faq") for thing in range(30))
NOW_MS = 1_780_000_000_000
START_MS = NOW_MS - 300 * limits.DAY_MS
SESSION_CLICKS = 10
"""Clicks per session of users at the bounds."""


class Sent(NamedTuple):
    """A click for the topic of role `clicks`."""

    role: str
    key: str
    value: bytes


def _click(user: str, number: int, at_ms: int, tags: np.ndarray) -> Sent:
    names = '","'.join(TAGS[tag] for tag in tags)
    return Sent("clicks", user, f'{{"event_id":"{number}","user_id":"{user}","occurred_at":{at_ms},"tags":["{names}"]}}'.encode())


def new_users(count: int, seed: int = 0) -> Iterator[Sent]:
    """Clicks of users in their first session, three each."""
    rng = np.random.default_rng(seed)
    tags = rng.integers(len(TAGS), size=(count, 3))
    users = rng.integers(max(1, count // 3), size=count)
    for number in range(count):
        yield _click(f"new-{seed}-{users[number]}", number, START_MS + number * 5, tags[number])


def to_the_bounds(users: int) -> Iterator[Sent]:
    """What fills the state: 19 sessions of 16 clicks with 16 tags each, so that the facts are large, and one of 64 clicks that
    grows.
    """
    rng = np.random.default_rng(1)
    number = 0
    for session in range(limits.INTERACTIONS):
        is_last = session == limits.INTERACTIONS - 1
        for click in range(limits.CLICKS if is_last else 16):
            tags = rng.integers(len(TAGS), size=(users, 3 if is_last else limits.TAGS))
            for user in range(users):
                yield _click(f"old-{user}", number, START_MS + session * limits.DAY_MS + click * 1_000, tags[user])
                number += 1


def at_the_bounds(users: int, count: int) -> Iterator[Sent]:
    """More clicks of those users. Every tenth of a user begins a session: it alone reads and writes the facts, and slides the
    window.
    """
    rng = np.random.default_rng(2)
    tags = rng.integers(len(TAGS), size=(count, 3))
    begin = START_MS + (limits.INTERACTIONS - 1) * limits.DAY_MS + 100_000
    for number in range(count):
        turn = number // users
        at = begin + turn * 1_000 + (turn + SESSION_CLICKS // 2) // SESSION_CLICKS * limits.HOUR_MS
        yield _click(f"old-{number % users}", 10_000_000 + number, at, tags[number])


def write_network(folder: Path) -> str:
    """A Latent Feature network of the default size with random weights; gives its hash. Serving costs what a trained one costs."""
    from models.latent_feature import LatentFeatureNetwork

    prior = np.linspace(0.2, 0.01, len(ITEMS), dtype=np.float32)
    default = LatentFeatureNetwork.default
    ranker = random_ranker("latent_feature", ITEMS, prior, config=default, tags=TAGS, text_model="none")
    return write_ranker(folder, ranker, version="1")
