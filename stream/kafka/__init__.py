"""All that knows Faust and Kafka: batch delivery, state tables, agents, followers, topics."""
