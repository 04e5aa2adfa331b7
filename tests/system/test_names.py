"""Two living processes of one name on real Kafka: the first goes on, the other ends with a message."""

from pathlib import Path

from stream.kafka.cluster.local_broker import free_port
from stream.kafka.cluster.topics import create_or_check
from stream.services.child_processes import ChildProcess, wait_for
from stream.settings import TopicSettings
from tests.system.readiness import readiness

TOPICS = TopicSettings(partitions=2)


def start(bootstrap: str, folder: Path, command: str, host: str, port: int) -> ChildProcess:
    """A process named "one" as on another host, which is a state directory and a name."""
    (folder / host).mkdir(exist_ok=True)
    variables = {
        "ISTHMUS_WORKER__STATE_DIR": str(folder / host / "state"),
        "ISTHMUS_TOPICS__PARTITIONS": "2",
        "ISTHMUS_KAFKA__DEV": "true",
        "ISTHMUS_HOST": host,
    }
    arguments = [command, "--bootstrap", bootstrap, "--name", "one", "--metrics-port", str(port)]
    return ChildProcess(arguments, variables, folder / host / f"{command}.log")


def test_a_second_process_of_a_name_ends_and_names_the_host_of_the_first(empty_kafka: str, tmp_path: Path) -> None:
    """Worker and encoder: the first of each stays ready, the second ends within 10 s with
    code 2. That a restart ends too is in tests/unit/test_names.py.
    """
    create_or_check(empty_kafka, TOPICS, dev=True)
    ports = {command: free_port() for command in ("worker", "encoder")}
    first = {command: start(empty_kafka, tmp_path, command, "host-a", port) for command, port in ports.items()}
    try:
        wait_for(lambda: all(readiness(port) == "ok\n" for port in ports.values()), list(first.values()), 60, "readiness")
        second = {command: start(empty_kafka, tmp_path, command, "host-b", 0) for command in first}
        codes = {command: child.process.wait(20) for command, child in second.items()}  # 10 s on a machine that is not busy
        assert codes == {"worker": 2, "encoder": 2}
        for command, child in second.items():
            last_line = child.log.read_text().splitlines()[-1]
            assert f"the name one is taken: process {first[command].pid} on host-a" in last_line
        assert {readiness(port) for port in ports.values()} == {"ok\n"}
    finally:
        for child in first.values():
            child.stop()
