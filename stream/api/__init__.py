"""The read side: a store that follows the topics, and the HTTP API that answers from it. It never calls a worker."""
