"""What networks read of interactions: bags of tokens (each field with its vocabulary) and sentence vectors.

Serving and training share this code: `Featurizer.featurize` turns interactions into flat arrays once, and `Features.batch` gathers
any of them as tensors without a Python loop.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.click_tokens import ClickTokenizer, click_tokenizer, clicks_of
from models.vocabulary import Indices, Vocabulary, fit_vocabulary
from stream.core.interactions import Conversation, Interaction, Session


def _tags(interaction: Interaction) -> Sequence[str]:
    return interaction.tags if isinstance(interaction, Session) else ()


def _keywords(interaction: Interaction) -> Sequence[str]:
    return interaction.keywords if isinstance(interaction, Conversation) else ()


def _words(interaction: Interaction) -> Sequence[str]:
    return interaction.tags if isinstance(interaction, Session) else interaction.keywords


TOKENS: Final[Mapping[str, Callable[[Interaction], Sequence[str]]]] = {
    "clicks": clicks_of,  # sessions: which tags occurred together; tokenized from the tags
    "tags": _tags,  # sessions: union over the clicks (the paper's max-pooling)
    "keywords": _keywords,  # conversations: union over the sentences
    "words": _words,  # both in one vocabulary: a tag and a keyword of the same name are one token
}
"""Token field -> the tokens of an interaction in that field."""


class Bag(NamedTuple):
    """The tokens of n interactions in one field.

    Attributes:
        indices: into the vocabulary, one interaction after another.
        offsets: (n + 1,) where each interaction's indices begin, and the end.
    """

    indices: Tensor
    offsets: Tensor


@dataclass(frozen=True)
class FeatureBatch:
    """n interactions as tensors, m of them conversations.

    Attributes:
        bags: by token field.
        texts: (m, width) the mean sentence vector of each conversation.
        text_rows: (m,) which of the interactions those are.
        is_text: (n, 1) float, 1 for conversations and 0 for sessions.
        sentences: (n, 1) float, the number of sentences; 0 for sessions.
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
    """N interactions as flat arrays, m of them conversations.

    Attributes:
        bags: token field -> (vocabulary indices, where each interaction's begin (N + 1,)).
        vocabulary_sizes: token field -> how many tokens are known.
        texts: (m, width) the mean sentence vector of each conversation.
        text_index: (N,) row in `texts`, -1 for sessions.
        sentences: (N,) the number of sentences; 0 for sessions.
    """

    bags: Mapping[str, tuple[Indices, Indices]]
    vocabulary_sizes: Mapping[str, int]
    texts: NDArray[np.float32]
    text_index: Indices
    sentences: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.text_index)

    def batch(self, chosen: Indices | None = None, device: torch.device | None = None) -> FeatureBatch:
        """Returns all interactions as tensors, or those at the indices `chosen`, in that order."""
        text_index = self.text_index if chosen is None else self.text_index[chosen]
        sentences = self.sentences if chosen is None else self.sentences[chosen]
        is_text = text_index >= 0
        texts = self.texts if chosen is None else self.texts[text_index[is_text]]

        def tensor(array: NDArray[np.generic]) -> Tensor:
            on_cpu = torch.from_numpy(array)
            return on_cpu if device is None else on_cpu.to(device)

        bags = {}
        for name, (indices, starts) in self.bags.items():
            if chosen is not None:
                lengths = starts[chosen + 1] - starts[chosen]
                indices = indices[spans(starts[chosen], lengths)]  # noqa: PLW2901
                starts = np.concatenate([[0], np.cumsum(lengths)])  # noqa: PLW2901
            bags[name] = Bag(tensor(indices), tensor(starts))
        return FeatureBatch(
            bags=bags,
            texts=tensor(texts),
            text_rows=tensor(is_text.nonzero()[0]),
            is_text=tensor(is_text.astype(np.float32)[:, None]),
            sentences=tensor(sentences[:, None]),
        )


@dataclass(frozen=True)
class Featurizer:
    """Turns interactions into features for one network.

    Attributes:
        vocabularies: by token field.
        text_width: the size of a sentence vector; 0 where the network reads none.
    """

    vocabularies: Mapping[str, Vocabulary]
    text_width: int = 0
    _clicks: ClickTokenizer | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        known = self.vocabularies
        object.__setattr__(self, "_clicks", click_tokenizer(known["clicks"], known["tags"]) if "clicks" in known else None)

    def featurize(self, interactions: Sequence[Interaction]) -> Features:
        """Returns the features of N interactions, in their order."""
        indices = {
            name: _token_indices(map(TOKENS[name], interactions), vocabulary)
            for name, vocabulary in self.vocabularies.items()
            if name != "clicks"
        }
        bags = {name: _without_unknown(*bag) for name, bag in indices.items()}
        if self._clicks is not None:
            bags["clicks"] = _click_bag(self._clicks, interactions, *indices["tags"])
        is_text = np.array([isinstance(one, Conversation) for one in interactions], dtype=np.bool_)
        texts = [one.vector() for one in interactions if isinstance(one, Conversation)] if self.text_width else []
        return Features(
            bags=bags,
            vocabulary_sizes={name: len(vocabulary) for name, vocabulary in self.vocabularies.items()},
            texts=np.stack(texts) if texts else np.zeros((int(is_text.sum()), self.text_width), dtype=np.float32),
            text_index=np.where(is_text, np.cumsum(is_text) - 1, -1),
            sentences=np.array([one.sentences if isinstance(one, Conversation) else 0 for one in interactions], dtype=np.float32),
        )


def fit_featurizer(token_fields: Sequence[str], *, texts: bool, interactions: Sequence[Interaction]) -> Featurizer:
    """Returns a featurizer with the vocabularies and the vector size of the training interactions."""
    vocabularies = {name: fit_vocabulary(map(TOKENS[name], interactions)) for name in token_fields}
    width = next((len(one.vector()) for one in interactions if isinstance(one, Conversation)), 0) if texts else 0
    return Featurizer(vocabularies, width)


def _token_indices(bags: "map[Sequence[str]]", vocabulary: Vocabulary) -> tuple[Indices, Indices]:
    """Returns the indices of all bags' tokens, -1 for unknown ones, and where each bag starts, (n + 1,)."""
    indices: list[int] = []
    starts = [0]
    for tokens in bags:
        indices += vocabulary.indices(tokens)
        starts.append(len(indices))
    return np.array(indices, dtype=np.int64), np.array(starts, dtype=np.int64)


def _without_unknown(indices: Indices, starts: Indices) -> tuple[Indices, Indices]:
    known = indices >= 0
    if known.all():
        return indices, starts
    return indices[known], np.concatenate([[0], np.cumsum(known)])[starts]


def _click_bag(
    tokenizer: ClickTokenizer, interactions: Sequence[Interaction], tags: Indices, starts: Indices
) -> tuple[Indices, Indices]:
    """Returns the known clicks of each interaction, none for conversations."""
    rows = [row for row, one in enumerate(interactions) if isinstance(one, Session)]
    sessions = [one for one in interactions if isinstance(one, Session)]
    owners, indices = tokenizer.tokenize(sessions, tags, starts[rows])
    counts = np.zeros(len(interactions), dtype=np.int64)
    counts[rows] = np.bincount(owners, minlength=len(rows))
    return indices, np.concatenate([[0], np.cumsum(counts)])


def spans(starts: Indices, lengths: Indices) -> Indices:
    """Returns the indices start, start + 1 ... of each span, one span after another.

    >>> spans(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    ends = np.cumsum(lengths)
    indices: Indices = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)
    return indices
