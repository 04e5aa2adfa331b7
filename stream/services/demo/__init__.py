"""`isthmus demo`: synthetic users, two ways to run the parts, statistics, terminal view."""
