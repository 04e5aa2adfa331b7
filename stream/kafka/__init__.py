"""Everything that knows Kafka or Faust: clients, delivery guarantees, batches through Faust, agents, the embedded log, the apps."""
