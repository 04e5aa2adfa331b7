"""The model served in a case: a Latent Feature network with random weights, so that lists depend on the whole history."""

import itertools
import json
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from models.artifact import load_ranker, write_ranker
from stream.core.announcements import ModelAnnouncement
from stream.core.ranking import Ranker
from stream.kafka.cluster.compacted_topic import announce
from stream.services.text_models import default_folder
from stream.settings import Settings
from tests.chaos.sender import live_events
from tests.rankers import random_ranker
from training.datasets.synthetic.catalogue import items

_NAME: Final = "latent_feature"


def publish_champion(bootstrap: str, topic: str, folder: Path) -> Ranker:
    """Writes the model folder, announces it as champion and returns the ranker for the check."""
    sha256 = write_champion(folder, tuple(item.item_id for item in items()))
    announce_champion(bootstrap, topic, "1", str(folder), sha256)
    return load_ranker(str(folder), sha256)


def announce_champion(bootstrap: str, topic: str, version: str, uri: str, sha256: str) -> None:
    announcement = ModelAnnouncement(role="champion", name=_NAME, version=version, uri=uri, sha256=sha256, published_at=0)
    announce(bootstrap, topic, announcement)


def write_champion(folder: Path, names: tuple[str, ...], version: str = "1") -> str:
    """Writes a model folder and returns the SHA-256 of its manifest."""
    clicks = [event for event in itertools.islice(live_events(2), 3_000) if event.role == "clicks" and not event.planted]
    tags = sorted({tag for event in clicks for tag in msgspec.json.decode(event.value or b"{}")["tags"]})
    encoder = json.loads((default_folder(Settings().cache_dir) / "manifest.json").read_text())
    read = {"text_model": encoder["text_model"], "text_width": encoder["width"]}
    prior = np.linspace(0.5, 0.1, len(names), dtype=np.float32)
    return write_ranker(folder, random_ranker(_NAME, names, prior, tags=tags, seed=3, **read), version=version)
