"""Compares a folder of tables with the calibration's facts: aggregate by aggregate, each with the tolerance that a sample needs.

Reads the tables as anybody would, so it checks what was written, not what was meant.
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

from training.datasets.synthetic import calibration as facts


@dataclass(frozen=True, slots=True)
class Comparison:
    """One aggregate: the published fact, what was found, and how far apart they may be (absolute)."""

    name: str
    fact: float
    found: float
    tolerance: float

    @property
    def fits(self) -> bool:
        return abs(self.fact - self.found) <= self.tolerance


@dataclass(frozen=True, slots=True)
class Event:
    """A purchase event as the tables have it. `interactions`: ("S" or "C", id) in order."""

    user: str
    items: frozenset[int]
    interactions: tuple[tuple[str, str], ...]
    first_number: int

    @property
    def order(self) -> str:
        return "".join(letter for letter, _ in self.interactions)

    @property
    def event_type(self) -> int:
        """Its place in `facts.TYPES`."""
        letters = set(self.order)
        return 2 if len(letters) == 2 else int(letters == {"C"})


def read_events(folder: Path) -> list[Event]:
    """All purchase events in the order of their ids."""
    users: dict[int, str] = {}
    interactions: dict[int, list[tuple[int, str, str]]] = defaultdict(list)
    items: dict[int, set[int]] = defaultdict(set)
    for row in _rows(folder / "data_users.csv.gz"):
        event = int(row["purchase_event_id"])
        users[event] = row["user_id"]
        named = ("C", row["conversation_id"]) if row["conversation_id"] else ("S", row["session_id"])
        interactions[event].append((int(row["event_number"]), *named))
    for row in _rows(folder / "data_purchase_events.csv.gz"):
        items[int(row["purchase_event_id"])].add(int(row["item_id"]))
    events = []
    for event in sorted(items):
        ordered = sorted(interactions[event])
        events.append(Event(users[event], frozenset(items[event]), tuple((kind, name) for _, kind, name in ordered), ordered[0][0]))
    return events


def _rows(path: Path) -> Iterator[Mapping[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def compare(events: Sequence[Event]) -> list[Comparison]:
    """Every aggregate of the calibration that the world was made to resemble."""
    return [row for part in (_types, _histories, _both, _users, _items, _popularity) for row in part(events)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)


def _share(name: str, fact: float, found: Sequence[bool], apart: float) -> Comparison:
    """A share. The tolerance: how far `apart` the world may be, and three standard errors of a sample of the fact."""
    error = sqrt(fact * (1 - fact) / max(len(found), 1))
    return Comparison(name, fact, _mean(found), apart + 3 * error)


def _average(name: str, fact: float, found: Sequence[float], apart: float) -> Comparison:
    """A mean. The tolerance as for a share, with the sample's own deviation."""
    mean = _mean(found)
    error = sqrt(_mean([(value - mean) ** 2 for value in found]) / max(len(found), 1))
    return Comparison(name, fact, mean, apart + 3 * error)


def _types(events: Sequence[Event]) -> Iterator[Comparison]:
    for place, name in enumerate(facts.TYPES):
        yield _share(f"events of type {name}", facts.TYPE_SHARES[place], [e.event_type == place for e in events], 0.01)
        early, late = events[: len(events) * 3 // 10], events[len(events) * 7 // 10 :]
        for part, rows, span in (("first", early, slice(3)), ("last", late, slice(7, 10))):
            fact = _mean([float(row[place]) for row in list(facts.TYPE_SHARES_BY_DECILE)[span]])
            yield _share(f"  in the {part} 30 %", fact, [e.event_type == place for e in rows], 0.02)


def _histories(events: Sequence[Event]) -> Iterator[Comparison]:
    for place, name in enumerate(facts.TYPES):
        lengths = [len(event.interactions) for event in events if event.event_type == place]
        yield _average(f"interactions, mean, {name}", facts.MEAN_INTERACTIONS[place], lengths, 0.12)
    ones = (("session", facts.SESSIONS_PER_SESSION_EVENT[0]), ("conversation", facts.CONVERSATIONS_PER_CONVERSATION_EVENT[0]))
    for place, (name, fact) in enumerate(ones):
        yield _share(f"{name} events with 1", fact, [len(e.interactions) == 1 for e in events if e.event_type == place], 0.02)
    used = Counter(named for event in events for named in event.interactions)
    for letter, name, mean in (("C", "conversation", facts.EVENTS_PER_CONVERSATION), ("S", "session", facts.EVENTS_PER_SESSION)):
        yield _average(f"events per {name}", mean, [n for (kind, _), n in used.items() if kind == letter], 0.04)
    yield _share("numbered from one", facts.NUMBERED_FROM_ONE, [e.first_number == 1 for e in events], 0.005)


def _both(events: Sequence[Event]) -> Iterator[Comparison]:
    both = [event for event in events if event.event_type == 2]
    yield _share("both: first is a session", facts.FIRST_IS_SESSION, [e.order[0] == "S" for e in both], 0.02)
    yield _share("both: last is a session", facts.LAST_IS_SESSION, [e.order[-1] == "S" for e in both], 0.025)
    switches = [sum(one != other for one, other in pairwise(e.order)) for e in both]
    yield _average("both: switches, mean", facts.MEAN_SWITCHES, switches, 0.06)
    for word in ("SC", "SSC", "CS", "SCS"):
        yield _share(f"both: {word}", facts.BOTH_PATTERNS[word], [e.order == word for e in both], 0.025)
    one_of_each = [e.order.count("C") == 1 and e.order.count("S") == 1 for e in both]
    yield _share("both: one of each", facts.BOTH_COUNTS[0][0], one_of_each, 0.03)


def _users(events: Sequence[Event]) -> Iterator[Comparison]:
    by_user: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        by_user[event.user].append(event)
    lives = list(by_user.values())
    yield _average("purchase events per user", facts.PURCHASE_EVENTS / facts.USERS, [len(own) for own in lives], 0.01)
    yield _share("users with one", facts.EVENTS_PER_USER[0], [len(own) == 1 for own in lives], 0.01)
    pairs = [pair for own in lives for pair in pairwise(own)]
    shared = [bool({*one.interactions} & {*other.interactions}) for one, other in pairs]
    yield _share("consecutive events that share", facts.SHARED_WITH_LAST_EVENT, shared, 0.02)
    following = [other.event_type == 0 for one, other in pairs if one.event_type == 0]
    yield _share("session follows session", facts.NEXT_TYPE[0][0], following, 0.03)
    later = [(own[n].items, {item for event in own[:n] for item in event.items}) for own in lives for n in range(1, len(own))]
    again = [item in before for items, before in later for item in items]
    yield _share("items bought before", facts.ITEMS_BOUGHT_BEFORE, again, 0.02)
    yield _share("events with a repeat", facts.EVENTS_WITH_REPEAT, [bool(items & before) for items, before in later], 0.02)


def _items(events: Sequence[Event]) -> Iterator[Comparison]:
    for size in (1, 2, 3):
        yield _share(f"events with {size} items", facts.ITEMS_PER_EVENT[size - 1], [len(e.items) == size for e in events], 0.01)
    counts = Counter(item for event in events for item in event.items)
    for one, other in _PAIRS:
        together = sum({one, other} <= event.items for event in events)
        lift = together * len(events) / max(counts[one] * counts[other], 1)
        shares = facts.ITEM_SHARES[one - 1] * facts.ITEM_SHARES[other - 1]
        fact = facts.CO_PURCHASES[one - 1][other - one - 1] / facts.PURCHASE_EVENTS / shares
        expected = fact * shares * len(events)  # a count's relative error is one over its root
        yield Comparison(f"lift of items {one} and {other}", fact, lift, (0.1 + 3 / sqrt(max(expected, 1))) * fact)
    for item in (4, 18, 22):
        yield _share(f"baskets of item {item} alone", facts.SINGLE_BASKETS[item], [e.items == {item} for e in events], 0.01)


_PAIRS: Final = ((7, 8), (7, 18), (8, 18), (13, 16), (6, 7), (13, 17), (13, 15), (1, 22))


def _popularity(events: Sequence[Event]) -> Iterator[Comparison]:
    border = len(events) * 9 // 10
    train, test = events[:border], events[border:]
    for item in (18, 4, 7, 8, 16, 13):
        yield _share(f"share of item {item}", facts.ITEM_SHARES[item - 1], [item in e.items for e in events], 0.01)
    for item in (19, 13, 16, 7):
        for name, rows, shares in (("train", train, facts.ITEM_SHARES_TRAIN), ("test", test, facts.ITEM_SHARES_TEST)):
            found = [item in e.items for e in rows]
            yield _share(f"item {item} in the {name} part", shares[item - 1], found, 0.01 if name == "train" else 0.015)
    counts = Counter(item for event in train for item in event.items)
    top = [item for item, _ in counts.most_common(3)]
    hits = [not e.items.isdisjoint(top) for e in test]
    yield _share("Popular's HR@3", facts.POPULAR_AT_3["union"][0], hits, 0.03)
    precision = [_average_precision(top, event.items) for event in test]
    yield _average("Popular's MAP@3", facts.POPULAR_AT_3["union"][1], precision, 0.03)


def _average_precision(ranked: Sequence[int], bought: frozenset[int]) -> float:
    """AP@3: precision at each rank whose item was bought, over what three ranks could hold."""
    hits, total = 0, 0.0
    for rank, item in enumerate(ranked, 1):
        if item in bought:
            hits += 1
            total += hits / rank
    return total / min(3, len(bought))
