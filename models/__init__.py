"""The rankers: networks, vocabularies and the model folder. No Kafka here; torch is imported only where a network needs it."""
