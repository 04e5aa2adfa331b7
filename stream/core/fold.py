"""What each event does to a user: clicks, parts of calls, purchases, eligibility lists, erasures.

An event that makes a growing interaction longer, and precedes no kept purchase, touches the head alone (the fast path).
Everything else goes through `history`, over the whole of it, and both give the same.
"""

from collections import Counter
from dataclasses import dataclass

import msgspec
import numpy as np

from stream.core import examples, history, limits
from stream.core.events import (
    Click,
    Eligibility,
    EncodedCall,
    Purchase,
    UserEvent,
    to_milliseconds,
)
from stream.core.interactions import Conversation, Part, Session, Tags
from stream.core.outputs import Output, encode_example, example_key
from stream.core.ranking import Catalogue
from stream.core.state import EligibilityList, Evicted, KeptPurchase
from stream.core.tokens import join_tokens
from stream.core.user_state import UserState


@dataclass(frozen=True, slots=True)
class FoldContext:
    """What folding needs beside the user. `counts` grows as `stream.core.outputs.Outcome` describes."""

    catalogue: Catalogue
    gap_ms: int
    counts: Counter[tuple[str, ...]]


def fold_click(user: UserState, click: Click, at: int, fold: FoldContext) -> None:
    session_id = click.session_id or ""
    if at >= user.head.newest_purchase_at and _grows_session(user, at, click.tags, session_id, fold.gap_ms):
        return
    if not user.settle(history.with_click(user.interactions, at, click.tags, session_id, fold.gap_ms), fold.gap_ms):
        fold.counts["beyond_bounds", "interaction"] += 1
    remake_examples(user, at, fold)


def _grows_session(user: UserState, at: int, tags: Tags, session_id: str, gap_ms: int) -> bool:
    """The fast path: the click goes into a session of the tail without moving it in the history or joining it to another."""
    tail = user.head.tail
    for place in range(len(tail) - 1, -1, -1):
        session = tail[place]
        if isinstance(session, Session) and history.belongs(at, session_id, session, gap_ms):
            if at >= session.started_at:
                tail[place] = session.with_click(at, tags)
                return True
            return False
    return False


def is_usable(call: EncodedCall) -> bool:
    """Whether an encoded call holds a vector that float16 can hold, and ends after it begins."""
    if len(call.vector_sum) % 4 or call.ended_at < call.started_at:
        return False
    size = np.abs(np.frombuffer(call.vector_sum, dtype="<f4")).max() / call.sentences
    return bool(size < np.finfo(np.float16).max)


def part_of(call: EncodedCall) -> Part:
    """An encoded call as its conversation keeps it: the mean sentence vector, in float16."""
    mean = np.frombuffer(call.vector_sum, dtype="<f4") / call.sentences
    vector, keywords = mean.astype("<f2").tobytes(), join_tokens(call.keywords)
    return Part(call.started_at, call.ended_at, call.sentences, vector, keywords, call.text_model)


def fold_part(user: UserState, part: Part, conversation_id: str, fold: FoldContext) -> None:
    if part.ended_at >= user.head.newest_purchase_at and _grows_conversation(user, part, conversation_id):
        return
    if not user.settle(history.with_part(user.interactions, part, conversation_id), fold.gap_ms):
        fold.counts["beyond_bounds", "interaction"] += 1
    remake_examples(user, part.ended_at, fold)


def _grows_conversation(user: UserState, part: Part, conversation_id: str) -> bool:
    tail = user.head.tail
    for place, conversation in enumerate(tail):
        if isinstance(conversation, Conversation) and conversation.conversation_id == conversation_id:
            grown = conversation.with_part(part)
            if grown.started_at == conversation.started_at:
                tail[place] = grown
                return True
            return False
    return False


def fold_purchase(user: UserState, purchase: Purchase, at: int, purchase_id: str, fold: FoldContext) -> None:
    """A marker in the history: gives an example (unless cancelled), makes later ones again, changes what is owned."""
    facts = user.facts
    kept = KeptPurchase(at, purchase_id, purchase.action == "bought", purchase.items)
    facts.purchases = history.with_purchase(facts.purchases, kept)
    user.facts_changed = True
    if kept.bought:
        _remake(user, [facts.purchases.index(kept)], fold)
        if not any(other.purchase_id == purchase_id and other.example for other in facts.purchases):
            fold.counts["purchases_without_interactions",] += 1
    remake_examples(user, at, fold)
    _bound_purchases(user, fold)
    user.head.owned = history.owned_at(facts.owned_before, facts.purchases)
    user.head.newest_purchase_at = max((other.occurred_at for other in facts.purchases if other.bought), default=0)


def _bound_purchases(user: UserState, fold: FoldContext) -> None:
    """Keeps the last 8 purchases; of the others only what is owned and which examples an erasure must reach. An example that none
    could reach any more goes.
    """
    facts = user.facts
    for gone in facts.purchases[: -limits.PURCHASES]:
        for item in gone.items:
            if facts.owned_before.get(item, (-1, False))[0] <= gone.occurred_at:
                facts.owned_before[item] = (gone.occurred_at, gone.bought)
        if gone.example:
            facts.example_ids = [*facts.example_ids, (gone.occurred_at, gone.purchase_id)]
        facts.gone = msgspec.structs.replace(facts.gone, purchases=facts.gone.purchases + 1)
    for _, purchase_id in facts.example_ids[: -limits.EXAMPLE_IDS]:
        forget_example(user, purchase_id, fold)
    facts.example_ids = facts.example_ids[-limits.EXAMPLE_IDS :]
    facts.purchases = facts.purchases[-limits.PURCHASES :]
    if len(facts.owned_before) > limits.OWNED:
        newest = sorted(facts.owned_before.items(), key=lambda one: (one[1][0], one[0]))[-limits.OWNED :]
        facts.owned_before = dict(newest)


def fold_eligibility(user: UserState, eligibility: Eligibility, at: int, fold: FoldContext) -> None:
    facts = user.facts
    facts.eligibility = history.with_eligibility(facts.eligibility, EligibilityList(at, eligibility.excluded))
    user.facts_changed = True
    user.head.excluded = history.excluded_at(facts.eligibility)
    remake_examples(user, at, fold)


def remake_examples(user: UserState, moment: int, fold: FoldContext) -> None:
    """Makes the examples of the kept purchases after `moment` again, where their content has changed."""
    if moment >= user.head.newest_purchase_at:
        return
    _remake(user, [place for place, kept in enumerate(user.facts.purchases) if kept.bought and kept.occurred_at > moment], fold)


def _remake(user: UserState, places: list[int], fold: FoldContext) -> None:
    facts = user.facts
    interactions = user.interactions
    for place in places:
        kept = facts.purchases[place]
        example = examples.example_of(user.user_id, kept, interactions, facts, fold.catalogue)
        if example is None:
            continue
        if not examples.is_complete(example, facts):
            fold.counts["beyond_bounds", "example"] += 1
            continue
        content = examples.fingerprint(example)
        if content == kept.example:
            continue
        fold.counts["examples", "revision" if kept.example else "first"] += 1
        facts.purchases[place] = msgspec.structs.replace(kept, revision=example.revision, example=content)
        user.facts_changed = True
        user.examples[kept.purchase_id] = Output(example_key(user.user_id, kept.purchase_id), encode_example(example))


def fold_erasure(user: UserState, erased_at: int, fold: FoldContext) -> None:
    """Forgets everything up to `erased_at`; what came later, and arrived sooner, stays. Examples go or are made again; of purchases
    no longer kept all go, for what they show may have come before.
    """
    head, facts = user.head, user.facts
    head.erased_at = max(head.erased_at, erased_at)
    user.erased = user.facts_changed = True
    covered = [kept.purchase_id for kept in facts.purchases if kept.example and kept.occurred_at <= erased_at]
    for purchase_id in [*covered, *(purchase_id for _, purchase_id in facts.example_ids)]:
        forget_example(user, purchase_id, fold)
    facts.example_ids = []
    facts.purchases = [kept for kept in facts.purchases if kept.occurred_at > erased_at]
    facts.owned_before = {item: action for item, action in facts.owned_before.items() if action[0] > erased_at}
    facts.eligibility = [kept for kept in facts.eligibility if kept.occurred_at > erased_at]
    facts.gone = Evicted(newest_started_at=facts.gone.newest_started_at if facts.gone.newest_started_at > erased_at else -1)
    remaining = [left for other in user.interactions if (left := other.after(erased_at)) is not None]
    head.event_ids, head.last_list = b"", None
    head.owned = history.owned_at(facts.owned_before, facts.purchases)
    head.excluded = history.excluded_at(facts.eligibility)
    head.newest_purchase_at = max((kept.occurred_at for kept in facts.purchases if kept.bought), default=0)
    user.settle(history.in_order(remaining), fold.gap_ms)
    for place, kept in enumerate(facts.purchases):
        example = examples.example_of(user.user_id, kept, user.interactions, facts, fold.catalogue) if kept.example else None
        if kept.example and (example is None or not examples.is_complete(example, facts)):
            facts.purchases[place] = msgspec.structs.replace(kept, example=b"")
            forget_example(user, kept.purchase_id, fold)
    remake_examples(user, erased_at, fold)


def forget_example(user: UserState, purchase_id: str, fold: FoldContext) -> None:
    """A tombstone for an example, sent whether or not there was one."""
    fold.counts["examples", "erased"] += 1
    user.examples[purchase_id] = Output(example_key(user.user_id, purchase_id), None)


def event_moment(event: UserEvent) -> int:
    """When an event happened, ms; a part of a call when it ended."""
    return event.ended_at if isinstance(event, EncodedCall) else to_milliseconds(event.occurred_at)
