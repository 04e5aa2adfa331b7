"""Composition: which parts a worker, an encoder, a trainer and the demo consist of."""
