"""Small programs to start from. Each one runs by itself; tests/unit/test_examples.py keeps them working."""
