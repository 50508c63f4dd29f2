"""Sudoku of six by six cells, a tutorial: read `puzzle`, `traces`, `guidance` and `task` in this order."""
