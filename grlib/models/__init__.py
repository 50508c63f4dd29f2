"""Tokenizers; Llamas: build, load, save; LoRA; pretrained models; a model stored as a difference."""
