"""Turns a life into events on the input topics: adds times, cuts calls into pieces, and delays late events.

Times are milliseconds. An event is delivered when its producer sends it: calls at the end of each piece, some purchases hours
later. What is said after a sale is in a piece that ends after the purchase; a tenth of these calls is delivered in one piece,
after it. Sessions have 3 to 8 clicks and calls 3 to 8 sentences, shorter than in the tables, so that one encoder can keep up.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final, NamedTuple
from zlib import crc32

import msgspec

from stream.core.events import Click, Eligibility, Erasure, Feedback, FeedbackAction, Purchase, Sentence, Transcript
from stream.core.limits import HOUR_MS, MINUTE_MS, SECOND_MS
from training.datasets.synthetic.calls import Line, write_short_call
from training.datasets.synthetic.catalogue import CATALOGUE
from training.datasets.synthetic.random_draws import RandomDraws
from training.datasets.synthetic.sessions import SHORT, write_session
from training.datasets.synthetic.world import Life, PlannedInteraction, World


class LiveEvent(NamedTuple):
    """One record for an input topic. Times are milliseconds of the same synthetic clock.

    Attributes:
        role: the topic's name in the settings' section `[topics]`.
        key: the user; None for an event that is broken on purpose.
        value: the encoded event; None for an event that is broken on purpose.
        event_ms: when it happened.
        delivery_ms: when it is sent.
        planted: the reason of the dead letter that a deliberately broken event must become; "" for all others. It is not part of
        the
            record.
    """

    role: str
    key: str | None
    value: bytes | None
    event_ms: int
    delivery_ms: int
    planted: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How a life is spread over event time. Gaps have these means.

    Gaps exceed the default session gap of 30 minutes, so interactions stay separate with and without session ids.

    Attributes:
        gap_h: between interactions, in addition to 40 minutes.
        decision_h: from the last interaction to the purchase, in addition to half an hour.
        return_h: to the interactions before a user's next purchase, where it shares none.
        late_purchases: share of purchases that are sent hours after they happened.
        late_h: mean of that delay, which is at most 20 hours.
        erased: share of users who ask for erasure, a day after their last purchase.
        whole_sale: share of calls ending in a sale that are delivered in one piece, after it.
    """

    gap_h: float = 3.0
    decision_h: float = 1.5
    return_h: float = 96.0
    late_purchases: float = 0.15
    late_h: float = 3.0
    erased: float = 0.004
    whole_sale: float = 0.1


_json: Final = msgspec.json.Encoder().encode
_SENTENCE_MS: Final = 6 * SECOND_MS
_FEEDBACK_OF: Final = 8
_ITEMS: Final = len(CATALOGUE)
_MOST_LATE_H: Final = 20.0  # within the 24 hours that the step allows


class _Clock:
    """A user's present time, and ids for the next events."""

    __slots__ = ("now_ms", "numbers", "user")

    def __init__(self, user: str, now_ms: int) -> None:
        self.user, self.now_ms = user, now_ms
        self.numbers = count(1)

    def name(self, kind: str) -> str:
        return f"{self.user}-{kind}{next(self.numbers)}"


def events_of(world: World, draws: RandomDraws, life: Life, user: str, start_ms: int, pace: Pace) -> Iterator[LiveEvent]:
    """Yields all events of a life that begins at `start_ms`, not in the order of delivery."""
    clock = _Clock(user, start_ms)
    with_session_id = draws.happens(0.5)
    if life.excluded:
        eligibility = Eligibility(user, start_ms, tuple(map(str, sorted(life.excluded))), clock.name("e"))
        yield LiveEvent("eligibility", user, _json(eligibility), start_ms, start_ms + SECOND_MS)
    for number, purchase in enumerate(life.purchases):
        if number:
            shares_interactions = purchase.fresh < len(purchase.history)
            clock.now_ms += _hours(draws, pace.gap_h if shares_interactions else pace.return_h)
        fresh = purchase.history[len(purchase.history) - purchase.fresh :]
        for index in fresh[:-1]:
            yield from _interact(world, draws, life.interactions[index], clock, with_session_id=with_session_id)
            clock.now_ms += 40 * MINUTE_MS + _hours(draws, pace.gap_h)
        last = life.interactions[fresh[-1]]
        if last.sold:
            yield from _sale(draws, last, clock, pace)
            continue
        yield from _interact(world, draws, last, clock, with_session_id=with_session_id)
        clock.now_ms += 30 * MINUTE_MS + _hours(draws, pace.decision_h)
        if not number:
            yield from _feedback(clock, purchase.basket)
        yield _purchase(draws, clock, purchase.basket, pace)
    if draws.happens(pace.erased):
        at_ms = clock.now_ms + 24 * HOUR_MS
        yield LiveEvent("erasures", user, _json(Erasure(user, at_ms, clock.name("x"))), at_ms, at_ms + SECOND_MS)


def _feedback(clock: _Clock, basket: Sequence[int]) -> Iterator[LiveEvent]:
    """One user in eight says what was in sight ten minutes before the purchase, and every second of these opens an item.

    By a hash of the name, not by chance: the other events are the same with and without it. What is shown is no list that was sent.
    """
    number = crc32(clock.user.encode())
    if number % _FEEDBACK_OF:
        return
    others = [number // _FEEDBACK_OF % _ITEMS + 1, number // (_FEEDBACK_OF * _ITEMS) % _ITEMS + 1]
    items = tuple(map(str, dict.fromkeys((*others, *basket))))
    shown_ms = clock.now_ms - 10 * MINUTE_MS
    answers: list[tuple[FeedbackAction, tuple[str, ...]]] = [("shown", items), ("selected", items[-1:])]
    for order, (action, meant) in enumerate(answers if number // _FEEDBACK_OF % 2 else answers[:1]):
        at_ms = shown_ms + order * 30 * SECOND_MS
        event = Feedback(clock.user, at_ms, "web", action, meant, f"{clock.user}-f{order}", placement="home")
        yield LiveEvent("feedback", clock.user, _json(event), at_ms, at_ms + SECOND_MS)


def _hours(draws: RandomDraws, mean: float) -> int:
    return int(draws.exponential(mean) * HOUR_MS)


def _interact(
    world: World, draws: RandomDraws, interaction: PlannedInteraction, clock: _Clock, *, with_session_id: bool
) -> Iterator[LiveEvent]:
    if interaction.modality == "C":
        yield from _call(draws, write_short_call(draws, interaction.focus).before, clock)
        return
    session_id = clock.name("s") if with_session_id else None
    for tags in write_session(draws, interaction.focus, world.flipped, SHORT):
        click = Click(clock.user, clock.now_ms, tags, clock.name("c"), session_id)
        yield LiveEvent("clicks", clock.user, _json(click), clock.now_ms, clock.now_ms + 200)
        clock.now_ms += 4 * SECOND_MS + int(draws.uniform() * 50 * SECOND_MS)


def _call(draws: RandomDraws, lines: Sequence[Line], clock: _Clock) -> Iterator[LiveEvent]:
    """Yields a call without a sale, in one piece or (one in four) in two."""
    conversation = clock.name("k")
    if draws.happens(0.25):
        half = len(lines) // 2
        yield _piece(clock, conversation, lines[:half], 1)
        yield _piece(clock, conversation, lines[half:], 2)
    else:
        yield _piece(clock, conversation, lines, None)


def _sale(draws: RandomDraws, interaction: PlannedInteraction, clock: _Clock, pace: Pace) -> Iterator[LiveEvent]:
    """Yields a call in which the user buys, with the purchase between what was said before and after it."""
    conversation = clock.name("k")
    call = write_short_call(draws, interaction.focus, interaction.sold)
    if draws.happens(pace.whole_sale):
        bought_ms = clock.now_ms + len(call.before) * _SENTENCE_MS
        whole = _piece(clock, conversation, (*call.before, *call.after), None)
        clock.now_ms, ended_ms = bought_ms, clock.now_ms
        yield _purchase(draws, clock, interaction.sold, pace)
        yield whole
        clock.now_ms = ended_ms
        return
    yield _piece(clock, conversation, call.before, 1)
    clock.now_ms += SECOND_MS
    yield _purchase(draws, clock, interaction.sold, pace)
    clock.now_ms += SECOND_MS
    yield _piece(clock, conversation, call.after, 2)


def _piece(clock: _Clock, conversation: str, lines: Sequence[Line], piece: int | None) -> LiveEvent:
    start_ms = clock.now_ms
    clock.now_ms += len(lines) * _SENTENCE_MS
    sentences = tuple(Sentence(text, speaker, start_ms + number * _SENTENCE_MS) for number, (speaker, text) in enumerate(lines))
    transcript = Transcript(clock.user, conversation, start_ms, sentences, clock.name("t"), clock.now_ms, piece)
    return LiveEvent("transcripts", clock.user, _json(transcript), clock.now_ms, clock.now_ms + 500)


def _purchase(draws: RandomDraws, clock: _Clock, basket: Sequence[int], pace: Pace) -> LiveEvent:
    late_h = min(draws.exponential(pace.late_h), _MOST_LATE_H) if draws.happens(pace.late_purchases) else 0.0
    purchase = Purchase(clock.user, clock.now_ms, tuple(map(str, basket)), clock.name("p"))
    return LiveEvent("purchases", clock.user, _json(purchase), clock.now_ms, clock.now_ms + SECOND_MS + int(late_h * HOUR_MS))
