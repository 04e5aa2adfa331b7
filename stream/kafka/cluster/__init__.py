"""Clients of a Kafka cluster without Faust: topics, offsets, readers, producers, a local broker."""
