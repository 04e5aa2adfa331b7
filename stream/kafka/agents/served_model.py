"""What a worker recommends with."""

from dataclasses import dataclass, field

from stream.core.ranking import Catalogue, Ranker


@dataclass
class ServedModel:
    """The followers assign it; every batch reads it once.

    Attributes:
        ranker: The champion; None: no model was loaded yet.
        catalogue: The items that may be recommended.
    """

    ranker: Ranker | None = None
    catalogue: Catalogue = field(default_factory=Catalogue)
