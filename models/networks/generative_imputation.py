"""Generative imputation (paper, section 4): networks generate the missing modality from the present one, in both directions.

Both generators are trained first, on events of both modalities, and frozen before the ranking network is trained.
"""

from typing import ClassVar

import msgspec
import torch
from torch import Tensor, nn

from models.features import FeatureBatch, Featurizer
from models.layers import Gru, linear
from models.network import GruConfig, Network
from models.networks.two_branch import TwoBranchCore, sentence_sums
from models.networks.unimodal import SessionNetwork
from stream.core import limits


class SessionGenerator(Network):
    """Generates sessions from conversations.

    A dense layer reads the mean sentence vector; a GRU reads its output once per session and gives the logits of each tag for each
    of the last `turns` sessions, (n, turns * tags), padded in front.
    """

    uses_text_vectors: ClassVar = True
    turns: ClassVar = limits.WINDOW

    def __init__(self, config: GruConfig, featurizer: Featurizer) -> None:
        super().__init__()
        self.text_width = max(featurizer.text_width, 1)
        self.width = self.text_width + 1
        self.dense = linear(self.text_width, config.dense)
        self.dropout = nn.Dropout(config.dropout)
        self.gru = Gru(config.hidden)
        self.gates = linear(config.dense, self.gru.gates)
        self.output = linear(config.hidden, max(len(featurizer.vocabularies["tags"]), 1))

    def embed(self, inputs: FeatureBatch) -> Tensor:
        return sentence_sums(inputs, self.text_width)

    def advance(self, states: Tensor, rows: Tensor) -> Tensor:
        return states + rows

    def logits(self, states: Tensor) -> Tensor:
        return self.of_texts(states[:, :-1] / states[:, -1:].clamp(min=1))

    def of_texts(self, texts: Tensor) -> Tensor:
        """Returns the logits for mean sentence vectors, (n, text width) -> (n, turns * tags)."""
        inputs = self.dense(texts)
        hidden = inputs.new_zeros(len(inputs), self.gru.hidden)
        outputs = []
        for _ in range(self.turns):
            hidden = self.gru(hidden, self.gates(self.dropout(inputs)))
            outputs.append(self.output(hidden))
        return torch.cat(outputs, dim=1)

    def sessions(self, texts: Tensor) -> Tensor:
        """Returns the tags that are more likely than not, as multi-hot rows (n, turns, tags)."""
        return (self.of_texts(texts) > 0).to(texts.dtype).reshape(len(texts), self.turns, -1)


class GenerativeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of the ranking network and of both generators."""

    ranking: GruConfig = GruConfig(dropout=0.2)
    texts: GruConfig = GruConfig(hidden=64, dense=64, dropout=0.4)
    sessions: GruConfig = GruConfig(dropout=0.3)


class GenerativeImputation(Network):
    """Fills a missing modality with what a generator makes of the other one.

    `texts_from` is a GRU over sessions whose output is a mean sentence vector; `sessions_from` generates sessions. A state is the
    core's and that of `texts_from` side by side. Deviation: where no tag is likely enough for a generated session, the GRU's state
    is zero; the authors' code leaves such events out.
    """

    default: ClassVar = GenerativeConfig()
    token_fields: ClassVar = ("tags",)
    uses_text_vectors: ClassVar = True

    def __init__(self, config: GenerativeConfig, featurizer: Featurizer, prior: Tensor) -> None:
        super().__init__()
        self.core = TwoBranchCore(config.ranking, featurizer, len(prior))
        self.texts_from = SessionNetwork(config.texts, featurizer, prior.new_zeros(self.core.text_width))
        self.sessions_from = SessionGenerator(config.sessions, featurizer)
        self.width = self.core.width + self.texts_from.width
        self.state_sizes = [self.core.width, self.texts_from.width]
        self.row_sizes = [sum(self.core.row_sizes), self.texts_from.gru.gates + 1]

    def train(self, mode: bool = True) -> "GenerativeImputation":  # noqa: FBT001, FBT002  (torch's signature)
        super().train(mode)
        self.texts_from.eval()  # generated inputs must not depend on dropout
        self.sessions_from.eval()
        return self

    def embed(self, inputs: FeatureBatch) -> Tensor:
        return torch.cat([self.core.embed(inputs), self.texts_from.embed(inputs)], dim=1)

    def advance(self, states: Tensor, rows: Tensor) -> Tensor:
        core, texts = torch.split(states, self.state_sizes, dim=1)
        core_rows, text_rows = torch.split(rows, self.row_sizes, dim=1)
        return torch.cat([self.core.advance(core, core_rows), self.texts_from.advance(texts, text_rows)], dim=1)

    def logits(self, states: Tensor) -> Tensor:
        core, generator = torch.split(states, self.state_sizes, dim=1)
        texts, has_text, hidden, has_session = self.core.seen(core)
        missing = (~has_session).squeeze(1).nonzero().squeeze(1)
        if len(missing):
            sessions = self.sessions_from.sessions(texts.index_select(0, missing))
            hidden = hidden.index_copy(0, missing, self.core.of_sessions(sessions))
        texts = torch.where(has_text, texts, self.texts_from.logits(generator))
        return self.core.logits(texts, hidden)
