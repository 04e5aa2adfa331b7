"""Rankers: networks, vocabularies and the model folder. Knows no Kafka; torch is imported only where a network needs it."""
