"""Checkpoints: after each epoch, everything that the next one depends on, one file per stage.

Files are replaced atomically and read without unpickling objects. A checkpoint holds the fingerprint of its training (system,
configuration, initial weights, examples): another training must not resume from it.
"""

import os
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import msgspec
import torch

from stream.core.outputs import TrainingExample, encode_example
from stream.errors import IsthmusError

Checkpoint = dict[str, Any]


class CheckpointError(IsthmusError):
    """A checkpoint exists but cannot be resumed from."""


class Checkpoints:
    """The checkpoints of one training in one folder."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._fingerprint = fingerprint

    def read(self, stage: str) -> Checkpoint | None:
        """Returns the stage's last checkpoint; None where the stage has not begun.

        Raises:
            CheckpointError: it belongs to another training or cannot be read.
        """
        path = self._path(stage)
        if not path.exists():
            return None
        try:
            checkpoint: Checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, UnpicklingError) as error:
            raise CheckpointError(f"{path} cannot be read ({type(error).__name__}): remove it to start a new training") from None
        if checkpoint["run"] != self._fingerprint:
            raise CheckpointError(
                f"{path} belongs to a training of another system, configuration, champion or set of examples: name another folder"
            )
        return checkpoint

    def write(self, stage: str, checkpoint: Checkpoint) -> None:
        path = self._path(stage)
        partial = path.with_suffix(".partial")
        torch.save({**checkpoint, "run": self._fingerprint}, partial)
        os.replace(partial, path)  # noqa: PTH105  (the call whose atomicity is documented)

    def _path(self, stage: str) -> Path:
        return self._folder / f"{stage}.pt"


def fingerprint_of(
    name: str, config: msgspec.Struct, items: Sequence[str], warm: str | None, *parts: Sequence[TrainingExample]
) -> str:
    """Returns a training's fingerprint: a hash of system, configuration, items, the warm start's fingerprint and all examples."""
    content = blake2b(digest_size=16)
    content.update(msgspec.json.encode((name, config, tuple(items), warm), order="sorted"))
    for part in parts:
        content.update(f"{len(part)}".encode())
        for example in part:
            content.update(encode_example(example))
    return content.hexdigest()
