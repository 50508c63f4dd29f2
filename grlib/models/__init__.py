"""Models and tokenizers: Llama built, loaded and saved as transformers folders; LoRA; pretrained ones."""
