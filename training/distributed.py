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
def process_group() -> Iterator[None]:
    """Within, this process is one of those that `torchrun` started; nothing where there is one only."""
    if launched_processes() == 1:
        yield
        return
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


@contextmanager
def main_process_first() -> Iterator[None]:
    """The first process goes through the block, then the others: what it makes is there when they look."""
    if world_size() > 1 and rank() > 0:
        distributed.barrier()
    yield
    if world_size() > 1 and rank() == 0:
        distributed.barrier()


def broadcast(made: Callable[[], Made]) -> Made:
    """What the first process makes, in all of them: a topic may have grown between two readings of it."""
    found = [made() if rank() == 0 else None]
    if world_size() > 1:
        distributed.broadcast_object_list(found)
    return cast("Made", found[0])


def rank() -> int:
    """Which of the processes this is; number 0 speaks and writes for all."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def launched_processes() -> int:
    """How many `torchrun` started, joined or not."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def device() -> torch.device:
    """A GPU where there is one, of several the process's own."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def shard(rows: NDArray[Row]) -> NDArray[Row]:
    """The part of a batch that is for this process."""
    return rows[rank() :: world_size()]


def all_reduce_sum(tensors: Sequence[Tensor]) -> None:
    """Replaces each tensor by its sum over all processes: one message for all of them."""
    if world_size() == 1:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    distributed.all_reduce(flat)
    for tensor, summed in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(summed.view_as(tensor))
