"""Rankers of every system with random weights: small for tests, or as large as trained ones to measure the cost of serving."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from models.popular import Popular
from models.systems import POPULAR
from stream.core.interactions import Interaction, Part, conversation_of, session_of
from stream.core.ranking import Ranker, Rows
from stream.core.tokens import join_tokens

TEXT_WIDTH: Final = 384
TAGS: Final = ("car", "claim", "dog", "home", "price")
CLICKS: Final = ("car", "car\x1fprice", "home", "price\x1ecar")
KEYWORDS: Final = ("car", "cat", "house insurance")
TEXT_MODEL: Final = "text-1"


def small(name: str) -> Any:
    """A configuration with a tiny network; the default one of a system that is not listed here and no plain GRU."""
    from models.network import GruConfig
    from models.networks.generative_imputation import GenerativeConfig
    from models.networks.isthmus import IsthmusConfig
    from models.networks.knowledge_distillation import DistillationConfig
    from models.networks.late_fusion import FusionConfig
    from models.networks.latent_feature import LatentFeatureConfig
    from models.networks.relative_representation import RelativeConfig
    from models.systems import network_type

    sizes, other = GruConfig(hidden=12, dense=10), GruConfig(hidden=8, dense=6)
    return {
        "latent_feature": LatentFeatureConfig(latent=6, hidden=12, dense=10),
        "latent_feature+owned": LatentFeatureConfig(latent=6, hidden=12, dense=10),
        "isthmus": IsthmusConfig(units=12, text_units=5, text_scale=4.0),
        "late_fusion": FusionConfig(session=sizes, conversation=other),
        "late_fusion+owned": FusionConfig(session=sizes, conversation=other),
        "knowledge_distillation": DistillationConfig(session=sizes, conversation=other, student=other),
        "generative_imputation": GenerativeConfig(ranking=sizes, texts=other, sessions=other),
        "relative_representation": RelativeConfig(anchors=7, ranking=sizes, session=other, conversation=sizes),
    }.get(name) or (sizes if isinstance(network_type(name).default, GruConfig) else network_type(name).default)


def random_ranker(
    name: str,
    items: Sequence[str],
    prior: Rows,
    *,
    config: Any = None,
    tags: Sequence[str] = TAGS,
    clicks: Sequence[str] = CLICKS,
    text_model: str = TEXT_MODEL,
    text_width: int = TEXT_WIDTH,
    seed: int = 1,
) -> Ranker:
    """A ranker whose scores depend on all that it reads. `config`: None for a tiny network."""
    if name == POPULAR:
        return Popular("0", "popular", tuple(items), prior)
    import torch

    from models.features import Featurizer
    from models.network import NeuralRanker
    from models.systems import network_type
    from models.vocabulary import Vocabulary

    network_class = network_type(name)
    known = {"tags": tags, "clicks": clicks, "keywords": KEYWORDS, "words": sorted({*tags, *KEYWORDS})}
    vocabularies = {kind: Vocabulary(known[kind]) for kind in network_class.token_fields}
    reader = Featurizer(vocabularies, text_width if network_class.uses_text_vectors else 0)
    torch.manual_seed(seed)
    config = small(name) if config is None else config
    network = network_class(config, reader, torch.from_numpy(prior))
    for weight in network.state_dict().values():
        torch.nn.init.normal_(weight, std=0.3)
    own_text_model = text_model if network_class.uses_conversations else None
    return NeuralRanker(name, "0", "random", tuple(items), prior, own_text_model, reader, network, config)


def random_history(rng: np.random.Generator, length: int, *, conversations: float = 0.3) -> list[Interaction]:
    """Interactions, `conversations` of them calls (a share); some have tags and keywords that no vocabulary contains."""
    history: list[Interaction] = []
    for number in range(length):
        if rng.random() < conversations:
            vector = rng.normal(size=TEXT_WIDTH).astype("<f2").tobytes()
            words = tuple(rng.choice([*KEYWORDS, "unknown"], size=int(rng.integers(0, 3)), replace=False).tolist())
            part = Part(number, number, int(rng.integers(1, 9)), vector, join_tokens(words), TEXT_MODEL)
            history.append(conversation_of([part], f"c{number}"))
        else:
            tags = tuple(rng.choice([*TAGS, "unknown"], size=int(rng.integers(1, 4)), replace=False).tolist())
            history.append(session_of([(number, tags)]))
    return history
