"""The two-branch network that Knowledge distillation and both imputations share (the paper authors' network).

A dense layer reads the mean of all sentences of all conversations and a GRU reads the sessions; both outputs go side by side
through a dense layer and the head. The mean is updated one conversation at a time: the state holds the sum of the sentence vectors
and their number.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from models.features import FeatureBatch, Featurizer
from models.layers import BagLayer, Gru, Head, linear
from models.network import GruConfig


class TwoBranchCore(nn.Module):
    """The shared layers.

    A state holds the sum of sentence vectors (w), their number (1), the GRU's state and the session count (1).
    """

    def __init__(self, config: GruConfig, featurizer: Featurizer, items: int) -> None:
        super().__init__()
        self.gru = Gru(config.hidden)
        self.tags = BagLayer("tags", len(featurizer.vocabularies["tags"]), self.gru.gates)
        self.dense = linear(max(featurizer.text_width, 1), config.hidden)
        self.joint = linear(2 * config.hidden, config.hidden)
        self.head = Head(config.hidden, config.dense, items, config.dropout)
        self.text_width = max(featurizer.text_width, 1)
        self.state_sizes = [self.text_width, 1, config.hidden, 1]
        self.row_sizes = [self.text_width + 1, self.gru.gates, 1]
        self.width = sum(self.state_sizes)

    def embed(self, inputs: FeatureBatch) -> Tensor:
        """Returns sentence sums, their number, the GRU's gates and whether it is a session, (n, text width + 1 + gates + 1)."""
        return torch.cat([sentence_sums(inputs, self.text_width), self.tags(inputs), 1 - inputs.is_text], dim=1)

    def advance(self, states: Tensor, rows: Tensor) -> Tensor:
        sums, gates, is_session = torch.split(rows, self.row_sizes, dim=1)
        texts, hidden, sessions = torch.split(states, [self.text_width + 1, self.gru.hidden, 1], dim=1)
        advanced = torch.where(is_session > 0, self.gru(hidden, gates), hidden)
        return torch.cat([texts + sums, advanced, sessions + is_session], dim=1)

    def seen(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns the mean sentence vector, whether there was any (n, 1), the GRU's state, whether there was a session (n, 1)."""
        sums, sentences, hidden, sessions = torch.split(states, self.state_sizes, dim=1)
        return sums / sentences.clamp(min=1), sentences > 0, hidden, sessions > 0

    def of_sessions(self, sessions: Tensor) -> Tensor:
        """Returns the GRU's state after sessions as multi-hot rows, (n, T, tags) -> (n, hidden); empty rows are skipped."""
        hidden = sessions.new_zeros(len(sessions), self.gru.hidden)
        for turn in range(sessions.shape[1]):
            session = sessions[:, turn]
            advanced = self.gru(hidden, self.tags.of_multi_hot(session))
            hidden = torch.where(session.any(dim=1, keepdim=True), advanced, hidden)
        return hidden

    def logits(self, texts: Tensor, hidden: Tensor) -> Tensor:
        joint = relu(self.joint(torch.cat([self.dense(texts), hidden], dim=1)))
        return cast("Tensor", self.head(joint))


def sentence_sums(inputs: FeatureBatch, width: int) -> Tensor:
    """Returns each interaction's sum of sentence vectors and their number, (n, width + 1); zero for sessions."""
    sums = inputs.is_text.new_zeros(len(inputs), width + 1)
    if not inputs.texts.shape[1]:
        return sums
    sentences = inputs.sentences.index_select(0, inputs.text_rows)
    return sums.index_copy(0, inputs.text_rows, torch.cat([inputs.texts * sentences, sentences], dim=1))
