"""The one error that a person sees: what is wrong and what to do next."""


class IsthmusError(Exception):
    """Wrong use or surroundings, not a bug: the command line prints the message without a traceback and exits with 2."""
