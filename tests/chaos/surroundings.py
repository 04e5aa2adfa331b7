"""Faults of the environment: a full disk, and models that are missing or do not fit. The worker reports them and recovers."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from tests.chaos.champion import announce_champion, write_champion
from tests.chaos.stage import TOPICS, Case, Skipped, Stage

_VOLUME_BYTES: Final = 256 << 20


def fill_disk(stage: Stage) -> None:
    """Fills the volume of the worker's tables: the worker stops with the cause, and is exact once there is space again."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        raise Skipped("filling a volume requires root, to mount a tmpfs")
    worker, folder = stage["worker-1"], stage.folder / "state"
    worker.stop()
    aside = stage.folder / "state-before"
    shutil.copytree(folder, aside)
    _run("mount", "-t", "tmpfs", "-o", f"size={_VOLUME_BYTES}", "tmpfs", str(folder))
    stage.afterwards.callback(_run, "umount", "--lazy", str(folder))
    shutil.copytree(aside, folder, dirs_exist_ok=True)
    worker.start()
    stage.wait_for_progress(1_000)
    filler = folder / "filler"
    fill(filler)
    stage.until(lambda: worker.ended_by_itself > 0, 120, "the exit of the worker on the full disk")
    assert worker.said("No space left"), "the log of the worker does not mention the full disk"
    stage.wait(5)
    filler.unlink()
    stage.wait_for_progress(2_000)


def fill(path: Path) -> None:
    """Writes until the volume is full."""
    try:
        with path.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
    except OSError:
        return


def refuse_models(stage: Stage) -> None:
    """Announces models that are elsewhere, missing, corrupt or of other items: each is refused and counted, and the old model keeps
    serving.
    """
    worker = stage["worker-1"]
    good = stage.folder / "other-1"
    sha256 = write_champion(good, tuple(f"foreign-{number}" for number in range(24)), "2")
    corrupt = stage.folder / "other-2"
    corrupt_hash = write_champion(corrupt, ("1", "2", "3"), "3")
    (corrupt / "weights.safetensors").write_bytes(b"\0" * 100)
    announced = (
        ("untrusted", "http://127.0.0.1:9/models/4", "0" * 64),
        ("unreadable", str(stage.folder / "nowhere"), "0" * 64),
        ("hash", str(corrupt), corrupt_hash),
        ("items", str(good), sha256),
    )
    seen: dict[str, int] = {}
    for number, (reason, uri, sha) in enumerate(announced, 2):
        announce_champion(stage.bootstrap, TOPICS.models, str(number), uri, sha)
        seen[reason] = seen.get(reason, 0) + 1
        sample = f'isthmus_model_refusals_total{{reason="{reason}"}}'
        stage.until(lambda: worker.metric(sample) == seen[reason], 60, f"the refusal of {uri}")  # noqa: B023
        assert worker.metric('isthmus_model_info{name="latent_feature",version="1"}') == 1
        stage.wait_for_progress(500)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=20)


CASES: Final = (
    Case(name="disk full", faults=fill_disk),
    Case(name="models refused", faults=refuse_models),
)
