"""Requests in, responses out: the pool, and engines `batched`, `static`, `transformers`, `vllm`."""
