"""The command line: composes broker, text, models and training, which do not know each other."""
