"""Where an interrupted training goes on: after each epoch all that the next one depends on, one file per stage.

Files are replaced as a whole, and read without unpickling objects. A checkpoint names the run that it belongs to (system,
configuration, first weights, examples): another run must not go on from it.
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

State = dict[str, Any]


class CheckpointError(IsthmusError):
    """A checkpoint is there but cannot be gone on from."""


class Checkpoints:
    """The checkpoints of one run in one folder."""

    def __init__(self, folder: Path, run: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._run = run

    def read(self, stage: str) -> State | None:
        """What was kept last; None where the stage has not begun.

        Raises:
            CheckpointError: it belongs to another run or cannot be read.
        """
        path = self._path(stage)
        if not path.exists():
            return None
        try:
            state: State = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, UnpicklingError) as error:
            raise CheckpointError(f"{path} cannot be read ({type(error).__name__}): remove it to train anew") from None
        if state["run"] != self._run:
            raise CheckpointError(
                f"{path} belongs to a training of another system, configuration, champion or set of examples: name another folder"
            )
        return state

    def write(self, stage: str, state: State) -> None:
        path = self._path(stage)
        partial = path.with_suffix(".partial")
        torch.save({**state, "run": self._run}, partial)
        os.replace(partial, path)  # noqa: PTH105  (the one call that replaces as a whole)

    def _path(self, stage: str) -> Path:
        return self._folder / f"{stage}.pt"


def run_of(name: str, config: msgspec.Struct, items: Sequence[str], warm: str | None, *parts: Sequence[TrainingExample]) -> str:
    """Names a run: a hash of system, configuration, items, the fingerprint of the ranker whose weights are the first ones, and all
    that the examples hold.
    """
    content = blake2b(digest_size=16)
    content.update(msgspec.json.encode((name, config, tuple(items), warm), order="sorted"))
    for part in parts:
        content.update(f"{len(part)}".encode())
        for one in part:
            content.update(encode_example(one))
    return content.hexdigest()
