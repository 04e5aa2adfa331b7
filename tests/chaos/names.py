"""Two living processes of one name: the later one ends with a message, at each restart, and the first goes on."""

from typing import Final

from tests.chaos.stage import Case, Process, Stage

_END_S: Final = 15.0  # 10 s, and the start of a process on a busy machine


def doubled_names(stage: Stage) -> None:
    """Starts a second worker and a second encoder under the names of the first, as on another host; then kills the first worker
    there and then, so that the other takes its name over.
    """
    for command in ("worker", "encoder"):
        second = twin(stage, command)
        for _ in range(2):
            start_and_lose(stage, stage[f"{command}-1"], second)
    assert not stage["worker-1"].ended_by_itself
    stage.wait_for_progress(1_000)
    stage["worker-1"].kill()
    stage.processes["worker-1"] = successor = twin(stage, "worker")
    successor.start()
    stage.until(lambda: successor.readiness() == "ok\n", 60, "the readiness of the successor on another host")
    stage.wait_for_progress(1_000)


def start_and_lose(stage: Stage, first: Process, second: Process) -> None:
    second.start()
    stage.until(lambda: not second.is_running, _END_S, f"the end of a second {first.name}")
    assert second.said("is taken: process"), f"the second {first.name} does not say why it ended"
    assert first.readiness() == "ok\n", f"{first.name} is not ready"


def twin(stage: Stage, command: str) -> Process:
    """A process with the name of the first, and with another host and state directory."""
    folder = stage.folder / "other-host"
    folder.mkdir(exist_ok=True)
    return Process(command, f"{command}-1", stage.bootstrap, folder, {**stage.case.variables, "ISTHMUS_HOST": "other-host"})


CASES: Final = (Case(name="doubled names", faults=doubled_names),)
