"""When training examples are sent: at a purchase, again when something older arrives, and as tombstones."""

import msgspec

from stream.core import examples
from stream.core.feedback import shown_before
from stream.core.fold_context import FoldContext
from stream.core.outputs import Output, TrainingExample, encode_example, example_key
from stream.core.state import NEVER_ERASED
from stream.core.user_state import UserState


def erase_example(user: UserState, purchase_id: str, context: FoldContext) -> None:
    """Sends a tombstone for a training example, whether or not there was one; or the example of a kept purchase of the same id."""
    facts = user.load_facts()
    same_id = [index for index, kept in enumerate(facts.purchases) if kept.bought and kept.purchase_id == purchase_id]
    if same_id:
        emit_examples(user, same_id, context, is_erasure=True)
    else:
        send_tombstone(user, purchase_id, context)


def send_tombstone(user: UserState, purchase_id: str, context: FoldContext) -> None:
    context.counts["examples", "erased"] += 1
    user.examples[purchase_id] = Output(example_key(user.user_id, purchase_id), None)


def revise_examples(user: UserState, moment_ms: int, context: FoldContext) -> None:
    """Emits the examples of kept purchases after `moment_ms` again, where their content has changed."""
    if moment_ms >= user.head.newest_purchase_at:
        return
    purchases = user.load_facts().purchases
    later = [index for index, purchase in enumerate(purchases) if purchase.bought and purchase.occurred_at > moment_ms]
    emit_examples(user, later, context)


def emit_examples(user: UserState, indices: list[int], context: FoldContext, *, is_erasure: bool = False) -> None:
    """Emits the examples of the kept purchases at `indices`, unless the same content was emitted before.

    The newest example in the topic may be of a state that was lost. So a batch that may be a redelivery, and an erasure, emit also
    what seems unchanged; an erasure erases what the state cannot produce.
    """
    facts, interactions, feedback = user.load_facts(), user.load_interactions(), user.load_feedback()
    for index in indices:
        purchase = facts.purchases[index]
        if not examples.is_newest_of_id(purchase, facts):
            continue
        example = examples.example_of(user.user_id, purchase, interactions, facts, context.catalogue)
        if example is not None and feedback.marks:
            example = examples.with_shown(example, shown_before(feedback, purchase.occurred_at, context.labels.config))
        if example is None or not examples.is_complete(example, facts):
            _skip_example(user, index, example, context, is_erasure=is_erasure)
            continue
        fingerprint = examples.fingerprint(example)
        is_known = fingerprint == purchase.example
        if is_known and not (is_erasure or context.is_redelivery):
            continue
        context.counts["examples", "resent" if is_known else "revision" if purchase.example else "first"] += 1
        facts.purchases[index] = msgspec.structs.replace(purchase, revision=example.revision, example=fingerprint)
        user.facts_changed = True
        user.examples[purchase.purchase_id] = Output(example_key(user.user_id, purchase.purchase_id), encode_example(example))


def _skip_example(user: UserState, index: int, example: TrainingExample | None, context: FoldContext, *, is_erasure: bool) -> None:
    """What becomes of an example that the state cannot produce in full: the topic may hold one that a lost state sent.

    If no interaction precedes the purchase, it is wrong. If the state no longer keeps all that the example shows, it may be right,
    unless the user was erased.
    """
    facts = user.load_facts()
    purchase = facts.purchases[index]
    is_wrong = is_erasure or (user.head.erased_at != NEVER_ERASED and not purchase.example)
    if example is None:
        is_wrong = is_wrong or bool(purchase.example) or context.is_redelivery
    else:
        context.counts["beyond_bounds", "example"] += 1
    if is_wrong:
        facts.purchases[index] = msgspec.structs.replace(purchase, example=b"")
        user.facts_changed = True
        send_tombstone(user, purchase.purchase_id, context)
