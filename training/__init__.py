"""From purchases to served models: data sets, examples, the loop, measures, gate and registry. Knows Kafka as a reader only."""
