"""Comparisons of systems on a data set, and their reports."""
