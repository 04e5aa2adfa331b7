"""Compares a folder of tables with the calibration, aggregate by aggregate, each with the tolerance of a sample.

It reads the written tables, so it checks the result and not the intention.
"""

import csv
import gzip
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from pathlib import Path
from typing import Final

from training.datasets.synthetic import calibration


@dataclass(frozen=True, slots=True)
class Comparison:
    """One aggregate: the published value, the measured one, and their greatest allowed absolute difference."""

    name: str
    published: float
    measured: float
    tolerance: float

    @property
    def fits(self) -> bool:
        return abs(self.published - self.measured) <= self.tolerance


@dataclass(frozen=True, slots=True)
class CheckedEvent:
    """A purchase event in the tables. `interactions`: ("S" or "C", id) in order."""

    user: str
    items: frozenset[int]
    interactions: tuple[tuple[str, str], ...]
    first_number: int

    @property
    def order(self) -> str:
        return "".join(letter for letter, _ in self.interactions)

    @property
    def event_type(self) -> int:
        """Its index in `calibration.TYPES`."""
        letters = set(self.order)
        return 2 if len(letters) == 2 else int(letters == {"C"})


def read_events(folder: Path) -> list[CheckedEvent]:
    """Returns all purchase events in the order of their ids."""
    users: dict[int, str] = {}
    interactions: dict[int, list[tuple[int, str, str]]] = defaultdict(list)
    items: dict[int, set[int]] = defaultdict(set)
    for row in _rows(folder / "data_users.csv.gz"):
        event = int(row["purchase_event_id"])
        users[event] = row["user_id"]
        interaction = ("C", row["conversation_id"]) if row["conversation_id"] else ("S", row["session_id"])
        interactions[event].append((int(row["event_number"]), *interaction))
    for row in _rows(folder / "data_purchase_events.csv.gz"):
        items[int(row["purchase_event_id"])].add(int(row["item_id"]))
    events = []
    for event in sorted(items):
        ordered = sorted(interactions[event])
        events.append(
            CheckedEvent(users[event], frozenset(items[event]), tuple((kind, name) for _, kind, name in ordered), ordered[0][0])
        )
    return events


def _rows(path: Path) -> Iterator[Mapping[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def compare(events: Sequence[CheckedEvent]) -> list[Comparison]:
    """Returns a comparison for every aggregate that the world is calibrated on."""
    return [row for part in (_types, _histories, _both, _users, _items, _popularity) for row in part(events)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)


def _share(name: str, published: float, sample: Sequence[bool], margin: float) -> Comparison:
    """Compares a share. The tolerance is `margin` plus three standard errors of a sample of the published share."""
    error = sqrt(published * (1 - published) / max(len(sample), 1))
    return Comparison(name, published, _mean(sample), margin + 3 * error)


def _average(name: str, published: float, sample: Sequence[float], margin: float) -> Comparison:
    """Compares a mean. The tolerance is `margin` plus three standard errors of the sample."""
    mean = _mean(sample)
    error = sqrt(_mean([(value - mean) ** 2 for value in sample]) / max(len(sample), 1))
    return Comparison(name, published, mean, margin + 3 * error)


def _types(events: Sequence[CheckedEvent]) -> Iterator[Comparison]:
    for index, name in enumerate(calibration.TYPES):
        yield _share(f"events of type {name}", calibration.TYPE_SHARES[index], [e.event_type == index for e in events], 0.01)
        early, late = events[: len(events) * 3 // 10], events[len(events) * 7 // 10 :]
        for part, rows, span in (("first", early, slice(3)), ("last", late, slice(7, 10))):
            fact = _mean([float(row[index]) for row in list(calibration.TYPE_SHARES_BY_DECILE)[span]])
            yield _share(f"  in the {part} 30 %", fact, [e.event_type == index for e in rows], 0.02)


def _histories(events: Sequence[CheckedEvent]) -> Iterator[Comparison]:
    for index, name in enumerate(calibration.TYPES):
        lengths = [len(event.interactions) for event in events if event.event_type == index]
        yield _average(f"interactions, mean, {name}", calibration.MEAN_INTERACTIONS[index], lengths, 0.12)
    ones = (
        ("session", calibration.SESSIONS_PER_SESSION_EVENT[0]),
        ("conversation", calibration.CONVERSATIONS_PER_CONVERSATION_EVENT[0]),
    )
    for index, (name, fact) in enumerate(ones):
        yield _share(f"{name} events with 1", fact, [len(e.interactions) == 1 for e in events if e.event_type == index], 0.02)
    used = Counter(named for event in events for named in event.interactions)
    for letter, name, mean in (
        ("C", "conversation", calibration.EVENTS_PER_CONVERSATION),
        ("S", "session", calibration.EVENTS_PER_SESSION),
    ):
        yield _average(f"events per {name}", mean, [n for (kind, _), n in used.items() if kind == letter], 0.04)
    yield _share("numbered from one", calibration.NUMBERED_FROM_ONE, [e.first_number == 1 for e in events], 0.005)


def _both(events: Sequence[CheckedEvent]) -> Iterator[Comparison]:
    both = [event for event in events if event.event_type == 2]
    yield _share("both: first is a session", calibration.FIRST_IS_SESSION, [e.order[0] == "S" for e in both], 0.02)
    yield _share("both: last is a session", calibration.LAST_IS_SESSION, [e.order[-1] == "S" for e in both], 0.025)
    switches = [sum(one != other for one, other in pairwise(e.order)) for e in both]
    yield _average("both: switches, mean", calibration.MEAN_SWITCHES, switches, 0.06)
    for word in ("SC", "SSC", "CS", "SCS"):
        yield _share(f"both: {word}", calibration.BOTH_PATTERNS[word], [e.order == word for e in both], 0.025)
    one_of_each = [e.order.count("C") == 1 and e.order.count("S") == 1 for e in both]
    yield _share("both: one of each", calibration.BOTH_COUNTS[0][0], one_of_each, 0.03)


def _users(events: Sequence[CheckedEvent]) -> Iterator[Comparison]:
    by_user: dict[str, list[CheckedEvent]] = defaultdict(list)
    for event in events:
        by_user[event.user].append(event)
    lives = list(by_user.values())
    yield _average("purchase events per user", calibration.PURCHASE_EVENTS / calibration.USERS, [len(own) for own in lives], 0.01)
    yield _share("users with one", calibration.EVENTS_PER_USER[0], [len(own) == 1 for own in lives], 0.01)
    pairs = [pair for own in lives for pair in pairwise(own)]
    shared = [bool({*one.interactions} & {*other.interactions}) for one, other in pairs]
    yield _share("consecutive events that share", calibration.SHARED_WITH_LAST_EVENT, shared, 0.02)
    following = [other.event_type == 0 for one, other in pairs if one.event_type == 0]
    yield _share("session follows session", calibration.NEXT_TYPE[0][0], following, 0.03)
    later = [(own[n].items, {item for event in own[:n] for item in event.items}) for own in lives for n in range(1, len(own))]
    again = [item in before for items, before in later for item in items]
    yield _share("items bought before", calibration.ITEMS_BOUGHT_BEFORE, again, 0.02)
    yield _share("events with a repeat", calibration.EVENTS_WITH_REPEAT, [bool(items & before) for items, before in later], 0.02)


def _items(events: Sequence[CheckedEvent]) -> Iterator[Comparison]:
    for size in (1, 2, 3):
        yield _share(
            f"events with {size} items", calibration.ITEMS_PER_EVENT[size - 1], [len(e.items) == size for e in events], 0.01
        )
    counts = Counter(item for event in events for item in event.items)
    for one, other in _PAIRS:
        together = sum({one, other} <= event.items for event in events)
        lift = together * len(events) / max(counts[one] * counts[other], 1)
        shares = calibration.ITEM_SHARES[one - 1] * calibration.ITEM_SHARES[other - 1]
        fact = calibration.CO_PURCHASES[one - 1][other - one - 1] / calibration.PURCHASE_EVENTS / shares
        expected = fact * shares * len(events)  # the relative error of a count is one over its square root
        yield Comparison(f"lift of items {one} and {other}", fact, lift, (0.1 + 3 / sqrt(max(expected, 1))) * fact)
    for item in (4, 18, 22):
        yield _share(f"baskets of item {item} alone", calibration.SINGLE_BASKETS[item], [e.items == {item} for e in events], 0.01)


_PAIRS: Final = ((7, 8), (7, 18), (8, 18), (13, 16), (6, 7), (13, 17), (13, 15), (1, 22))


def _popularity(events: Sequence[CheckedEvent]) -> Iterator[Comparison]:
    border = len(events) * 9 // 10
    train, test = events[:border], events[border:]
    for item in (18, 4, 7, 8, 16, 13):
        yield _share(f"share of item {item}", calibration.ITEM_SHARES[item - 1], [item in e.items for e in events], 0.01)
    for item in (19, 13, 16, 7):
        for name, rows, shares in (("train", train, calibration.ITEM_SHARES_TRAIN), ("test", test, calibration.ITEM_SHARES_TEST)):
            sample = [item in e.items for e in rows]
            yield _share(f"item {item} in the {name} part", shares[item - 1], sample, 0.01 if name == "train" else 0.015)
    counts = Counter(item for event in train for item in event.items)
    top = [item for item, _ in counts.most_common(3)]
    hits = [not e.items.isdisjoint(top) for e in test]
    yield _share("Popular's HR@3", calibration.POPULAR_AT_3["union"][0], hits, 0.03)
    precision = [_average_precision(top, event.items) for event in test]
    yield _average("Popular's MAP@3", calibration.POPULAR_AT_3["union"][1], precision, 0.03)


def _average_precision(ranked: Sequence[int], bought: frozenset[int]) -> float:
    """Returns AP@3: the sum of precision at each rank whose item was bought, over the most that three ranks could hold."""
    hits, total = 0, 0.0
    for rank, item in enumerate(ranked, 1):
        if item in bought:
            hits += 1
            total += hits / rank
    return total / min(3, len(bought))
