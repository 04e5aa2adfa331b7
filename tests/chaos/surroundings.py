"""The disk full, models that cannot be had or do not fit: the worker says so, keeps what it has and comes back."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from tests.chaos.champion import announce_champion, write_champion
from tests.chaos.stage import TOPICS, Case, Skipped, Stage

_VOLUME_BYTES: Final = 256 << 20


def fill_disk(stage: Stage) -> None:
    """The volume of the worker's tables is full: it ends naming the cause, and is exact once there is room again."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        raise Skipped("a full volume needs root: it mounts a tmpfs")
    worker, folder = stage["worker-1"], stage.folder / "state"
    worker.stop()
    aside = stage.folder / "state-before"
    shutil.copytree(folder, aside)
    _run("mount", "-t", "tmpfs", "-o", f"size={_VOLUME_BYTES}", "tmpfs", str(folder))
    stage.afterwards.callback(_run, "umount", "--lazy", str(folder))
    shutil.copytree(aside, folder, dirs_exist_ok=True)
    worker.start()
    stage.folds_on(1_000)
    filler = folder / "filler"
    fill(filler)
    stage.until(lambda: worker.ended_by_itself > 0, 120, "the worker's end on a full disk")
    assert worker.said("No space left"), "the worker does not say that the disk is full"
    stage.wait(5)
    filler.unlink()
    stage.folds_on(2_000)


def fill(path: Path) -> None:
    """Writes until there is no room."""
    try:
        with path.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
    except OSError:
        return


def refuse_models(stage: Stage) -> None:
    """Announced, but unreachable, missing, corrupt, or of other items: refused and counted; the old one goes on serving."""
    worker = stage["worker-1"]
    good = stage.folder / "other-1"
    sha256 = write_champion(good, tuple(f"foreign-{number}" for number in range(24)), "2")
    corrupt = stage.folder / "other-2"
    corrupt_hash = write_champion(corrupt, ("1", "2", "3"), "3")
    (corrupt / "weights.safetensors").write_bytes(b"\0" * 100)
    announced = (
        ("unreadable", "http://127.0.0.1:9/models/4", "0" * 64),
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
        stage.folds_on(500)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=20)


CASES: Final = (
    Case(name="disk full", faults=fill_disk),
    Case(name="models refused", faults=refuse_models),
)
