"""Requests in, responses out: the pool of workers and its engines (`batched`, `static`, `vllm`)."""
