"""Isthmus: the streaming side. `core` is pure; `broker` and `text` are its edges; `cli` composes all."""
