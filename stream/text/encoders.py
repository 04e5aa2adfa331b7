"""Sentence encoders of a text model folder: a table of token vectors, or a transformer in ONNX.

Both give vectors of length 1 that depend on the sentence alone, up to the seventh digit, not on its batch.
"""

import io
from collections.abc import Sequence
from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Kind = Literal["static", "onnx"]
FILES: Final[dict[Kind, str]] = {"static": "embeddings.npy", "onnx": "encoder.onnx"}
"""The file that holds the numbers of each kind of encoder; the tokenizer lies beside it."""


class SentenceEncoder(Protocol):
    """Encodes sentences.

    Attributes:
        remember: Whether a sentence's vector is worth keeping: it takes longer to compute than to look up.
    """

    remember: bool

    def encode(self, sentences: Sequence[str]) -> Vectors:
        """Sentence vectors, (n, width) float32."""
        ...


class StaticEncoder:
    """The normalized mean of the vectors of a sentence's tokens. A sentence without any token has a zero vector."""

    remember = False

    def __init__(self, embeddings: bytes, tokenizer: bytes, width: int, max_tokens: int) -> None:
        self._embeddings: Vectors = np.load(io.BytesIO(embeddings), allow_pickle=False).astype(np.float32)
        self._tokenizer = _tokenizer(tokenizer, max_tokens)
        self._tokenizer.no_padding()
        wanted = self._tokenizer.get_vocab_size(), width
        if self._embeddings.shape != wanted:
            raise ValueError(f"the vectors have the shape {self._embeddings.shape}, not {wanted}")

    def encode(self, sentences: Sequence[str]) -> Vectors:
        encoded = self._tokenizer.encode_batch_fast(list(sentences), add_special_tokens=False)
        tokens = [sentence.ids for sentence in encoded]
        filled = np.flatnonzero([len(ids) for ids in tokens])
        vectors = np.zeros((len(tokens), self._embeddings.shape[1]), dtype=np.float32)
        if len(filled):
            starts = np.cumsum([0, *(len(tokens[row]) for row in filled[:-1])])
            sums = np.add.reduceat(self._embeddings[[token for row in filled for token in tokens[row]]], starts, axis=0)
            vectors[filled] = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        return vectors


class OnnxEncoder:
    """A transformer with mean pooling. It runs ONNX Runtime, without torch.

    An int8 encoder runs one sentence at a time: ONNX Runtime scales a batch by its largest number, and a coordinate would differ
    by up to 0.07 depending on the other sentences.
    """

    remember = True

    def __init__(self, network: bytes, tokenizer: bytes, max_tokens: int, batch_sentences: int, threads: int) -> None:
        import onnxruntime  # noqa: PLC0415  (static encoders do without it)

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
        self._tokenizer = _tokenizer(tokenizer, max_tokens)
        self._tokenizer.enable_padding()
        self._batch = batch_sentences

    def encode(self, sentences: Sequence[str]) -> Vectors:
        vectors: list[Vectors] = [np.empty(0, dtype=np.float32)] * len(sentences)
        in_order = sorted(range(len(sentences)), key=lambda row: len(sentences[row]))  # little padding
        for start in range(0, len(in_order), self._batch):
            rows = in_order[start : start + self._batch]
            for row, vector in zip(rows, self._run([sentences[row] for row in rows]), strict=True):
                vectors[row] = vector
        return np.array(vectors, dtype=np.float32)

    def _run(self, sentences: list[str]) -> Vectors:
        encoded = self._tokenizer.encode_batch(sentences)
        feed = {
            "input_ids": np.array([sentence.ids for sentence in encoded], dtype=np.int64),
            "attention_mask": np.array([sentence.attention_mask for sentence in encoded], dtype=np.int64),
        }
        vectors: Vectors = self._session.run(None, feed)[0]
        return vectors


def _tokenizer(content: bytes, max_tokens: int) -> Any:
    from tokenizers import Tokenizer  # noqa: PLC0415  (only processes that encode need it)

    tokenizer = Tokenizer.from_str(content.decode())
    tokenizer.enable_truncation(max_tokens)
    return tokenizer
