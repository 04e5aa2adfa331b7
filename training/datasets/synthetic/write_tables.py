"""Writes lives as tables in the paper's layout (CSV, gzip), with a README, and with the answer key in a separate folder.

Users, purchase events, sessions and conversations are numbered in order of time. A conversation's text ends where its sale begins,
because what agents say afterwards is the label. Rows are written one by one; only the lives are held in memory.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from training.datasets.synthetic import NOTICE, calibration
from training.datasets.synthetic.calls import write_call
from training.datasets.synthetic.catalogue import CATALOGUE, REPEATABLE
from training.datasets.synthetic.plain_texts import PLAIN_TEXTS
from training.datasets.synthetic.random_draws import RandomDraws
from training.datasets.synthetic.sessions import write_session
from training.datasets.synthetic.world import Life, PlannedPurchase, World, draw_lives, make_world
from training.datasets.tables.writer import COLUMNS, WriteRow, open_table

ANSWERS: Final = Path("answer-key") / "answers.csv.gz"
_ANSWER_COLUMNS: Final = ("purchase_event_id", "event_number", "item_in_mind", "present_intention", "sold_in_call")
_README: Final = """# A synthetic world

This is {notice}. Nobody in it exists. Scores on it show that a model
finds what was planted, not that it would please customers.

Made by `isthmus dataset synthesize --purchases {purchases} --seed {seed}{more}`: the same numbers give the same rows.
It is calibrated on aggregates of the tables that Bruun, Balog and Maistro published (SIGIR 2024). Items, pages, wording and tastes
are invented. The tables are those of the paper's layout. The last 10 % of purchase_event_id is the test set, the last 10 % of the
rest validation. A conversation's text ends before what is said after a sale.

`answer-key/` holds what each user had in mind. It serves to check this world and is never an input of a model.
"""


@dataclass(slots=True)
class _Numbering:
    """The numbers given so far, by index of the life, and of the interaction in it."""

    users: dict[int, int] = field(default_factory=dict)
    interactions: dict[tuple[int, int], int] = field(default_factory=dict)
    sessions: int = 0
    conversations: int = 0


def write_tables(
    out: Path,
    purchase_events: int,
    seed: int,
    *,
    follow_ups: float = 0.0,
    plain_texts: bool = False,
    progress: Callable[[int], object] = lambda _: None,
) -> None:
    """Writes all tables of a world with so many purchase events; `progress` is called with each event written.

    `follow_ups`: share of later purchases that are decided by what the user owns. `plain_texts`: items have names and texts
    without the words of the tags.

    Overwrites existing tables; the caller decides whether it may.
    """
    rng = np.random.default_rng(seed)
    world, draws = make_world(rng, follow_ups), RandomDraws(rng)
    lives = list(draw_lives(world, draws, purchase_events))
    ordered = sorted(
        (purchase.moment, index, number) for index, life in enumerate(lives) for number, purchase in enumerate(life.purchases)
    )
    (out / ANSWERS.parent).mkdir(parents=True, exist_ok=True)
    more = (f" --follow-ups {follow_ups}" if follow_ups else "") + (" --plain-texts" if plain_texts else "")
    (out / "README.md").write_text(_README.format(notice=NOTICE, purchases=purchase_events, seed=seed, more=more))
    with ExitStack() as files:
        rows = {name: open_table(files, out / name, columns) for name, columns in COLUMNS.items()}
        answers = open_table(files, out / ANSWERS, _ANSWER_COLUMNS)
        _write_items(files, out, rows["items.csv"], plain=plain_texts)
        numbering = _Numbering()
        for event_id, (_, index, number) in enumerate(ordered, 1):
            _write_event(rows, answers, draws, world, numbering, lives[index], index, number, event_id)
            progress(event_id)


def _write_items(files: ExitStack, out: Path, write_name: WriteRow, *, plain: bool) -> None:
    """Writes the names; texts only where they are plain, so that a seed gives the same tables as before there were texts."""
    write_text = open_table(files, out / "item_texts.csv", ("item_id", "text")) if plain else None
    for item in CATALOGUE:
        name, text = PLAIN_TEXTS[item.number] if plain else (item.name, item.text)
        write_name((item.number, name))
        if write_text is not None:
            write_text((item.number, text))


def _write_event(
    rows: dict[str, WriteRow],
    answers: WriteRow,
    draws: RandomDraws,
    world: World,
    numbering: _Numbering,
    life: Life,
    index: int,
    number: int,
    event_id: int,
) -> None:
    purchase = life.purchases[number]
    user = numbering.users.setdefault(index, len(numbering.users) + 1)
    skipped = 0 if draws.happens(calibration.NUMBERED_FROM_ONE) else 1 + draws.below(3)
    for event_number, at in enumerate(purchase.history, 1 + skipped):
        interaction = life.interactions[at]
        if (index, at) not in numbering.interactions:
            numbering.interactions[index, at] = _write_interaction(rows, draws, world, numbering, life, at)
        name = numbering.interactions[index, at]
        conversation, session = (name, None) if interaction.modality == "C" else (None, name)
        rows["data_users.csv.gz"]((user, event_id, event_number, conversation, session))
        is_present = at in _fresh(purchase) and interaction.present
        answers((event_id, event_number, interaction.focus, int(is_present), int(bool(interaction.sold))))
    for item in purchase.basket:
        rows["data_purchase_events.csv.gz"]((event_id, item))
    for item in allowed(life, number):
        rows["data_post_filter.csv.gz"]((event_id, item))


def _fresh(purchase: PlannedPurchase) -> tuple[int, ...]:
    return purchase.history[len(purchase.history) - purchase.fresh :]


def _write_interaction(
    rows: dict[str, WriteRow], draws: RandomDraws, world: World, numbering: _Numbering, life: Life, at: int
) -> int:
    """Writes one session or conversation and returns its number."""
    interaction = life.interactions[at]
    if interaction.modality == "S":
        numbering.sessions += 1
        for action, tags in enumerate(write_session(draws, interaction.focus, world.flipped), 1):
            rows["data_sessions.csv.gz"]((numbering.sessions, action, ",".join(tags)))
        return numbering.sessions
    numbering.conversations += 1
    call = write_call(draws, interaction.focus, interaction.sold)
    for sentence, (speaker, text) in enumerate(call.before, 1):
        name = "user" if speaker == "customer" else speaker
        rows["data_conversations_text.csv.gz"]((numbering.conversations, sentence, name, text))
    return numbering.conversations


def allowed(life: Life, number: int) -> Iterator[int]:
    """Returns the items that may be offered at the user's purchase event of this number (from 0): the post filter."""
    owned = {item for purchase in life.purchases[:number] for item in purchase.basket}
    blocked = (owned - REPEATABLE) | life.excluded
    return (item.number for item in CATALOGUE if item.number not in blocked)
