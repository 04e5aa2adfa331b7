"""Programs, not part of the test suite: `make bench` compares Isthmus with other ways to build the same worker.

`python -m tests.benchmarks` measures all parts, `python -m tests.benchmarks.recovery` restoring from a changelog, and
`python -m tests.benchmarks.training` training. README.md explains the set-up and holds the results.
"""
