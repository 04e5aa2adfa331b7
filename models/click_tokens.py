"""Clicks as tokens: which tags came together, and from which tag to which a user went on. A session as the set of its tags has
lost both.

Read for a whole batch at once from the sessions' packed marks: at its bounds a session has 64 clicks of 16 tags, and a loop over
them would cost more than the network. A click's code is the sum of its tags' hashes, whatever their order; a step is from the last
tag of a click to the first of the next.
"""

from collections.abc import Sequence
from hashlib import blake2b
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.vocabulary import Vocabulary
from stream.core.interactions import Interaction, Session
from stream.core.tokens import SEPARATOR

STEP_MARK: Final = "\x1e"
"""Stands between the tags of a step (ASCII's record separator)."""

_FROM: Final = 0x9E3779B97F4A7C15  # odd, by which the hash of a step's first tag is multiplied: the direction counts

Places = NDArray[np.int64]
Codes = NDArray[np.uint64]


def clicks_of(one: Interaction) -> Sequence[str]:
    """A session's distinct clicks, each as the text of its tags in alphabetical order, and its distinct steps."""
    if not isinstance(one, Session):
        return ()
    clicks = [tags for _, tags in one.clicks() if tags]
    steps = [former[-1] + STEP_MARK + tags[0] for former, tags in pairwise(clicks)]
    return tuple(dict.fromkeys([*(SEPARATOR.join(sorted(tags)) for tags in clicks), *steps]))


class ClickTokenizer(NamedTuple):
    """Finds known clicks and steps. `hashes` (V + 1,) by a tag's place, the last for unknown tags: they add nothing to a click;
    `codes` (K,) of what is known, ascending, and `places` (K,) of these.
    """

    hashes: Codes
    codes: Codes
    places: Places

    def read(self, sessions: Sequence[Session], tags: Places, starts: Places) -> tuple[Places, Places]:
        """What is known of sessions, without repetition: (which session, ascending; which click or step). `tags` are the places of
        all their tags, -1 for unknown ones, `starts` (n,) into them.
        """
        if not sessions or not len(self.codes):
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        lengths = np.array([len(session.marks) for session in sessions])
        marks = np.frombuffer(b"".join([session.marks for session in sessions]), dtype=np.uint8)
        heads = _heads(marks, lengths)
        at = np.repeat(starts, lengths) + marks
        at[heads] = len(tags)  # a count is no tag
        hashes = np.append(self.hashes[tags], np.uint64(0))[at]
        codes = np.add.reduceat(hashes, heads)
        owners = np.searchsorted(np.cumsum(lengths), heads, side="right")
        follows = owners[1:] == owners[:-1]
        starting = heads[1:][follows]
        steps = hashes[starting - 1] * np.uint64(_FROM) + hashes[np.minimum(starting + 1, len(hashes) - 1)] + np.uint64(1)
        codes, owners = np.concatenate([codes, steps]), np.concatenate([owners, owners[1:][follows]])
        found = np.minimum(np.searchsorted(self.codes, codes), len(self.codes) - 1)
        known = self.codes[found] == codes
        distinct = np.unique(owners[known] * len(self.codes) + self.places[found[known]])
        return np.divmod(distinct, len(self.codes))


def click_tokenizer(clicks: Vocabulary, tags: Vocabulary) -> ClickTokenizer:
    hashes = np.array([*(_hash(tag) for tag in tags.tokens), 0], dtype=np.uint64)
    codes = np.array([_code(token) for token in clicks.tokens], dtype=np.uint64)
    order = np.argsort(codes)
    return ClickTokenizer(hashes, codes[order], order)


def _code(token: str) -> int:
    """Of a click or a step, as `read` computes it from hashes: modulo 2^64."""
    former, step, tag = token.partition(STEP_MARK)
    code = _hash(former) * _FROM + _hash(tag) + 1 if step else sum(map(_hash, token.split(SEPARATOR)))
    return code % 2**64


def _heads(marks: NDArray[np.uint8], lengths: Places) -> Places:
    """Where clicks begin, at the number of their tags, (clicks,) ascending: one turn for all first clicks, then all second ones."""
    ends = np.cumsum(lengths)
    at = ends - lengths
    heads = []
    while len(at):
        heads.append(at)
        following = at + 1 + marks[at]
        going = following < ends
        at, ends = following[going], ends[going]
    return np.sort(np.concatenate(heads))


def _hash(tag: str) -> int:
    return int.from_bytes(blake2b(tag.encode(), digest_size=8).digest(), "little")
