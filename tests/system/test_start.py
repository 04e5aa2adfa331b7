"""The start of each kind of process: it uses the threads it was given, whatever was imported before, and says what it is doing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.purchases import purchases
from training.datasets.example_file import write_examples

NOWHERE = "127.0.0.1:1"
ASK = """
import importlib, json, sys

sys.argv = ["isthmus", *json.loads(sys.argv[1])]
if {before}:  # as a plugin or a debugger may have done
    import numpy, torch
from stream.cli.main import main

def report(*_, **__):
    import numpy, torch, threadpoolctl
    numpy.ones((2, 2)) @ numpy.ones((2, 2))
    pools = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
    print("THREADS", json.dumps([torch.get_num_threads(), *pools]), flush=True)
    sys.exit(0)

setattr(importlib.import_module("{module}"), "{function}", report)
main()
"""


def threads(arguments: list[str], at: tuple[str, str], folder: Path, *, before: bool, variable: str | None = None) -> set[int]:
    """The threads of torch and of each BLAS and OpenMP pool once the process has got to a function, (module, name)."""
    script = ASK.format(before=before, module=at[0], function=at[1])
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    environment |= {"ISTHMUS_REGISTRY__URI": f"sqlite:///{folder}/mlflow.db", "ISTHMUS_REGISTRY__FOLDER": str(folder / "models")}
    environment |= {"OMP_NUM_THREADS": variable} if variable else {}
    command = [sys.executable, "-c", script, json.dumps(arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, env=environment)
    line = next((line for line in done.stdout.splitlines() if line.startswith("THREADS ")), None)
    assert line is not None, done.stdout + done.stderr
    counts: list[int] = json.loads(line.removeprefix("THREADS "))
    assert len(counts) > 1, "no BLAS was found"
    return set(counts)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("command", ["worker", "encoder", "demo"])
def test_a_process_of_a_deployment_computes_on_one_thread_whatever_was_imported_before(tmp_path: Path, command: str) -> None:
    """BLAS threads that wait for each other on a busy machine once took a start of one second to fifty."""
    assert threads([command], ("uvloop", "run"), tmp_path, before=True) == {1}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("before", [False, True])
def test_a_given_number_of_threads_is_kept(tmp_path: Path, before: bool) -> None:
    """OMP_NUM_THREADS, as for every other program."""
    assert threads(["worker"], ("uvloop", "run"), tmp_path, before=before, variable="2") == {2}


@pytest.mark.timeout(120)
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
@pytest.mark.parametrize("command", ["train", "benchmark"])
def test_training_and_benchmark_use_all_cores(tmp_path: Path, command: str) -> None:
    """Large batches gain by threads."""
    if command == "train":
        write_examples(tmp_path / "examples", purchases(100))
        arguments, at = ["train", "--examples", str(tmp_path / "examples")], ("training.training_run", "train_once")
    else:
        arguments = ["benchmark", "--data", str(tmp_path), "--out", str(tmp_path / "r.json"), "--systems", "popular"]
        at = ("stream.services.dataset_cache", "prepare")
    assert max(threads(arguments, at, tmp_path, before=False)) == len(os.sched_getaffinity(0))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("command", ["worker", "encoder", "train", "demo", "doctor"])
def test_a_process_says_first_what_it_is_doing(command: str) -> None:
    """Before any of its libraries is there."""
    arguments = [] if command == "demo" else ["--bootstrap", NOWHERE]
    process = subprocess.Popen(
        [sys.executable, "-m", "stream.cli.main", command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    with process:
        line = process.stdout.readline()
        process.kill()
    assert line.rstrip().endswith("loading libraries")
