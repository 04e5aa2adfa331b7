"""Delivery guarantees: how the outputs and the new states of a processed batch become durable.

Order of durability
-------------------
1. the outputs (recommendations, training examples, dead letters) are acknowledged by the brokers,
2. the changelog records of the new states are acknowledged,
3. the states, with the changelog offset that contains them, are written to RocksDB,
4. the source message is acknowledged, so that its offset may be committed.

The state holds the offsets it has applied. If it became durable before its outputs, a crash in between would make the restarted
worker skip the records, and their recommendations would be lost.

- At least once (`at_least_once.py`): the four steps one after the other. A crash between 1 and 3 sends outputs again, with the
  same ids; `redelivery.py` says which batches may contain such records.
- Exactly once (`exactly_once.py`): one Kafka transaction commits 1, 2 and the source offsets together, then 3, then 4.

`contracts.py` holds the types that both share with the agents and the transports. Nothing here imports Faust.
"""
