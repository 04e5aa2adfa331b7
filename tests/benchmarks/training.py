"""Training speed of a system at the paper's scale: 62,401 purchase events with 151,946 interactions, 60 tags, 24 items.

    python -m tests.benchmarks.training --system latent_feature

The events are random with a planted taste, since time is measured, not quality. `--examples FILE` reads other events.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from models.systems import DEFAULT, SYSTEMS
from stream.core.examples import event_type
from stream.core.interactions import Interaction, Part, conversation_of, session_of
from stream.core.outputs import TrainingExample
from training.datasets.example_file import read_examples
from training.loop import TrainingConfig
from training.progress import ProgressReporter
from training.split import split
from training.train_system import train_system

EVENTS, INTERACTIONS, ITEMS, TAGS, WIDTH = 62_401, 151_946, 24, 60, 384
MINUTE_MS = 60_000


def events(count: int, rng: np.random.Generator) -> list[TrainingExample]:
    """Returns events whose interactions hint at the bought item; one interaction in seven is a conversation."""
    more = rng.multinomial(round(count * (INTERACTIONS / EVENTS - 1)), np.full(count, 1 / count))
    leaning = rng.dirichlet(np.full(TAGS, 0.3), size=ITEMS)
    meaning = rng.normal(size=(ITEMS, WIDTH)).astype(np.float32)
    popularity = rng.dirichlet(np.full(ITEMS, 1.0))
    found = []
    for number in range(count):
        bought, at = int(rng.choice(ITEMS, p=popularity)), 1_600_000_000_000 + number * MINUTE_MS
        seen: list[Interaction] = []
        for turn in range(min(1 + int(more[number]), 10)):
            start = at - (20 - turn) * 1_000
            if rng.random() < 1 / 7:
                vector = meaning[bought] + rng.normal(scale=3, size=WIDTH)
                part = Part(start, start + 1, 20, vector.astype("<f2").tobytes(), "", "text-1")
                seen.append(conversation_of([part], f"{number}-{turn}"))
            else:
                tags = rng.choice(TAGS, size=8, p=leaning[bought] * 0.7 + 0.3 / TAGS)
                seen.append(session_of([(start, tuple(dict.fromkeys(f"tag{tag}" for tag in tags)))]))
        sessions = sum(one.modality == "session" for one in seen)
        kind = event_type(sessions, len(seen) - sessions) or "session"
        found.append(
            TrainingExample(
                user_id=f"u{number}",
                purchase_id=f"p{number}",
                occurred_at=at,
                revision=1,
                type=kind,
                items=(str(bought),),
                excluded=(),
                interactions=tuple(seen),
            )
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--system", choices=SYSTEMS, default=DEFAULT)
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--examples", type=Path)
    chosen = parser.parse_args()
    examples = list(read_examples(chosen.examples)) if chosen.examples else events(chosen.events, np.random.default_rng(0))
    interactions = sum(len(example.interactions) for example in examples)
    print(f"{len(examples)} purchase events with {interactions} interactions", flush=True)
    training, validation, _ = split(examples)
    items = sorted({item for example in examples for item in example.items})
    started = time.monotonic()
    watch = ProgressReporter(lambda line: print(f"{time.monotonic() - started:7.1f} s  {line}", flush=True))
    trained = train_system(chosen.system, training, validation, items, TrainingConfig(), progress=watch)
    took = time.monotonic() - started
    speed = trained.epochs * len(training) / took
    print(f"{chosen.system}: {trained.epochs} epochs in {took:.1f} s, {speed:,.0f} training events a second, reading included")


if __name__ == "__main__":
    main()
