"""Notebooks as a build: files that are whole, chunks, digests, freshness, the runner, recording."""
