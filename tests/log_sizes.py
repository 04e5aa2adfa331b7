"""What a topic takes on its brokers' disks."""

from contextlib import closing

from stream.kafka.cluster.topics import admin_client


def stored_bytes(bootstrap: str, topic: str) -> int:
    """Bytes of all replicas."""
    with closing(admin_client(bootstrap)) as admin:
        brokers = admin.describe_log_dirs([topic])
    return sum(
        partition["partition_size"]
        for broker in brokers
        for folder in broker["log_dirs"]
        for found in folder["topics"]
        for partition in found["partitions"]
    )
