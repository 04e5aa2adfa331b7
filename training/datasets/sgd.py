"""Converts dialogues of the Schema-Guided Dialogue corpus (Rastogi et al. 2020, CC BY-SA 4.0) to the paper's tables.

An item is a transactional intent that succeeded. Each dialogue with a success is cut at a random moment: items bought at or after
it are the label, those before it are excluded by the post filter. Each exchange before the cut (what the user said and the
assistant answered) is seen through one channel only: its text, or the assistant's logged calls and acts.
"""

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from training.datasets.synthetic import calibration
from training.datasets.tables.files import TableError
from training.datasets.tables.writer import COLUMNS, WriteRow, open_table

SOURCE: Final = "source.csv.gz"
_SOURCE_COLUMNS: Final = ("purchase_event_id", "source_dialogue", "type")
_LOGGED: Final = frozenset({"OFFER", "OFFER_INTENT", "REQUEST", "CONFIRM", "INFORM", "INFORM_COUNT"})
"""Acts that describe what a page shows. Success, failure, thanks and goodbye are left out, because they reveal the label."""
_SENTENCES: Final = re.compile(r"(?<=[.?!])\s+")
_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_NUMBER: Final = re.compile(r"_\d+$")
_CHANNELS: Final = ("S", "C")
Progress = Callable[[int, int], object]


class Exchange(NamedTuple):
    """A user's turn with the assistant's answer: (speaker, sentence) as said, and the tags of each logged action."""

    said: tuple[tuple[str, str], ...]
    logged: tuple[tuple[str, ...], ...]


class Turn(NamedTuple):
    """One turn of a dialogue.

    Attributes:
        is_user: else it is the assistant's.
        said: (user or agent, sentence).
        logged: the tags of each logged action.
        bought: the item of a transaction that succeeded in this turn.
    """

    is_user: bool
    said: tuple[tuple[str, str], ...]
    logged: tuple[tuple[str, ...], ...]
    bought: str | None


class Dialogue(NamedTuple):
    name: str
    turns: tuple[Turn, ...]

    @property
    def purchases(self) -> list[tuple[int, str]]:
        """(turn, item) of each success."""
        return [(number, turn.bought) for number, turn in enumerate(self.turns) if turn.bought is not None]


class Cut(NamedTuple):
    """The purchase event of a dialogue cut at a moment.

    Attributes:
        seen: (S or C, exchange) before the moment, in order.
        bought: the items after it.
        excluded: the items bought before it.
    """

    seen: tuple[tuple[str, Exchange], ...]
    bought: tuple[str, ...]
    excluded: frozenset[str]


def read_dialogues(folder: Path, progress: Progress = lambda *_: None) -> list[Dialogue]:
    """Reads all dialogues of a folder as published: `schema.json` and `dialogues_*.json`, gzipped or not, here or one folder below.

    `progress` is called with the number of files read and the number of all.

    Raises:
        TableError: there are no dialogues or no schema, or a file cannot be read.
    """
    schemas = _files(folder, "schema.json*")
    files = _files(folder, "dialogues_*.json*")
    if not schemas or not files:
        raise TableError(f"{folder} holds no {'schema.json' if files else 'dialogues_*.json'} of the corpus (.gz or not)")
    transactional = {
        f"{_NUMBER.sub('', service['service_name'])}_{intent['name']}"
        for path in schemas
        for service in _json(path)
        for intent in service["intents"]
        if intent["is_transactional"]
    }
    dialogues: list[Dialogue] = []
    for number, path in enumerate(files, start=1):
        dialogues += _dialogues(path, folder, transactional)
        progress(number, len(files))
    return dialogues


def _files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for each in (pattern, f"*/{pattern}") for path in folder.glob(each))


def _json(path: Path) -> Any:
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            return json.load(file)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise TableError(f"{path} cannot be read ({error})") from None


def _dialogues(path: Path, folder: Path, transactional: set[str]) -> Iterator[Dialogue]:
    above = "" if path.parent == folder else f"{path.parent.name}/"
    try:
        for raw in _json(path):
            yield Dialogue(above + raw["dialogue_id"], tuple(_turn(turn, transactional) for turn in raw["turns"]))
    except (KeyError, TypeError, IndexError) as error:
        raise TableError(f"{path} is not a file of dialogues (missing: {error})") from None


def _turn(raw: Mapping[str, Any], transactional: set[str]) -> Turn:
    is_user = raw["speaker"] == "USER"
    said = tuple(("user" if is_user else "agent", one) for one in _SENTENCES.split(raw["utterance"].strip()) if one)
    if is_user:
        return Turn(is_user, said, (), None)
    logged: list[tuple[str, ...]] = []
    bought = None
    for frame in raw["frames"]:
        service, method = _NUMBER.sub("", frame["service"]), frame.get("service_call", {}).get("method")
        if method is not None:
            logged.append(tags("call", service, method))
        logged += [tags(service, _slot(act), act["act"]) for act in frame["actions"] if act["act"] in _LOGGED]
        if f"{service}_{method}" in transactional and any(act["act"] == "NOTIFY_SUCCESS" for act in frame["actions"]):
            bought = f"{service}_{method}"
    return Turn(is_user, said, tuple(logged), bought)


def _slot(act: Mapping[str, Any]) -> str:
    """Returns the slot that an act is about, or the name of an offered intent."""
    return str(act["values"][0]) if act["act"] == "OFFER_INTENT" and act["values"] else str(act["slot"])


def tags(*names: str) -> tuple[str, ...]:
    """Returns the distinct words of names, in order.

    >>> tags("Buses", "leaving_time", "OFFER"), tags("call", "RentalCars", "GetCarsAvailable")
    (('buses', 'leaving', 'time', 'offer'), ('call', 'rental', 'cars', 'get', 'available'))
    """
    return tuple(dict.fromkeys(word.lower() for name in names for word in _WORDS.findall(name)))


def cut(dialogue: Dialogue, rng: np.random.Generator) -> Cut | None:
    """Draws type, number of interactions (both as in the paper's data) and moment.

    Returns None if the dialogue does not allow it.
    """
    kind, length = _draw_shape(rng)
    usable = [(moment, seen) for moment in _moments(dialogue) if len(seen := _exchanges(dialogue, moment, kind)) >= len(set(kind))]
    if not usable:
        return None
    length = min(length, max(len(seen) for _, seen in usable))
    long_enough = [(moment, seen) for moment, seen in usable if len(seen) >= length]
    moment, seen = long_enough[int(rng.integers(len(long_enough)))]
    chosen = seen[-length:]
    channels = _channels(kind, chosen, rng)
    if channels is None:
        return None
    before = {item for turn, item in dialogue.purchases if turn < moment}
    after = dict.fromkeys(item for turn, item in dialogue.purchases if turn >= moment)
    bought = tuple(item for item in after if item not in before)
    return Cut(tuple(zip(channels, chosen, strict=True)), bought, frozenset(before)) if bought else None


def _draw_shape(rng: np.random.Generator) -> tuple[str, int]:
    """Returns the channels that an event may have, and the number of its interactions."""
    event_type = int(rng.choice(3, p=_shares(calibration.TYPE_SHARES)))
    if event_type < 2:
        counts = (calibration.SESSIONS_PER_SESSION_EVENT, calibration.CONVERSATIONS_PER_CONVERSATION_EVENT)[event_type]
        return _CHANNELS[event_type], 1 + int(rng.choice(len(counts), p=_shares(counts)))
    table = np.array(calibration.BOTH_COUNTS)
    at = int(rng.choice(table.size, p=_shares(table.ravel())))
    return "SC", at // table.shape[1] + at % table.shape[1] + 2


def _shares(values: Any) -> Any:
    array = np.asarray(values, dtype=float)
    return array / array.sum()


def _moments(dialogue: Dialogue) -> list[int]:
    """Returns the turns before which the dialogue may be cut: the user's turns and those with a purchase."""
    bought = [number for number, _ in dialogue.purchases]
    last = max(bought, default=-1)
    return [number for number, turn in enumerate(dialogue.turns) if 0 < number <= last and (turn.is_user or number in bought)]


def _exchanges(dialogue: Dialogue, moment: int, kind: str) -> list[Exchange]:
    """Returns the exchanges before a moment that these channels can show. Without logged actions there is no session."""
    groups: list[list[Turn]] = []
    for turn in dialogue.turns[:moment]:
        if turn.is_user or not groups:
            groups.append([])
        groups[-1].append(turn)
    joined = [Exchange(tuple(chain(*(turn.said for turn in own))), tuple(chain(*(turn.logged for turn in own)))) for own in groups]
    return [exchange for exchange in joined if "C" in kind or exchange.logged]


def _channels(kind: str, exchanges: Sequence[Exchange], rng: np.random.Generator) -> str | None:
    """Draws a channel for each exchange. Of two channels both occur; exchanges without logged actions are conversations.

    Returns None where that is impossible.
    """
    if len(kind) == 1:
        return kind * len(exchanges)
    logged = [index for index, exchange in enumerate(exchanges) if exchange.logged]
    if not logged:
        return None
    channels = ["C" if not exchange.logged else _CHANNELS[int(rng.integers(2))] for exchange in exchanges]
    if len(set(channels)) == 1:
        index = logged[int(rng.integers(len(logged)))]
        channels[index] = "C" if channels[index] == "S" else "S"
    return "".join(channels)


def write_sgd(folder: Path, out: Path, seed: int, *, progress: Progress = lambda *_: None) -> int:
    """Writes the tables of a folder of dialogues, in random order. Returns the number of purchase events."""
    dialogues = read_dialogues(folder, progress)
    rng = np.random.default_rng(seed)
    cuts = []
    for index in rng.permutation(len(dialogues)).tolist():
        drawn = cut(dialogues[index], rng)
        if drawn is not None:
            cuts.append((dialogues[index].name, drawn))
    names = sorted({item for _, drawn in cuts for item in (*drawn.bought, *drawn.excluded)})
    items = {name: number for number, name in enumerate(names, start=1)}
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as files:
        rows = {name: open_table(files, out / name, columns) for name, columns in COLUMNS.items()}
        source = open_table(files, out / SOURCE, _SOURCE_COLUMNS)
        for item, number in items.items():
            rows["items.csv"]((number, item))
        counts = {"S": 0, "C": 0}
        for event, (name, drawn) in enumerate(cuts, start=1):
            _write_event(rows, event, drawn, items, counts)
            channels = {channel for channel, _ in drawn.seen}
            source((event, name, "both" if len(channels) == 2 else {"S": "session", "C": "conversation"}[min(channels)]))
    return len(cuts)


def _write_event(rows: Mapping[str, WriteRow], event: int, drawn: Cut, items: Mapping[str, int], counts: dict[str, int]) -> None:
    for number, (channel, exchange) in enumerate(drawn.seen, start=1):
        counts[channel] += 1
        name = counts[channel]
        conversation, session = (name, None) if channel == "C" else (None, name)
        rows["data_users.csv.gz"]((event, event, number, conversation, session))
        if channel == "S":
            for action, logged in enumerate(exchange.logged, start=1):
                rows["data_sessions.csv.gz"]((name, action, ",".join(logged)))
        else:
            for sentence, (speaker, text) in enumerate(exchange.said, start=1):
                rows["data_conversations_text.csv.gz"]((name, sentence, speaker, text))
    for bought in drawn.bought:
        rows["data_purchase_events.csv.gz"]((event, items[bought]))
    for item_name, number in items.items():
        if item_name not in drawn.excluded:
            rows["data_post_filter.csv.gz"]((event, number))
