"""Sentences per second of the encoders, compared with sentence-transformers: static, and ONNX with and without its sentence cache.

Each contender runs in its own process on one core, in turns, on the same transcripts in the same batches. `python -m
tests.benchmarks.encoder_throughput NAME` reads a `Task` from standard input and prints a row.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from stream.text.distill import distill_encoder
from stream.text.export_onnx import PACKAGED, import_encoder, packaged_folder
from stream.text.keywords import standing_in
from stream.text.model import TextModel
from tests.benchmarks.job import peak_rss_bytes

CALLS: Final = 200
PORTION: Final = 20
"""Calls in one batch of the encoder stage."""
ROUNDS: Final = 2
BASELINE: Final = "sentence-transformers"
CONTENDERS: Final = (BASELINE, "float32", "float32, no memory", "int8", "int8, no memory", "static")


class Task(msgspec.Struct):
    """What to encode. `folder` holds a text model of each name; `distinct`: no sentence repeats."""

    folder: str
    calls: int
    distinct: bool


def rows(folder: Path, scale: float) -> Iterator[dict[str, Any]]:
    """Yields one row per contender and kind of transcripts; `speedup` is relative to sentence-transformers in the same run."""
    for precision in ("float32", "int8"):
        import_encoder(PACKAGED, folder / precision, standing_in([]), print, precision)
    distill_encoder(PACKAGED, folder / "static", standing_in([]), print)
    for distinct in (False, True):
        task = Task(str(folder), max(PORTION, int(CALLS * scale)), distinct)
        label = "all distinct" if distinct else f"calls, {_repeated(task):.0%} of the sentences repeated"
        found: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
        for _ in range(ROUNDS):
            for name in CONTENDERS:
                found[name].append(_child(name, task))
        base = float(np.median([row["sentences_per_s"] for row in found[BASELINE]]))
        for name, trials in found.items():
            medians = {key: float(np.median([row[key] for row in trials])) for key in trials[0]}
            row = {"contender": name, "users": label, "scored": False, **medians, "speedup": medians["sentences_per_s"] / base}
            print(row, file=sys.stderr, flush=True)
            yield row


def transcripts(task: Task) -> list[list[str]]:
    """Returns calls of the synthetic world. `distinct` keeps each sentence once, unnumbered, so that lengths do not change."""
    from training.datasets.synthetic.calls import write_call
    from training.datasets.synthetic.random_draws import RandomDraws

    draws = RandomDraws(np.random.default_rng(6))
    calls = (
        [text for _, text in write_call(draws, number % 24 if number % 4 else None).before] for number in range(100 * task.calls)
    )
    if not task.distinct:
        return [next(calls) for _ in range(task.calls)]
    seen: set[str] = set()
    wanted, kept = task.calls * 8, list[list[str]]()
    for call in calls:
        fresh = [text for text in dict.fromkeys(call) if text not in seen]
        seen.update(fresh)
        kept.append(fresh)
        if len(seen) >= wanted:
            break
    return kept


def _repeated(task: Task) -> float:
    said = [text for call in transcripts(task) for text in call]
    return 1 - len(set(said)) / len(said)


def _child(name: str, task: Task) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.encoder_throughput", name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, input=msgspec.json.encode(task), stdout=subprocess.PIPE, check=True, env=environment)
    row: dict[str, float] = msgspec.json.decode(done.stdout.splitlines()[-1])
    return row


def _encoder(name: str, task: Task) -> Any:
    if name == BASELINE:
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(1)
        model = SentenceTransformer(str(packaged_folder(PACKAGED)), device="cpu", local_files_only=True)
        return lambda texts: model.encode(texts, batch_size=32, normalize_embeddings=True)
    encoder, _, without = name.partition(", ")
    return TextModel(Path(task.folder) / encoder, **({"cached_sentences": 0} if without else {})).encode


def main() -> None:
    os.sched_setaffinity(0, {0})
    name, task = sys.argv[1], msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    calls = transcripts(task)
    began = time.perf_counter()
    encode = _encoder(name, task)
    encode(["This warms up."])
    ready_s = time.perf_counter() - began
    portions = [[text for call in calls[start : start + PORTION] for text in call] for start in range(0, len(calls), PORTION)]
    began, cpu = time.perf_counter(), time.process_time()
    for portion in portions:
        encode(portion)
    sentences = sum(map(len, portions))
    row = {
        "sentences_per_s": sentences / (time.perf_counter() - began),
        "cpu_us_per_sentence": (time.process_time() - cpu) / sentences * 1e6,
        "ready_s": ready_s,
        "peak_rss_bytes": peak_rss_bytes(),
        "sentences": sentences,
    }
    print(msgspec.json.encode(row).decode())


if __name__ == "__main__":
    main()
