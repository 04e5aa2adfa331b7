"""What a replica keeps in memory for the live page: the newest records of the users who were active last.

It sees what the follower reads anyway, the users' changelog and the topic of lists, so the page costs the log nothing. It is made
only where the page is turned on: the records hold tags and keywords, which the store does not keep.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from stream.api.store import Table
from stream.core.records import Record
from stream.core.state import FACTS_PREFIX, HEAD_PREFIX, WATERMARK_PREFIX
from stream.core.watermarks import Watermark

MOST_USERS: Final = 1_000
"""Users whose records are kept: at most some 40 MB, seldom 4."""
_decode_watermark: Final = msgspec.msgpack.Decoder(Watermark).decode


@dataclass(slots=True)
class KeptUser:
    """The newest records of one user.

    Attributes:
        head: As stored; None: not seen yet.
        facts: As stored; None: not seen, or there are none.
        made: The last list, as sent.
        made_seen_ms: When the replica read it.
    """

    head: bytes | None = None
    facts: bytes | None = None
    made: bytes | None = None
    made_seen_ms: int = 0


class LiveFeed:
    """The users who were active last, in the order of their activity, and how much was applied of each input.

    Attributes:
        users: By key.
        applied: Records that the states have come to contain since the replica began, by topic of the input.
        lists: Lists that were read.
    """

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        self.users: OrderedDict[bytes, KeptUser] = OrderedDict()
        self.applied: Counter[str] = Counter()
        self.lists = 0
        self._clock_ms = clock_ms
        self._changed: dict[bytes, None] = {}
        self._gone: dict[bytes, None] = {}
        self._offsets: dict[tuple[str, int], int] = {}

    def saw(self, table: Table, partition: int, record: Record) -> None:
        """Takes one record that the follower read; whatever is in it."""
        key = record.key or b""
        if table is Table.LISTS:
            self._saw_list(key, record.value)
        elif key.startswith(HEAD_PREFIX):
            self._saw_head(key.removeprefix(HEAD_PREFIX), record.value)
        elif key.startswith(FACTS_PREFIX):
            user = key.removeprefix(FACTS_PREFIX)
            if record.value is not None or user in self.users:
                self._kept(user).facts = record.value
        elif key.startswith(WATERMARK_PREFIX) and record.value is not None:
            self._saw_watermark(key.removeprefix(WATERMARK_PREFIX).decode(errors="replace"), partition, record.value)

    def missed(self) -> None:
        """Forgets all users: one of them may have been erased in what was not seen."""
        self.users.clear()
        self._changed.clear()

    def take_changed(self) -> list[bytes]:
        """The users who changed since the last call, in the order of their first change."""
        changed, self._changed = list(self._changed), {}
        return changed

    def take_gone(self) -> list[bytes]:
        """The users who were erased since the last call."""
        gone, self._gone = list(self._gone), {}
        return gone

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The kept records of these state keys, as `stream.core.user_state.StateStore` gives them."""
        return [self._record(key) for key in keys]

    def _record(self, key: bytes) -> bytes | None:
        kept = self.users.get(key[1:])
        if kept is None:
            return None
        return {HEAD_PREFIX: kept.head, FACTS_PREFIX: kept.facts}.get(key[:1])

    def _kept(self, user: bytes) -> KeptUser:
        kept = self.users.setdefault(user, KeptUser())
        self.users.move_to_end(user)
        if len(self.users) > MOST_USERS:
            self.users.popitem(last=False)
        return kept

    def _saw_list(self, user: bytes, value: bytes | None) -> None:
        if value is None and user not in self.users:
            return
        kept = self._kept(user)
        kept.made, kept.made_seen_ms = value, self._clock_ms()
        self.lists += value is not None
        self._note_change(user)

    def _saw_head(self, user: bytes, value: bytes | None) -> None:
        if value is None:
            self.users.pop(user, None)
            self._changed.pop(user, None)
            self._gone[user] = None
            _bound(self._gone)
            return
        self._gone.pop(user, None)
        self._kept(user).head = value
        self._note_change(user)

    def _note_change(self, user: bytes) -> None:
        self._changed[user] = None
        _bound(self._changed)

    def _saw_watermark(self, topic: str, partition: int, value: bytes) -> None:
        try:
            offset = _decode_watermark(value).offset
        except msgspec.MsgspecError:
            return
        former = self._offsets.get((topic, partition), offset)
        self._offsets[topic, partition] = offset
        self.applied[topic] += max(0, offset - former)


def _bound(users: dict[bytes, None]) -> None:
    """Forgets the first where nobody takes them."""
    if len(users) > MOST_USERS:
        del users[next(iter(users))]


def rates(before: Mapping[str, int], now: Mapping[str, int], seconds: float, kinds: Collection[str]) -> dict[str, float]:
    """Records a second, by topic."""
    return {kind: round((now.get(kind, 0) - before.get(kind, 0)) / seconds, 1) if seconds > 0 else 0.0 for kind in kinds}
