"""Writes a session: the action tags of its clicks, given what the user has in mind.

Both items of a page leave the same tags; which of the two it was shows only in the order of two consecutive clicks (cover, then
price, or the other way round). What a session holds beside that is the website's everyday: start, login, claims, search.
"""

from dataclasses import dataclass
from typing import Final

from training.datasets.synthetic.catalogue import PAGES, item_of
from training.datasets.synthetic.chance import Chance, Cumulative, cumulative

Tags = tuple[str, ...]

ORDERED: Final = 0.85  # of a focused session's click pairs stand in their item's order; the rest the other way round
_EVERYDAY: Final[tuple[Tags, ...]] = tuple(
    (section, thing, kind)
    for section, thing, kinds in (
        ("start", "front-page", ("view", "scroll")),
        ("start", "news", ("view", "open")),
        ("account", "login", ("submit", "view")),
        ("account", "overview", ("view", "scroll")),
        ("account", "address", ("view", "submit")),
        ("account", "payment", ("view", "submit")),
        ("documents", "policy", ("open", "download")),
        ("documents", "invoice", ("open", "download")),
        ("claims", "report", ("view", "submit")),
        ("claims", "status", ("view",)),
        ("help", "contact", ("view", "call")),
        ("help", "chat", ("open",)),
        ("help", "opening-hours", ("view",)),
        ("search", "box", ("input", "submit")),
        ("search", "results", ("view", "open")),
        ("offers", "bundle", ("view", "compare")),
        ("offers", "newsletter", ("submit",)),
    )
    for kind in kinds
)
_COMMON: Final = cumulative([1 / (place + 2) for place in range(len(_EVERYDAY))])  # some clicks are far more frequent than others
_ASIDE: Final = (("terms", "open"), ("terms", "download"), ("questions", "view"), ("examples", "view"), ("start", "scroll"))


@dataclass(frozen=True, slots=True)
class Length:
    """How long sessions are. `before` and `after`: odds of one more everyday click there, and the most.

    `pairs`: cumulative shares of one, two ... telling pairs of clicks. `stray`: of focused sessions also look at some other page.
    """

    before: tuple[float, int]
    pairs: Cumulative
    after: tuple[float, int]
    stray: float
    least: int


FULL: Final = Length((0.5, 6), cumulative((0.55, 0.3, 0.15)), (0.35, 4), 0.15, 1)
SHORT: Final = Length((0.25, 1), cumulative((0.55, 0.45)), (0.0, 0), 0.0, 3)
"""3 to 8 clicks."""


class _Page:
    """The clicks of one page: entry, the two of the telling pair, and those that tell nothing."""

    __slots__ = ("asides", "cover", "entry", "price")

    def __init__(self, page: str) -> None:
        self.entry: Tags = ("products", page, "view")
        self.cover: Tags = ("products", f"{page}-cover", "select")
        self.price: Tags = ("price", f"{page}-price", "calculate")
        self.asides: tuple[Tags, ...] = tuple(("products", f"{page}-{thing}", kind) for thing, kind in _ASIDE)


_PAGES: Final = {page: _Page(page) for page in PAGES}


def all_tags() -> set[str]:
    """Every action tag that the website has."""
    clicks = [*_EVERYDAY]
    for page in _PAGES.values():
        clicks += [page.entry, page.cover, page.price, *page.asides]
    return {tag for click in clicks for tag in click}


def write_session(chance: Chance, focus: int | None, flipped: frozenset[str], length: Length = FULL) -> list[Tags]:
    """The clicks of a user who thinks of item `focus` (None: of nothing that is sold). In full length seldom more than 20.

    `flipped` are the world's pages on which the first item is the one whose price comes before its cover.
    """
    clicks = [_everyday(chance) for _ in range(chance.more(*length.before))]
    if focus is None:
        return clicks + [_everyday(chance) for _ in range(length.least - len(clicks))]
    item = item_of(focus)
    page = _PAGES[item.page]
    clicks.append(page.entry)
    for _ in range(1 + chance.pick(length.pairs)):
        cover_first = (item.second == (item.page in flipped)) == chance.happens(ORDERED)
        clicks += (page.cover, page.price) if cover_first else (page.price, page.cover)
        clicks.append(chance.one_of(page.asides) if chance.happens(0.6) else _everyday(chance))
    if chance.happens(length.stray):
        other = chance.one_of(tuple(_PAGES.values()))
        clicks.insert(chance.below(2), other.entry)
        clicks.insert(0, chance.one_of(other.asides))
    clicks += [_everyday(chance) for _ in range(chance.more(*length.after))]
    return clicks


def _everyday(chance: Chance) -> Tags:
    return _EVERYDAY[chance.pick(_COMMON)]
