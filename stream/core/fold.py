"""What each event does to a user: clicks, parts of calls, purchases, eligibility lists, erasures.

An event that extends a growing interaction and precedes no kept purchase changes the head only (the fast path). All others go
through `history`, over the whole of it. Both give the same result.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Final, assert_never

import msgspec
import numpy as np

from stream.core import examples, history, limits
from stream.core.events import (
    Click,
    Eligibility,
    EncodedCall,
    Erasure,
    Purchase,
    UserEvent,
    to_milliseconds,
)
from stream.core.interactions import Conversation, Part, Session, Tags
from stream.core.live_hit_rate import count_hits
from stream.core.outputs import Cause, Count, Output, encode_example, example_key
from stream.core.ranking import Catalogue, Ranker
from stream.core.state import EligibilityList, Evicted, KeptPurchase, newest_erasure
from stream.core.tokens import join_tokens
from stream.core.user_state import UserState

_NO_ACTION: Final = (-(2**63), False)  # purchases may lie before 1970


@dataclass(frozen=True, slots=True)
class FoldContext:
    """What folding needs beside the user.

    Attributes:
        catalogue: The items that exist.
        ranker: The served model; None before the first.
        gap_ms: A session ends after this long without a click.
        counts: Counters of the batch's outcome, incremented in place.
    """

    catalogue: Catalogue
    ranker: Ranker | None
    gap_ms: int
    counts: Counter[Count]


def fold_event(user: UserState, event: UserEvent, cause: Cause, context: FoldContext) -> None:
    """Applies an event to its user. `cause` holds the event's id and time."""
    moment = cause.occurred_at
    match event:
        case Click():
            _fold_click(user, event, moment, context)
        case EncodedCall():
            _fold_call(user, event, context)
        case Purchase():
            _fold_purchase(user, event, moment, cause.event_id, context)
        case Eligibility():
            _fold_eligibility(user, event, moment, context)
        case Erasure():
            _fold_erasure(user, moment, context)
        case _:
            assert_never(event)


def event_moment(event: UserEvent) -> int:
    """When an event happened, ms; for a part of a call, when it ended."""
    return event.ended_at if isinstance(event, EncodedCall) else to_milliseconds(event.occurred_at)


def is_usable(call: EncodedCall) -> bool:
    """Whether float16 can represent the vector of an encoded call, and the call does not end before it begins."""
    if len(call.vector_sum) % 4 or call.ended_at < call.started_at:
        return False
    size = np.abs(np.frombuffer(call.vector_sum, dtype="<f4")).max() / call.sentences
    return bool(size < np.finfo(np.float16).max)


def erase_example(user: UserState, purchase_id: str, context: FoldContext) -> None:
    """Sends a tombstone for a training example, whether or not there was one."""
    context.counts["examples", "erased"] += 1
    user.examples[purchase_id] = Output(example_key(user.user_id, purchase_id), None)


def _fold_click(user: UserState, click: Click, at: int, context: FoldContext) -> None:
    session_id = click.session_id or ""
    if at >= user.head.newest_purchase_at and _extends_session(user, at, click.tags, session_id, context.gap_ms):
        return
    if not user.settle(history.with_click(user.load_interactions(), at, click.tags, session_id, context.gap_ms), context.gap_ms):
        context.counts["beyond_bounds", "interaction"] += 1
    _revise_examples(user, at, context)


def _extends_session(user: UserState, at: int, tags: Tags, session_id: str, gap_ms: int) -> bool:
    """The fast path: the click joins a session of the tail without reordering the history or joining two sessions."""
    tail = user.head.tail
    for index in range(len(tail) - 1, -1, -1):
        session = tail[index]
        if isinstance(session, Session) and history.belongs(at, session_id, session, gap_ms):
            if at >= session.started_at:
                tail[index] = session.with_click(at, tags)
                return True
            return False
    return False


def _fold_call(user: UserState, call: EncodedCall, context: FoldContext) -> None:
    if context.ranker is not None and context.ranker.text_model not in (None, call.text_model):
        context.counts["foreign_text_model",] += 1
    part = _part_of(call)
    if part.ended_at >= user.head.newest_purchase_at and _extends_conversation(user, part, call.conversation_id):
        return
    if not user.settle(history.with_part(user.load_interactions(), part, call.conversation_id), context.gap_ms):
        context.counts["beyond_bounds", "interaction"] += 1
    _revise_examples(user, part.ended_at, context)


def _part_of(call: EncodedCall) -> Part:
    """An encoded call as its conversation keeps it, with the mean sentence vector in float16."""
    mean = np.frombuffer(call.vector_sum, dtype="<f4") / call.sentences
    vector, keywords = mean.astype("<f2").tobytes(), join_tokens(call.keywords)
    return Part(call.started_at, call.ended_at, call.sentences, vector, keywords, call.text_model)


def _extends_conversation(user: UserState, part: Part, conversation_id: str) -> bool:
    """The fast path: the part joins a conversation of the tail without reordering the history."""
    tail = user.head.tail
    for index, conversation in enumerate(tail):
        if isinstance(conversation, Conversation) and conversation.conversation_id == conversation_id:
            extended = conversation.with_part(part)
            if extended.started_at == conversation.started_at:
                tail[index] = extended
                return True
            return False
    return False


def _fold_purchase(user: UserState, purchase: Purchase, at: int, purchase_id: str, context: FoldContext) -> None:
    """A purchase emits its own example (unless it is a cancellation), revises later ones and changes what is owned."""
    bought = purchase.action == "bought"
    if bought:
        count_hits(user, purchase, at, context.ranker, context.catalogue, context.counts)
    facts = user.load_facts()
    kept = KeptPurchase(at, purchase_id, bought, purchase.items)
    facts.purchases = history.with_purchase(facts.purchases, kept)
    user.facts_changed = True
    if bought:
        _emit_examples(user, [facts.purchases.index(kept)], context)
        if not any(other.purchase_id == purchase_id and other.example for other in facts.purchases):
            context.counts["purchases_without_interactions",] += 1
    _revise_examples(user, at, context)
    _evict_purchases(user, context)
    user.head.owned = history.owned_at(facts.owned_before, facts.purchases)
    user.head.newest_purchase_at = max((other.occurred_at for other in facts.purchases if other.bought), default=0)


def _evict_purchases(user: UserState, context: FoldContext) -> None:
    """Keeps the last 8 purchases. Of the others, keeps what is owned and which examples an erasure must reach; examples beyond the
    bound of the latter are erased.
    """
    facts = user.load_facts()
    for purchase in facts.purchases[: -limits.PURCHASES]:
        for item in purchase.items:
            if facts.owned_before.get(item, _NO_ACTION)[0] <= purchase.occurred_at:
                facts.owned_before[item] = (purchase.occurred_at, purchase.bought)
        if purchase.example:
            facts.example_ids = [*facts.example_ids, (purchase.occurred_at, purchase.purchase_id)]
        facts.evicted = msgspec.structs.replace(facts.evicted, purchases=facts.evicted.purchases + 1)
    for _, purchase_id in facts.example_ids[: -limits.EXAMPLE_IDS]:
        erase_example(user, purchase_id, context)
    facts.example_ids = facts.example_ids[-limits.EXAMPLE_IDS :]
    facts.purchases = facts.purchases[-limits.PURCHASES :]
    if len(facts.owned_before) > limits.OWNED:
        by_time = sorted(facts.owned_before.items(), key=lambda entry: (entry[1][0], entry[0]))
        facts.owned_before = dict(by_time[-limits.OWNED :])


def _fold_eligibility(user: UserState, eligibility: Eligibility, at: int, context: FoldContext) -> None:
    facts = user.load_facts()
    facts.eligibility = history.with_eligibility(facts.eligibility, EligibilityList(at, eligibility.excluded))
    user.facts_changed = True
    user.head.excluded = history.excluded_at(facts.eligibility)
    _revise_examples(user, at, context)


def _revise_examples(user: UserState, moment: int, context: FoldContext) -> None:
    """Emits the examples of kept purchases after `moment` again, where their content has changed."""
    if moment >= user.head.newest_purchase_at:
        return
    purchases = user.load_facts().purchases
    later = [index for index, purchase in enumerate(purchases) if purchase.bought and purchase.occurred_at > moment]
    _emit_examples(user, later, context)


def _emit_examples(user: UserState, indices: list[int], context: FoldContext) -> None:
    """Emits the examples of the kept purchases at `indices`, unless the same content was emitted before."""
    facts, interactions = user.load_facts(), user.load_interactions()
    for index in indices:
        purchase = facts.purchases[index]
        example = examples.example_of(user.user_id, purchase, interactions, facts, context.catalogue)
        if example is None:
            continue
        if not examples.is_complete(example, facts):
            context.counts["beyond_bounds", "example"] += 1
            continue
        fingerprint = examples.fingerprint(example)
        if fingerprint == purchase.example:
            continue
        context.counts["examples", "revision" if purchase.example else "first"] += 1
        facts.purchases[index] = msgspec.structs.replace(purchase, revision=example.revision, example=fingerprint)
        user.facts_changed = True
        user.examples[purchase.purchase_id] = Output(example_key(user.user_id, purchase.purchase_id), encode_example(example))


def _fold_erasure(user: UserState, erased_at: int, context: FoldContext) -> None:
    """Forgets everything up to `erased_at`. What came later stays, even if it arrived before the erasure."""
    head, facts = user.head, user.load_facts()
    head.erased_at = newest_erasure(head.erased_at, erased_at)
    user.erased = user.facts_changed = True
    _erase_purchases(user, erased_at, context)
    facts.eligibility = [kept for kept in facts.eligibility if kept.occurred_at > erased_at]
    newest_evicted = facts.evicted.newest_started_at
    facts.evicted = Evicted(newest_started_at=newest_evicted if newest_evicted > erased_at else -1)
    remaining = [left for other in user.load_interactions() if (left := other.after(erased_at)) is not None]
    head.event_ids, head.last_list = b"", None
    head.owned = history.owned_at(facts.owned_before, facts.purchases)
    head.excluded = history.excluded_at(facts.eligibility)
    head.newest_purchase_at = max((kept.occurred_at for kept in facts.purchases if kept.bought), default=0)
    user.settle(history.in_order(remaining), context.gap_ms)
    _erase_incomplete_examples(user, context)
    _revise_examples(user, erased_at, context)


def _erase_purchases(user: UserState, erased_at: int, context: FoldContext) -> None:
    """Forgets purchases up to `erased_at` and their examples. All examples of evicted purchases go: they may show erased data."""
    facts = user.load_facts()
    covered = [kept.purchase_id for kept in facts.purchases if kept.example and kept.occurred_at <= erased_at]
    for purchase_id in [*covered, *(purchase_id for _, purchase_id in facts.example_ids)]:
        erase_example(user, purchase_id, context)
    facts.example_ids = []
    facts.purchases = [kept for kept in facts.purchases if kept.occurred_at > erased_at]
    facts.owned_before = {item: action for item, action in facts.owned_before.items() if action[0] > erased_at}


def _erase_incomplete_examples(user: UserState, context: FoldContext) -> None:
    """Erases the examples of kept purchases that the remaining state cannot produce in full."""
    facts, interactions = user.load_facts(), user.load_interactions()
    for index, kept in enumerate(facts.purchases):
        if not kept.example:
            continue
        example = examples.example_of(user.user_id, kept, interactions, facts, context.catalogue)
        if example is None or not examples.is_complete(example, facts):
            facts.purchases[index] = msgspec.structs.replace(kept, example=b"")
            erase_example(user, kept.purchase_id, context)
