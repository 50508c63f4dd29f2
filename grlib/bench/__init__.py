"""`python -m grlib bench`."""
