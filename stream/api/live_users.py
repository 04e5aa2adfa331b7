"""Users as the live page shows them: their places on the map, the newest thing they did, and their way through it."""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

import msgspec
import numpy as np

from stream.api.live_bodies import Dot, Happened, Move, Step
from stream.api.live_feed import LiveFeed
from stream.api.live_map import Place, SpaceMap
from stream.core import limits
from stream.core.interactions import Interaction, Session
from stream.core.outputs import Modalities
from stream.core.ranking import Catalogue, Holdings, Ranker, Rows, readable_by, score_rows
from stream.core.recommend import represent
from stream.core.state import HEAD_PREFIX, Facts, Head, StatesUnreadableError, decode_facts, decode_head, facts_key
from stream.core.user_state import UserState

_WORDS: Final = 5
"""Of an event that are shown."""
_TOP: Final = 3
_NOTHING: Final = Modalities(0, 0)


class Scene(NamedTuple):
    """With what users are looked at.

    Attributes:
        feed: Their records.
        catalogue: The items' names, and what may not be offered.
        ranker: The champion; None before the first.
        space: Its map; None where it has no space.
    """

    feed: LiveFeed
    catalogue: Catalogue
    ranker: Ranker | None
    space: SpaceMap | None


def decoded(scene: Scene, keys: Sequence[bytes]) -> list[UserState]:
    """The users of whom a head is kept that can be read, and that the champion can read on from."""
    users = []
    for key in keys:
        kept = scene.feed.users.get(key)
        if kept is None or kept.head is None:
            continue
        try:
            user = UserState(key, key.decode(), decode_head(kept.head), scene.feed, stored=True)
            prefix = user.head.prefix
            if scene.ranker is not None and prefix is not None and prefix.fingerprint != scene.ranker.fingerprint:
                if kept.facts is None:
                    continue  # another version encoded what came before, and that is no longer kept here
                user.load_facts()
        except (StatesUnreadableError, UnicodeDecodeError):
            continue
        users.append(user)
    return users


def dots(scene: Scene, users: Sequence[UserState]) -> list[Dot]:
    """The places of users."""
    if scene.ranker is None or scene.space is None or not users:
        return []
    rows, supports = represent(users, scene.ranker)
    scores = _scores(scene.ranker, rows, supports, map(_holdings, (user.head for user in users)))
    places = scene.space.place(scores)
    return [
        Dot(user.user_id, *place, support.session, support.conversation)
        for user, place, support in zip(users, places, supports, strict=True)
    ]


def _holdings(head: Head) -> Holdings:
    return Holdings(head.owned, head.excluded)


def _scores(ranker: Ranker, rows: Rows, supports: Sequence[Modalities], holdings: Iterable[Holdings]) -> Rows:
    """As in lists: popularity where the model reads nothing."""
    scores = score_rows(ranker, rows, holdings)
    scores[[row for row, support in enumerate(supports) if support == _NOTHING]] = ranker.prior
    return scores


def newest(scene: Scene, user: UserState) -> Happened | None:
    """The newest thing that a user did; None where it is none of those that are shown."""
    head = user.head
    if not head.newest_at:
        return None
    if head.newest_at == head.newest_purchase_at:
        facts = _facts(scene, user.key)
        items = [item for one in facts.purchases if one.bought and one.occurred_at == head.newest_at for item in one.items]
        return Happened(user.user_id, "purchase", _names(scene.catalogue, items), head.newest_at) if items else None
    for interaction in reversed(head.tail):
        if interaction.ended_at == head.newest_at:
            if isinstance(interaction, Session):
                return Happened(user.user_id, "click", interaction.clicks()[-1][1][:_WORDS], head.newest_at)
            return Happened(user.user_id, "call", interaction.parts[-1].keywords[:_WORDS], head.newest_at)
    return None


def way(scene: Scene, key: bytes) -> tuple[list[Step], Place | None]:
    """A user's last interactions and purchases, where each led on the map and what rose; and where everybody begins."""
    value = scene.feed.get_many([HEAD_PREFIX + key])[0]
    try:
        head = Head() if value is None else decode_head(value)
        facts = _facts(scene, key)
    except StatesUnreadableError:
        return [], None
    interactions = [*facts.interactions, *head.tail][-limits.WINDOW :]
    steps = [_step(interaction) for interaction in interactions]
    steps, start = _led(scene, steps, interactions, head)
    bought = [
        Step(kind="purchase", at=one.occurred_at, what=_names(scene.catalogue, one.items)) for one in facts.purchases if one.bought
    ]
    return sorted([*steps, *bought], key=lambda step: step.at), start


def _led(scene: Scene, steps: list[Step], interactions: Sequence[Interaction], head: Head) -> tuple[list[Step], Place | None]:
    """The steps with their places and what rose, from the model's own encoding of each beginning of the history."""
    ranker, space = scene.ranker, scene.space
    if ranker is None or space is None:
        return steps, None
    readable = [readable_by(ranker, [interaction]) for interaction in interactions]
    beginnings = [[one for group in readable[:count] for one in group] for count in range(len(readable) + 1)]
    supports = [Modalities(len(beginning), 0) for beginning in beginnings]
    scores = _scores(ranker, ranker.encode_many(beginnings), supports, [_holdings(head)] * len(beginnings))
    places, ranks = space.place(scores), _ranks(scores, ranker.items, scene.catalogue.blocked(head.owned, head.excluded))
    return [
        _with_effect(scene, step, places[number], ranks[number - 1], ranks[number]) if readable[number - 1] else step
        for number, step in enumerate(steps, start=1)
    ], places[0]


def _with_effect(scene: Scene, step: Step, place: Place, before: list[str], after: list[str]) -> Step:
    risen = [
        Move(item, name_of(scene.catalogue, item), before.index(item) + 1, rank)
        for rank, item in enumerate(after[:_TOP], start=1)
        if before.index(item) + 1 > rank
    ]
    risen.sort(key=lambda move: move.after - move.before)
    return msgspec.structs.replace(step, place=place, rose=tuple(risen[:1]))


def _ranks(scores: Rows, items: Sequence[str], blocked: AbstractSet[str]) -> list[list[str]]:
    """The items that may be offered, best first, of each row of scores."""
    order = np.argsort(-scores, axis=1, kind="stable").tolist()
    return [[items[position] for position in row if items[position] not in blocked] for row in order]


def _step(interaction: Interaction) -> Step:
    if isinstance(interaction, Session):
        clicks = interaction.clicks()
        return Step(kind="click", at=interaction.started_at, what=interaction.tags[-_WORDS:], count=len(clicks))
    return Step(kind="call", at=interaction.started_at, what=interaction.keywords[:_WORDS], count=interaction.sentences)


def _facts(scene: Scene, key: bytes) -> Facts:
    value = scene.feed.get_many([facts_key(key)])[0]
    return Facts() if value is None else decode_facts(value)


def name_of(catalogue: Catalogue, item: str) -> str:
    known = catalogue.items.get(item)
    return item if known is None else known.name or item


def _names(catalogue: Catalogue, items: Sequence[str]) -> tuple[str, ...]:
    return tuple(name_of(catalogue, item) for item in items[:_WORDS])
