"""Two applications with the same inputs, users, names and machine: what happens to one must not be seen in the other."""

import shutil
from typing import Final

from stream.application import DEFAULT
from tests.chaos.members import PAST_SESSION_S
from tests.chaos.stage import Case, Stage

OTHER: Final = "shop"
_TURNS: Final = 4


def harm_both(stage: Stage) -> None:
    """Kills the workers in turn, wipes the store of one, kills both encoders, and pauses one worker past its session timeout while
    the other application is killed.
    """
    for _ in range(_TURNS):
        for application, name in ((DEFAULT, "worker-1"), (OTHER, f"{OTHER}/worker-1")):
            stage.wait(float(stage.rng.uniform(0.05, 1.5)))
            stage[name].kill()
            stage[name].start()
            stage.wait_for_progress(application=application)
    stage[f"{OTHER}/worker-1"].kill()
    shutil.rmtree(stage[f"{OTHER}/worker-1"].state)
    stage[f"{OTHER}/worker-1"].start()
    for name in ("encoder-1", f"{OTHER}/encoder-1"):
        stage[name].kill()
        stage[name].start()
    stage.wait_for_progress(500, application=OTHER)
    stage["worker-1"].pause()
    stage.wait(PAST_SESSION_S / 2)
    stage[f"{OTHER}/worker-1"].kill()
    stage[f"{OTHER}/worker-1"].start()
    stage.wait(PAST_SESSION_S / 2)
    stage["worker-1"].resume()
    for application in (DEFAULT, OTHER):
        stage.wait_for_progress(500, application=application)
    assert {path.name for path in (stage.folder / "state").iterdir()} >= {"worker-1", OTHER}


CASES: Final = (Case(name="two applications on one cluster", faults=harm_both, rate=200, beside=(OTHER,)),)
