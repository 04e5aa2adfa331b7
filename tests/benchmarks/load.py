"""The load of the benchmarks: clicks of new users, of users with a history, and of users whose state is at its bounds."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from stream.core import limits
from tests.benchmarks.job import Job

ITEMS = tuple(str(number) for number in range(1, 25))
TAGS = tuple(f"{section}-{thing}" for section in ("view", "compare", "price", "claim", "faq") for thing in range(30))
NOW_MS = 1_780_000_000_000
START_MS = NOW_MS - 300 * limits.DAY_MS
SESSION_CLICKS = 10
"""Clicks per session of users at the bounds."""


class Sent(NamedTuple):
    """A click for the topic with the role `clicks`."""

    role: str
    key: str
    value: bytes


def _click(user: str, number: int, at_ms: int, tags: np.ndarray) -> Sent:
    names = '","'.join(TAGS[tag] for tag in tags)
    return Sent("clicks", user, f'{{"event_id":"{number}","user_id":"{user}","occurred_at":{at_ms},"tags":["{names}"]}}'.encode())


def new_users(count: int, seed: int = 0) -> Iterator[Sent]:
    """Yields clicks of users in their first session, three each."""
    rng = np.random.default_rng(seed)
    tags = rng.integers(len(TAGS), size=(count, 3))
    users = rng.integers(max(1, count // 3), size=count)
    for number in range(count):
        yield _click(f"new-{seed}-{users[number]}", number, START_MS + number * 5, tags[number])


def to_the_bounds(users: int) -> Iterator[Sent]:
    """Yields clicks that fill the state: 19 sessions of 16 clicks with 16 tags each, which make the facts large, and one growing
    session of 64 clicks.
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
    """Yields more clicks of those users. Every tenth click of a user starts a session; only these read and write the facts and
    slide the window.
    """
    rng = np.random.default_rng(2)
    tags = rng.integers(len(TAGS), size=(count, 3))
    begin = START_MS + (limits.INTERACTIONS - 1) * limits.DAY_MS + 100_000
    for number in range(count):
        turn = number // users
        at = begin + turn * 1_000 + (turn + SESSION_CLICKS // 2) // SESSION_CLICKS * limits.HOUR_MS
        yield _click(f"old-{number % users}", 10_000_000 + number, at, tags[number])


def events_of(job: Job) -> Iterator[Sent]:
    """Yields the clicks of a job, `skip` + `count` of them."""
    if job.load == "new users":
        yield from new_users(job.skip + job.count)
    elif job.load == "at the bounds":
        yield from to_the_bounds(job.users)
        yield from at_the_bounds(job.users, job.count)
    elif job.load == "users in state":
        yield from among(job.users, job.count)
    else:
        yield from after(int(job.load), job.users, job.count)


def after(past: int, users: int, count: int) -> Iterator[Sent]:
    """Yields `past` clicks of each user, ten a session, then `count` more of the same kind."""
    rng = np.random.default_rng(3)
    total = past * users + count
    tags = rng.integers(len(TAGS), size=(total, 3), dtype=np.uint8)
    for number in range(total):
        turn = number // users
        at = START_MS + turn * 1_000 + turn // SESSION_CLICKS * limits.HOUR_MS
        yield _click(f"past-{number % users}", number, at, tags[number])


def among(users: int, count: int) -> Iterator[Sent]:
    """Yields one click of each of many users, then clicks of users drawn at random."""
    rng = np.random.default_rng(4)
    tags = rng.integers(len(TAGS), size=(users + count, 3), dtype=np.uint8)
    drawn = rng.integers(users, size=count)
    for number in range(users + count):
        user = number if number < users else drawn[number - users]
        yield _click(f"many-{user}", number, START_MS + number, tags[number])
