"""The pure part: events, states, the step. Standard library, msgspec and numpy only."""
