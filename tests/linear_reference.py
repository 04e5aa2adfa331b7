"""A linear reference on tables in the paper's layout: one-vs-rest logistic regressions on bags of tags and words.

It is not a system of the benchmark: it shows whether a world's planted signal can be found, and which features carry it.
"""

import csv
import gzip
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression

from training.datasets.synthetic.check import CheckedEvent, read_events

Features = dict[str, float]
Scores = NDArray[np.float64]
Order = Literal["none", "kept", "shuffled"]


@dataclass(frozen=True)
class Tables:
    events: list[CheckedEvent]
    clicks: dict[str, list[str]]
    words: dict[str, list[str]]
    allowed: list[set[int]]


def read(folder: Path) -> Tables:
    clicks: dict[str, list[str]] = defaultdict(list)
    words: dict[str, list[str]] = defaultdict(list)
    allowed: dict[int, set[int]] = defaultdict(set)
    for row in _rows(folder / "data_sessions.csv.gz"):
        clicks[row["session_id"]].append(row["action_tags"])
    for row in _rows(folder / "data_conversations_text.csv.gz"):
        words[row["conversation_id"]] += row["sentence"].split()
    for row in _rows(folder / "data_post_filter.csv.gz"):
        allowed[int(row["purchase_event_id"])].add(int(row["item_id"]))
    return Tables(read_events(folder), dict(clicks), dict(words), [allowed[event] for event in sorted(allowed)])


def _rows(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", newline="") as file:
        return list(csv.DictReader(file))


def features(
    tables: Tables,
    event: CheckedEvent,
    *,
    order: Order,
    pairs: bool,
    modalities: str = "SC",
    rng: np.random.Generator | None = None,
) -> Features:
    """Returns a bag of tags, words and optionally pairs of consecutive clicks; with order, separate by position from the last."""
    interactions = list(event.interactions)
    if order == "shuffled":
        assert rng is not None
        interactions = [interactions[index] for index in rng.permutation(len(interactions))]
    bag: Features = {}
    for back, (kind, name) in enumerate(reversed(interactions)):
        if kind not in modalities:
            continue
        tokens = {tag for tags in tables.clicks[name] for tag in tags.split(",")} if kind == "S" else set(tables.words[name])
        if kind == "S" and pairs:
            tokens |= {f"{one}>{other}" for one, other in pairwise(tables.clicks[name])}
        if kind == "C":
            tokens |= {f"{one} {other}" for one, other in pairwise(tables.words[name])}
        for token in tokens:
            bag[f"{kind} {token}"] = 1.0
            if order != "none":
                bag[f"{kind} {min(back, 3)} {token}"] = 1.0
    return bag


def fit_and_score(rows: Sequence[Features], events: Sequence[CheckedEvent], border: int) -> Scores:
    """Returns the scores of all 24 items, (test events, 24), of models trained on the events before `border`."""
    vectorizer = DictVectorizer(dtype=np.float32)
    train = vectorizer.fit_transform(rows[:border])
    kept = np.asarray((train != 0).sum(axis=0)).ravel() >= 5
    train = train[:, kept]
    test = vectorizer.transform(rows[border:])[:, kept]
    scores = np.zeros((len(rows) - border, 24))
    for item in range(1, 25):
        bought = np.array([item in event.items for event in events[:border]])
        if bought.any():
            model = LogisticRegression(C=0.3, solver="liblinear", tol=0.01).fit(train, bought)
            scores[:, item - 1] = model.decision_function(test)
        else:
            scores[:, item - 1] = -100
    return scores


def popular(events: Sequence[CheckedEvent], border: int) -> Scores:
    counts = [sum(item in event.items for event in events[:border]) for item in range(1, 25)]
    return np.tile(np.array(counts, dtype=np.float64), (len(events) - border, 1))


def measure(tables: Tables, scores: Scores, border: int, *, filtered: bool = True) -> dict[str, tuple[float, float, int]]:
    """Returns HR@3, MAP@3 and the number of test events, by event type and for the union."""
    values: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for event, row, may in zip(tables.events[border:], scores, tables.allowed[border:], strict=True):
        ranked = [item for item in (np.argsort(-row, kind="stable") + 1) if not filtered or item in may][:3]
        hits = np.array([item in event.items for item in ranked], dtype=float)
        precision = float((hits * np.cumsum(hits) / np.arange(1, 4)).sum() / min(3, len(event.items)))
        for name in (("session", "conversation", "both")[event.event_type], "union"):
            values[name].append((float(hits.any()), precision))
    return {name: (*np.mean(np.array(pairs), axis=0).round(3).tolist(), len(pairs)) for name, pairs in values.items()}
