"""The systems by name, and which network each one is. torch is imported when a network is asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from models.network import Network

POPULAR: Final = "popular"
_NETWORKS: Final = {
    "session": ("models.networks.unimodal", "SessionNetwork"),
    "conversation": ("models.networks.unimodal", "ConversationNetwork"),
    "conversation_keyword": ("models.networks.unimodal", "ConversationKeywordNetwork"),
    "late_fusion": ("models.networks.late_fusion", "LateFusion"),
    "knowledge_distillation": ("models.networks.late_fusion", "KnowledgeDistillation"),
    "generative_imputation": ("models.networks.imputation", "GenerativeImputation"),
    "neutral_imputation": ("models.networks.imputation", "NeutralImputation"),
    "keyword": ("models.networks.keyword", "KeywordNetwork"),
    "latent_feature": ("models.networks.latent_feature", "LatentFeatureNetwork"),
    "relative_representation": ("models.networks.relative_representation", "RelativeRepresentation"),
    "isthmus": ("models.networks.isthmus", "IsthmusNetwork"),
}
"""Name -> where its network class is."""

SYSTEMS: Final = (POPULAR, *_NETWORKS)
DEFAULT: Final = "isthmus"
"""What `isthmus train` trains unless told otherwise."""


def network_type(name: str) -> "type[Network]":
    """The class of a system's network. Raises KeyError for a name that is not a network's."""
    module, network = _NETWORKS[name]
    found: type[Network] = getattr(import_module(module), network)
    return found
