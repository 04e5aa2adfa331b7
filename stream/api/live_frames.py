"""What the live page shows at one moment, from the records that the feed keeps: frames, the map, and one user's way."""

import statistics
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from stream.api import live_users
from stream.api.answers import ListAnswer, Popularity, decode_list
from stream.api.live_bodies import Dot, Followed, Frame, Happened, Kind, Picture, PlacedItem
from stream.api.live_feed import LiveFeed, rates
from stream.api.live_map import SpaceMap
from stream.api.live_users import Scene
from stream.core.ranking import Catalogue
from stream.core.state import StatesUnreadableError
from stream.core.user_state import UserState

MOST_DOTS: Final = 400
"""Users on the map."""
MOST_CHANGED: Final = 80
"""Users that a frame looks at: the newest of those who changed, so that a frame costs the same whatever the traffic."""
_RATE_FRAMES: Final = 10
_HAPPENED: Final = 4
_MOST_VERSIONS: Final = 50


class _Moment(NamedTuple):
    at_s: float
    applied: Mapping[str, int]
    lists: int


class FrameMaker:
    """Makes the frames of one replica. Not thread safe: one frame at a time.

    Attributes:
        names: Systems by model version, of the lists that were seen.
    """

    def __init__(self, feed: LiveFeed, kinds: Mapping[str, Kind]) -> None:
        """`kinds` of events by input topic."""
        self._feed = feed
        self._kinds = kinds
        self._dots: OrderedDict[str, Dot] = OrderedDict()
        self._moments: deque[_Moment] = deque(maxlen=_RATE_FRAMES)
        self._drawn: Popularity | None = None
        self._space: SpaceMap | None = None
        self._framed_ms = 0
        self.names: dict[str, str] = {}

    def begin(self) -> None:
        """Forgets rates: nobody watched meanwhile."""
        self._moments.clear()

    def scene(self, catalogue: Catalogue, champion: Popularity | None, keys: Sequence[bytes]) -> Scene:
        """The scene with this champion. Where it is a new one, the map is drawn anew for the users `keys`."""
        ranker = None if champion is None else champion.ranker
        if champion is not self._drawn:
            self._drawn = champion
            self._space = None if ranker is None or not ranker.width else SpaceMap(ranker, self._space)
            self._dots.clear()
            scene = Scene(self._feed, catalogue, ranker, self._space)
            self._place(scene, live_users.decoded(scene, keys[-MOST_DOTS:]))
        return Scene(self._feed, catalogue, ranker, self._space)

    def frame(self, scene: Scene, now_ms: int, at_s: float, changed: Sequence[bytes], gone: Sequence[bytes]) -> Frame:
        """What changed since the last one."""
        forgotten = [user for user in self._dots if not self._is_kept(user)]
        left = tuple(dict.fromkeys([*(user.decode(errors="replace") for user in gone), *forgotten]))
        for user in left:
            self._dots.pop(user, None)
        users = live_users.decoded(scene, changed[-MOST_CHANGED:])
        happened = _happened(scene, users)
        kinds = {one.user: one.kind for one in happened}
        moment = _Moment(at_s, dict(self._feed.applied), self._feed.lists)
        self._moments.append(moment)
        first = self._moments[0]
        seconds = moment.at_s - first.at_s
        return Frame(
            now=now_ms,
            per_s={self._kinds[topic]: rate for topic, rate in rates(first.applied, moment.applied, seconds, self._kinds).items()},
            lists_per_s=rates({"": first.lists}, {"": moment.lists}, seconds, [""])[""],
            freshness_ms=self._freshness(changed[-MOST_CHANGED:], now_ms),
            dots=tuple(msgspec.structs.replace(dot, by=kinds.get(dot.user)) for dot in self._place(scene, users)),
            happened=tuple(_sample(happened)),
            gone=left,
        )

    def picture(self, scene: Scene) -> Picture:
        """The map with all its users."""
        champion, space = self._drawn, self._space
        items = [] if space is None else zip(space.items, space.places, strict=True)
        return Picture(
            model="" if champion is None else champion.model.name,
            version="" if champion is None else champion.model.version,
            published_at=0 if champion is None else champion.published_at,
            items=tuple(PlacedItem(item, live_users.name_of(scene.catalogue, item), x, y) for item, (x, y) in items),
            dots=tuple(dot for user, dot in self._dots.items() if self._is_kept(user)),
        )

    def _is_kept(self, user: str) -> bool:
        """Whether the feed still has the user. It forgets more than it says: who was erased while nobody watched, for one."""
        return user.encode() in self._feed.users

    def followed(self, scene: Scene, user: str, offered: ListAnswer) -> Followed:
        """A user's list and way."""
        steps, start = live_users.way(scene, user.encode())
        return Followed(user=user, list=offered, steps=tuple(steps), start=start)

    def _place(self, scene: Scene, users: Sequence[UserState]) -> list[Dot]:
        placed = live_users.dots(scene, users)
        for dot in placed:
            self._dots[dot.user] = dot
            self._dots.move_to_end(dot.user)
        while len(self._dots) > MOST_DOTS:
            self._dots.popitem(last=False)
        return placed

    def _freshness(self, changed: Sequence[bytes], now_ms: int) -> int | None:
        """Of the lists that came since the last frame; also notes the names of model versions."""
        took = []
        since_ms, self._framed_ms = self._framed_ms, now_ms
        for user in changed:
            kept = self._feed.users.get(user)
            if kept is None or kept.made is None or kept.made_seen_ms <= since_ms:
                continue
            try:
                made = decode_list(kept.made)
            except msgspec.MsgspecError:
                continue
            took.append(kept.made_seen_ms - made.occurred_at)
            if len(self.names) < _MOST_VERSIONS:
                self.names[made.model.version] = made.model.name
        return max(0, int(statistics.median(took))) if took else None


def _happened(scene: Scene, users: Sequence[UserState]) -> list[Happened]:
    """What the users did last, newest first."""
    found = []
    for user in reversed(users):
        try:
            happened = live_users.newest(scene, user)
        except StatesUnreadableError:
            continue
        if happened is not None:
            found.append(happened)
    return found


def _sample(happened: Sequence[Happened]) -> list[Happened]:
    """The rarest kinds first, so that they are seen beside the many clicks."""
    newest = {one.kind: one for one in reversed(happened)}
    chosen = [newest[kind] for kind in ("purchase", "call", "click") if kind in newest]
    return [*chosen, *(one for one in happened if one not in chosen)][:_HAPPENED]
