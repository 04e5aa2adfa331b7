"""Training examples with a planted taste or with noise, and the configuration of a run small enough for a test."""

from typing import Final

import msgspec
import numpy as np

from models.networks.latent_feature import LatentFeatureConfig
from stream.core.interactions import Part, conversation_of, session_of
from stream.core.outputs import TrainingExample
from stream.core.tokens import join_tokens
from training.loop import TrainingConfig
from training.training_run import RunConfig

TEXT_WIDTH: Final = 384
ITEMS: Final = tuple(f"item-{number}" for number in range(6))
START_MS: Final = 1_700_000_000_000
MINUTE_MS: Final = 60_000


def purchases(count: int, *, first: int = 0, planted: bool = True, seed: int = 0) -> list[TrainingExample]:
    """Returns examples number `first` to `first + count`, one a minute.

    If `planted`, the last session names the item that is bought; else tags are random and only popularity can be learned.
    """
    rng = np.random.default_rng((seed, first))
    popularity = np.array([0.3, 0.25, 0.18, 0.12, 0.1, 0.05])
    examples = []
    for number in range(first, first + count):
        bought = int(rng.choice(len(ITEMS), p=popularity))
        seen = bought if planted else int(rng.integers(len(ITEMS)))
        at = START_MS + number * MINUTE_MS
        clicks = [(at - 2_000, ("home",)), (at - 1_000, (f"about-{seen}", "price"))]
        examples.append(
            TrainingExample(
                user_id=f"user-{number}",
                purchase_id=f"purchase-{number}",
                occurred_at=at,
                revision=0,
                type="session",
                items=(ITEMS[bought],),
                excluded=(),
                interactions=(session_of(clicks),),
            )
        )
    return examples


def mixed_purchases(count: int, *, first: int = 0, seed: int = 0) -> list[TrainingExample]:
    """Returns examples after a session, a conversation, or one of each.

    Each interaction names the item that is bought: by a tag, or by sentence vector and keyword.
    """
    rng = np.random.default_rng((seed, first))
    examples = []
    for example in purchases(count, first=first, seed=seed):
        kind = str(rng.choice(["session", "conversation", "both"], p=[0.5, 0.25, 0.25]))
        bought = ITEMS.index(example.items[0])
        vector = rng.normal(scale=0.02, size=TEXT_WIDTH) + np.eye(TEXT_WIDTH)[bought * 7]
        at = example.occurred_at
        keywords = join_tokens([f"about-{bought}"])
        part = Part(at - 900, at - 500, int(rng.integers(1, 9)), vector.astype("<f2").tobytes(), keywords, "text-1")
        call = conversation_of([part], f"call-{example.purchase_id}")
        seen = {"session": example.interactions, "conversation": (call,), "both": (*example.interactions, call)}[kind]
        examples.append(msgspec.structs.replace(example, type=kind, interactions=seen))
    return examples


def small_run(*, seed: int = 0, min_judged: int = 30, hidden: int = 16) -> RunConfig:
    """Returns a configuration that learns the planted taste in a second."""
    network = LatentFeatureConfig(latent=8, hidden=hidden, dense=16, dropout=0.0)
    training = TrainingConfig(network=network, seed=seed, epochs=25, patience=5, batch=32, learning_rate=0.02)
    return RunConfig(system="latent_feature", training=training, min_judged=min_judged)
