"""Delivery guarantees: at least once and exactly once behind one protocol."""
