"""The newest records of a topic, for a look at what it carries."""

from stream.errors import IsthmusError
from stream.kafka.cluster.topic_reader import open_topic_reader


def recent_values(bootstrap: str, topic: str, per_partition: int) -> list[bytes]:
    """Values of the last `per_partition` records of each partition, tombstones left out.

    Raises:
        IsthmusError: broker or topic cannot be read.
    """
    with open_topic_reader(bootstrap) as found:
        ends = found.ends(topic)
        if not ends:
            raise IsthmusError(f"{topic} is missing at {bootstrap}: run `isthmus topics`")
        starts = {number: max(0, end - per_partition) for number, end in ends.items()}
        return [record.value for record in found.records(topic, starts) if record.value is not None]
