"""Training examples in a file: each as msgpack behind its length (4 bytes, little-endian)."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from stream.core.outputs import TrainingExample, decode_example, encode_example


def write_examples(path: Path, examples: Iterable[TrainingExample]) -> None:
    with path.open("wb") as file:
        for example in examples:
            encoded = encode_example(example)
            file.write(len(encoded).to_bytes(4, "little") + encoded)


def read_examples(path: Path) -> Iterator[TrainingExample]:
    with path.open("rb") as file:
        while length := file.read(4):
            yield decode_example(file.read(int.from_bytes(length, "little")))
