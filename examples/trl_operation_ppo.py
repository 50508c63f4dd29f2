"""Operation-level PPO inside TRL: one line of a response is one action (docs/operation-ppo-elsewhere.md).

`python -m examples.trl_operation_ppo --steps 10` reinforces the shipped base model on Countdown, on the CPU.
"""

import argparse
from pathlib import Path

import torch
from datasets import Dataset
from torch import nn
from trl import GRPOConfig, GRPOTrainer

from grlib.models.llama import load_both
from grlib.ppo.losses import operation_advantages, operation_policy_loss, value_loss
from grlib.tasks.countdown import Problem, grade
from grlib.tasks.countdown.data import draw
from grlib.tasks.countdown.scale import Scale
from grlib.tasks.countdown.vocabulary import prompt_text
from grlib.tasks.trace_task import line_ends

SHIPPED = Path(__file__).resolve().parents[1] / "paper_results" / "base" / "sos"


class OperationPPOTrainer(GRPOTrainer):
    """TRL samples, grades, optimises, logs and saves; advantages and losses are those of `grlib.ppo.losses`.

    A critic, one linear layer on the policy's states, is made part of the model, so that TRL trains and saves
    it. `epsilon` is the clip of the policy and of the values, `delta` the dual clip. For one process.
    """

    def __init__(self, model, *args, gamma: float = 1.0, lam: float = 1.0, **kwargs) -> None:
        model.critic = nn.Linear(model.config.hidden_size, 1)
        nn.init.zeros_(model.critic.weight)
        super().__init__(model, *args, **kwargs)
        self.gamma, self.lam = gamma, lam
        self.line_ends = torch.tensor(sorted(line_ends(self.processing_class)))

    def starts(self, batch) -> torch.Tensor:
        """1.0 at the first token of every line of a response, 0.0 elsewhere and on padding."""
        ended = torch.isin(batch["completion_ids"], self.line_ends.to(batch["completion_ids"].device))
        after = torch.cat([torch.ones_like(ended[:, :1]), ended[:, :-1]], 1)
        return (after * batch["completion_mask"]).float()

    def values(self, model, batch) -> torch.Tensor:
        """The value of the state before every token of a response; the policy gets no gradient from it."""
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
        with torch.no_grad():
            states = model.model(input_ids=ids, attention_mask=mask).last_hidden_state
        before = states[:, -batch["completion_ids"].shape[1] - 1 : -1]
        return model.critic(before)[..., 0].float() * batch["completion_mask"]

    def _calculate_rewards(self, *parts):
        self.rewards = super()._calculate_rewards(*parts)
        return self.rewards

    def _generate_and_score_completions(self, inputs):
        """TRL's batch, with an advantage, a return and a value at the first token of every line."""
        batch = super()._generate_and_score_completions(inputs)
        mask, starts = batch["completion_mask"], self.starts(batch)
        rewards = torch.zeros_like(starts)  # the last token earns what the whole response is worth
        total = (self.rewards * self.reward_weights.to(self.rewards.device)).nansum(1).float()
        rewards[torch.arange(len(mask)), mask.sum(1) - 1] = total
        with torch.no_grad():
            old = self.values(self.model, batch)
        advantages, returns = operation_advantages(rewards, old, starts, self.gamma, self.lam)
        return batch | {"advantages": advantages, "returns": returns, "values": old}

    def _compute_loss(self, model, inputs):
        mask, starts = inputs["completion_mask"], self.starts(inputs)
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        attended = torch.cat([inputs["prompt_mask"], mask], 1)
        new = self._get_per_token_logps_and_entropies(model, ids, attended, mask.shape[1])[0] * mask
        old = inputs.get("old_per_token_logps", new.detach()) * mask
        dual_clip = self.args.delta or 1e6
        loss = operation_policy_loss(old, new, inputs["advantages"], starts, self.epsilon_low, dual_clip)
        value = self.values(self.accelerator.unwrap_model(model), inputs)
        critic = value_loss(value, inputs["values"], inputs["returns"], starts, self.epsilon_low)
        for name, seen in (("policy_loss", loss), ("value_loss", critic), ("actions", starts.sum(1).mean())):
            self._metrics["train"][name].append(seen.item())
        return (loss + critic) / self.current_gradient_accumulation_steps


def solved(completions, nums, target, **others) -> list[float]:
    """The reward: 1 for a trace that reaches the target."""
    problems = map(Problem, nums, target)
    return [float(grade(text, one).correct) for text, one in zip(completions, problems, strict=True)]


def problems(n: int) -> Dataset:
    drawn = [problem for problem, _ in draw(Scale(max_number=30), "trl", n)]
    rows = [{"prompt": prompt_text(one), "nums": list(one.nums), "target": one.target} for one in drawn]
    return Dataset.from_list(rows)


def settings(out: Path | str, steps: int, **changes) -> GRPOConfig:
    """Two updates per batch of 4 problems x 4 responses, on the CPU."""
    fixed = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none"}
    sizes = {"per_device_train_batch_size": 16, "num_generations": 4, "max_completion_length": 512}
    ppo = {"num_iterations": 2, "epsilon": 0.2, "delta": 3.0, "beta": 0.0, "learning_rate": 1e-5}
    run = {"output_dir": str(out), "max_steps": steps, "logging_steps": 1, "save_strategy": "no", "seed": 0}
    return GRPOConfig(**fixed | sizes | ppo | run | changes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=SHIPPED, help="folder of a model")
    parser.add_argument("--steps", type=int, default=10, help="updates")
    parser.add_argument("--out", type=Path, default=Path("runs/trl"), help="where the model goes")
    chosen = parser.parse_args()
    model, tokenizer = load_both(chosen.model)
    parts = {"args": settings(chosen.out, chosen.steps), "train_dataset": problems(256)}
    trainer = OperationPPOTrainer(model, solved, processing_class=tokenizer, **parts)
    trainer.train()
    del model.critic  # it has done its work; other programs would not know these weights
    trainer.save_model(str(chosen.out))


if __name__ == "__main__":
    main()
