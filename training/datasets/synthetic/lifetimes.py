"""A life as events on the input topics: gives times to what a user does, cuts calls into pieces, delays what arrives late.

Times are milliseconds. An event's delivery is when its producer sends it: calls at their pieces' ends, some purchases hours later.
What was said after a sale stands in a piece that ends after the purchase; a tenth of these calls comes whole, after it. Sessions
have 3 to 8 clicks and calls 3 to 8 sentences: shorter than in the tables, so that one encoder follows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final, NamedTuple

import msgspec

from stream.core.events import Click, Eligibility, Erasure, Purchase, Sentence, Transcript
from stream.core.limits import HOUR_MS, MINUTE_MS, SECOND_MS
from training.datasets.synthetic.calls import Spoken, write_short_call
from training.datasets.synthetic.chance import Chance
from training.datasets.synthetic.sessions import SHORT, write_session
from training.datasets.synthetic.world import Life, Shown, World


class LiveEvent(NamedTuple):
    """One record for the topic of `role` (a name of settings' section `[topics]`). Times in ms.

    `event_ms` is when it happened, `delivery_ms` when it is sent, on the same, synthetic, clock. `planted` is the reason of the
    dead letter that a deliberately broken event must become ("" for all others); it is told beside the record, not in it.
    """

    role: str
    key: str | None
    value: bytes | None
    event_ms: int
    delivery_ms: int
    planted: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How a life spreads over time. Hours are event time; gaps between interactions and to the purchase have these means.

    Gaps exceed the 30 minutes that end a session, so interactions stay apart with and without session ids.
    """

    gap_h: float = 3.0  # between interactions, beside 40 minutes
    decision_h: float = 1.5  # from the last interaction to the purchase, beside half an hour
    return_h: float = 96.0  # to the interactions before a user's next purchase, where it shares none
    late_purchases: float = 0.15  # of purchases are sent hours after they happened
    late_h: float = 3.0  # mean of that delay; never above 20 hours
    erased: float = 0.004  # of users ask to be forgotten, a day after their last purchase
    whole_sale: float = 0.1  # of calls that end in a sale come whole, after it


_json: Final = msgspec.json.Encoder().encode
_SENTENCE_MS: Final = 6 * SECOND_MS
_MOST_LATE_H: Final = 20.0  # within the 24 hours that the step allows


class _Clock:
    """Where a user stands in time, and the names of what he does next."""

    __slots__ = ("now_ms", "numbers", "user")

    def __init__(self, user: str, now_ms: int) -> None:
        self.user, self.now_ms = user, now_ms
        self.numbers = count(1)

    def name(self, kind: str) -> str:
        return f"{self.user}-{kind}{next(self.numbers)}"


def events_of(world: World, chance: Chance, life: Life, user: str, start_ms: int, pace: Pace) -> Iterator[LiveEvent]:
    """All events of a life that begins at `start_ms`; not in the order of delivery."""
    clock = _Clock(user, start_ms)
    with_session_id = chance.happens(0.5)
    if life.excluded:
        barred = Eligibility(user, start_ms, tuple(map(str, sorted(life.excluded))), clock.name("e"))
        yield LiveEvent("eligibility", user, _json(barred), start_ms, start_ms + SECOND_MS)
    for number, buying in enumerate(life.buyings):
        if number:
            shares = buying.fresh < len(buying.history)
            clock.now_ms += _hours(chance, pace.gap_h if shares else pace.return_h)
        fresh = buying.history[len(buying.history) - buying.fresh :]
        for place in fresh[:-1]:
            yield from _interact(world, chance, life.interactions[place], clock, with_session_id=with_session_id)
            clock.now_ms += 40 * MINUTE_MS + _hours(chance, pace.gap_h)
        last = life.interactions[fresh[-1]]
        if last.sold:
            yield from _sale(chance, last, clock, pace)
            continue
        yield from _interact(world, chance, last, clock, with_session_id=with_session_id)
        clock.now_ms += 30 * MINUTE_MS + _hours(chance, pace.decision_h)
        yield _purchase(chance, clock, buying.basket, pace)
    if chance.happens(pace.erased):
        at_ms = clock.now_ms + 24 * HOUR_MS
        yield LiveEvent("erasures", user, _json(Erasure(user, at_ms, clock.name("x"))), at_ms, at_ms + SECOND_MS)


def _hours(chance: Chance, mean: float) -> int:
    return int(chance.exponential(mean) * HOUR_MS)


def _interact(world: World, chance: Chance, shown: Shown, clock: _Clock, *, with_session_id: bool) -> Iterator[LiveEvent]:
    if shown.modality == "C":
        yield from _call(chance, write_short_call(chance, shown.focus).before, clock)
        return
    session_id = clock.name("s") if with_session_id else None
    for tags in write_session(chance, shown.focus, world.flipped, SHORT):
        click = Click(clock.user, clock.now_ms, tags, clock.name("c"), session_id)
        yield LiveEvent("clicks", clock.user, _json(click), clock.now_ms, clock.now_ms + 200)
        clock.now_ms += 4 * SECOND_MS + int(chance.uniform() * 50 * SECOND_MS)


def _call(chance: Chance, spoken: Sequence[Spoken], clock: _Clock) -> Iterator[LiveEvent]:
    """A call without a sale: whole, or (one in four) in two pieces."""
    conversation = clock.name("k")
    if chance.happens(0.25):
        half = len(spoken) // 2
        yield _piece(clock, conversation, spoken[:half], 1, final=False)
        yield _piece(clock, conversation, spoken[half:], 2, final=True)
    else:
        yield _piece(clock, conversation, spoken, None, final=None)


def _sale(chance: Chance, shown: Shown, clock: _Clock, pace: Pace) -> Iterator[LiveEvent]:
    """A call in which the user buys: the purchase lies between what was said before and after it."""
    conversation = clock.name("k")
    call = write_short_call(chance, shown.focus, shown.sold)
    if chance.happens(pace.whole_sale):
        bought_ms = clock.now_ms + len(call.before) * _SENTENCE_MS
        whole = _piece(clock, conversation, (*call.before, *call.after), None, final=None)
        clock.now_ms, ended_ms = bought_ms, clock.now_ms
        yield _purchase(chance, clock, shown.sold, pace)
        yield whole
        clock.now_ms = ended_ms
        return
    yield _piece(clock, conversation, call.before, 1, final=False)
    clock.now_ms += SECOND_MS
    yield _purchase(chance, clock, shown.sold, pace)
    clock.now_ms += SECOND_MS
    yield _piece(clock, conversation, call.after, 2, final=True)


def _piece(clock: _Clock, conversation: str, spoken: Sequence[Spoken], piece: int | None, *, final: bool | None) -> LiveEvent:
    start_ms = clock.now_ms
    clock.now_ms += len(spoken) * _SENTENCE_MS
    sentences = tuple(Sentence(speaker, text, start_ms + place * _SENTENCE_MS) for place, (speaker, text) in enumerate(spoken))
    said = Transcript(clock.user, conversation, start_ms, sentences, clock.name("t"), clock.now_ms, piece, final)
    return LiveEvent("transcripts", clock.user, _json(said), clock.now_ms, clock.now_ms + 500)


def _purchase(chance: Chance, clock: _Clock, basket: Sequence[int], pace: Pace) -> LiveEvent:
    late_h = min(chance.exponential(pace.late_h), _MOST_LATE_H) if chance.happens(pace.late_purchases) else 0.0
    bought = Purchase(clock.user, clock.now_ms, tuple(map(str, basket)), clock.name("p"))
    return LiveEvent("purchases", clock.user, _json(bought), clock.now_ms, clock.now_ms + SECOND_MS + int(late_h * HOUR_MS))
