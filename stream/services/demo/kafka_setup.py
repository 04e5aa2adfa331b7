"""What `isthmus demo --kafka` needs before it can start a local broker: it fetches the jars itself, once.

Imported before the heavy libraries: what is missing is reported in the first second.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import deque
from typing import TYPE_CHECKING, Final

from stream.errors import IsthmusError
from stream.kafka.cluster.local_broker import CHECKOUT, missing_requirement

if TYPE_CHECKING:
    from pathlib import Path

    from stream.services.startup import Startup

_OTHERWISE: Final = "or name a broker with --bootstrap HOST:PORT"


def set_up_kafka(startup: Startup, checkout: Path | None = CHECKOUT) -> None:
    """Fetches the broker's jars if they are missing; shows its progress.

    Raises:
        IsthmusError: it cannot be done here; the message says what to do.
    """
    if missing_requirement() is None:
        return
    problem = _obstacle(checkout)
    if problem is not None:
        raise IsthmusError(f"a local Kafka broker cannot be set up here: {problem}, {_OTHERWISE}")
    assert checkout is not None
    startup.step("fetching Kafka's jars (44 MB, once)")
    _run_script(checkout / "deploy" / "kafka" / "setup.sh")


def _obstacle(checkout: Path | None) -> str | None:
    """Why the jars cannot be fetched, and what to do about it; None if they can be."""
    for program, name in (("java", "Java 17"), ("mvn", "Maven")):
        if shutil.which(program) is None:
            return f"{name} is missing; `make setup-kafka` installs it on Debian"
    if "ISTHMUS_KAFKA_JARS" in os.environ:
        return f"ISTHMUS_KAFKA_JARS names {os.environ['ISTHMUS_KAFKA_JARS']}, which holds no Kafka jars; unset it or correct it"
    if checkout is None:
        return "this is not a source checkout with deploy/kafka/pom.xml; set ISTHMUS_KAFKA_JARS to a folder with Kafka's jars"
    return None


def _run_script(script: Path) -> None:
    """Runs the set-up script under a bar that counts the files it fetches.

    Raises:
        IsthmusError: the script failed; the message holds the end of its output.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    command = ["bash", str(script)]
    output: deque[str] = deque(maxlen=10)
    process = subprocess.Popen(  # noqa: S603  (our own script)
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHON": sys.executable}
    )
    assert process.stdout is not None
    columns = (TextColumn("Kafka's jars"), BarColumn(), TextColumn("{task.completed} files"), TimeElapsedColumn())
    with process, Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)  # how many files are missing is not known before
        for line in process.stdout:
            output.append(line)
            if "Downloaded from" in line or "Copying " in line:
                bar.advance(task)
    if process.returncode:
        raise IsthmusError(f"Kafka's jars could not be fetched, {_OTHERWISE}:\n{''.join(output)}")
