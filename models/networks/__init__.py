"""The networks, one system a file."""
