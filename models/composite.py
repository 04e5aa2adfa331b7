"""Late fusion (paper, section 4): the systems Session and Conversation side by side; where a user has both modalities the mean of
their probabilities, else the one there is.

The state holds both networks' states, which say themselves how many interactions of their modality they saw.
"""

from typing import ClassVar

import msgspec
import torch
from torch import Tensor

from models.features import Inputs, Reader
from models.network import Network, Sizes
from models.unimodal import ConversationNetwork, SessionNetwork


class CompositeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of the two networks."""

    session: Sizes = SessionNetwork.default
    conversation: Sizes = ConversationNetwork.default


class LateFusion(Network):
    """Two networks that never meet before their scores."""

    default: ClassVar = CompositeConfig()
    kinds: ClassVar = SessionNetwork.kinds
    reads_texts: ClassVar = True

    def __init__(self, config: CompositeConfig, reader: Reader, prior: Tensor) -> None:
        super().__init__()
        self.session = SessionNetwork(config.session, reader, prior)
        self.conversation = ConversationNetwork(config.conversation, reader, prior)
        self.width = self.session.width + self.conversation.width

    def rows(self, inputs: Inputs) -> Tensor:
        return torch.cat([self.session.rows(inputs), self.conversation.rows(inputs)], dim=1)

    def advance(self, states: Tensor, rows: Tensor) -> Tensor:
        cut, row_cut = self.session.width, self.session.gru.gates + 1
        session = self.session.advance(states[:, :cut], rows[:, :row_cut])
        return torch.cat([session, self.conversation.advance(states[:, cut:], rows[:, row_cut:])], dim=1)

    def logits(self, states: Tensor) -> Tensor:
        return torch.logit(self.scores(states), eps=1e-6)

    def scores(self, states: Tensor) -> Tensor:
        session, conversation = states[:, : self.session.width], states[:, self.session.width :]
        saw_session, saw_conversation = session[:, -1:] > 0, conversation[:, -1:] > 0
        by_session, by_conversation = self.session.scores(session), self.conversation.scores(conversation)
        alone = torch.where(saw_session, by_session, by_conversation)  # popularity where neither saw anything
        return torch.where(saw_session & saw_conversation, (by_session + by_conversation) / 2, alone)
