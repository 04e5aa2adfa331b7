"""Tables in the paper's layout: reading, checking, writing, and conversion to events."""
