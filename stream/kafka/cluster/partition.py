"""What the parts of the Kafka rooms call a partition."""

Partition = tuple[str, int]
"""Topic and partition number."""
