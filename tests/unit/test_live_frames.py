"""What the live page shows of users, from the records that a replica follows."""

import pytest

from models.popular import Popular
from stream.api import live_feed, live_users
from stream.api.answers import ListAnswer, Popularity
from stream.api.live_bodies import Followed, Frame
from stream.api.live_feed import LiveFeed
from stream.api.live_frames import MOST_CHANGED, FrameMaker
from stream.api.live_users import Scene
from stream.api.store import Table
from stream.core.events import Click, Erasure, Purchase, Source, UserEvent
from stream.core.interactions import Interaction
from stream.core.outputs import ModelName
from stream.core.ranking import Ranker
from stream.core.records import PlainRecord
from stream.core.state import encode_state
from stream.core.watermarks import Watermark, watermark_key
from tests import world
from tests.world import MINUTE, NOW

KINDS = {"web-clicks": "click", "encoded-calls": "call"}
HOUR = 60 * MINUTE


class Page:
    """Users whose events go through the step, the feed that sees what it writes, and the frames made of it."""

    def __init__(self, ranker: Ranker | None = None) -> None:
        self.store, self.feed = world.Store(), LiveFeed(lambda: NOW + 70)
        self.maker = FrameMaker(self.feed, KINDS)  # type: ignore[arg-type]
        self.ranker = world.OrderRanker() if ranker is None else ranker
        self.champion: Popularity | None = None
        self.offset = 0

    def event(self, source: Source, event: UserEvent) -> None:
        self.offset += 1
        outcome = world.run(self.store, world.batch_of(source, [(self.offset, event)]), self.ranker, config=world.settings())
        for output in outcome.recommendations:
            self.feed.saw(Table.LISTS, 0, PlainRecord(0, NOW, output.key, output.value))
        for key, value in outcome.writes.items():
            self.feed.saw(Table.STATES, 0, PlainRecord(0, NOW, key, value))

    def click(self, user: str, at: int, *tags: str) -> None:
        self.event(Source.CLICK, Click(user, at, tags or ("home",)))

    def call(self, user: str, at: int) -> None:
        self.event(Source.CALL, world.call(f"k{at}", at, at + MINUTE, user=user, offset=self.offset + 1))

    def scene(self) -> Scene:
        ranker = self.ranker
        if self.champion is None or self.champion.ranker is not ranker:
            self.champion = Popularity(ModelName("order", ranker.version), ranker.items, ranker.prior, ranker)
        return self.maker.scene(world.catalogue(), self.champion, list(self.feed.users))

    def frame(self, at_s: float = 0.0) -> Frame:
        return self.maker.frame(self.scene(), NOW + 70, at_s, self.feed.take_changed(), self.feed.take_gone())

    def followed(self, user: str = "u") -> Followed:
        return self.maker.followed(self.scene(), user, ListAnswer(items=(), age_s=0))


@pytest.fixture
def page() -> Page:
    return Page()


def interactions(page: Page, user: str) -> list[Interaction]:
    (found,) = live_users.decoded(page.scene(), [user.encode()])
    return list(found.load_interactions())


def test_a_users_dot_is_what_encoding_the_whole_history_gives(page: Page) -> None:
    """However much of it is cached in the head, and for clicks and calls alike."""
    for number in range(6):
        page.click("u", NOW - 10 * HOUR + number * HOUR, "dog", f"page-{number}")
        page.call("u", NOW - 10 * HOUR + number * HOUR + 10 * MINUTE)
    (dot,) = page.frame().dots
    scene = page.scene()
    assert scene.space is not None
    history = interactions(page, "u")[-10:]
    expected = scene.space.place(page.ranker.rank_many(page.ranker.encode_many([history])))
    assert (dot.x, dot.y) == pytest.approx(expected[0], abs=2e-3)
    assert (dot.sessions, dot.conversations, dot.by) == (5, 5, "call")


def test_a_frame_tells_who_did_what_and_how_old_lists_are(page: Page) -> None:
    """Words of clicks, calls and purchases; the list's age is from the event's arrival to the list's arrival here."""
    page.click("u", NOW - HOUR, "pets", "dog")
    page.call("v", NOW - HOUR)
    page.click("w", NOW - HOUR)
    page.event(Source.PURCHASE, Purchase("w", NOW - MINUTE, ("item-3",)))
    frame = page.frame()
    assert {(one.user, one.kind, one.what) for one in frame.happened} == {
        ("u", "click", ("pets", "dog")),
        ("v", "call", ("word0",)),
        ("w", "purchase", ("item-3",)),
    }
    assert frame.freshness_ms == 70
    assert {dot.user: dot.by for dot in frame.dots} == {"u": "click", "v": "call", "w": "purchase"}
    assert page.frame().dots == ()
    page.feed.saw(Table.STATES, 0, PlainRecord(0, NOW, b"hu", page.store.records[b"hu"]))
    later = page.frame()
    assert [dot.user for dot in later.dots] == ["u"]
    assert later.freshness_ms is None  # the list has been counted


def test_an_erased_user_leaves_the_page_and_the_memory(page: Page) -> None:
    """Dots, records and lists."""
    page.click("u", NOW - HOUR)
    page.frame()
    page.event(Source.ERASURE, Erasure("u", NOW))
    assert page.frame().gone == ("u",)
    assert not page.feed.users
    assert page.maker.picture(page.scene()).dots == ()
    assert page.followed().steps == ()


@pytest.mark.parametrize("others", [0, live_feed.MOST_USERS])
def test_a_user_who_was_erased_while_nobody_watched_leaves_the_page(page: Page, others: int) -> None:
    """Also if more were erased since than the feed names."""
    page.click("u", NOW - HOUR)
    page.frame()
    for user in ["u", *(f"v{number}" for number in range(others))]:
        page.feed.saw(Table.STATES, 0, PlainRecord(0, NOW, b"h" + user.encode(), None))
    assert page.maker.picture(page.scene()).dots == ()
    assert "u" in page.frame().gone


def test_users_leave_the_page_where_another_replica_may_have_read_that_they_were_erased(page: Page) -> None:
    page.click("u", NOW - HOUR)
    page.frame()
    page.feed.missed()
    assert page.frame().gone == ("u",)
    assert page.followed().steps == ()


def test_the_way_leads_from_nothing_to_the_dot_and_says_what_rose(page: Page) -> None:
    """One step for each interaction, in order of time, with purchases between them."""
    page.click("u", NOW - 5 * HOUR, "pets", "dog")
    page.event(Source.PURCHASE, Purchase("u", NOW - 4 * HOUR, ("item-1",)))
    page.call("u", NOW - 3 * HOUR)
    (dot,) = page.frame().dots
    followed = page.followed()
    assert [step.kind for step in followed.steps] == ["click", "purchase", "call"]
    assert [step.what for step in followed.steps] == [("pets", "dog"), ("item-1",), ("word0",)]
    assert followed.steps[-1].place == pytest.approx((dot.x, dot.y), abs=2e-3)
    assert followed.steps[1].place is None
    assert followed.start is not None
    moves = [move for step in followed.steps for move in step.rose]
    assert moves
    assert all(move.after < move.before for move in moves)
    assert "item-1" not in {move.item for move in moves}  # owned, and not repeatable


def test_a_new_model_draws_those_whose_history_is_known(page: Page) -> None:
    """Another version encoded the rest of the others: they return with their next event that brings it."""
    for user in ("u", "v"):
        for number in range(3):
            page.click(user, NOW - 9 * HOUR + number * HOUR)
    page.feed.users[b"v"].facts = None
    page.ranker = world.OrderRanker(version="2", seed=2)
    picture = page.maker.picture(page.scene())
    assert (picture.version, {dot.user for dot in picture.dots}) == ("2", {"u"})


def test_popularity_has_no_map_and_before_the_first_model_there_is_none() -> None:
    """Events are told all the same."""
    prior = world.OrderRanker().prior
    page = Page(Popular("1", "popular", world.ITEMS, prior))
    page.click("u", NOW - HOUR)
    frame = page.frame()
    assert (frame.dots, len(frame.happened)) == ((), 1)
    assert page.maker.picture(page.scene()).items == ()
    assert page.followed().steps[0].place is None
    scene = FrameMaker(page.feed, {}).scene(world.catalogue(), None, [])
    assert (scene.ranker, scene.space) == (None, None)


def test_memory_and_work_are_bounded(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """The users who were active last are kept, and a frame looks at the newest of those who changed."""
    monkeypatch.setattr(live_feed, "MOST_USERS", 100)
    for number in range(120):
        page.click(f"u{number}", NOW - HOUR)
    assert list(page.feed.users) == [f"u{number}".encode() for number in range(20, 120)]
    frame = page.frame()
    assert [dot.user for dot in frame.dots] == [f"u{number}" for number in range(120 - MOST_CHANGED, 120)]
    assert len(frame.happened) == 4


def test_records_that_cannot_be_read_cost_their_user_alone(page: Page) -> None:
    """Heads, facts, lists and watermarks of a later version."""
    page.click("u", NOW - HOUR)
    for key in (b"hbad", b"fbad", b"h\xff", b"wweb-clicks"):
        page.feed.saw(Table.STATES, 0, PlainRecord(0, NOW, key, b"\xc1"))
    page.feed.saw(Table.LISTS, 0, PlainRecord(0, NOW, b"bad", b"{"))
    page.feed.saw(Table.STATES, 0, PlainRecord(0, NOW, None, b""))
    assert [dot.user for dot in page.frame().dots] == ["u"]
    assert page.followed("bad").steps == ()


def test_rates_follow_the_watermarks_of_the_inputs(page: Page) -> None:
    """Offsets that the states have come to contain, by kind; an input that was recreated counts from its new beginning."""

    def applied(offset: int, topic: str = "web-clicks", partition: int = 0) -> None:
        value = encode_state(Watermark(1, 1, offset, NOW))
        page.feed.saw(Table.STATES, partition, PlainRecord(0, NOW, watermark_key(topic), value))

    applied(100)
    applied(7, partition=1)
    assert page.frame(at_s=10.0).per_s == {"click": 0.0, "call": 0.0}
    applied(150)
    applied(17, partition=1)
    applied(3, "feedback")
    assert page.frame(at_s=12.0).per_s == {"click": 30.0, "call": 0.0}
    applied(4)
    assert page.frame(at_s=12.0).per_s == {"click": 30.0, "call": 0.0}
