"""The sinks: the topic `recommendations` brought into other systems, so that nothing stands there that the topic does not say."""
