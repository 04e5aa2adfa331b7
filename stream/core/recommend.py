"""From changed users to recommendations: representations, scores, post filter, fallbacks, suppression of repeated lists, ids.

A list is empty only if nothing may be offered: popularity ranks for users of whose history the model reads nothing, and items that
the model does not know fill a short list.

The list is always what `encode_many` of the last 10 interactions gives. A cached prefix makes it cheap: the interactions before the
tail are encoded once, and only the tail, which may still grow, is advanced over at each event.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from hashlib import blake2b
from itertools import repeat
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from msgspec.structs import replace

from stream.core.cloud_events import DEFAULT_APPLICATION, cloud_event
from stream.core.explain import reasons_for
from stream.core.exploration import Exploration, explored_lists
from stream.core.interactions import Interaction, Session, readable_interactions
from stream.core.outputs import (
    CauseTimes,
    Fallback,
    Modalities,
    ModelName,
    Outcome,
    Output,
    RankedItem,
    Reasoning,
    Recommendation,
)
from stream.core.ranking import (
    Catalogue,
    Holdings,
    PostFilter,
    Ranker,
    Rows,
    calibration_of,
    new_items_of,
    readable_by,
    score_rows,
    top_of,
)
from stream.core.state import LastList, Prefix, encode_state, hash_reserve
from stream.core.user_state import UserState

_NO_MODEL: Final = ModelName("none", "0")
_NOTHING: Final = Modalities(0, 0)
_EMPTY_ID: Final = b'"recommendation_id":""'
_ID: Final = b'"recommendation_id":"%s"'
_encode: Final = msgspec.json.Encoder().encode


class PendingUsers(NamedTuple):
    """Users of one batch whose lists may have changed.

    Attributes:
        users: The users.
        outcome: Outcome of the batch, to which their lists are added.
        notified_users: As in `Batch`. If given, users not in it always get a list: the topic may hold one that their state does not
            know of, so suppression is unsafe for them.
        application: The source of the lists.
    """

    users: Sequence[UserState]
    outcome: Outcome
    notified_users: AbstractSet[bytes] | None
    application: bytes = DEFAULT_APPLICATION

    def may_suppress(self, user: UserState) -> bool:
        return self.notified_users is None or user.key in self.notified_users


class _RankedBy(NamedTuple):
    """What ranked the lists of a batch: a model version, its fingerprint and the items new to it, or no model, "" and none."""

    model: ModelName
    fingerprint: str
    new: AbstractSet[str]


class _List(NamedTuple):
    """A user's list with its reserve, and what it rests on.

    Attributes:
        items: Best first: those that the ranker chose, then those that it does not know.
        reserve: Those below them.
        reserve_hash: See `hash_reserve`.
        positions: Of the chosen items among the ranker's, best first.
        scores: Of the chosen items, rounded.
        probabilities: Likewise; None where none are known.
        fallback: As in `Recommendation`.
        support: What the list is based on.
    """

    items: tuple[str, ...]
    reserve: tuple[str, ...]
    reserve_hash: int
    positions: list[int]
    scores: list[float]
    probabilities: list[float] | None
    fallback: Fallback | None
    support: Modalities


def recommend(
    pending: Sequence[PendingUsers],
    ranker: Ranker | None,
    catalogue: Catalogue,
    k: int,
    reserve: int,
    *,
    explain: bool,
    new_share: float = 0.0,
) -> None:
    """Ranks the items for all users at once. Adds to each one's outcome the list of `k` items, with `reserve` more below it, that
    differs from the last one sent. `new_share` of its places are for items that the ranker knows by their texts alone.
    """
    users = [user for part in pending for user in part.users]
    if not users:
        return
    parts = [part for part in pending for _ in part.users]
    rows, supports = represent(users, ranker)
    scores, items = _scores(users, rows, ranker, catalogue)
    _use_prior(scores, supports, ranker, parts)
    ranked_by = _RankedBy(_NO_MODEL, "", frozenset())
    if ranker is not None:
        ranked_by = _RankedBy(ModelName(ranker.name, ranker.version), ranker.fingerprint, new_items_of(ranker))
    is_exploring = bool(new_share and ranked_by.new)
    for moment, group in _by_offer(users, catalogue):
        post_filter = PostFilter(items, catalogue, moment, ranked_by.new)
        blocked = [catalogue.blocked(users[row].head.owned, users[row].head.excluded) for row in group]
        ranked, shares = _distinct(group, blocked, supports, may_share=not is_exploring)
        own, calibration = scores[[group[at] for at in ranked]], calibration_of(ranker)
        tops = post_filter.top_scored(own, [blocked[at] for at in ranked], k + reserve, calibration)
        if is_exploring:
            explorers = [Exploration(new_share, users[group[at]].key, users[group[at]].head.newest_at) for at in ranked]
            mixed = explored_lists([top.positions for top in tops], explorers, [blocked[at] for at in ranked], post_filter, k)
            tops = [top_of(own[at], row, calibration) for at, row in enumerate(mixed)]
        lists = []
        for at, (positions, values, probabilities) in zip(ranked, tops, strict=True):
            filled = post_filter.fill(blocked[at], k + reserve - len(positions))
            chosen = tuple(map(items.__getitem__, positions))
            both, (fallback, support) = (*chosen, *filled), _basis(chosen, filled, supports[group[at]], ranker)
            meant = None if fallback else probabilities  # a prior is no score of the model's
            lists.append(_List(both[:k], both[k:], hash_reserve(both[k:]), positions, values, meant, fallback, support))
        for row, share in zip(group, shares, strict=True):
            user, listed = users[row], lists[share]
            if _is_new(user, listed, ranked_by, parts[row]):
                reasons = None
                if explain and ranker is not None and listed.positions and not listed.fallback:
                    reasons = reasons_for(user, ranker, listed.positions[:k])
                _emit(user, listed, reasons, ranked_by, parts[row])


def represent(users: Sequence[UserState], ranker: Ranker | None) -> tuple[Rows, list[Modalities]]:
    """The users' representations, (n, width), and what each is based on. Brings their cached prefixes up to date."""
    rows = _prefix_rows(users, ranker)
    if ranker is None:
        return rows, [_NOTHING] * len(users)
    text_model, sessions = ranker.text_model, ranker.reads_sessions
    tails = [readable_interactions(user.head.tail, text_model, sessions=sessions) for user in users]
    supports = [_add_support(user.head.prefix, tail) for user, tail in zip(users, tails, strict=True)]
    return _advance(ranker, rows, tails), supports


def list_support(user: UserState, ranker: Ranker | None) -> Modalities:
    """What the ranker reads of the user, as of the last `represent` and the present tail."""
    prefix = user.head.prefix
    readable = prefix if prefix is None or _counts_what_it_reads(prefix, ranker) else None
    return _add_support(readable, readable_by(ranker, user.head.tail))


def _counts_what_it_reads(prefix: Prefix, ranker: Ranker | None) -> bool:
    """False for the prefix of another kind of ranker, and for one by versions that counted interactions that nobody read."""
    if ranker is None:
        return not (prefix.sessions or prefix.conversations)
    return (ranker.reads_sessions or not prefix.sessions) and (ranker.text_model is not None or not prefix.conversations)


def _add_support(prefix: Prefix | None, tail: Sequence[Interaction]) -> Modalities:
    support = _count_modalities(tail)
    if prefix is None:
        return support
    return Modalities(prefix.sessions + support.session, prefix.conversations + support.conversation)


def _count_modalities(interactions: Sequence[Interaction]) -> Modalities:
    sessions = len([other for other in interactions if isinstance(other, Session)])
    return Modalities(sessions, len(interactions) - sessions)


class _PrefixUpdate(NamedTuple):
    """How a cached prefix becomes that of `window`: advanced over `appended`, or encoded from scratch (None)."""

    window: Sequence[Interaction]
    appended: Sequence[Interaction] | None


def _prefix_rows(users: Sequence[UserState], ranker: Ranker | None) -> Rows:
    """Representations of what precedes the tails, (n, width): the cached ones, and where these are stale, new ones."""
    fingerprint = "" if ranker is None else ranker.fingerprint
    rows = _initial(len(users), ranker)
    updates: dict[int, _PrefixUpdate] = {}
    for row, user in enumerate(users):
        prefix = user.head.prefix
        is_valid = prefix is None or (prefix.fingerprint == fingerprint and _counts_what_it_reads(prefix, ranker))
        if is_valid and prefix is not None:
            rows[row] = np.frombuffer(prefix.vector, dtype="<f4")
        if is_valid and user.facts is None:
            continue  # what precedes the tail is part of the facts: nothing has changed
        update = _prefix_update(user, is_valid=is_valid)
        if update is not None:
            updates[row] = update
    if ranker is not None and updates:
        rows = _update_rows(rows, updates, ranker)
    for row, update in updates.items():
        window = readable_by(ranker, update.window)
        users[row].head.prefix = _prefix_of(fingerprint, rows[row], window) if update.window else None
    return rows


def _prefix_update(user: UserState, *, is_valid: bool) -> _PrefixUpdate | None:
    """What has changed before the tail since the prefix was cached; None for nothing."""
    user.load_facts()
    window = user.load_window_prefix()
    cached = len(user.cached_interactions)
    if not is_valid or window[:cached] != user.cached_interactions:
        return _PrefixUpdate(window, None)
    return _PrefixUpdate(window, window[cached:]) if len(window) > cached else None


def _update_rows(rows: Rows, updates: Mapping[int, _PrefixUpdate], ranker: Ranker) -> Rows:
    from_scratch: list[int] = []
    appended: list[list[Interaction]] = [[]] * len(rows)
    for row, update in updates.items():
        if update.appended is None:
            from_scratch.append(row)
        else:
            appended[row] = readable_by(ranker, update.appended)
    if from_scratch and ranker.width:
        windows = [readable_by(ranker, updates[row].window) for row in from_scratch]
        rows[from_scratch] = ranker.encode_many(windows)
    return _advance(ranker, rows, appended)


def _prefix_of(fingerprint: str, row: Rows, interactions: Sequence[Interaction]) -> Prefix:
    support = _count_modalities(interactions)
    return Prefix(fingerprint, row.astype("<f4").tobytes(), support.session, support.conversation)


def _initial(count: int, ranker: Ranker | None) -> Rows:
    if ranker is None:
        return np.zeros((count, 0), dtype=np.float32)
    return np.tile(ranker.initial().astype(np.float32), (count, 1))


def _advance(ranker: Ranker, rows: Rows, sequences: Sequence[Sequence[Interaction]]) -> Rows:
    """Each row advanced over its own sequence: all first interactions together, then all second ones, and so on."""
    if not ranker.width:
        return rows
    for turn in range(max(map(len, sequences), default=0)):
        due = [row for row, sequence in enumerate(sequences) if len(sequence) > turn]
        if len(due) == len(rows):
            rows = ranker.advance_many(rows, [sequence[turn] for sequence in sequences])
        else:
            rows[due] = ranker.advance_many(rows[due], [sequences[row][turn] for row in due])
    return rows


def _by_offer(users: Sequence[UserState], catalogue: Catalogue) -> list[tuple[int, list[int]]]:
    """The users' rows by the time for which their post filter consults the catalogue: one group unless an offer begins or ends."""
    moments = [user.broker_ms for user in users]
    if not catalogue.changes_between(min(moments), max(moments)):
        return [(moments[0], list(range(len(users))))]
    return [(moment, [row for row, other in enumerate(moments) if other == moment]) for moment in sorted(set(moments))]


def _scores(users: Sequence[UserState], rows: Rows, ranker: Ranker | None, catalogue: Catalogue) -> tuple[Rows, Sequence[str]]:
    """Scores, (n, items), and the items. Without a model: those of the catalogue, in its order."""
    if ranker is None:
        return np.zeros((len(rows), len(catalogue.items)), dtype=np.float32), tuple(catalogue.items)
    return score_users(users, rows, ranker), ranker.items


def score_users(users: Sequence[UserState], rows: Rows, ranker: Ranker) -> Rows:
    """The scores of users by their representations and by what they own and are not eligible for now, (n, items)."""
    return score_rows(ranker, rows, (Holdings(user.head.owned, user.head.excluded) for user in users))


def _distinct(
    group: Sequence[int], blocked: Sequence[AbstractSet[str]], supports: Sequence[Modalities], *, may_share: bool
) -> tuple[list[int], list[int]]:
    """Which rows of a group to rank, and for each row which of these it shares: users of whom nothing is read, and who may be
    offered everything, have one list, unless each explores.
    """
    ranked: list[int] = []
    shares: list[int] = []
    shared: int | None = None
    for at, (row, not_offered) in enumerate(zip(group, blocked, strict=True)):
        is_common = may_share and not not_offered and supports[row] == _NOTHING
        if is_common and shared is not None:
            shares.append(shared)
            continue
        if is_common:
            shared = len(ranked)
        shares.append(len(ranked))
        ranked.append(at)
    return ranked, shares


def _use_prior(scores: Rows, supports: list[Modalities], ranker: Ranker | None, parts: Sequence[PendingUsers]) -> None:
    """Replaces the scores of users of whom the ranker reads nothing, or whose scores are no numbers, by the items' popularity."""
    if ranker is not None:
        for row in np.flatnonzero(~np.isfinite(scores).all(axis=1)).tolist():
            supports[row] = _NOTHING
            parts[row].outcome.counts["unusable_scores",] += 1
        scores[[row for row, support in enumerate(supports) if support == _NOTHING]] = ranker.prior


def _basis(
    chosen: Sequence[str], filled: Sequence[str], support: Modalities, ranker: Ranker | None
) -> tuple[Fallback | None, Modalities]:
    """What a list rests on: its fallback, and the interactions that were read for it."""
    if ranker is None or (filled and not chosen):
        return "catalogue", _NOTHING
    return "popularity" if support == _NOTHING else None, support


def _is_new(user: UserState, listed: _List, ranked_by: _RankedBy, pending: PendingUsers) -> bool:
    """Whether a list must be sent, and notes it as the last one. The model determines which of its items were filled in."""
    last, items, reserve = user.head.last_list, listed.items, listed.reserve_hash
    known = None if last is None else (last.items, last.reserve, last.fingerprint, last.fallback)
    if known == (items, reserve, ranked_by.fingerprint, listed.fallback) and pending.may_suppress(user):
        pending.outcome.counts["recommendations", "suppressed"] += 1
        return False
    user.head.last_list = LastList(
        items, ranked_by.fingerprint, ranked_by.model.version, listed.fallback, user.head.newest_at, reserve
    )
    return True


def _ranked(listed: _List, reasons: Sequence[tuple[Reasoning, ...]] | None, new: AbstractSet[str]) -> list[RankedItem]:
    """The items with rank and score. Says of those that were filled in below ranked ones that no model scored them, and which of
    the others are new to it.
    """
    count, items = len(listed.scores), (*listed.items, *listed.reserve)
    columns: list[Iterable[Any]] = [items, range(1, count + 1), listed.scores]
    if listed.probabilities is not None:
        columns += [repeat(None), listed.probabilities]
    ranked = list(map(RankedItem, *columns))
    if reasons is not None:
        ranked[: len(reasons)] = [replace(one, because=why) for one, why in zip(ranked, reasons, strict=False)]
    if new and not new.isdisjoint(items[:count]):
        ranked = [replace(one, new=True) if one.item in new else one for one in ranked]
    if count < len(items):
        fallback: Fallback | None = "catalogue" if count else None
        ranked += [RankedItem(item, rank, 0.0, fallback) for rank, item in enumerate(items[count:], start=count + 1)]
    return ranked


def _emit(
    user: UserState, listed: _List, reasons: Sequence[tuple[Reasoning, ...]] | None, ranked_by: _RankedBy, part: PendingUsers
) -> None:
    """Adds a user's list to the outcome."""
    cause, ranked, outcome, k = user.cause, _ranked(listed, reasons, ranked_by.new), part.outcome, len(listed.items)
    assert cause is not None
    recommendation = Recommendation(
        recommendation_id="",
        user_id=user.user_id,
        occurred_at=user.broker_ms,
        caused_by=cause,
        model=ranked_by.model,
        items=tuple(ranked[:k]),
        modalities=listed.support,
        fallback=listed.fallback,
        because=None if reasons is None else reasons[0],
        reserve=tuple(ranked[k:]),
    )
    outcome.recommendations.append(_output_with_id(recommendation, user, part.application))
    outcome.cause_times.append(CauseTimes(cause.occurred_at, user.broker_ms))
    outcome.counts["recommendations", "sent"] += 1


def _output_with_id(recommendation: Recommendation, user: UserState, application: bytes) -> Output:
    """The record of a recommendation, with its id.

    The id hashes the content and the applied offsets, so that two contents never share one. It is inserted into the encoded
    content, which costs less than encoding twice.
    """
    content = _encode(recommendation)
    recommendation_id = blake2b(content + encode_state(user.head.applied), digest_size=12).hexdigest()
    value = content.replace(_EMPTY_ID, _ID % recommendation_id.encode(), 1)
    return Output(user.key, value, cloud_event(recommendation_id, "isthmus.recommendation", user.broker_ms, application))
