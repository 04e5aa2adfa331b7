"""Faust with batches: transport, consumer, recovery and the user table."""
