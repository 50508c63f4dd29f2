"""One folder per task."""
