"""Doing a study: what is to be trained, by which processes, and what is kept of it."""
