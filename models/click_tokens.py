"""Clicks as tokens: which tags occurred together, and which tag followed which. The set of a session's tags loses both.

A whole batch is tokenized at once from the packed marks of its sessions: a session can have 64 clicks of 16 tags, and a Python loop
over them would cost more than the network. A click's code is the sum of its tags' hashes, in any order; a step leads from the last
tag of a click to the first tag of the next one.
"""

from collections.abc import Sequence
from hashlib import blake2b
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.vocabulary import Indices, Vocabulary
from stream.core.interactions import Interaction, Session
from stream.core.tokens import SEPARATOR

STEP_MARK: Final = "\x1e"
"""Separates the two tags of a step (ASCII's record separator)."""

_FROM: Final = 0x9E3779B97F4A7C15  # odd; multiplies the hash of a step's first tag, so that the direction counts

Codes = NDArray[np.uint64]


def clicks_of(interaction: Interaction) -> Sequence[str]:
    """Returns a session's distinct clicks, each as its tags in alphabetical order, then its steps; () for conversations."""
    if not isinstance(interaction, Session):
        return ()
    clicks = [tags for _, tags in interaction.clicks() if tags]
    steps = [former[-1] + STEP_MARK + tags[0] for former, tags in pairwise(clicks)]
    return tuple(dict.fromkeys([*(SEPARATOR.join(sorted(tags)) for tags in clicks), *steps]))


class ClickTokenizer(NamedTuple):
    """Recognises known clicks and steps.

    Attributes:
        hashes: (V + 1,) by index of a tag; the last is for unknown tags, which add nothing to a click.
        codes: (K,) the codes of the known clicks and steps, ascending.
        indices: (K,) the vocabulary index of each code.
    """

    hashes: Codes
    codes: Codes
    indices: Indices

    def tokenize(self, sessions: Sequence[Session], tags: Indices, starts: Indices) -> tuple[Indices, Indices]:
        """Returns the known tokens of n sessions without repetition: (session, ascending; index of the click or step).

        `tags` holds the indices of all their tags, -1 for unknown ones; `starts` (n,) says where each session's tags begin.
        """
        if not sessions or not len(self.codes):
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        lengths = np.array([len(session.marks) for session in sessions])
        marks = np.frombuffer(b"".join([session.marks for session in sessions]), dtype=np.uint8)
        heads = _heads(marks, lengths)
        at = np.repeat(starts, lengths) + marks
        at[heads] = len(tags)  # the mark is a count here, not a tag
        hashes = np.append(self.hashes[tags], np.uint64(0))[at]
        codes = np.add.reduceat(hashes, heads)
        owners = np.searchsorted(np.cumsum(lengths), heads, side="right")
        follows = owners[1:] == owners[:-1]
        starting = heads[1:][follows]
        steps = hashes[starting - 1] * np.uint64(_FROM) + hashes[np.minimum(starting + 1, len(hashes) - 1)] + np.uint64(1)
        codes, owners = np.concatenate([codes, steps]), np.concatenate([owners, owners[1:][follows]])
        nearest = np.minimum(np.searchsorted(self.codes, codes), len(self.codes) - 1)
        known = self.codes[nearest] == codes
        distinct = np.unique(owners[known] * len(self.codes) + self.indices[nearest[known]])
        return np.divmod(distinct, len(self.codes))


def click_tokenizer(clicks: Vocabulary, tags: Vocabulary) -> ClickTokenizer:
    """Returns a tokenizer for the clicks and steps in `clicks`, whose tags are numbered as in `tags`."""
    hashes = np.array([*(_hash(tag) for tag in tags.tokens), 0], dtype=np.uint64)
    codes = np.array([_code(token) for token in clicks.tokens], dtype=np.uint64)
    order = np.argsort(codes)
    return ClickTokenizer(hashes, codes[order], order)


def _code(token: str) -> int:
    """Returns the code of a click or a step, as `tokenize` computes it from hashes: modulo 2^64."""
    former, step, tag = token.partition(STEP_MARK)
    code = _hash(former) * _FROM + _hash(tag) + 1 if step else sum(map(_hash, token.split(SEPARATOR)))
    return code % 2**64


def _heads(marks: NDArray[np.uint8], lengths: Indices) -> Indices:
    """Returns where clicks begin, (clicks,) ascending: each begins with the number of its tags.

    One iteration finds the next click of every session that has one.
    """
    ends = np.cumsum(lengths)
    at = ends - lengths
    heads = []
    while len(at):
        heads.append(at)
        following = at + 1 + marks[at]
        has_next = following < ends
        at, ends = following[has_next], ends[has_next]
    return np.sort(np.concatenate(heads))


def _hash(tag: str) -> int:
    return int.from_bytes(blake2b(tag.encode(), digest_size=8).digest(), "little")
