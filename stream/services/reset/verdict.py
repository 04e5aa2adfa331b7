"""What a reset deletes, record by record, and what that loses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from stream.core.events import STEP_INPUTS
from stream.core.outputs import Output, decode_example_key
from stream.core.parsing import UNUSABLE
from stream.core.reset import gives_list, loss_of
from stream.core.state import (
    ERASURE_MARKER_PREFIX,
    NEVER_ERASED,
    WATERMARK_PREFIX,
    StatesUnreadableError,
    encode_state,
    erasure_marker_key,
    head_key,
)
from stream.core.watermarks import encode_watermark, watermark_key
from stream.kafka.faust.changelog import term_headers
from stream.services.reset.holdings import EXAMPLES, GIVEN, LISTS, STATES, readable_head
from stream.services.reset.markers import markers_of, require_readable_markers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stream.core.reset import Places
    from stream.services.reset.holdings import Holdings
    from stream.services.reset.target import Target

LOSSES: Final = {"history": "history", "owned": "owned items", "eligibility": "eligibility", "feedback": "feedback"}
"""What users may lose, in words."""
_LEFT_OUT: Final = (ERASURE_MARKER_PREFIX, WATERMARK_PREFIX)


@dataclass
class Counts:
    """What a reset deletes and loses.

    Attributes:
        users: Users with a state.
        markers: Erasure markers, which stay.
        lists: Lists, and of these `lists_gone`, which the inputs do not give again.
        examples: Training examples, and of these `examples_gone`, which they may not.
        losers: Users who lose history, owned items, eligibility or feedback, by that; and `any` of them.
        unreadable: Users whose states cannot be read; what they lose is not known.
        unread: Records that neither a worker nor an encoder has read, or that are in no state, and that are passed over.
    """

    users: int = 0
    markers: int = 0
    lists: int = 0
    lists_gone: int = 0
    examples: int = 0
    examples_gone: int = 0
    losers: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("any", *LOSSES), 0))
    unreadable: int = 0
    unread: int = 0

    @property
    def are_any_lost(self) -> bool:
        return bool(self.losers["any"] or self.unreadable or self.unread)


class Verdict:
    """Judges what an application holds by where its inputs are read again."""

    def __init__(self, holdings: Holdings, target: Target) -> None:
        self._holdings = holdings
        self._target = target
        self._erasure_key = target.settings.step.erasure_key.get_secret_value().encode()
        self._numbers = range(target.settings.topics.partitions)

    def counts(self) -> Counts:
        """What is deleted and lost.

        Raises:
            IsthmusError: the markers have another key, or a later version wrote one.
        """
        counts = Counts()
        for number in self._numbers:
            places = self._places(number)
            for user in self._holdings.users(number):
                counts.users += 1
                self._add_loss(counts, number, user, places)
            counts.markers += sum(1 for _ in self._holdings.items(STATES, number, ERASURE_MARKER_PREFIX))
            counts.lists += sum(1 for _ in self._holdings.items(LISTS, number))
            counts.lists_gone += sum(1 for _ in self.lists(number))
            counts.examples += sum(1 for _ in self._holdings.items(EXAMPLES, number))
            counts.examples_gone += sum(1 for _ in self.examples(number))
        require_readable_markers(self._holdings, self._numbers, self._erasure_key)
        return counts

    def _places(self, number: int) -> Places:
        return self._target.places(number, self._holdings.watermarks(number))

    def _add_loss(self, counts: Counts, number: int, user: bytes, places: Places) -> None:
        max_ahead_ms = self._target.settings.step.max_ahead_s * 1_000
        try:
            loss = loss_of(*self._holdings.known(number, user), places, max_ahead_ms)
        except StatesUnreadableError:
            counts.unreadable += 1
            return
        counts.losers["any"] += any(loss)
        for name, is_lost in loss._asdict().items():
            counts.losers[name] += is_lost

    def lists(self, number: int) -> Iterator[Output]:
        """A tombstone for each list that the inputs do not give again."""
        places = self._places(number)
        for user, _ in self._holdings.items(LISTS, number):
            (stored,) = self._holdings.states(number, [head_key(user)])
            head = readable_head(stored)
            if head is None or not gives_list(head, places):
                yield Output(user, None)

    def examples(self, number: int) -> Iterator[Output]:
        """A tombstone for each training example that they may not give again, and for all of users who were erased."""
        for key, given in self._holdings.items(EXAMPLES, number):
            if given != GIVEN or self._is_erased(number, key):
                yield Output(key, None)

    def _is_erased(self, number: int, example_key: bytes) -> bool:
        try:
            user = decode_example_key(example_key)[0].encode()
        except UNUSABLE:
            return True  # not ours
        head, marker = self._holdings.states(number, [head_key(user), erasure_marker_key(user, self._erasure_key)])
        known = readable_head(head)
        return marker is not None or (known is not None and known.erased_at != NEVER_ERASED)

    def states(self, number: int, now_ms: int) -> Iterator[Output]:
        """The changelog records that leave erasure markers, without applied offsets, and the watermarks of a new beginning.

        The markers come first: some are made of heads, and a reset that is interrupted finds no head again.
        """
        headers = term_headers(self._holdings.term(number) + 1)
        for key, marker in markers_of(self._holdings, number, self._erasure_key, now_ms):
            yield Output(key, encode_state(marker), headers)
        for key, _ in self._holdings.items(STATES, number):
            if not key.startswith(_LEFT_OUT):
                yield Output(key, None, headers)
        stored = self._holdings.watermarks(number)
        watermarks = self._target.watermarks(number, stored)
        yield from (Output(watermark_key(topic), None, headers) for topic in stored.keys() - watermarks.keys())
        for topic, watermark in watermarks.items():
            yield Output(watermark_key(topic), encode_watermark(watermark), headers)


def inputs_of(target: Target) -> list[str]:
    """The names of the inputs that are read again from an earlier place, without what the encoder makes."""
    topics = target.settings.topics
    return [topics.transcripts if row.is_derived else topics.name_of(row.role) for row in STEP_INPUTS]
