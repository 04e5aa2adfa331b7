"""What a user's history, examples and list must be: computed from all events at once, without states, caches or order of arrival.

Shares with the code under test only the forms of its results. Times are integer milliseconds. An event's index in its topic decides
only which of several contents of one name counts: the first.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from stream.core.events import Click, Eligibility, EncodedCall, Feedback, Purchase, Source, UserEvent
from stream.core.feedback import hash_item
from stream.core.interactions import Conversation, Interaction, Part, Session, TimedTags, conversation_of, session_of
from stream.core.outputs import Shown, TrainingExample, example_key
from stream.core.ranking import Catalogue, PostFilter
from stream.core.records import Coordinates
from tests import world

GAP_MS = 30 * world.MINUTE
WINDOW = 10
CLICKS = 64
PARTS = 8
LIST = 5
Events = Mapping[Source, Sequence[UserEvent]]


class Order(NamedTuple):
    """A purchase or cancellation: all records of one id, action and time."""

    at: int
    purchase_id: str
    bought: bool
    items: tuple[str, ...]


class Expected(NamedTuple):
    """What must hold in the end; `history` as `world.history_of` returns it."""

    history: list[object]
    examples: dict[bytes, TrainingExample]
    last_list: tuple[str, ...]


def expected(events: Events, ranker: world.OrderRanker) -> Expected:
    erased_at = max((time(event) for event in events[Source.ERASURE]), default=-1)
    clicks = [event for event in events[Source.CLICK] if isinstance(event, Click) and time(event) > erased_at]
    calls = [event for event in events[Source.CALL] if isinstance(event, EncodedCall) and event.started_at > erased_at]
    orders = orders_of(events[Source.PURCHASE], erased_at)
    lists = lists_of(events[Source.ELIGIBILITY], erased_at)
    interactions = in_order([*sessions_of(clicks), *conversations_of(calls)])
    owned = owned_before(orders, None)
    excluded = excluded_by(lists)
    feedback = feedback_of(events[Source.FEEDBACK], erased_at)
    history = [
        *map(view, interactions),
        [tuple(order) for order in orders],
        owned,
        excluded,
        lists,
        *([feedback] if feedback else []),
    ]
    is_known = any(events[source] for source in Source if source is not Source.FEEDBACK) and (
        erased_at < 0 or bool(interactions or orders or lists)
    )
    last_list = list_of(interactions, {*owned, *excluded}, ranker) if is_known else ()
    examples = examples_of(clicks, calls, orders, lists)
    examples = {key: with_shown(example, feedback) for key, example in examples.items()}
    return Expected(history, examples, last_list)


def expected_examples(events: Events) -> dict[bytes, TrainingExample]:
    """The examples without erasures. Sessions and calls may be longer than a state keeps them."""
    clicks = [event for event in events[Source.CLICK] if isinstance(event, Click)]
    calls = [event for event in events[Source.CALL] if isinstance(event, EncodedCall)]
    examples = examples_of(clicks, calls, orders_of(events[Source.PURCHASE], -1), lists_of(events[Source.ELIGIBILITY], -1))
    feedback = feedback_of(events[Source.FEEDBACK], -1)
    return {key: with_shown(example, feedback) for key, example in examples.items()}


def time(event: UserEvent) -> int:
    """When it happened, ms. An erasure without a time has the one of its first record, which its id says."""
    assert not isinstance(event, EncodedCall)
    if event.occurred_at is None:
        return int(event.event_id or "")
    assert type(event.occurred_at) is int
    return event.occurred_at


def sessions_of(clicks: Iterable[Click]) -> list[Session]:
    return [session_of(group, session_id) for session_id, group in grouped(clicks)]


def grouped(clicks: Iterable[Click]) -> list[tuple[str, list[TimedTags]]]:
    """Session id and clicks of each session."""
    seen: set[object] = set()
    groups: dict[str, list[TimedTags]] = {}
    for click in clicks:
        identity = (click.event_id, time(click), click.session_id)
        if click.event_id is None or identity not in seen:
            seen.add(identity)
            groups.setdefault(click.session_id or "", []).append((time(click), click.tags))
    sessions = []
    for session_id, group in groups.items():
        group.sort()
        starts = [
            index
            for index in range(len(group))
            if not index or (not session_id and group[index][0] - group[index - 1][0] >= GAP_MS)
        ]
        sessions += [(session_id, group[start:end]) for start, end in zip(starts, [*starts[1:], len(group)], strict=True)]
    return sessions


def conversations_of(calls: Iterable[EncodedCall]) -> list[Conversation]:
    newest: dict[object, EncodedCall] = {}
    for call in calls:
        if call.has_event_id:
            identity: object = ("event", call.event_id)
        elif isinstance(call.piece, int):
            identity = ("piece", call.piece)
        else:
            identity = (call.started_at, call.ended_at, call.sentences)
        key = (call.conversation_id, identity)
        if key not in newest or (newest[key].started_at, newest[key].ended_at) < (call.started_at, call.ended_at):
            newest[key] = call
    groups: dict[str, list[Part]] = {}
    for call in newest.values():
        groups.setdefault(call.conversation_id, []).append(part_of(call))
    for parts in groups.values():
        parts.sort(key=lambda part: (part.ended_at, part.started_at, part.sentences, part.vector))
    return [conversation_of(parts, conversation_id) for conversation_id, parts in groups.items()]


def part_of(call: EncodedCall) -> Part:
    mean = np.frombuffer(call.vector_sum, dtype="<f4") / call.sentences
    keywords = "".join("\x1f" + word for word in call.keywords)
    return Part(call.started_at, call.ended_at, call.sentences, mean.astype("<f2").tobytes(), keywords, call.text_model)


def orders_of(purchases: Iterable[UserEvent], erased_at: int) -> list[Order]:
    orders: dict[tuple[int, str, bool], list[str]] = {}
    for offset, purchase in enumerate(purchases):
        assert isinstance(purchase, Purchase)
        if time(purchase) > erased_at:
            purchase_id = purchase.event_id or Coordinates(world.TOPICS[Source.PURCHASE], 1, 0, offset).event_id
            items = orders.setdefault((time(purchase), purchase_id, purchase.action == "bought"), [])
            items += [item for item in purchase.items if item not in items]
    found = (Order(*identity, tuple(items)) for identity, items in orders.items())
    return sorted(found, key=lambda order: (order.at, not order.bought, order.purchase_id))


def lists_of(lists: Iterable[UserEvent], erased_at: int) -> list[tuple[int, tuple[str, ...]]]:
    """The lists of one time are one list."""
    united: dict[int, set[str]] = {}
    for event in lists:
        assert isinstance(event, Eligibility)
        if time(event) > erased_at:
            united.setdefault(time(event), set()).update(event.excluded)
    return [(at, tuple(sorted(items))) for at, items in sorted(united.items())]


def excluded_by(lists: Sequence[tuple[int, tuple[str, ...]]]) -> tuple[str, ...]:
    """What the newest list excludes."""
    return lists[-1][1] if lists else ()


def feedback_of(events: Iterable[UserEvent], erased_at: int) -> list[world.Marked]:
    """One entry per item, action and identity; the last counts, and at the same time the one whose labels are greater."""
    found: dict[object, world.Marked] = {}
    for event in events:
        assert isinstance(event, Feedback)
        at = time(event)
        if at <= erased_at:
            continue
        labels = (int(event.placement == "hero"), int(event.channel == "web"), event.model_version or "")
        for rank, item in enumerate(dict.fromkeys(event.items), start=1):
            named = (event.event_id, at) if event.event_id else (None, event.recommendation_id, event.placement, at // world.MINUTE)
            mark = world.Marked(at, item, event.action, rank if event.action == "shown" else 0, *labels)
            key = (item, event.action, named)
            found[key] = max(found.get(key, mark), mark)
    return sorted(found.values())


def with_shown(example: TrainingExample, feedback: Iterable[world.Marked]) -> TrainingExample:
    """The example with each item's last impression before the purchase."""
    before = [mark for mark in feedback if mark.action == "shown" and mark.at < example.occurred_at]
    shown = []
    for item in {mark.item for mark in before}:
        own = [mark for mark in before if mark.item == item]
        last = max(own)
        shown.append(
            Shown(
                item=hash_item(item),
                occurred_at=last.at,
                times=len(own),
                rank=last.rank,
                placement="hero" if last.placement else "other",
                channel="web" if last.channel else "other",
                model_version=last.model_version,
            )
        )
    shown.sort(key=lambda one: (one.occurred_at, one.item))
    return msgspec.structs.replace(example, shown=tuple(shown)) if shown else example


def owned_before(orders: Iterable[Order], moment: int | None) -> tuple[str, ...]:
    owned: dict[str, bool] = {}
    for order in orders:
        if moment is None or order.at < moment:
            owned.update(dict.fromkeys(order.items, order.bought))
    return tuple(sorted(item for item, bought in owned.items() if bought))


def examples_of(
    clicks: Sequence[Click],
    calls: Sequence[EncodedCall],
    orders: Sequence[Order],
    lists: Sequence[tuple[int, tuple[str, ...]]],
) -> dict[bytes, TrainingExample]:
    """Of several purchases of one id, the newest has the example."""
    examples = {}
    whole: list[tuple[str, list[TimedTags]] | Conversation] = [*grouped(clicks), *conversations_of(calls)]
    for order in orders:
        if not order.bought or any(
            other.bought and other.purchase_id == order.purchase_id and other.at > order.at for other in orders
        ):
            continue
        visible = in_order(part for interaction in whole if (part := interaction_before(interaction, order.at)) is not None)[
            -WINDOW:
        ]
        if not visible:
            continue
        kinds = {interaction.modality for interaction in visible}
        ineligible = excluded_by([entry for entry in lists if entry[0] < order.at])
        owned = owned_before(orders, order.at)
        examples[example_key("u", order.purchase_id)] = TrainingExample(
            user_id="u",
            purchase_id=order.purchase_id,
            occurred_at=order.at,
            revision=0,
            type="both" if len(kinds) == 2 else kinds.pop(),
            items=order.items,
            excluded=tuple(sorted({*owned, *ineligible})),
            interactions=tuple(visible),
            owned=owned,
            ineligible=ineligible,
        )
    return examples


def interaction_before(interaction: tuple[str, list[TimedTags]] | Conversation, moment: int) -> Interaction | None:
    """The last clicks or parts before a time that a state would have kept; of earlier clicks, the tags."""
    if isinstance(interaction, Conversation):
        parts = [part for part in interaction.parts if part.ended_at < moment]
        return conversation_of(parts[-PARTS:], interaction.conversation_id) if parts else None
    session_id, group = interaction
    clicks = [click for click in group if click[0] < moment]
    older = sorted({tag for _, tags in clicks[:-CLICKS] for tag in tags})
    return session_of(clicks[-CLICKS:], session_id, tuple(older), clicks[0][0]) if clicks else None


def in_order(interactions: Iterable[Interaction]) -> list[Interaction]:
    return sorted(interactions, key=lambda interaction: interaction.order)


def view(interaction: Interaction) -> object:
    if isinstance(interaction, Session):
        return (interaction.order, interaction.ended_at, sorted(interaction.tags), interaction.clicks())
    return (interaction.order, interaction.ended_at, interaction.parts)


def list_of(interactions: Sequence[Interaction], blocked: Iterable[str], ranker: world.OrderRanker) -> tuple[str, ...]:
    rows = ranker.rank_many(ranker.encode_many([interactions[-WINDOW:]])) if interactions else ranker.prior[None, :]
    catalogue: Catalogue = world.catalogue()
    top = PostFilter(ranker.items, catalogue, world.NOW).top(rows, [blocked], LIST)[0]
    return tuple(ranker.items[position] for position in top)
