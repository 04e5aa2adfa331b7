"""Late fusion (paper, section 4): Session and Conversation are trained apart, and only their scores are combined.

The state is both networks' states side by side. Each of them counts the interactions of its modality that it has seen, which says
whose scores apply.
"""

from typing import ClassVar

import msgspec
import torch
from torch import Tensor

from models.features import FeatureBatch, Featurizer
from models.network import GruConfig, Network
from models.networks.unimodal import ConversationNetwork, SessionNetwork


class FusionConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of the two networks."""

    session: GruConfig = SessionNetwork.default
    conversation: GruConfig = ConversationNetwork.default


class LateFusion(Network):
    """Scores a user with both modalities by the mean of both networks' probabilities, a user with one modality by its network."""

    default: ClassVar = FusionConfig()
    token_fields: ClassVar = SessionNetwork.token_fields
    uses_text_vectors: ClassVar = True

    def __init__(self, config: FusionConfig, featurizer: Featurizer, prior: Tensor) -> None:
        super().__init__()
        self.session = SessionNetwork(config.session, featurizer, prior)
        self.conversation = ConversationNetwork(config.conversation, featurizer, prior)
        self.state_sizes = [self.session.width, self.conversation.width]
        self.row_sizes = [self.session.gru.gates + 1, self.conversation.gru.gates + 1]
        self.width = sum(self.state_sizes)

    def parts(self) -> tuple[Network, Network]:
        """Returns the networks that are trained apart, of sessions and of conversations."""
        return self.session, self.conversation

    def embed(self, inputs: FeatureBatch) -> Tensor:
        return torch.cat([self.session.embed(inputs), self.conversation.embed(inputs)], dim=1)

    def advance(self, states: Tensor, rows: Tensor) -> Tensor:
        session, conversation = torch.split(states, self.state_sizes, dim=1)
        session_rows, conversation_rows = torch.split(rows, self.row_sizes, dim=1)
        advanced = self.session.advance(session, session_rows), self.conversation.advance(conversation, conversation_rows)
        return torch.cat(advanced, dim=1)

    def logits(self, states: Tensor) -> Tensor:
        return torch.logit(self.scores(states), eps=1e-6)

    def scores(self, states: Tensor) -> Tensor:
        session, conversation = torch.split(states, self.state_sizes, dim=1)
        by_session, by_conversation = self.session.scores(session), self.conversation.scores(conversation)
        return select_scores(session, conversation, by_session, by_conversation, (by_session + by_conversation) / 2)


def select_scores(session: Tensor, conversation: Tensor, by_session: Tensor, by_conversation: Tensor, by_both: Tensor) -> Tensor:
    """Returns each user's scores by the modalities that the states have seen; without any, the networks return popularity."""
    saw_session, saw_conversation = session[:, -1:] > 0, conversation[:, -1:] > 0
    return torch.where(saw_session & saw_conversation, by_both, torch.where(saw_session, by_session, by_conversation))
