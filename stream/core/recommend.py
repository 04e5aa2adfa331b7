"""From changed users to recommendations: representations (cached, advanced, or encoded anew), post filter, suppression, ids.

The list is what a full `encode` of the last 10 interactions gives, always. The cached prefix makes it cheap: what came before the
growing interactions is encoded once, and only those are advanced over.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec
import numpy as np

from stream.core import limits
from stream.core.cloud_events import cloud_event
from stream.core.interactions import Interaction, Session
from stream.core.outputs import (
    Fallback,
    Modalities,
    ModelName,
    Moments,
    Outcome,
    Output,
    RankedItem,
    Reasoning,
    Recommendation,
)
from stream.core.ranking import Catalogue, PostFilter, Ranker, Rows
from stream.core.state import LastList, Prefix, encode_state
from stream.core.user_state import UserState

SCORE_DIGITS: Final = 4
REASONS: Final = 3
_NO_MODEL: Final = ModelName("none", "0")
_encode: Final = msgspec.json.Encoder().encode


def readable_interactions(interactions: Sequence[Interaction], ranker: Ranker | None) -> list[Interaction]:
    """What a ranker can read of the interactions: parts of calls that another text model encoded mean nothing to it."""
    text_model = None if ranker is None else ranker.text_model
    if text_model is None:
        return list(interactions)
    read: list[Interaction] = []
    for other in interactions:
        seen = other if isinstance(other, Session) else other.for_text_model(text_model)
        if seen is not None:
            read.append(seen)
    return read


def count_modalities(interactions: Sequence[Interaction]) -> Modalities:
    sessions = len([other for other in interactions if isinstance(other, Session)])
    return Modalities(sessions, len(interactions) - sessions)


def interaction_counts(user: UserState, ranker: Ranker | None) -> Modalities:
    """How many interactions of each modality the user's list rests on, as of the last `represent` and the tail of now."""
    return _supported(user.head.prefix, readable_interactions(user.head.tail, ranker))


def _supported(prefix: Prefix | None, tail: Sequence[Interaction]) -> Modalities:
    counted = count_modalities(tail)
    if prefix is None:
        return counted
    return Modalities(prefix.sessions + counted.session, prefix.conversations + counted.conversation)


def represent(users: Sequence[UserState], ranker: Ranker | None) -> tuple[Rows, list[Modalities]]:
    """The users' representations, (n, width), and what each rests on; brings each one's cached prefix up to date."""
    rows = _prefixes(users, ranker)
    tails = [readable_interactions(user.head.tail, ranker) for user in users]
    supports = [_supported(user.head.prefix, tail) for user, tail in zip(users, tails, strict=True)]
    return (rows if ranker is None else _advance(ranker, rows, tails)), supports


def _prefixes(users: Sequence[UserState], ranker: Ranker | None) -> Rows:
    """Encodes what comes before the tails: from the cache where it holds, else one step on from it, else anew."""
    fingerprint = "" if ranker is None else ranker.fingerprint
    rows = _initial(len(users), ranker)
    ahead: list[list[Interaction]] = [[]] * len(users)
    anew: list[int] = []
    changed: list[tuple[int, Modalities]] = []
    for row, user in enumerate(users):
        prefix = user.head.prefix
        valid = prefix is None or prefix.fingerprint == fingerprint
        if valid and prefix is not None:
            rows[row] = np.frombuffer(prefix.vector, dtype="<f4")
        if valid and user.loaded is None:
            continue
        _ = user.facts
        window = user.window_prefix()
        reaches = len(user.base)
        if valid and window[:reaches] == user.base:
            if len(window) == reaches:
                continue
            ahead[row] = readable_interactions(window[reaches:], ranker)
        else:
            ahead[row] = readable_interactions(window, ranker)
            anew.append(row)
        changed.append((row, count_modalities(readable_interactions(window, ranker))))
    if ranker is not None:
        if anew and ranker.width:
            rows[anew] = ranker.encode_many([ahead[row] for row in anew])
        for row in anew:
            ahead[row] = []
        rows = _advance(ranker, rows, ahead)
    for row, counted in changed:
        head = users[row].head
        vector = rows[row].astype("<f4").tobytes()
        head.prefix = Prefix(fingerprint, vector, counted.session, counted.conversation) if users[row].window_prefix() else None
    return rows


def _initial(count: int, ranker: Ranker | None) -> Rows:
    if ranker is None:
        return np.zeros((count, 0), dtype=np.float32)
    return np.tile(ranker.initial().astype(np.float32), (count, 1))


def _advance(ranker: Ranker, rows: Rows, sequences: Sequence[Sequence[Interaction]]) -> Rows:
    """Each row advanced over its own sequence, all first interactions together, then all second ones."""
    if not ranker.width:
        return rows
    for turn in range(max(map(len, sequences), default=0)):
        due = [row for row, sequence in enumerate(sequences) if len(sequence) > turn]
        if len(due) == len(rows):
            rows = ranker.advance_many(rows, [sequence[turn] for sequence in sequences])
        else:
            rows[due] = ranker.advance_many(rows[due], [sequences[row][turn] for row in due])
    return rows


class PendingUsers(NamedTuple):
    """Users of one batch who may need another list, and where it goes. Who is not among `told` (None: all are) gets one in any
    case: another may stand after the last one that his state knows of.
    """

    users: Sequence[UserState]
    outcome: Outcome
    told: AbstractSet[bytes] | None


def recommend(asking: Sequence[PendingUsers], ranker: Ranker | None, catalogue: Catalogue, k: int, *, explain: bool) -> None:
    """Ranks the items for all users at once, and appends to each one's outcome the list that differs from the last one sent."""
    users = [user for one in asking for user in one.users]
    if not users:
        return
    whose = [one for one in asking for _ in one.users]
    rows, supports = represent(users, ranker)
    scored, items = _scores(rows, supports, ranker, catalogue, users)
    rounded = np.round(scored.astype(np.float64), SCORE_DIGITS).tolist()
    for moment, group in _by_offer(users, catalogue):
        post_filter = PostFilter(items, catalogue, moment)
        blocked = [catalogue.blocked(users[row].head.owned, users[row].head.excluded) for row in group]
        for row, places in zip(group, post_filter.top(scored[group], blocked, k), strict=True):
            scores = rounded[row]
            ranked = tuple([RankedItem(items[place], rank, scores[place]) for rank, place in enumerate(places, start=1)])
            because = _because(users[row], ranker, places) if explain and ranker is not None and places else None
            told = whose[row].told
            repeat = told is not None and users[row].key not in told
            _emit(users[row], ranked, supports[row], ranker, because, whose[row].outcome, repeat=repeat)


def _by_offer(users: Sequence[UserState], catalogue: Catalogue) -> list[tuple[int, list[int]]]:
    """The users' rows by the moment at which their post filter looks at the catalogue; one group while no offer begins or ends."""
    moments = [user.broker_ms for user in users]
    if not catalogue.changes_between(min(moments), max(moments)):
        return [(moments[0], list(range(len(users))))]
    return [(moment, [row for row, other in enumerate(moments) if other == moment]) for moment in sorted(set(moments))]


def _scores(
    rows: Rows, supports: Sequence[Modalities], ranker: Ranker | None, catalogue: Catalogue, users: Sequence[UserState]
) -> tuple[Rows, Sequence[str]]:
    """Scores, (n, items), and the items: the model's, popularity for users without interactions, or the catalogue's order."""
    if ranker is None:
        return np.zeros((len(users), len(catalogue.items)), dtype=np.float32), tuple(catalogue.items)
    scores = ranker.rank_many(rows)
    without = [row for row, counted in enumerate(supports) if not (counted.session or counted.conversation)]
    scores[without] = ranker.prior
    return scores, ranker.items


def fallback_of(counted: Modalities, ranker: Ranker | None) -> Fallback | None:
    if ranker is None:
        return "catalogue"
    return None if counted.session or counted.conversation else "popularity"


def _emit(
    user: UserState,
    ranked: tuple[RankedItem, ...],
    counted: Modalities,
    ranker: Ranker | None,
    because: tuple[Reasoning, ...] | None,
    outcome: Outcome,
    *,
    repeat: bool,
) -> None:
    head, cause = user.head, user.cause
    if cause is None:
        return
    model = _NO_MODEL if ranker is None else ModelName(ranker.name, ranker.version)
    fallback = fallback_of(counted, ranker)
    items = tuple([one.item for one in ranked])
    fingerprint = "" if ranker is None else ranker.fingerprint
    last = head.last_list
    if not repeat and last is not None and (last.items, last.fingerprint, last.fallback) == (items, fingerprint, fallback):
        outcome.counts["recommendations", "suppressed"] += 1
        return
    head.last_list = LastList(items, fingerprint, model.version, fallback, head.newest_at)
    value, recommendation_id = _encoded(
        Recommendation(
            recommendation_id="",
            user_id=user.user_id,
            occurred_at=user.broker_ms,
            caused_by=cause,
            model=model,
            items=ranked,
            modalities=counted,
            fallback=fallback,
            because=because,
        ),
        user,
    )
    headers = cloud_event(recommendation_id, "isthmus.recommendation", user.broker_ms)
    outcome.recommendations.append(Output(user.key, value, headers))
    outcome.moments.append(Moments(cause.occurred_at, user.broker_ms))
    outcome.counts["recommendations", "sent"] += 1


def _encoded(recommendation: Recommendation, user: UserState) -> tuple[bytes, str]:
    """The JSON with its id. The id hashes all of the content and the applied offsets, so that two contents never share one."""
    content = _encode(recommendation)
    name = blake2b(content + encode_state(user.head.applied), digest_size=12).hexdigest()
    return content.replace(b'""', b'"%s"' % name.encode(), 1), name  # the id is the first field: the first "" is its place


def _because(user: UserState, ranker: Ranker, places: Sequence[int]) -> tuple[Reasoning, ...]:
    """The interactions that moved the first item most: its score with all of them, and without each."""
    window = readable_interactions(user.interactions[-limits.WINDOW :], ranker)
    histories = [window, *(window[:place] + window[place + 1 :] for place in range(len(window)))]
    scores = ranker.rank_many(ranker.encode_many(histories))[:, places[0]].astype(float)
    moved = sorted(range(len(window)), key=lambda place: -abs(scores[0] - scores[place + 1]))[:REASONS]
    return tuple(
        Reasoning(
            window[place].modality,
            window[place].started_at,
            round(float(scores[0]), SCORE_DIGITS),
            round(float(scores[place + 1]), SCORE_DIGITS),
        )
        for place in moved
    )
