"""grlib: an open, runnable reproduction of Guided Reinforced Self-Training (NeurIPS 2025)."""

__version__ = "0.1.0"
