"""Writes a session: the action tags of its clicks, given what the user has in mind.

Both items of a page leave the same tags; only the order of two consecutive clicks distinguishes them (cover, then price, or the
reverse). The other clicks of a session are everyday ones: start, login, claims, search.
"""

from dataclasses import dataclass
from typing import Final

from training.datasets.synthetic.catalogue import PAGES, item_of
from training.datasets.synthetic.random_draws import Cumulative, RandomDraws, cumulative

Tags = tuple[str, ...]

ORDERED: Final = 0.85  # share of a focused session's click pairs in their item's order; the rest are reversed
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
_COMMON: Final = cumulative([1 / (rank + 2) for rank in range(len(_EVERYDAY))])  # some clicks are far more frequent than others
_ASIDE: Final = (("terms", "open"), ("terms", "download"), ("questions", "view"), ("examples", "view"), ("start", "scroll"))


@dataclass(frozen=True, slots=True)
class Length:
    """How long sessions are.

    Attributes:
        before: odds of one more everyday click at the beginning, and the maximum.
        pairs: cumulative shares of one, two ... informative pairs of clicks.
        after: odds of one more everyday click at the end, and the maximum.
        stray: share of focused sessions that also visit another page.
        least: the minimum number of clicks without a focus.
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
    """The clicks of one page: entry, the informative pair, and uninformative ones."""

    __slots__ = ("asides", "cover", "entry", "price")

    def __init__(self, page: str) -> None:
        self.entry: Tags = ("products", page, "view")
        self.cover: Tags = ("products", f"{page}-cover", "select")
        self.price: Tags = ("price", f"{page}-price", "calculate")
        self.asides: tuple[Tags, ...] = tuple(("products", f"{page}-{thing}", kind) for thing, kind in _ASIDE)


_PAGES: Final = {page: _Page(page) for page in PAGES}


def all_tags() -> set[str]:
    """Returns every action tag of the website."""
    clicks = [*_EVERYDAY]
    for page in _PAGES.values():
        clicks += [page.entry, page.cover, page.price, *page.asides]
    return {tag for click in clicks for tag in click}


def write_session(draws: RandomDraws, focus: int | None, flipped: frozenset[str], length: Length = FULL) -> list[Tags]:
    """Returns the clicks of a user who has item `focus` in mind (None: no item); at full length seldom more than 20.

    `flipped` are the world's pages on which the first item is shown by its price before its cover.
    """
    clicks = [_everyday(draws) for _ in range(draws.run_length(*length.before))]
    if focus is None:
        return clicks + [_everyday(draws) for _ in range(length.least - len(clicks))]
    item = item_of(focus)
    page = _PAGES[item.page]
    clicks.append(page.entry)
    for _ in range(1 + draws.pick(length.pairs)):
        cover_first = (item.second == (item.page in flipped)) == draws.happens(ORDERED)
        clicks += (page.cover, page.price) if cover_first else (page.price, page.cover)
        clicks.append(draws.one_of(page.asides) if draws.happens(0.6) else _everyday(draws))
    if draws.happens(length.stray):
        other = draws.one_of(tuple(_PAGES.values()))
        clicks.insert(draws.below(2), other.entry)
        clicks.insert(0, draws.one_of(other.asides))
    clicks += [_everyday(draws) for _ in range(draws.run_length(*length.after))]
    return clicks


def _everyday(draws: RandomDraws) -> Tags:
    return _EVERYDAY[draws.pick(_COMMON)]
