"""Engine "transformers": `generate` of transformers, slow, for any architecture; the tests' reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers import GenerationConfig

from grlib.profiles import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast, TextStreamer

    from grlib.sampling.batched import Drawn


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[list[int]],
    budgets: Sequence[int],
    settings: Sampling,
    seed: int,
    streamer: TextStreamer | None = None,
) -> Drawn:
    """New tokens of each prompt, `slots` rows at a time; no log probabilities. A `streamer` gets the tokens
    of a single row as they are drawn."""
    torch.manual_seed(seed)
    found: list[list[int]] = [[] for _ in prompts]
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    choice = {"do_sample": True, "temperature": settings.temperature, "top_k": 0, "top_p": 1.0}
    if settings.temperature == 0:
        choice = {"do_sample": False}
    order = sorted((i for i, budget in enumerate(budgets) if budget > 0), key=lambda i: len(prompts[i]))
    for first in range(0, len(order), settings.slots):
        rows = order[first : first + settings.slots]
        width = max(len(prompts[i]) for i in rows)
        ids = torch.tensor([[pad] * (width - len(prompts[i])) + prompts[i] for i in rows])
        mask = torch.tensor([[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in rows])
        # the model's own configuration, which may hold penalties and other end tokens, is set aside
        own, model.generation_config = model.generation_config, GenerationConfig()
        try:
            output = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=max(budgets[i] for i in rows),
                eos_token_id=end,
                pad_token_id=pad,
                streamer=streamer,
                **choice,
            )
        finally:
            model.generation_config = own
        for i, new in zip(rows, output[:, width:].tolist(), strict=True):
            length = new.index(end) + 1 if end in new else len(new)
            found[i] = new[: min(length, budgets[i])]
    return found, [[] for _ in prompts]
