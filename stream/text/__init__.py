"""The text model (sentence encoder and keyword list), and the stage that encodes transcripts with it."""
