"""Models and tokenizers: build, load and save Llamas as transformers does; LoRA; pretrained models."""
