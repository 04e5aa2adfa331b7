"""What each event does to a user: clicks, parts of calls, purchases, eligibility lists, erasures, feedback.

An event that extends a growing interaction and precedes no kept purchase changes the head only (the fast path). All others go
through `history`, over the whole of it. Both give the same result.
"""

from typing import assert_never

import msgspec
import numpy as np

from stream.core import history, limits
from stream.core.duplicates import click_of, find_conversation, part_identity
from stream.core.events import (
    Click,
    Eligibility,
    EncodedCall,
    Erasure,
    Feedback,
    Purchase,
    Source,
    UserEvent,
    to_milliseconds,
)
from stream.core.feedback import earliest_repetition, marks_of
from stream.core.fold_context import FoldContext
from stream.core.interactions import Part
from stream.core.kept_interactions import KeptConversation, KeptInteraction, KeptSession, session_of_click
from stream.core.live_hit_rate import count_bought, count_feedback, count_hits
from stream.core.outputs import Cause
from stream.core.records import Record, first_received_ms
from stream.core.revisions import Occasion, emit_all_examples, emit_examples, revise_examples, send_tombstone
from stream.core.state import SOURCE_NUMBERS, Evicted, Facts, KeptPurchase, newest_erasure
from stream.core.tokens import join_tokens
from stream.core.user_state import UserState


def fold_event(user: UserState, event: UserEvent, cause: Cause, context: FoldContext) -> None:
    """Applies an event to its user. `cause` holds the event's id and time."""
    moment_ms = cause.occurred_at
    match event:
        case Click():
            _fold_click(user, event, moment_ms, context)
        case EncodedCall():
            _fold_call(user, event, context)
        case Purchase():
            _fold_purchase(user, event, moment_ms, cause.event_id, context)
        case Eligibility():
            _fold_eligibility(user, event, moment_ms, context)
        case Erasure():
            _fold_erasure(user, moment_ms, context)
            note_erasure(user, event, context)
        case Feedback():
            _fold_feedback(user, event, moment_ms, context)
        case _:
            assert_never(event)


def event_moment(event: UserEvent, record: Record) -> int:
    """When an event happened, ms: a part of a call when it ended, an erasure without a time when the broker first received it."""
    if isinstance(event, EncodedCall):
        return event.ended_at
    return first_received_ms(record) if event.occurred_at is None else to_milliseconds(event.occurred_at)


def is_usable(call: EncodedCall) -> bool:
    """Whether float16 can represent the vector of an encoded call, and the call does not end before it begins."""
    if len(call.vector_sum) % 4 or call.ended_at < call.started_at:
        return False
    size = np.abs(np.frombuffer(call.vector_sum, dtype="<f4")).max() / call.sentences
    return bool(size < np.finfo(np.float16).max)


def _fold_click(user: UserState, event: Click, at_ms: int, context: FoldContext) -> None:
    click = click_of(event, at_ms)
    if at_ms >= user.head.newest_purchase_at and (_begins_history(user, click) or _extends_session(user, click, context.gap_ms)):
        return
    evicted = user.load_facts().evicted
    interactions = history.with_click(user.load_interactions(), click, context.gap_ms, evicted)
    if _settle(user, interactions, context):
        revise_examples(user, at_ms, context)


def _settle(user: UserState, interactions: list[KeptInteraction] | None, context: FoldContext) -> bool:
    """Replaces the history; None leaves it as it is. Counts what is beyond the bounds. Returns whether anything has changed."""
    if interactions is None or interactions == user.load_interactions():
        context.counts["beyond_bounds", "interaction"] += 1
        return False
    if not user.settle(interactions, context.gap_ms):
        context.counts["beyond_bounds", "interaction"] += 1
    return True


def _begins_history(user: UserState, click: history.NewClick) -> bool:
    """The fast path of a new user, of whom nothing has left the state: the click is the history."""
    if user.stored or user.facts is not None or user.head.tail or click.at_ms < 0:
        return False
    user.head.tail = [session_of_click(click.at_ms, click.tags, click.session_id, click.hashed_id)]
    return True


def _extends_session(user: UserState, click: history.NewClick, gap_ms: int) -> bool:
    """The fast path: the click joins a session of the tail without reordering the history or joining two sessions."""
    tail = user.head.tail
    for index in range(len(tail) - 1, -1, -1):
        session = tail[index]
        if isinstance(session, KeptSession) and history.belongs(click.at_ms, click.session_id, session, gap_ms):
            if click.at_ms >= session.started_at:
                tail[index] = session.with_click(click.at_ms, click.tags, click.hashed_id)
                return True
            return False
    return False


def _fold_call(user: UserState, call: EncodedCall, context: FoldContext) -> None:
    if context.ranker is not None and context.ranker.text_model not in (None, call.text_model):
        context.counts["foreign_text_model",] += 1
    new = history.NewPart(_part_of(call), call.conversation_id, part_identity(call))
    moment_ms = min(call.ended_at, _end_of_replaced(user, new))
    if moment_ms >= user.head.newest_purchase_at and _extends_conversation(user, new):
        return
    evicted = user.load_facts().evicted
    if _settle(user, history.with_part(user.load_interactions(), new, evicted), context):
        revise_examples(user, moment_ms, context)


def _end_of_replaced(user: UserState, new: history.NewPart) -> int:
    """When the part ended that the new one replaces, ms; the new part's end if it replaces none."""
    conversation = find_conversation(user, new.conversation_id)
    replaced = None if conversation is None else conversation.part_of(new.hashed_id)
    return new.part.ended_at if replaced is None else replaced.ended_at


def _part_of(call: EncodedCall) -> Part:
    """An encoded call as its conversation keeps it, with the mean sentence vector in float16."""
    mean = np.frombuffer(call.vector_sum, dtype="<f4") / call.sentences
    vector, keywords = mean.astype("<f2").tobytes(), join_tokens(call.keywords)
    return Part(call.started_at, call.ended_at, call.sentences, vector, keywords, call.text_model)


def _extends_conversation(user: UserState, new: history.NewPart) -> bool:
    """The fast path: the part joins a conversation of the tail without reordering the history. A full one may not take it."""
    tail = user.head.tail
    index = history.conversation_index(tail, new.conversation_id)
    if index is None:
        return False
    conversation = tail[index]
    assert isinstance(conversation, KeptConversation)
    extended = conversation.with_part(new.part, new.hashed_id)
    if extended is conversation or extended.started_at != conversation.started_at:
        return False
    tail[index] = extended
    return True


def _fold_purchase(user: UserState, purchase: Purchase, at_ms: int, purchase_id: str, context: FoldContext) -> None:
    """A purchase emits its own example (unless it is a cancellation), revises later ones and changes what is owned.

    Its hit is counted once, with its first record.
    """
    facts, bought = user.load_facts(), purchase.action == "bought"
    kept = KeptPurchase(at_ms, purchase_id, bought, purchase.items)
    if not bought and _is_outdated(facts, kept):
        context.counts["beyond_bounds", "item"] += 1
        return
    user.facts_changed = True
    if bought and (at_ms, purchase_id) in facts.example_ids:
        context.counts["beyond_bounds", "example"] += 1
        _own_before(facts, kept)
    else:
        _keep_purchase(user, kept, purchase, context)
    revise_examples(user, at_ms, context)
    _evict_purchases(user, context)
    user.head.owned = history.owned_at(facts.owned_before, facts.purchases)
    user.head.newest_purchase_at = max((other.occurred_at for other in facts.purchases if other.bought), default=0)


def _keep_purchase(user: UserState, new: KeptPurchase, purchase: Purchase, context: FoldContext) -> None:
    facts = user.load_facts()
    same = history.purchase_index(facts.purchases, new)
    if new.bought:
        known = () if same is None else facts.purchases[same].items
        count_bought(user.load_feedback(), set(new.items).difference(known), new.occurred_at, context.labels, context.counts)
        if same is None:
            count_hits(user, purchase, new.occurred_at, context.ranker, context.catalogue, context.counts)
    facts.purchases = history.with_purchase(facts.purchases, new)
    index = history.purchase_index(facts.purchases, new)
    assert index is not None
    kept = facts.purchases[index]
    if len(kept.items) > limits.ITEMS:
        context.counts["beyond_bounds", "item"] += 1
        _own_before(facts, msgspec.structs.replace(kept, items=kept.items[limits.ITEMS :]))
        facts.purchases[index] = msgspec.structs.replace(kept, items=kept.items[: limits.ITEMS])
    if new.bought:
        emit_examples(user, [index], context, Occasion.PURCHASE)
        if same is None and not facts.purchases[index].example:
            context.counts["purchases_without_interactions",] += 1


def _is_outdated(facts: Facts, purchase: KeptPurchase) -> bool:
    """Whether it is older than all kept purchases, and purchases that left the state say more of its items."""
    if len(facts.purchases) < limits.PURCHASES or purchase.occurred_at > facts.purchases[0].occurred_at:
        return False
    return not any(history.is_newer_action(facts.owned_before, item, purchase) for item in purchase.items)


def _own_before(facts: Facts, purchase: KeptPurchase) -> None:
    """Notes what a purchase that is no longer kept did to its items, unless they know of a newer action."""
    for item in purchase.items:
        if history.is_newer_action(facts.owned_before, item, purchase):
            facts.owned_before[item] = (purchase.occurred_at, purchase.bought)


def _evict_purchases(user: UserState, context: FoldContext) -> None:
    """Keeps the last 8 purchases. Of the others, keeps what is owned and which examples an erasure must reach; examples beyond the
    bound of the latter are erased.
    """
    facts = user.load_facts()
    for purchase in facts.purchases[: -limits.PURCHASES]:
        _own_before(facts, purchase)
        if purchase.bought:
            facts.example_ids = [*facts.example_ids, (purchase.occurred_at, purchase.purchase_id)]
        facts.evicted = msgspec.structs.replace(facts.evicted, purchases=facts.evicted.purchases + 1)
    facts.purchases = facts.purchases[-limits.PURCHASES :]
    beyond, facts.example_ids = facts.example_ids[: -limits.EXAMPLE_IDS], facts.example_ids[-limits.EXAMPLE_IDS :]
    reached = {purchase_id for _, purchase_id in facts.example_ids} | {kept.purchase_id for kept in facts.purchases if kept.bought}
    for _, purchase_id in beyond:
        if purchase_id not in reached:
            send_tombstone(user, purchase_id, context)
    if len(facts.owned_before) > limits.OWNED:
        by_time = sorted(facts.owned_before.items(), key=lambda entry: (entry[1][0], entry[0]))
        facts.owned_before = dict(by_time[-limits.OWNED :])


def _fold_eligibility(user: UserState, eligibility: Eligibility, at_ms: int, context: FoldContext) -> None:
    facts = user.load_facts()
    lists = history.with_eligibility(facts.eligibility, at_ms, eligibility.excluded)
    if lists.evicted:
        context.counts["beyond_bounds", "eligibility"] += len(lists.evicted)
        _note_evicted_eligibility(user, lists.evicted[0].occurred_at)
    if lists.are_items_lost:
        context.counts["beyond_bounds", "item"] += 1
    if lists.kept == facts.eligibility:
        return
    facts.eligibility = lists.kept
    user.facts_changed = True
    user.head.excluded = history.excluded_at(facts.eligibility)
    revise_examples(user, at_ms, context)


def _note_evicted_eligibility(user: UserState, at_ms: int) -> None:
    """A list that is older than all kept ones leaves at once, and each time that it is sent."""
    facts = user.load_facts()
    if facts.evicted_eligibility_at is None or at_ms < facts.evicted_eligibility_at:
        facts.evicted_eligibility_at = at_ms
        user.facts_changed = True


def _fold_feedback(user: UserState, event: Feedback, at_ms: int, context: FoldContext) -> None:
    """Feedback changes what the user was shown and answered, and the examples of later purchases, but no list."""
    feedback = user.load_feedback()
    changes = feedback.add(marks_of(event, at_ms, context.labels.config), earliest_repetition(event, at_ms))
    if changes.beyond:
        context.counts["beyond_bounds", "feedback"] += 1
    count_feedback(feedback, event, changes.new, context.labels, context.counts)
    if changes.since_ms is not None:
        revise_examples(user, changes.since_ms, context, Occasion.LATE_FEEDBACK)


def erase_feedback(user: UserState, erased_at: int) -> None:
    """Forgets the feedback up to a time. The head takes over the applied offset, for the case that none is left."""
    feedback = user.load_feedback()
    if feedback.applied is None:
        return
    user.head.applied[SOURCE_NUMBERS[Source.FEEDBACK]] = feedback.applied
    feedback.erase(erased_at)
    feedback.is_changed = True


def _fold_erasure(user: UserState, erased_at: int, context: FoldContext) -> None:
    """Forgets everything up to `erased_at`. What came later stays, even if it arrived before the erasure."""
    head, facts = user.head, user.load_facts()
    held = _contents(user)
    head.erased_at = newest_erasure(head.erased_at, erased_at)
    user.erased = user.facts_changed = True
    erase_feedback(user, erased_at)
    _erase_purchases(user, erased_at, context)
    _erase_eligibility(facts, erased_at)
    facts.evicted = _evicted_after(facts.evicted, erased_at)
    remaining = [left for other in user.load_interactions() if (left := other.after(erased_at)) is not None]
    head.event_ids, head.last_list = b"", None
    head.owned = history.owned_at(facts.owned_before, facts.purchases)
    head.excluded = history.excluded_at(facts.eligibility)
    head.newest_purchase_at = max((kept.occurred_at for kept in facts.purchases if kept.bought), default=0)
    user.settle(history.in_order(remaining), context.gap_ms)
    if any(held) and held == _contents(user):
        context.counts["erasures_without_effect",] += 1
    emit_all_examples(user, context, Occasion.ERASURE)


def _evicted_after(evicted: Evicted, erased_at: int) -> Evicted:
    """What the erasure leaves of evicted interactions. What is left of one may begin anywhere up to its end."""
    ended_at = evicted.newest_ended_at
    return Evicted(newest_started_at=ended_at, newest_ended_at=ended_at) if ended_at > erased_at else Evicted()


def note_erasure(user: UserState, erasure: Erasure, context: FoldContext) -> None:
    """Makes an erasure known by its id. Counts the one that this pushes out."""
    if user.erasures is not None and user.erasures.add(erasure):
        context.counts["beyond_bounds", "erasure"] += 1


def _contents(user: UserState) -> tuple[object, ...]:
    """What an erasure may take from a user."""
    facts = user.load_facts()
    marks = list(user.load_feedback().marks)
    return (
        user.load_interactions(),
        list(facts.purchases),
        dict(facts.owned_before),
        list(facts.eligibility),
        facts.example_ids,
        marks,
    )


def _erase_eligibility(facts: Facts, erased_at: int) -> None:
    """If it covers a kept list, it covers all that have left."""
    kept = [other for other in facts.eligibility if other.occurred_at > erased_at]
    if len(kept) < len(facts.eligibility):
        facts.evicted_eligibility_at = None
    elif facts.evicted_eligibility_at is not None:
        facts.evicted_eligibility_at = max(facts.evicted_eligibility_at, erased_at + 1)
    facts.eligibility = kept


def _erase_purchases(user: UserState, erased_at: int, context: FoldContext) -> None:
    """Forgets purchases up to `erased_at` and their examples, also those that only a lost state may have sent.

    All examples of evicted purchases go: they may show erased data.
    """
    facts = user.load_facts()
    covered = [kept.purchase_id for kept in facts.purchases if kept.bought and kept.occurred_at <= erased_at]
    for purchase_id in [*covered, *(purchase_id for _, purchase_id in facts.example_ids)]:
        send_tombstone(user, purchase_id, context)
    facts.example_ids = []
    facts.purchases = [kept for kept in facts.purchases if kept.occurred_at > erased_at]
    facts.owned_before = {item: action for item, action in facts.owned_before.items() if action[0] > erased_at}
