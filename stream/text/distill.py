"""Distils a packaged sentence-transformers model to a static encoder, once, at set-up.

Each token of the vocabulary goes through the network alone. Its output, reduced by principal components and weighted by rarity,
is the token's vector (Model2Vec: Tulkens and van Dongen, 2024).
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream.text.encoders import FILES
from stream.text.export_onnx import packaged_folder
from stream.text.keywords import Keywords
from stream.text.model import EncoderFacts, finish_folder

WIDTH: Final = 256
_MAX_TOKENS: Final = 256
_BATCH: Final = 512
_RECIPE: Final = "static 1"
"""Part of the text model's hash: the vectors themselves differ in the last digit from machine to machine."""
_SIF: Final = 1e-4
"""Smoothing of the weights by rarity, `_SIF / (_SIF + p)` with the probability p of a token (Arora, Liang, Ma 2017)."""


def distill_encoder(source: str, folder: Path, keywords: Keywords, say: Callable[[str], None], width: int = WIDTH) -> str:
    """Distils a sentence-transformers model (a folder, or a package that carries one) into `folder`; returns its hash.

    Vectors have `width` numbers, or as many as the model's own if those are fewer.

    Raises:
        IsthmusError: the model is missing.
    """
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415  (set-up only)

    packaged = packaged_folder(source)
    original = SentenceTransformer(str(packaged), device="cpu", local_files_only=True)
    say(f"distilling a static encoder of {len(original.tokenizer):,} tokens (once; about a minute)")
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    vectors = weighted(reduced(np.concatenate(list(_token_vectors(original, say))), width))
    np.save(unfinished / FILES["static"], vectors.astype(np.float16))
    original.tokenizer.backend_tokenizer.save(str(unfinished / "tokenizer.json"))
    facts = EncoderFacts("static", vectors.shape[1], _MAX_TOKENS, "float16", identity(packaged, vectors.shape[1]))
    text_model = finish_folder(unfinished, keywords, facts)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    return text_model


def _token_vectors(original: Any, say: Callable[[str], None]) -> Iterator[NDArray[np.float32]]:
    """The network's mean output for each token of the vocabulary between the marks of begin and end, in parts of `_BATCH`."""
    import torch  # noqa: PLC0415  (set-up only)

    network, tokenizer = original[0].auto_model.eval(), original.tokenizer
    count = len(tokenizer)
    for start in range(0, count, _BATCH):
        tokens = torch.arange(start, min(count, start + _BATCH))
        begin, end = (torch.full_like(tokens, mark) for mark in (tokenizer.cls_token_id, tokenizer.sep_token_id))
        ids = torch.stack([begin, tokens, end], dim=1)
        with torch.inference_mode():
            hidden = network(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state  # (n, 3, width)
        yield hidden.mean(1).numpy()
        if start // _BATCH % 15 == 14:
            say(f"{min(count, start + _BATCH):,} of {count:,} tokens")


def reduced(vectors: NDArray[np.float32], width: int) -> NDArray[np.float64]:
    """(n, m) -> (n, min(m, width)): the first principal components, each with its largest loading positive."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    _, directions = np.linalg.eigh(centred.T @ centred)  # ascending
    directions = directions[:, ::-1][:, :width]
    signs = np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(directions.shape[1])])
    components: NDArray[np.float64] = centred @ (directions * signs)
    return components


def weighted(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights tokens by rarity. A vocabulary lists the frequent ones first, so that Zipf's law gives their probabilities."""
    probabilities = 1 / np.arange(2, len(vectors) + 2)
    probabilities /= probabilities.sum()
    return vectors * (_SIF / (_SIF + probabilities))[:, None]


def identity(packaged: Path, width: int) -> str:
    """A hash of the recipe, the width, and the original's weights."""
    weights = sorted(packaged.glob("*.safetensors")) or sorted(packaged.glob("*.bin"))
    return hashlib.sha256(b"".join([f"{_RECIPE} {width}".encode(), *(file.read_bytes() for file in weights)])).hexdigest()
