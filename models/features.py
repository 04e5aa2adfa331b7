"""What networks read of interactions: bags of tokens (each kind with its vocabulary), sentence vectors, and which are calls.

One reading for serving and training alike: `Featurizer.read` turns interactions into flat arrays once, `Features.inputs` gathers
any of them as tensors without a loop. What a network makes of them is its own affair.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.click_tokens import ClickTokenizer, click_tokenizer, clicks_of
from models.vocabulary import Vocabulary, vocabulary_of
from stream.core.interactions import Conversation, Interaction, Session

Places = NDArray[np.int64]


def _tags(one: Interaction) -> Sequence[str]:
    return one.tags if isinstance(one, Session) else ()


def _keywords(one: Interaction) -> Sequence[str]:
    return one.keywords if isinstance(one, Conversation) else ()


def _words(one: Interaction) -> Sequence[str]:
    return one.tags if isinstance(one, Session) else one.keywords


TOKENS: Final[Mapping[str, Callable[[Interaction], Sequence[str]]]] = {
    "clicks": clicks_of,  # a session's: which tags came together; read by way of its tags
    "tags": _tags,  # a session's, united over its clicks (the paper's max-pooling)
    "keywords": _keywords,  # a conversation's, united over its sentences
    "words": _words,  # both in one vocabulary: a tag and a keyword of one name are one token
}
"""The kinds of bags: what an interaction's tokens of each kind are."""


class Bag(NamedTuple):
    """One kind of tokens of n interactions: `places` in the vocabulary, one interaction after another; `offsets` (n + 1,)."""

    places: Tensor
    offsets: Tensor


@dataclass(frozen=True)
class FeatureBatch:
    """n interactions as networks see them. `texts` (m, width) are the vectors of the conversations among them, `text_rows` (m,)
    says which those are; `is_text` (n, 1) and `sentences` (n, 1) as float, 0 for sessions.
    """

    bags: Mapping[str, Bag]
    texts: Tensor
    text_rows: Tensor
    is_text: Tensor
    sentences: Tensor

    def __len__(self) -> int:
        return len(self.is_text)


@dataclass(frozen=True)
class Features:
    """N interactions as flat arrays. `bags`: kind -> (places, starts (N + 1,)); `tokens`: kind -> how many are known; `text` (N,)
    is the row in `texts` (m, width), -1 for sessions; `sentences` (N,).
    """

    bags: Mapping[str, tuple[Places, Places]]
    tokens: Mapping[str, int]
    texts: NDArray[np.float32]
    text: Places
    sentences: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.text)

    def inputs(self, chosen: Places | None = None, device: torch.device | None = None) -> FeatureBatch:
        """All interactions, or those at the places `chosen`, in that order."""
        text = self.text if chosen is None else self.text[chosen]
        sentences = self.sentences if chosen is None else self.sentences[chosen]
        is_text = text >= 0
        texts = self.texts if chosen is None else self.texts[text[is_text]]

        def tensor(array: NDArray[np.generic]) -> Tensor:
            made = torch.from_numpy(array)
            return made if device is None else made.to(device)

        bags = {}
        for kind, (places, starts) in self.bags.items():
            if chosen is not None:
                lengths = starts[chosen + 1] - starts[chosen]
                places = places[spans(starts[chosen], lengths)]  # noqa: PLW2901
                starts = np.concatenate([[0], np.cumsum(lengths)])  # noqa: PLW2901
            bags[kind] = Bag(tensor(places), tensor(starts))
        return FeatureBatch(
            bags=bags,
            texts=tensor(texts),
            text_rows=tensor(is_text.nonzero()[0]),
            is_text=tensor(is_text.astype(np.float32)[:, None]),
            sentences=tensor(sentences[:, None]),
        )


@dataclass(frozen=True)
class Featurizer:
    """Reads interactions for one network. `text_width` is the sentence vectors' size, 0 where the network reads none."""

    vocabularies: Mapping[str, Vocabulary]
    text_width: int = 0
    _clicks: ClickTokenizer | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        known = self.vocabularies
        object.__setattr__(self, "_clicks", click_tokenizer(known["clicks"], known["tags"]) if "clicks" in known else None)

    def read(self, interactions: Sequence[Interaction]) -> Features:
        found = {
            kind: _places(map(TOKENS[kind], interactions), known) for kind, known in self.vocabularies.items() if kind != "clicks"
        }
        bags = {kind: _known(*one) for kind, one in found.items()}
        if self._clicks is not None:
            bags["clicks"] = _click_bag(self._clicks, interactions, *found["tags"])
        is_text = np.array([isinstance(one, Conversation) for one in interactions], dtype=np.bool_)
        texts = [one.vector() for one in interactions if isinstance(one, Conversation)] if self.text_width else []
        return Features(
            bags=bags,
            tokens={kind: len(known) for kind, known in self.vocabularies.items()},
            texts=np.stack(texts) if texts else np.zeros((int(is_text.sum()), self.text_width), dtype=np.float32),
            text=np.where(is_text, np.cumsum(is_text) - 1, -1),
            sentences=np.array([one.sentences if isinstance(one, Conversation) else 0 for one in interactions], dtype=np.float32),
        )


def fit_featurizer(kinds: Sequence[str], *, texts: bool, interactions: Sequence[Interaction]) -> Featurizer:
    """A reader for what a network reads, its vocabularies and vector size those of the training interactions."""
    vocabularies = {kind: vocabulary_of(map(TOKENS[kind], interactions)) for kind in kinds}
    width = next((len(one.vector()) for one in interactions if isinstance(one, Conversation)), 0) if texts else 0
    return Featurizer(vocabularies, width)


def _places(bags: "map[Sequence[str]]", vocabulary: Vocabulary) -> tuple[Places, Places]:
    """The places of all bags' tokens, -1 for unknown ones, and where each bag starts, (n + 1,)."""
    places: list[int] = []
    starts = [0]
    for tokens in bags:
        places += vocabulary.places(tokens)
        starts.append(len(places))
    return np.array(places, dtype=np.int64), np.array(starts, dtype=np.int64)


def _known(places: Places, starts: Places) -> tuple[Places, Places]:
    """The bags without unknown tokens."""
    known = places >= 0
    if known.all():
        return places, starts
    return places[known], np.concatenate([[0], np.cumsum(known)])[starts]


def _click_bag(reader: ClickTokenizer, interactions: Sequence[Interaction], tags: Places, starts: Places) -> tuple[Places, Places]:
    """The known clicks of each interaction, none for conversations."""
    rows = [row for row, one in enumerate(interactions) if isinstance(one, Session)]
    sessions = [one for one in interactions if isinstance(one, Session)]
    whose, places = reader.read(sessions, tags, starts[rows])
    counts = np.zeros(len(interactions), dtype=np.int64)
    counts[rows] = np.bincount(whose, minlength=len(rows))
    return places, np.concatenate([[0], np.cumsum(counts)])


def spans(starts: Places, lengths: Places) -> Places:
    """The places start, start + 1 ... of each span, one after another.

    >>> spans(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    ends = np.cumsum(lengths)
    places: Places = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)
    return places
