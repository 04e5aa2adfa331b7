"""The 24 items of the synthetic world: names, texts, and where they appear on the website and in calls.

Two items share each page of the website and two share each topic of the calls, but no two share both. So a session alone or a call
alone leaves two candidates, which the other modality, or the order of the clicks, distinguishes. All names are invented.
"""

from typing import Final, NamedTuple

from stream.core.events import Item


class WorldItem(NamedTuple):
    """An item.

    Attributes:
        number: 1 to 24, as in the paper's tables.
        name: as shown.
        text: a description.
        repeatable: whether it can be bought again.
        page: where it appears on the website.
        second: whether it is the second of the two items of its page.
        topic: of the calls about it.
    """

    number: int
    name: str
    text: str
    repeatable: bool
    page: str
    second: bool
    topic: str

    @property
    def item_id(self) -> str:
        return str(self.number)


_ROWS: Final = (
    # number, name, text, repeatable, topic of calls
    (1, "Dental insurance", "Pays for check-ups, fillings and braces.", True, "children"),
    (2, "Child accident insurance", "A lump sum and treatment when a child is hurt.", True, "children"),
    (3, "Motorcycle insurance", "Liability and damage for motorcycles and scooters.", True, "family"),
    (4, "Car insurance", "Liability and damage for your car.", True, "car"),
    (5, "Second home insurance", "Your holiday home against fire, storm and burst pipes.", True, "building"),
    (6, "Travel insurance", "Illness, cancellation and luggage, all over the world.", True, "trip"),
    (7, "Accident insurance", "A lump sum and treatment after an accident.", True, "injury"),
    (8, "House insurance", "Your house against fire, storm and burst pipes.", True, "building"),
    (9, "Horse insurance", "Vet, liability and loss for your horse.", True, "animal"),
    (10, "Boat insurance", "Liability and damage for boats with sail or motor.", True, "weekend"),
    (11, "Valuables insurance", "Jewellery, art and watches beyond the limits of home contents.", False, "papers"),
    (12, "Motor legal aid", "Lawyers and fees in disputes about your vehicle.", False, "papers"),
    (13, "Roadside assistance", "Help on the road, day and night, abroad too.", False, "trip"),
    (14, "Replacement car cover", "A car while yours is being repaired.", False, "car"),
    (15, "Tyre and key cover", "Punctured tyres, damaged rims, lost keys.", False, "scratch"),
    (16, "Glass cover", "Windscreen and windows, repaired or replaced.", False, "scratch"),
    (17, "Driver accident cover", "For you as the driver, whoever was at fault.", False, "injury"),
    (18, "Home contents insurance", "What you own at home, against theft, fire and water.", True, "theft"),
    (19, "Identity theft cover", "Help and costs when somebody uses your name online.", False, "theft"),
    (20, "Critical illness cover", "A lump sum at a serious diagnosis.", False, "doctor"),
    (21, "Life insurance", "A sum for those you leave behind.", True, "family"),
    (22, "Health insurance", "Fast treatment by specialists, physiotherapy, psychologists.", True, "doctor"),
    (23, "Cat insurance", "Vet bills for your cat.", True, "weekend"),
    (24, "Dog insurance", "Vet bills and liability for your dog.", True, "animal"),
)
PAGES: Final[dict[str, tuple[int, int]]] = {
    "home": (18, 8),
    "person": (7, 2),
    "away": (6, 5),
    "online": (19, 11),
    "car": (4, 3),
    "repair": (16, 13),
    "driver": (17, 12),
    "mobility": (14, 15),
    "health": (22, 1),
    "future": (21, 20),
    "pets": (24, 23),
    "leisure": (9, 10),
}
_PAGE_OF: Final = {number: (page, index == 1) for page, pair in PAGES.items() for index, number in enumerate(pair)}
CATALOGUE: Final = tuple(
    WorldItem(number, name, text, again, *_PAGE_OF[number], topic) for number, name, text, again, topic in _ROWS
)
REPEATABLE: Final = frozenset(item.number for item in CATALOGUE if item.repeatable)


def item_of(number: int) -> WorldItem:
    return CATALOGUE[number - 1]


def items() -> list[Item]:
    """Returns the catalogue as events of the topic `items`."""
    return [Item(item.item_id, item.name, item.text, item.repeatable) for item in CATALOGUE]
