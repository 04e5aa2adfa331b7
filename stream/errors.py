"""The root of all errors that a user can do something about: the message says what is wrong and what to do next."""


class IsthmusError(Exception):
    """Wrong use or surroundings, not a bug. The command line prints the message without a traceback and exits with 2."""
