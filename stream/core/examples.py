"""Training examples, point in time: a purchase's features, label and post filter as they were just before it.

The step emits one at each purchase and a revision when something older arrives. Examples from files come from the same code.
"""

from collections.abc import Iterable, Sequence
from enum import IntEnum
from hashlib import blake2b
from typing import Final

import msgspec
from msgspec import UNSET

from stream.core import history, limits
from stream.core.feedback import UserFeedback
from stream.core.interactions import Conversation, Interaction, Session, conversation_of, session_of
from stream.core.kept_interactions import KeptInteraction
from stream.core.outputs import EventType, Shown, TrainingExample, encode_example
from stream.core.ranking import Catalogue, Holdings
from stream.core.state import Facts, KeptPurchase

_MOST_ITEMS: Final = 10 * limits.ITEMS
"""Of one example. An event names at most `limits.ITEMS`; the items of events with the same id unite."""


def event_type(sessions: int, conversations: int) -> EventType | None:
    """The type of a purchase event, from the interactions before it (paper, section 3)."""
    if sessions and conversations:
        return "both"
    return "session" if sessions else "conversation" if conversations else None


def example_of(
    user_id: str, purchase: KeptPurchase, interactions: Sequence[Interaction], facts: Facts, catalogue: Catalogue
) -> TrainingExample | None:
    """The example of `purchase`, or None if no interaction precedes it. `interactions` is the whole history."""
    visible = [canonical(interaction) for interaction in history.before(interactions, purchase.occurred_at)]
    sessions = sum(isinstance(interaction, Session) for interaction in visible)
    kind = event_type(sessions, len(visible) - sessions)
    if kind is None:
        return None
    moment_ms = purchase.occurred_at
    owned = history.owned_at(facts.owned_before, facts.purchases, moment_ms)
    ineligible = history.excluded_at(facts.eligibility, moment_ms)
    return TrainingExample(
        user_id=user_id,
        purchase_id=purchase.purchase_id,
        occurred_at=moment_ms,
        revision=purchase.revision + 1,
        type=kind,
        items=purchase.items,
        excluded=post_filter_at(moment_ms, owned, ineligible, catalogue),
        interactions=tuple(visible),
        owned=owned,
        ineligible=tuple(sorted(ineligible)),
    )


def with_shown(example: TrainingExample, shown: tuple[Shown, ...]) -> TrainingExample:
    """The example with what the user was shown before the purchase."""
    return msgspec.structs.replace(example, shown=shown) if shown else example


def post_filter_at(moment_ms: int, owned: Sequence[str], ineligible: Sequence[str], catalogue: Catalogue) -> tuple[str, ...]:
    """The items that could not be offered just before `moment_ms`: owned and not repeatable, not eligible, withdrawn."""
    offered = set(catalogue.offered_at(moment_ms))
    withdrawn = (item for item in catalogue.items if item not in offered)
    return tuple(sorted({*catalogue.blocked(owned, ineligible), *withdrawn}))


def holdings_of(example: TrainingExample) -> Holdings | None:
    """What the user owned and was not eligible for just before the purchase; None: not known."""
    if example.owned is UNSET or example.ineligible is UNSET:
        return None
    return Holdings(example.owned, example.ineligible)


def is_newest_of_id(purchase: KeptPurchase, facts: Facts) -> bool:
    """Whether an example under the purchase's id is this purchase's: of several purchases of one id, the newest."""
    if any(at_ms > purchase.occurred_at for at_ms, purchase_id in facts.example_ids if purchase_id == purchase.purchase_id):
        return False
    return not any(
        other.bought and other.purchase_id == purchase.purchase_id and other.occurred_at > purchase.occurred_at
        for other in facts.purchases
    )


class Lack(IntEnum):
    """What the state no longer keeps of an example, because newer events have taken its place; the worst counts."""

    NOTHING = 0
    SHOWN = 1
    """Of what was shown, the state may know a part only."""
    CONTENT = 2
    """The first clicks of a session, the first parts of a call, or the eligibility list."""
    INTERACTION = 3
    """An interaction, and with it perhaps the type."""


def lack_of(
    example: TrainingExample | None, moment_ms: int, interactions: Sequence[KeptInteraction], facts: Facts, feedback: UserFeedback
) -> Lack:
    """What the example of a purchase at `moment_ms` lacks; None: none can be made. `interactions` is the whole history."""
    is_full = example is not None and len(example.interactions) == limits.WINDOW
    earliest = example.interactions[0].started_at if example is not None and is_full else 0
    incomplete = [other for other in interactions if other.lacks_before(moment_ms) and other.latest_start() >= earliest]
    is_evicted = facts.evicted.newest_started_at >= earliest
    if is_evicted or any(other.before(moment_ms) is None for other in incomplete):
        return Lack.INTERACTION
    if example is None:
        return Lack.NOTHING
    if incomplete or not keeps_eligibility(moment_ms, facts):
        return Lack.CONTENT
    return Lack.SHOWN if feedback.lacks_before(moment_ms) else Lack.NOTHING


def keeps_eligibility(moment_ms: int, facts: Facts) -> bool:
    """Whether the state still contains the eligibility list that held just before `moment_ms`, if there was one."""
    evicted_at = facts.evicted_eligibility_at
    is_kept = bool(facts.eligibility) and facts.eligibility[0].occurred_at < moment_ms
    return is_kept or evicted_at is None or evicted_at >= moment_ms


def fingerprint(example: TrainingExample) -> bytes:
    """An 8-byte hash of the content without its revision."""
    return blake2b(encode_example(msgspec.structs.replace(example, revision=0)), digest_size=8).digest()


def former_fingerprint(example: TrainingExample) -> bytes:
    """The hash that 0.1.0 kept of the example, which had neither `owned` nor `ineligible`."""
    return fingerprint(msgspec.structs.replace(example, owned=UNSET, ineligible=UNSET))


def canonical(interaction: Interaction) -> Interaction:
    """The interaction without ids, in a form that does not depend on the order in which its events arrived."""
    if isinstance(interaction, Conversation):
        return conversation_of(interaction.parts, interaction.conversation_id)
    older = tuple(sorted(interaction.older_tags()))
    return session_of(interaction.clicks(), interaction.session_id, older, interaction.started_at)


def in_time_order(examples: Iterable[TrainingExample]) -> list[TrainingExample]:
    """Examples by the time of their purchase; ties by user and purchase id."""
    return sorted(examples, key=lambda example: (example.occurred_at, example.user_id, example.purchase_id))


def check_bounds(example: TrainingExample) -> None:
    """Raises ValueError for an example that the step cannot have made: with more items or interactions than there may be."""
    if len(example.items) > _MOST_ITEMS:
        raise ValueError(f"it names {len(example.items)} items; at most {_MOST_ITEMS} are read")
    if len(example.interactions) > limits.WINDOW:
        raise ValueError(f"it has {len(example.interactions)} interactions; at most {limits.WINDOW} are kept")
    for one in example.interactions:
        if isinstance(one, Conversation) and not 1 <= len(one.parts) <= limits.PARTS:
            raise ValueError(f"a conversation has {len(one.parts)} parts; at most {limits.PARTS} are kept")
