"""Whole processes: workers, encoders, trainers and commands on real Kafka, on the embedded log and on a real registry."""
