"""Tables in the paper's layout: read, checked, written, turned into events."""
