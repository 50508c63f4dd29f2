"""Supervised fine-tuning: base models and their cards, rows, loss, one loop, packing, several processes."""
