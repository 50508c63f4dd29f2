"""Supervised fine-tuning: rows, optimisers, one loop, several processes."""
