"""Runs one case: brokers, workers and encoders as child processes, a stream of events, and the faults injected into them.

A process that exits unexpectedly is restarted, as a deployment would do; the number of such exits is part of the result.
"""

import pickle
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Any, Final

import numpy as np

from stream.application import DEFAULT, encoder_group, own_folder, worker_group
from stream.core.ranking import Ranker
from stream.core.records import Batch, Boundaries
from stream.core.step import StepConfig
from stream.errors import IsthmusError
from stream.kafka.cluster.lag import GroupLag, group_lag
from stream.kafka.cluster.local_broker import free_port
from stream.kafka.cluster.topics import create_or_check, source_topics
from stream.services.child_processes import ChildProcess
from stream.settings import Settings, TopicSettings
from tests.chaos.champion import publish_champion
from tests.chaos.check import Verdict, judge, together
from tests.chaos.cluster import Cluster
from tests.chaos.observe import ENCODERS, WORKERS, observe
from tests.chaos.sender import Sender

BUILD: Final = Path(__file__).parents[2] / "build"
TOPICS: Final = TopicSettings(partitions=4)
SOURCES: Final = source_topics(TOPICS)
SETTLE_S: Final = 300.0
FOLD_S: Final = 400.0
_RESTART_AFTER_S: Final = 1.0
_POLL_S: Final = 0.5


def topics_of(application: str) -> TopicSettings:
    return Settings(application=application, topics=TOPICS).topics


class Skipped(Exception):  # noqa: N818  (an outcome, not an error)
    """The case cannot run on this machine; the message says why."""


class Process:
    """One worker or encoder of an application that can be killed, paused and restarted under its name."""

    def __init__(
        self, command: str, name: str, bootstrap: str, folder: Path, variables: Mapping[str, str], application: str = DEFAULT
    ) -> None:
        self.name = name
        self.application = application
        self.log = folder / f"{application}-{name}.log"
        self.state = own_folder(folder / "state", application) / name
        self.ended_by_itself = 0
        self._port = free_port()
        self._arguments = [command, "--bootstrap", bootstrap, "--name", name, "--metrics-port", str(self._port)]
        self._variables = {
            "ISTHMUS_WORKER__STATE_DIR": str(folder / "state"),
            "ISTHMUS_TOPICS__PARTITIONS": str(TOPICS.partitions),
            "ISTHMUS_KAFKA__DEV": "true",
            "ISTHMUS_REGISTRY__FOLDER": str(folder),
            "ISTHMUS_APPLICATION": application,
            **variables,
        }
        self._child: ChildProcess | None = None
        self._ended_at: float | None = None

    def start(self) -> None:
        self._child, self._ended_at = ChildProcess(self._arguments, self._variables, self.log), None

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.child.kill()
        self._child = None

    def stop(self) -> int:
        """Sends SIGTERM and returns the exit code."""
        child, self._child = self.child, None
        child.stop()
        return int(child.process.returncode)

    def pause(self) -> None:
        self.child.process.send_signal(SIGSTOP)

    def resume(self) -> None:
        self.child.process.send_signal(SIGCONT)

    @property
    def child(self) -> ChildProcess:
        if self._child is None:
            raise RuntimeError(f"{self.name} is not running")
        return self._child

    @property
    def is_running(self) -> bool:
        return self._child is not None and self._child.process.poll() is None

    def metric(self, sample: str) -> float:
        """Returns the value of one sample, written as in the exposition format; 0 if it is missing."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{sample} "))

    def readiness(self) -> str:
        """Returns what /readyz says; empty while the process does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/readyz", timeout=5) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            return error.read().decode()
        except OSError:
            return ""

    def said(self, text: str) -> bool:
        return text in self.log.read_text(errors="replace")

    def restart_if_exited(self) -> None:
        """Restarts the process a second after an unexpected exit."""
        if self._child is None or self._child.process.poll() is None:
            return
        now = time.monotonic()
        if self._ended_at is None:
            self._ended_at = now
            self.ended_by_itself += 1
        elif now - self._ended_at > _RESTART_AFTER_S:
            self.start()


@dataclass(frozen=True, kw_only=True)
class Case:
    """A stream of events, a schedule of faults, and what must hold afterwards. Events keep flowing during the faults.

    Attributes:
        name: shown in the table; `CASES` selects by it.
        faults: injects the faults.
        rate: events/s.
        workers, encoders, brokers: how many of each are started.
        proxied: whether clients reach the broker through a proxy.
        variables: settings of the processes, as environment variables.
        repeat: the share of events sent twice.
        model: whether a model is served; without one, lists follow the catalogue's order.
        settles: whether everything is folded in the end; without it, the faults end in a refusal after everything was folded.
        sent_once: whether a duplicate fails the case (a consumer of committed records sees none).
        exact: whether differences fail the case; without it, they are only reported.
        why: why the case is not exact.
        beside: other applications with the same inputs, each with its own worker and encoder of the same names.
    """

    name: str
    faults: Callable[["Stage"], None]
    rate: float = 400.0
    workers: int = 1
    encoders: int = 1
    brokers: int = 1
    proxied: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)
    repeat: float = 0.0
    model: bool = True
    settles: bool = True
    sent_once: bool = False
    exact: bool = True
    why: str = ""
    beside: tuple[str, ...] = ()


class Stage:
    """Everything that the faults of one case may touch. `rng` draws the timing of the faults."""

    def __init__(self, case: Case, cluster: Cluster, folder: Path, seed: int) -> None:
        self.case = case
        self.cluster = cluster
        self.bootstrap = cluster.bootstrap
        self.folder = folder
        self.rng = np.random.default_rng(seed)
        self.former: list[Batch] = []
        self.boundaries: dict[tuple[str, int], Boundaries] = {}
        self.notes: list[str] = []
        self.processes: dict[str, Process] = {}
        self.rankers: dict[str, Ranker | None] = {}
        """The champion of each application."""
        self.afterwards = ExitStack()
        self.sender = Sender(self.bootstrap, TOPICS.model_dump(), seed, case.rate, repeat=case.repeat)

    def __getitem__(self, name: str) -> Process:
        return self.processes[name]

    @property
    def applications(self) -> tuple[str, ...]:
        return (DEFAULT, *self.case.beside)

    def add(self, command: str, name: str, application: str = DEFAULT) -> Process:
        """Starts another worker or encoder; one of another application is found under APPLICATION/NAME."""
        made = Process(command, name, self.bootstrap, self.folder, self.case.variables, application)
        self.processes[name if application == DEFAULT else f"{application}/{name}"] = made
        made.start()
        return made

    def wait(self, seconds: float) -> None:
        """Lets events flow for a while, restarting processes that exit unexpectedly."""
        self.until(lambda: False, seconds, "", must=False)

    def until(self, condition: Callable[[], bool], seconds: float, what: str, *, must: bool = True) -> bool:
        """Waits for `condition`, restarting processes meanwhile, and returns whether it became true.

        Raises AssertionError on a timeout if `must` is set.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            for process in self.processes.values():
                process.restart_if_exited()
            if time.monotonic() > deadline:
                assert not must, f"{what} did not happen within {seconds:.0f} s"
                return False
            time.sleep(min(_POLL_S, max(0.0, deadline - time.monotonic())))
        return True

    def progress(self, group: str = WORKERS, application: str = DEFAULT) -> GroupLag:
        """Returns the lag of a group, or zeros while the broker does not answer."""
        topics = topics_of(application)
        try:
            if group == WORKERS:
                return group_lag(self.bootstrap, worker_group(application), source_topics(topics))
            return group_lag(self.bootstrap, encoder_group(application), [topics.transcripts])
        except IsthmusError:
            return GroupLag(0, 0)

    def wait_for_progress(self, records: int = 1, seconds: float = FOLD_S, application: str = DEFAULT) -> None:
        """Waits until this many more records are committed."""
        before = self.progress(application=application).committed
        self.until(
            lambda: self.progress(application=application).committed >= before + records, seconds, "the folding of more events"
        )

    def forget_acknowledged(self, topic: str) -> None:
        """Drops the acknowledgements of a topic about to be deleted: its offsets will no longer be valid."""
        kept = {place: event for place, event in self.sender.acknowledged.items() if place[0] != topic}
        self.sender.acknowledged.clear()
        self.sender.acknowledged.update(kept)

    def drain(self) -> None:
        """Pauses the stream and waits until everything sent is folded."""
        self.sender.rate = 0.0
        self.until(lambda: self.sender.is_quiet() and self.is_settled(), SETTLE_S, "the folding of all events so far")

    def is_settled(self) -> bool:
        """Returns whether everything is committed. Encoders are asked first because they produce input for the workers."""
        return all(self._is_settled(application) for application in self.applications)

    def _is_settled(self, application: str) -> bool:
        encoders = self.progress(ENCODERS, application)
        workers = self.progress(WORKERS, application)
        return encoders.end > 0 and workers.end > 0 and encoders.lag == 0 and workers.lag == 0


def run_case(case: Case, folder: Path, seed: int) -> dict[str, Any]:
    """Runs a case in `folder` and returns its row. The folder is kept if the case failed."""
    began = time.monotonic()
    row: dict[str, Any] = {"case": case.name, "seed": seed, "ok": False, "events": 0}
    stage = None
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with Cluster(folder, case.brokers, proxied=case.proxied) as cluster:
            stage = Stage(case, cluster, folder, seed)
            verdict = play(stage)
        row |= asdict(verdict)
        row["ok"] = (verdict.is_exact or not case.exact) and not (case.sent_once and verdict.duplicates_sent)
    except Skipped as skipped:
        row |= {"ok": True, "skipped": str(skipped)}
    except (AssertionError, IsthmusError, RuntimeError) as error:
        row["error"] = f"{type(error).__name__}: {error}"
    if stage is not None:
        row["ended_by_themselves"] = sum(process.ended_by_itself for process in stage.processes.values())
        row["notes"] = [*stage.notes, *([] if case.exact else [case.why])]
    row["seconds"] = round(time.monotonic() - began, 1)
    if row["ok"]:
        shutil.rmtree(folder, ignore_errors=True)
    return row


def play(stage: Stage) -> Verdict:
    """Starts the processes, injects the faults while events flow, waits until everything is folded, and checks the result."""
    case = stage.case
    try:
        for application in stage.applications:
            _begin(stage, application)
        stage.sender.start()
        stage.until(lambda: stage.progress().committed > 0, FOLD_S, "the folding of the first events")
        case.faults(stage)
        stage.sender.stop()
        if case.settles and not stage.until(stage.is_settled, SETTLE_S, "the folding of all events", must=False):
            stage.notes.append(f"not settled within {SETTLE_S:.0f} s: {stage.progress()} {stage.progress(ENCODERS)}")
        ended = {process.name: process.stop() for process in stage.processes.values() if process.is_running}
        stage.notes += [f"{name} ended with code {code} at SIGTERM" for name, code in ended.items() if code]
    finally:
        stage.sender.abandon()
        for process in stage.processes.values():
            if process.is_running:
                process.kill()
        stage.afterwards.close()
    return together([_judged(stage, application) for application in stage.applications])


def _begin(stage: Stage, application: str) -> None:
    """Makes the topics of an application, announces its champion, and starts its processes."""
    case, topics = stage.case, topics_of(application)
    create_or_check(stage.bootstrap, topics, application, dev=case.brokers == 1)
    folder = own_folder(stage.folder, application) / "model"
    stage.rankers[application] = publish_champion(stage.bootstrap, topics.models, folder) if case.model else None
    for number in range(1, case.workers + 1):
        stage.add("worker", f"worker-{number}", application)
    for number in range(1, case.encoders + 1):
        stage.add("encoder", f"encoder-{number}", application)


def _judged(stage: Stage, application: str) -> Verdict:
    sender = stage.sender
    observed = observe(
        stage.bootstrap,
        topics_of(application),
        sender.acknowledged,
        stage.former,
        boundaries=stage.boundaries,
        application=application,
    )
    (own_folder(stage.folder, application) / "observed.pickle").write_bytes(pickle.dumps(observed))
    return judge(observed, stage.rankers[application], StepConfig(partitions=TOPICS.partitions))
