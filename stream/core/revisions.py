"""When training examples are sent: at a purchase, again when something older arrives, and as tombstones."""

from enum import Enum, auto

import msgspec

from stream.core import examples
from stream.core.examples import Lack
from stream.core.feedback import shown_before
from stream.core.fold_context import FoldContext
from stream.core.outputs import Output, TrainingExample, encode_example, example_key
from stream.core.state import NEVER_ERASED, KeptPurchase
from stream.core.user_state import UserState


class Occasion(Enum):
    """Why an example is emitted."""

    PURCHASE = auto()
    """A record of the purchase itself."""
    LATE_EVENT = auto()
    """Something older than the purchase."""
    LATE_FEEDBACK = auto()
    ERASURE = auto()
    COVERED_ERASURE = auto()
    """An erasure that covers nothing more. `isthmus erase` has removed all examples before it, also those that stay."""


def erase_example(user: UserState, purchase_id: str, context: FoldContext) -> None:
    """Sends a tombstone for a training example, whether or not there was one; or the example of a kept purchase of the same id.

    The example of one that has left the state, but that no erasure covers, stays.
    """
    facts = user.load_facts()
    same_id = [index for index, kept in enumerate(facts.purchases) if kept.bought and kept.purchase_id == purchase_id]
    if same_id:
        emit_examples(user, same_id, context, Occasion.ERASURE)
    elif not any(other == purchase_id for _, other in facts.example_ids):
        send_tombstone(user, purchase_id, context)


def send_tombstone(user: UserState, purchase_id: str, context: FoldContext) -> None:
    context.counts["examples", "erased"] += 1
    user.examples[purchase_id] = Output(example_key(user.user_id, purchase_id), None)


def revise_examples(user: UserState, moment_ms: int, context: FoldContext, occasion: Occasion = Occasion.LATE_EVENT) -> None:
    """Emits the examples of kept purchases after `moment_ms` again, where their content has changed."""
    if moment_ms >= user.head.newest_purchase_at:
        return
    purchases = user.load_facts().purchases
    later = [index for index, purchase in enumerate(purchases) if purchase.bought and purchase.occurred_at > moment_ms]
    emit_examples(user, later, context, occasion)


def emit_examples(user: UserState, indices: list[int], context: FoldContext, occasion: Occasion) -> None:
    """Emits the examples of the kept purchases at `indices`, unless the same content was emitted before.

    The newest example in the topic may be of a state that was lost. So a batch that may be a redelivery, and an erasure, emit also
    what seems unchanged; an erasure erases what the state cannot produce.
    """
    for index in indices:
        _emit_example(user, index, context, occasion)


def emit_all_examples(user: UserState, context: FoldContext, occasion: Occasion) -> None:
    """Emits the examples of all kept purchases."""
    bought = [index for index, purchase in enumerate(user.load_facts().purchases) if purchase.bought]
    emit_examples(user, bought, context, occasion)


def _emit_example(user: UserState, index: int, context: FoldContext, occasion: Occasion) -> None:
    facts = user.load_facts()
    purchase = facts.purchases[index]
    if not examples.is_newest_of_id(purchase, facts):
        return
    example = _example_of(user, purchase, context)
    fingerprint = b"" if example is None else examples.fingerprint(example)
    is_known = example is not None and _was_emitted(example, fingerprint, purchase)
    if occasion is Occasion.COVERED_ERASURE:
        if not is_known:
            return
    elif is_known and not (occasion is Occasion.ERASURE or context.is_redelivery):
        return
    lack = Lack.NOTHING if is_known and occasion is not Occasion.ERASURE else _lack_of(user, purchase, example)
    if example is None or not (_may_emit(purchase, lack, occasion) or (is_known and lack < Lack.INTERACTION)):
        _skip_example(user, index, context, lack, occasion)
        return
    if lack is Lack.CONTENT and not is_known:
        context.counts["beyond_bounds", "example"] += 1
    context.counts["examples", "resent" if is_known else "revision" if purchase.example else "first"] += 1
    facts.purchases[index] = msgspec.structs.replace(purchase, revision=example.revision, example=fingerprint)
    user.facts_changed = True
    user.examples[purchase.purchase_id] = Output(example_key(user.user_id, purchase.purchase_id), encode_example(example))


def _was_emitted(example: TrainingExample, fingerprint: bytes, purchase: KeptPurchase) -> bool:
    """Whether the example was the last one sent for its purchase. If an earlier version sent it, only what that version wrote is
    compared: an upgrade sends no example anew.
    """
    return fingerprint == purchase.example or (bool(purchase.example) and examples.former_fingerprint(example) == purchase.example)


def _example_of(user: UserState, purchase: KeptPurchase, context: FoldContext) -> TrainingExample | None:
    """As the state shows it; None if it shows no interaction before the purchase."""
    feedback = user.load_feedback()
    example = examples.example_of(user.user_id, purchase, user.load_interactions(), user.load_facts(), context.catalogue)
    if example is None or not feedback.marks:
        return example
    return examples.with_shown(example, shown_before(feedback, purchase.occurred_at, context.labels.config))


def _lack_of(user: UserState, purchase: KeptPurchase, example: TrainingExample | None) -> Lack:
    return examples.lack_of(example, purchase.occurred_at, user.load_interactions(), user.load_facts(), user.load_feedback())


def _may_emit(purchase: KeptPurchase, lack: Lack, occasion: Occasion) -> bool:
    """Whether an example that lacks something is better than what the topic holds.

    What was bought counts more than what preceded it, so a record of the purchase itself, such as a further line of an order, is
    never left out for a few clicks. A late call or click counts more than what was shown: most users with feedback have more of it
    than is kept, and transcripts often come hours later.
    """
    if lack is Lack.SHOWN:
        return occasion is not Occasion.LATE_FEEDBACK or not purchase.example
    return lack is Lack.NOTHING or (lack is Lack.CONTENT and occasion is Occasion.PURCHASE)


def _skip_example(user: UserState, index: int, context: FoldContext, lack: Lack, occasion: Occasion) -> None:
    """What becomes of an example that is not emitted: the topic may hold one, also one that a lost state sent.

    If no interaction precedes the purchase, it is wrong. If the state no longer keeps all that the example shows, it may be right,
    unless the user was erased.
    """
    facts = user.load_facts()
    purchase = facts.purchases[index]
    is_wrong = occasion is Occasion.ERASURE or (user.head.erased_at != NEVER_ERASED and not purchase.example)
    if lack is Lack.NOTHING:
        is_wrong = is_wrong or bool(purchase.example) or context.is_redelivery
    else:
        context.counts["beyond_bounds", "example"] += 1
    if is_wrong:
        facts.purchases[index] = msgspec.structs.replace(purchase, example=b"")
        user.facts_changed = True
        send_tombstone(user, purchase.purchase_id, context)
