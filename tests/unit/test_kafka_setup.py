"""`isthmus demo --kafka` where the local broker is not set up: it does what it can, and says at once what it cannot."""

import os
import stat
from pathlib import Path

import pytest

from stream.errors import IsthmusError
from stream.services.demo.kafka_setup import set_up_kafka
from stream.services.startup import Startup


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with the programs of a folder only, and a checkout without jars."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "dirname", "mkdir", "touch"):
        (programs / name).symlink_to(next(path for folder in os.defpath.split(":") if (path := Path(folder) / name).exists()))
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.delenv("ISTHMUS_KAFKA_JARS", raising=False)
    monkeypatch.setattr("stream.kafka.cluster.local_broker.JARS", tmp_path / "build" / "kafka")
    return tmp_path


def program(bare: Path, name: str, script: str = "") -> None:
    file = bare / "bin" / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize(("there", "missing"), [([], "Java 17 is missing; `make setup-kafka`"), (["java"], "Maven is missing")])
def test_a_missing_program_is_named(bare: Path, there: list[str], missing: str) -> None:
    """With the step that installs it, and the way without."""
    for name in there:
        program(bare, name)
    with pytest.raises(IsthmusError, match=rf"{missing}.*--bootstrap HOST:PORT"):
        set_up_kafka(Startup(print), bare)


def test_outside_a_checkout_it_says_where_to_put_the_jars(bare: Path) -> None:
    """An installed package cannot know which jars."""
    program(bare, "java")
    program(bare, "mvn")
    with pytest.raises(IsthmusError, match="set ISTHMUS_KAFKA_JARS"):
        set_up_kafka(Startup(print), None)


def checkout(bare: Path, script: str) -> Path:
    program(bare, "java")
    program(bare, "mvn")
    (bare / "deploy" / "kafka").mkdir(parents=True)
    (bare / "deploy" / "kafka" / "setup.sh").write_text(script)
    return bare


def test_in_a_checkout_it_fetches_the_jars(bare: Path) -> None:
    """And says so before it begins."""
    lines: list[str] = []
    jars = bare / "build" / "kafka"
    set_up_kafka(Startup(lines.append), checkout(bare, f"mkdir -p {jars}; echo Downloaded from x; touch {jars}/kafka_2.13-4.jar"))
    assert (jars / "kafka_2.13-4.jar").exists()
    assert lines == ["fetching Kafka's jars (44 MB, once)"]


def test_a_failed_set_up_shows_the_reason(bare: Path) -> None:
    """The end of Maven's output."""
    with pytest.raises(IsthmusError, match="no such host"):
        set_up_kafka(Startup(print), checkout(bare, "echo no such host; exit 1"))
