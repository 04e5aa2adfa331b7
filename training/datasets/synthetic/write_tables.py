"""Writes lives as tables in the paper's layout (CSV, gzip), a README beside them, and the answer key in a folder of its own.

Users, purchase events, sessions and conversations are numbered as they appear in time. A conversation's text ends where its sale
begins: what agents say after it is the label. Written row by row; only the lives are held in memory.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from training.datasets.synthetic import NOTICE
from training.datasets.synthetic import calibration as facts
from training.datasets.synthetic.calls import write_call
from training.datasets.synthetic.catalogue import CATALOGUE, REPEATABLE
from training.datasets.synthetic.chance import Chance
from training.datasets.synthetic.sessions import write_session
from training.datasets.synthetic.world import Buying, Life, World, draw_lives, make_world
from training.datasets.tables.writer import COLUMNS, WriteRow, open_table

ANSWERS: Final = Path("answer-key") / "answers.csv.gz"
_ANSWER_COLUMNS: Final = ("purchase_event_id", "event_number", "item_in_mind", "present_intention", "sold_in_call")
_README: Final = """# A synthetic world

This is {notice}. Nobody in it exists; scores on it show that a model
finds what was planted, not that it would please customers.

Made by `isthmus dataset synthesize --purchases {purchases} --seed {seed}`: the same numbers give the same rows.
It is calibrated on aggregates of the tables that Bruun, Balog and Maistro published (SIGIR 2024). Items, pages, wording and tastes
are invented. The tables are those of the paper's layout. The last 10 % of purchase_event_id is the test set, the last 10 % of the
rest validation. A conversation's text ends before what is said after a sale.

`answer-key/` says what each user had in mind. It is for checking this world, never an input of a model.
"""


@dataclass(slots=True)
class _Numbering:
    """Numbers of what has been written: by place of the life, and of the interaction in it."""

    users: dict[int, int] = field(default_factory=dict)
    interactions: dict[tuple[int, int], int] = field(default_factory=dict)
    sessions: int = 0
    conversations: int = 0


def write_tables(out: Path, purchase_events: int, seed: int, *, progress: Callable[[int], object] = lambda _: None) -> None:
    """Writes all tables of a world with so many purchase events; `progress` hears of each event written.

    Overwrites tables that are there: whoever calls decides whether it may.
    """
    rng = np.random.default_rng(seed)
    world, chance = make_world(rng), Chance(rng)
    lives = list(draw_lives(world, chance, purchase_events))
    ordered = sorted(
        ((buying.moment, place, number) for place, life in enumerate(lives) for number, buying in enumerate(life.buyings))
    )
    (out / ANSWERS.parent).mkdir(parents=True, exist_ok=True)
    (out / "README.md").write_text(_README.format(notice=NOTICE, purchases=purchase_events, seed=seed))
    with ExitStack() as files:
        rows = {name: open_table(files, out / name, columns) for name, columns in COLUMNS.items()}
        answers = open_table(files, out / ANSWERS, _ANSWER_COLUMNS)
        for item in CATALOGUE:
            rows["items.csv"]((item.number, item.name))
        numbering = _Numbering()
        for event_id, (_, place, number) in enumerate(ordered, 1):
            life = lives[place]
            _write_event(rows, answers, chance, world, numbering, life, place, number, event_id)
            progress(event_id)


def _write_event(
    rows: dict[str, WriteRow],
    answers: WriteRow,
    chance: Chance,
    world: World,
    numbering: _Numbering,
    life: Life,
    place: int,
    number: int,
    event_id: int,
) -> None:
    buying = life.buyings[number]
    user = numbering.users.setdefault(place, len(numbering.users) + 1)
    skipped = 0 if chance.happens(facts.NUMBERED_FROM_ONE) else 1 + chance.below(3)
    for event_number, at in enumerate(buying.history, 1 + skipped):
        shown = life.interactions[at]
        if (place, at) not in numbering.interactions:
            numbering.interactions[place, at] = _write_interaction(rows, chance, world, numbering, life, at)
        named = numbering.interactions[place, at]
        conversation, session = (named, None) if shown.modality == "C" else (None, named)
        rows["data_users.csv.gz"]((user, event_id, event_number, conversation, session))
        answers((event_id, event_number, shown.focus, int(at in _fresh(buying) and shown.present), int(bool(shown.sold))))
    for item in buying.basket:
        rows["data_purchase_events.csv.gz"]((event_id, item))
    for item in allowed(life, number):
        rows["data_post_filter.csv.gz"]((event_id, item))


def _fresh(buying: Buying) -> tuple[int, ...]:
    return buying.history[len(buying.history) - buying.fresh :]


def _write_interaction(rows: dict[str, WriteRow], chance: Chance, world: World, numbering: _Numbering, life: Life, at: int) -> int:
    """Writes one session or conversation; its number."""
    shown = life.interactions[at]
    if shown.modality == "S":
        numbering.sessions += 1
        for action, tags in enumerate(write_session(chance, shown.focus, world.flipped), 1):
            rows["data_sessions.csv.gz"]((numbering.sessions, action, ",".join(tags)))
        return numbering.sessions
    numbering.conversations += 1
    call = write_call(chance, shown.focus, shown.sold)
    for sentence, (speaker, text) in enumerate(call.before, 1):
        named = "user" if speaker == "customer" else speaker
        rows["data_conversations_text.csv.gz"]((numbering.conversations, sentence, named, text))
    return numbering.conversations


def allowed(life: Life, number: int) -> Iterator[int]:
    """The items that the user may be offered at his purchase event of this number (from 0): the post filter."""
    owned = {item for buying in life.buyings[:number] for item in buying.basket}
    barred = (owned - REPEATABLE) | life.excluded
    return (item.number for item in CATALOGUE if item.number not in barred)
