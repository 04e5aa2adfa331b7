"""The brokers of a case: one local broker, one behind a proxy, or three with replication, behind one interface."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from stream.kafka.cluster.local_broker import LocalKafka
from stream.kafka.cluster.topics import admin_client
from stream.services.child_processes import wait_for
from tests.chaos.proxy import Proxy


class Cluster:
    """The brokers of one cluster. Each keeps its metadata outside its log directory, so that the latter can be deleted."""

    def __init__(self, folder: Path, size: int = 1, *, proxied: bool = False) -> None:
        self.nodes = [LocalKafka(folder / f"broker-{number}") for number in range(1, size + 1)]
        self.proxy = Proxy(self.nodes[0].port) if proxied else None
        voters = ",".join(f"{number}@127.0.0.1:{node.controller_port}" for number, node in enumerate(self.nodes, 1))
        for number, node in enumerate(self.nodes, 1):
            node.cluster_id = self.nodes[0].cluster_id
            node.properties |= {"node.id": str(number), "controller.quorum.voters": voters}
            node.properties["metadata.log.dir"] = str(node.folder / "metadata")
            if size > 1:
                node.properties |= dict.fromkeys(
                    ("offsets.topic.replication.factor", "transaction.state.log.replication.factor"), str(size)
                )
                node.properties["transaction.state.log.min.isr"] = "2"
        if self.proxy is not None:
            self.nodes[0].properties["advertised.listeners"] = f"PLAINTEXT://127.0.0.1:{self.proxy.port}"

    @property
    def bootstrap(self) -> str:
        if self.proxy is not None:
            return f"127.0.0.1:{self.proxy.port}"
        return ",".join(node.bootstrap for node in self.nodes)

    def __enter__(self) -> Self:
        if self.proxy is not None:
            self.proxy.start()
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            list(pool.map(LocalKafka.start, self.nodes))
        wait_for(
            lambda: len(self._described(lambda admin: admin.describe_cluster()["brokers"])) == len(self.nodes), [], 60, "a cluster"
        )
        return self

    def __exit__(self, *_: object) -> None:
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            list(pool.map(LocalKafka.kill, self.nodes))
        if self.proxy is not None:
            self.proxy.stop()

    def leader_of(self, topic: str, partition: int = 0) -> LocalKafka:
        leader: int = self._partitions(topic)[partition]["leader_id"]
        return self.nodes[leader - 1]

    def is_in_sync(self, topic: str) -> bool:
        """Returns whether all replicas of every partition are in sync."""
        return all(len(found["isr_nodes"]) == len(found["replica_nodes"]) for found in self._partitions(topic))

    def _partitions(self, topic: str) -> list[Any]:
        found = self._described(lambda admin: admin.describe_topics([topic]))[0]["partitions"]
        return sorted(found, key=lambda partition: partition["partition_index"])

    def _described(self, ask: Any) -> Any:
        admin = admin_client(self.bootstrap)
        try:
            return ask(admin)
        finally:
            admin.close()


def lose_disk(node: LocalKafka) -> None:
    """Kills a broker with -9 and deletes its log directory."""
    node.kill()
    shutil.rmtree(node.folder / "data")


def replace_disk(node: LocalKafka) -> None:
    """Formats an empty log directory and starts the broker, which copies its replicas from the others."""
    node.format()
    node.start()
