"""Several training processes as one (`torchrun`): each takes its share of every batch, gradients are summed before the step.

So k processes make the steps that one would make, up to the order of sums; what differs is chance inside the network (dropout),
which each process draws for its own share. gloo without GPUs, nccl with them. One process is the normal case and costs nothing.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

Row = TypeVar("Row", bound=np.generic)
Made = TypeVar("Made")


@contextmanager
def joined() -> Iterator[None]:
    """Within, this process is one of those that `torchrun` started; nothing where there is one only."""
    if started() == 1:
        yield
        return
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


@contextmanager
def first_alone() -> Iterator[None]:
    """The first process goes through the block, then the others: what it makes is there when they look."""
    if count() > 1 and number() > 0:
        distributed.barrier()
    yield
    if count() > 1 and number() == 0:
        distributed.barrier()


def from_first(made: Callable[[], Made]) -> Made:
    """What the first process makes, in all of them: a topic may have grown between two readings of it."""
    found = [made() if number() == 0 else None]
    if count() > 1:
        distributed.broadcast_object_list(found)
    return cast("Made", found[0])


def number() -> int:
    """Which of the processes this is; number 0 speaks and writes for all."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def count() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def started() -> int:
    """How many `torchrun` started, joined or not."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def device() -> torch.device:
    """A GPU where there is one, of several the process's own."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def share(rows: NDArray[Row]) -> NDArray[Row]:
    """The part of a batch that is for this process."""
    return rows[number() :: count()]


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replaces each tensor by its sum over all processes: one message for all of them."""
    if count() == 1:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    distributed.all_reduce(flat)
    for tensor, summed in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(summed.view_as(tensor))
