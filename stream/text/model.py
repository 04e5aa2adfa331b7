"""The text model: a folder with a sentence encoder, its tokenizer and the keyword list, under one hash.

`stream.text.export_onnx` and `stream.text.distill` make such folders at set-up. What is loaded are the bytes whose hashes the
manifest holds: no file is read twice, and none besides these.
"""

import hashlib
import json
import shutil
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Annotated, Final, Literal, NamedTuple

import msgspec
import numpy as np

from stream.errors import IsthmusError
from stream.text.encoders import FILES, Kind, OnnxEncoder, SentenceEncoder, StaticEncoder, Vectors
from stream.text.keywords import RULES, Keywords

CACHED: Final = 20_000  # sentences: 45 MB

_LARGEST_FILE: Final = 1 << 30
_AGAIN: Final = "make it again with `isthmus text-model`"

Precision = Literal["float32", "float16", "int8"]


class _Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `manifest.json`.

    Attributes:
        text_model: The hash of encoder, tokenizer, keyword list and rule.
        width: Of a sentence vector.
        max_tokens: Where a sentence is cut.
        precision: Of the encoder.
        files: Name -> SHA-256.
        keyword_rule: By which words were found; folders before the second rule name none.
        encoder: Its kind; folders before the static encoders name none.
        encoder_identity: See `EncoderFacts.identity`.
    """

    text_model: Annotated[str, msgspec.Meta(max_length=64)]
    width: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
    precision: Precision
    files: dict[str, str]
    keyword_rule: int = 1
    encoder: Kind = "onnx"
    encoder_identity: Annotated[str, msgspec.Meta(max_length=64)] | None = None


class EncoderFacts(NamedTuple):
    """What a manifest says of its encoder.

    Attributes:
        kind: How it encodes.
        width: Of a sentence vector.
        max_tokens: Where a sentence is cut.
        precision: Of the numbers in the encoder's file.
        identity: What the text model's hash holds in the place of that file's hash, if the file's last digits differ from machine
            to machine.
    """

    kind: Kind
    width: int
    max_tokens: int
    precision: Precision
    identity: str | None = None


class TextModel:
    """A loaded text model. `hash` identifies encoder and keyword list together; a ranker is trained for one text model."""

    def __init__(self, folder: Path, *, batch_sentences: int = 32, threads: int = 1, cached_sentences: int = CACHED) -> None:
        manifest, contents = _verified(folder)
        self.width = manifest.width
        self.hash = manifest.text_model
        self.keywords = _keywords(folder, manifest, contents["keywords.txt"])
        content = contents[FILES[manifest.encoder]], contents["tokenizer.json"]
        try:
            self._encoder: SentenceEncoder
            if manifest.encoder == "static":
                self._encoder = StaticEncoder(*content, manifest.width, manifest.max_tokens)
            else:
                batch = 1 if manifest.precision == "int8" else batch_sentences
                self._encoder = OnnxEncoder(*content, manifest.max_tokens, batch, threads)
        except Exception as error:  # whatever the libraries raise
            raise IsthmusError(f"{folder} cannot be loaded ({type(error).__name__}): {_AGAIN}") from error
        self._cached = cached_sentences if self._encoder.remember else 0
        self._cache: OrderedDict[str, Vectors] = OrderedDict()
        self._lock = Lock()  # calls and the catalogue are encoded in two threads

    def encode(self, sentences: Sequence[str]) -> Vectors:
        """Sentence vectors, (n, width) float32; a sentence is cut at the encoder's 256 tokens.

        Each is encoded once; the vectors of the last used sentences are cached where that is faster. Threads take turns.
        """
        with self._lock:
            return self._encode(sentences)

    def _encode(self, sentences: Sequence[str]) -> Vectors:
        known: dict[str, Vectors] = {}
        fresh: list[str] = []
        for sentence in dict.fromkeys(sentences):
            vector = self._cache.get(sentence)
            if vector is None:
                fresh.append(sentence)
            else:
                known[sentence] = vector
                self._cache.move_to_end(sentence)
        for sentence, vector in zip(fresh, self._encoder.encode(fresh), strict=True):
            known[sentence] = vector
            self._remember(sentence, vector)
        return np.stack([known[sentence] for sentence in sentences]) if sentences else np.zeros((0, self.width), dtype=np.float32)

    def _remember(self, sentence: str, vector: Vectors) -> None:
        """Caches a copy: a view of a row would keep its whole batch in memory."""
        if self._cached:
            self._cache[sentence] = vector.copy()
            if len(self._cache) > self._cached:
                self._cache.popitem(last=False)


def _files(kind: Kind) -> tuple[str, ...]:
    return FILES[kind], "tokenizer.json", "keywords.txt"


def check_folder(folder: Path) -> None:
    """Raises IsthmusError if a text model's files are missing."""
    for name in ("manifest.json", *(_files(_read_manifest(folder).encoder) if (folder / "manifest.json").exists() else ())):
        if not (folder / name).exists():
            raise IsthmusError(f"{folder} is not a text model ({name} is missing): make one with `isthmus text-model import`")


def verified_hash(folder: Path) -> str:
    """The hash of a text model whose every file is what its manifest says.

    Raises:
        IsthmusError: a file is missing, too large or was changed, or the manifest cannot be read.
    """
    return _verified(folder)[0].text_model


def read_keywords(folder: Path) -> Keywords:
    """Reads the keyword list of a text model, with the rule for words that it was built by.

    Raises:
        IsthmusError: a later version made it by a rule that this one does not know.
    """
    return _keywords(folder, _read_manifest(folder), _content(folder, "keywords.txt"))


def _verified(folder: Path) -> tuple[_Manifest, dict[str, bytes]]:
    """The manifest, and the content of every file, each as the manifest says it is."""
    check_folder(folder)
    manifest = _read_manifest(folder)
    contents = {name: _content(folder, name) for name in _files(manifest.encoder)}
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != manifest.files.get(name):
            raise IsthmusError(f"{folder} has another {name} than its manifest says: {_AGAIN}")
    return manifest, contents


def _read_manifest(folder: Path) -> _Manifest:
    try:
        return msgspec.json.decode(_content(folder, "manifest.json"), type=_Manifest)
    except (ValueError, RecursionError) as error:
        raise IsthmusError(f"{folder} has a manifest that cannot be read ({type(error).__name__}): {_AGAIN}") from None


def _content(folder: Path, name: str) -> bytes:
    path = folder / name
    if not path.is_file():
        raise IsthmusError(f"{path} is no file: {_AGAIN}")
    if path.stat().st_size > _LARGEST_FILE:
        raise IsthmusError(f"{path} has more than {_LARGEST_FILE} bytes: {_AGAIN}")
    return path.read_bytes()


def _keywords(folder: Path, manifest: _Manifest, content: bytes) -> Keywords:
    if manifest.keyword_rule not in RULES:
        rule = manifest.keyword_rule
        raise IsthmusError(f"{folder} finds keywords by rule {rule}, which this version does not know: update isthmus")
    try:
        return Keywords(content.decode().splitlines(), manifest.keyword_rule)
    except UnicodeDecodeError:
        raise IsthmusError(f"{folder} has a keyword list that is not UTF-8: {_AGAIN}") from None


def finish_folder(folder: Path, keywords: Keywords, encoder: EncoderFacts) -> str:
    """Writes keywords and manifest of a folder that has an encoder; returns the text model's hash (16 hex digits)."""
    (folder / "keywords.txt").write_text("\n".join(keywords.listed) + "\n", encoding="utf-8")
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in _files(encoder.kind)}
    hashed = {**hashes, FILES[encoder.kind]: encoder.identity or hashes[FILES[encoder.kind]]}
    text_model = hashlib.sha256("".join([*hashed.values(), f"keyword rule {keywords.rule}"]).encode()).hexdigest()[:16]
    manifest = {
        "text_model": text_model,
        "encoder": encoder.kind,
        "encoder_identity": encoder.identity,
        "width": encoder.width,
        "max_tokens": encoder.max_tokens,
        "precision": encoder.precision,
        "keyword_rule": keywords.rule,
        "files": hashes,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))
    return text_model


def encoder_facts(folder: Path) -> EncoderFacts:
    """What the manifest of a text model says of its encoder."""
    manifest = _read_manifest(folder)
    return EncoderFacts(manifest.encoder, manifest.width, manifest.max_tokens, manifest.precision, manifest.encoder_identity)


def described(folder: Path) -> str:
    """Describes a text model: its hash, its encoder, how many keywords."""
    manifest = _read_manifest(folder)
    return f"{manifest.text_model} ({manifest.encoder}, {manifest.precision}, {len(read_keywords(folder).listed)} keywords)"


def with_keywords(source: Path, target: Path, keywords: Keywords) -> str:
    """Writes a copy of a text model with another keyword list; returns its hash. Raises IsthmusError if `source` is not one."""
    check_folder(source)
    target.mkdir(parents=True, exist_ok=True)
    facts = encoder_facts(source)
    for name in _files(facts.kind)[:2]:
        if source != target:
            shutil.copy(source / name, target / name)
    return finish_folder(target, keywords, facts)
