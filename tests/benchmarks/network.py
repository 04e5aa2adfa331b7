"""Networks of the served size with random weights: every system as a model folder, and Latent Feature also as an ONNX step for the
other contenders.

Serving them costs as much as serving trained ones. The ONNX step has the same weights: multi-hot tags (n, V) and representations
(n, 256) -> new representations and scores (n, 24).
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from models.artifact import write_ranker
from models.click_tokens import STEP_MARK
from models.systems import POPULAR, network_type
from stream.core.tokens import SEPARATOR
from tests.benchmarks.load import ITEMS, TAGS
from tests.rankers import random_ranker

STEP = "step.onnx"
KNOWN = 4_000


def write_network(folder: Path) -> str:
    """Writes the model folder and, beside it, `step.onnx`; returns the hash of the folder."""
    ranker = _ranker("latent_feature")
    _export_step(ranker.network, folder.parent / STEP)
    return write_ranker(folder, ranker, version="1")


def write_system(folder: Path, system: str, version: str = "1") -> str:
    """Writes a model folder of a system at its default size; returns its hash."""
    return write_ranker(folder, _ranker(system), version=version)


def _ranker(system: str) -> Any:
    import torch

    prior = np.linspace(0.2, 0.01, len(ITEMS), dtype=np.float32)
    if system == POPULAR:
        return random_ranker(system, ITEMS, prior)
    default = network_type(system).default
    ranker: Any = random_ranker(system, ITEMS, prior, config=default, tags=TAGS, clicks=_clicks(), text_model="none")
    with torch.no_grad():
        for weight in ranker.network.parameters():
            weight.mul_(0.2)  # as small as trained weights: otherwise all scores are 1 and every list is a tie
    return ranker


def _clicks() -> list[str]:
    """Returns as many known clicks and steps as a large site has."""
    rng = np.random.default_rng(7)
    drawn = rng.choice(len(TAGS), size=(KNOWN, 3))
    clicks = {SEPARATOR.join(sorted(TAGS[tag] for tag in tags)) for tags in drawn}
    return sorted(clicks | {STEP_MARK.join(TAGS[tag] for tag in tags[:2]) for tags in drawn})


def _export_step(network: Any, path: Path) -> None:
    import torch

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, tags: Any, h: Any) -> Any:
            """Takes the tags of a session as a multi-hot row, which ONNX processes faster than bags."""
            latent = torch.tanh(network.tags.of_multi_hot(tags))
            gates = network.gates(torch.cat([latent, torch.zeros_like(latent[:, :1])], dim=1))
            turned = network.gru(h, gates)
            return turned, network.scores(turned)

    arguments = (torch.zeros(2, len(TAGS)), torch.zeros(2, network.width))
    names = ["tags", "h", "turned", "scores"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's newer exporter needs another package; this one warns that it is deprecated
        torch.onnx.export(
            Step(),
            arguments,
            str(path),
            input_names=names[:2],
            output_names=names[2:],
            dynamic_axes={name: {0: "n"} for name in names},
            dynamo=False,
        )
