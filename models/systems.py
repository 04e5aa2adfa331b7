"""Every system that can be trained and served, declared once: its name and where its network class is.

The choices of the command line, the benchmark, the ranker contract test and the reference page follow from this table. A new system
takes one file in `models/networks` and one line here; it is trained in a single stage unless `training.recipes` says otherwise.
torch is imported only when a network class is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from models.network import Network

POPULAR: Final = "popular"


class NetworkPath(NamedTuple):
    """Where a system's network class is.

    Attributes:
        module: the module below `models.networks`.
        network: the class in it.
        is_joint: whether the network reads both modalities into one space, so that one modality can help to learn from the other.
    """

    module: str
    network: str
    is_joint: bool = False


_NETWORKS: Final = {
    "session": NetworkPath("unimodal", "SessionNetwork"),
    "conversation": NetworkPath("unimodal", "ConversationNetwork"),
    "conversation_keyword": NetworkPath("unimodal", "ConversationKeywordNetwork"),
    "late_fusion": NetworkPath("late_fusion", "LateFusion"),
    "knowledge_distillation": NetworkPath("knowledge_distillation", "KnowledgeDistillation"),
    "generative_imputation": NetworkPath("generative_imputation", "GenerativeImputation"),
    "neutral_imputation": NetworkPath("neutral_imputation", "NeutralImputation"),
    "keyword": NetworkPath("keyword", "KeywordNetwork", is_joint=True),
    "latent_feature": NetworkPath("latent_feature", "LatentFeatureNetwork", is_joint=True),
    "relative_representation": NetworkPath("relative_representation", "RelativeRepresentation", is_joint=True),
    "latent_feature+owned": NetworkPath("owned", "LatentFeatureOwned"),
    "late_fusion+owned": NetworkPath("owned", "LateFusionOwned"),
    "isthmus": NetworkPath("isthmus", "IsthmusNetwork", is_joint=True),
}

SYSTEMS: Final = (POPULAR, *_NETWORKS)
JOINT: Final = tuple(name for name, path in _NETWORKS.items() if path.is_joint)
"""The systems that `isthmus benchmark --thin` compares by default."""
DEFAULT: Final = "isthmus"
"""What `isthmus train` trains by default."""


def network_type(name: str) -> "type[Network]":
    """Returns the class of a system's network.

    Raises:
        KeyError: no network has this name.
    """
    path = _NETWORKS[name]
    network: type[Network] = getattr(import_module(f"models.networks.{path.module}"), path.network)
    return network
