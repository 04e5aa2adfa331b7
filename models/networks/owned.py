"""`+owned`: Latent Feature and Late fusion that also read what users own, for the comparison. The paper's systems stay as they are.

A linear term of the holdings is added to the logits: of Latent Feature as a whole, of Late fusion to those of each network.
"""

from typing import ClassVar, Final, cast

import torch
from torch import Tensor, nn

from models.features import Bag, FeatureBatch, Featurizer
from models.layers import HoldingsLayer
from models.network import Network
from models.networks.late_fusion import FusionConfig, LateFusion, select_scores
from models.networks.latent_feature import LatentFeatureConfig, LatentFeatureNetwork
from models.networks.unimodal import UniModal

_WIDTH: Final = 64  # items by items would not fit a large catalogue
_DROPOUT: Final = 0.2  # share of the items held that training drops


class HoldingsTerm(nn.Module):
    """What holdings add to the logits, (n users) -> (n, I); zero where nothing is known."""

    def __init__(self, items: int) -> None:
        super().__init__()
        self.holdings = HoldingsLayer(items, _WIDTH, _DROPOUT)
        self.output = nn.Linear(_WIDTH, items, bias=False)
        nn.init.xavier_uniform_(self.output.weight)

    def forward(self, holdings: Bag) -> Tensor:
        return cast("Tensor", self.output(self.holdings(holdings)))


class WithHoldings(Network):
    """A network whose logits gain a term of the holdings. Rows and states are the network's own."""

    uses_holdings: ClassVar = True

    def __init__(self, network: Network, term: HoldingsTerm) -> None:
        super().__init__()
        self.network, self.term = network, term
        self.width = network.width

    def embed(self, inputs: FeatureBatch) -> Tensor:
        return self.network.embed(inputs)

    def advance(self, states: Tensor, rows: Tensor) -> Tensor:
        return self.network.advance(states, rows)

    def logits(self, states: Tensor) -> Tensor:
        return self.network.logits(states)

    def holder_logits(self, states: Tensor, holdings: Bag) -> Tensor:
        logits: Tensor = self.network.logits(states) + self.term(holdings)
        return logits


class LatentFeatureOwned(WithHoldings):
    """Latent Feature with holdings."""

    default: ClassVar = LatentFeatureConfig()
    token_fields: ClassVar = LatentFeatureNetwork.token_fields
    uses_text_vectors: ClassVar = True

    def __init__(self, config: LatentFeatureConfig, featurizer: Featurizer, prior: Tensor) -> None:
        super().__init__(LatentFeatureNetwork(config, featurizer, prior), HoldingsTerm(len(prior)))


class LateFusionOwned(LateFusion):
    """Late fusion with holdings in each of its networks."""

    default: ClassVar = FusionConfig()
    uses_holdings: ClassVar = True

    def __init__(self, config: FusionConfig, featurizer: Featurizer, prior: Tensor) -> None:
        super().__init__(config, featurizer, prior)
        self.session_term, self.conversation_term = HoldingsTerm(len(prior)), HoldingsTerm(len(prior))

    def parts(self) -> tuple[Network, Network]:
        return WithHoldings(self.session, self.session_term), WithHoldings(self.conversation, self.conversation_term)

    def holder_logits(self, states: Tensor, holdings: Bag) -> Tensor:
        return torch.logit(self.holder_scores(states, holdings), eps=1e-6)

    def holder_scores(self, states: Tensor, holdings: Bag) -> Tensor:
        session, conversation = torch.split(states, self.state_sizes, dim=1)
        by_session = _unimodal_scores(self.session, session, self.session_term(holdings))
        by_conversation = _unimodal_scores(self.conversation, conversation, self.conversation_term(holdings))
        return select_scores(session, conversation, by_session, by_conversation, (by_session + by_conversation) / 2)


def _unimodal_scores(network: UniModal, states: Tensor, term: Tensor) -> Tensor:
    """Returns probabilities; popularity where the network has seen nothing."""
    return torch.where(states[:, -1:] > 0, torch.sigmoid(network.logits(states) + term), network.prior)
