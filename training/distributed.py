"""Data-parallel training (`torchrun`): each process takes a shard of every batch, and gradients are summed before the step.

So k processes take the same steps as one, up to the order of sums; only dropout differs, because each process draws it for its own
shard. The backend is gloo without GPUs and nccl with them. A single process is the normal case and costs nothing.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

Scalar = TypeVar("Scalar", bound=np.generic)
Value = TypeVar("Value")


@contextmanager
def process_group() -> Iterator[None]:
    """Joins the processes that `torchrun` launched, for the length of the block; does nothing in a single process."""
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
    """Runs the block in the main process first, then in the others, which find what it created."""
    if world_size() > 1 and rank() > 0:
        distributed.barrier()
    yield
    if world_size() > 1 and rank() == 0:
        distributed.barrier()


def broadcast(compute: Callable[[], Value]) -> Value:
    """Computes a value in the main process and returns it in all: a topic may have grown between two reads of it."""
    values = [compute() if rank() == 0 else None]
    if world_size() > 1:
        distributed.broadcast_object_list(values)
    return cast("Value", values[0])


def rank() -> int:
    """Returns this process's number; 0 is the main process, which logs and writes for all."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def launched_processes() -> int:
    """Returns how many processes `torchrun` launched, whether they have joined or not."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def device() -> torch.device:
    """Returns this process's GPU where there are any, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def shard(rows: NDArray[Scalar]) -> NDArray[Scalar]:
    """Returns this process's part of a batch."""
    return rows[rank() :: world_size()]


def all_reduce_sum(tensors: Sequence[Tensor]) -> None:
    """Replaces each tensor by its sum over all processes, in one message."""
    if world_size() == 1:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    distributed.all_reduce(flat)
    for tensor, summed in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(summed.view_as(tensor))
