"""Executing notebooks for models, and the files that a run leaves."""
