"""Formats of topics other than JSON: values framed with the id of their schema in a schema registry."""
