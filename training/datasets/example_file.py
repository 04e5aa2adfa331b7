"""Training examples in a file: each as msgpack, preceded by its length (4 bytes, little-endian)."""

from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path

import msgspec

from stream.core import limits
from stream.core.outputs import TrainingExample, decode_example, encode_example
from stream.errors import IsthmusError


class ExampleFileError(IsthmusError):
    """A file does not hold training examples, or was cut short."""


def write_examples(path: Path, examples: Iterable[TrainingExample]) -> None:
    with path.open("wb") as file:
        for example in examples:
            encoded = encode_example(example)
            file.write(len(encoded).to_bytes(4, "little") + encoded)


def read_examples(path: Path) -> Iterator[TrainingExample]:
    """Yields the examples of a file.

    Raises:
        ExampleFileError: something in it is not an example.
    """
    with path.open("rb") as file:
        for number in count(1):
            length = file.read(4)
            if not length:
                return
            try:
                example = decode_example(file.read(min(int.from_bytes(length, "little"), limits.RECORD_BYTES)))
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                raise ExampleFileError(
                    f"{path} is not a file of training examples, or was cut short (number {number}: {error})"
                ) from None
            yield example
