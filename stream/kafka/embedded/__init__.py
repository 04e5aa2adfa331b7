"""The embedded transport: the same Faust app, agents, tables and batch delivery without Kafka. One process, one worker."""
