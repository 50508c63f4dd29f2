"""`examples/trl_operation_ppo.py` in the real TRL: with a token a line its loss is TRL's own; it trains."""

import math

import pytest
import torch
from conftest import tiny_model

pytest.importorskip("trl", reason="needs trl (tests/ecosystem/requirements.txt)")

from examples import trl_operation_ppo as example

LENGTHS = [12, 7, 1, 12, 3, 9]


def trainer_in(folder, reward=example.solved, **changes):
    model, tokenizer = tiny_model()
    sizes = {"per_device_train_batch_size": 8, "max_completion_length": 24, "learning_rate": 1e-2}
    args = example.settings(folder, 2, **sizes | changes)
    parts = {"args": args, "train_dataset": example.problems(8), "processing_class": tokenizer}
    trainer = example.OperationPPOTrainer(model, reward, **parts)
    trainer.current_gradient_accumulation_steps = 1  # as `train` would set it
    return trainer


def batch_for(trainer):
    """Random tokens, padded on both sides; old log probabilities some way from the model's."""
    torch.manual_seed(0)
    rows, tokens, size = len(LENGTHS), max(LENGTHS), len(trainer.processing_class)
    batch = {
        "prompt_ids": torch.randint(3, size, (rows, 5)),
        "prompt_mask": torch.ones(rows, 5, dtype=torch.long),
        "completion_ids": torch.randint(3, size, (rows, tokens)),
        "completion_mask": (torch.arange(tokens) < torch.tensor(LENGTHS)[:, None]).long(),
        "advantages": torch.randn(rows, tokens),
        "num_items_in_batch": torch.tensor(sum(LENGTHS)),
        "returns": torch.zeros(rows, tokens),
        "values": torch.zeros(rows, tokens),
    }
    batch["prompt_mask"][1, :2] = 0
    ids, mask = (
        torch.cat([batch[f"prompt_{kind}"], batch[f"completion_{kind}"]], 1) for kind in ("ids", "mask")
    )
    with torch.no_grad():
        now = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, tokens)[0]
    return batch | {"old_per_token_logps": now + torch.randn(rows, tokens)}


def gradient(trainer, loss):
    trainer.model.zero_grad()
    loss.backward()
    weights = trainer.model.model.parameters()
    return torch.cat([one.grad.flatten() for one in weights if one.grad is not None])


@pytest.mark.parametrize("delta", [None, 2.0])
def test_with_a_token_a_line_the_loss_is_that_of_trl(tmp_path, delta):
    trainer = trainer_in(tmp_path, loss_type="bnpo", delta=delta)
    model = trainer.model.train()
    trainer.line_ends = torch.arange(len(trainer.processing_class))
    torch.nn.init.zeros_(model.critic.bias)  # values, returns and so the loss of the critic are 0
    batch = batch_for(trainer)
    assert torch.equal(trainer.starts(batch), batch["completion_mask"].float())
    ours, theirs = (
        trainer._compute_loss(model, batch),
        super(type(trainer), trainer)._compute_loss(model, batch),
    )
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6) and abs(ours.item()) > 0.01
    torch.testing.assert_close(gradient(trainer, ours), gradient(trainer, theirs), rtol=1e-4, atol=1e-6)


def test_a_line_is_an_action(tmp_path):
    trainer = trainer_in(tmp_path)
    text = (
        "Moving to Node #0,1\nCurrent State: 16:[10, 6], Operations: ['2*3=6']\n16,16 equal: Goal Reached\n"
    )
    ids = trainer.processing_class(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    mask = torch.ones_like(ids)
    starts = trainer.starts({"completion_ids": ids, "completion_mask": mask})[0].nonzero()[:, 0].tolist()
    ends = [*starts[1:], ids.shape[1]]
    lines = [trainer.processing_class.decode(ids[0, a:b]) for a, b in zip(starts, ends, strict=True)]
    assert lines == text.splitlines(keepends=True)


def test_it_trains_policy_and_critic(tmp_path):
    def odd(completions, **columns):
        return [float(len(text) % 2) for text in completions]

    trainer = trainer_in(tmp_path, odd)
    before = {name: weights.detach().clone() for name, weights in trainer.model.named_parameters()}
    trainer.train()
    seen = [row for row in trainer.state.log_history if "policy_loss" in row]
    assert len(seen) == 2 and all(math.isfinite(row["loss"]) and row["actions"] >= 1 for row in seen)
    changed = {
        name for name, weights in trainer.model.named_parameters() if not torch.equal(weights, before[name])
    }
    # with gamma = lambda = 1 every line of a response returns what the whole response earns
    batch = trainer._buffered_inputs[0]
    starts, mask = trainer.starts(batch), batch["completion_mask"].bool()
    texts = [
        trainer.processing_class.decode(ids[kept], skip_special_tokens=True)
        for ids, kept in zip(batch["completion_ids"], mask, strict=True)
    ]
    earned = torch.tensor(odd(texts))
    torch.testing.assert_close(batch["returns"], earned[:, None] * starts)
    assert 0 < earned.sum() < len(earned)
    assert {"critic.weight", "critic.bias", "model.embed_tokens.weight"} <= changed
