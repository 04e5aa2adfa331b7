"""Deployment: files that a tool checks in the tests, and the generator of the reference pages."""
