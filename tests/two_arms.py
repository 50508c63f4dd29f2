"""The smallest task that can be reinforced, and a model to reinforce. Nothing here is Countdown."""

from __future__ import annotations

from grlib.models.llama import of_shape, save_model
from grlib.models.tokenizer import encode
from grlib.ppo import loop as ppo
from grlib.profiles import PPO, Model, Sampling
from grlib.sampling.pool import Request
from grlib.tasks.countdown.vocabulary import build_tokenizer
from grlib.training.rows import Rollout


class TwoArms:
    """The first token of a response is the arm; one of them pays."""

    def __init__(self, tokenizer, good="0"):
        self.good = encode(tokenizer, [good])[0][0]
        self.prompt = tuple(encode(tokenizer, ["<s>"])[0])

    def rollouts(self, policy, items, tokenizer, settings):
        answers = policy([Request("<s>", "", 1) for _ in items])
        return [
            Rollout(
                self.prompt, one.ids, one.logprobs, (0,), ((0, float(one.ids[0] == self.good)),),
                one.ids[0] == self.good, True,
            )
            for one in answers
        ]  # fmt: skip


def toy(folder, whole_numbers=10):
    words = build_tokenizer(whole_numbers, ())
    model = of_shape(Model("", 16, 1, 2, 2, 32), words, 64)
    save_model(model, words, folder / "base")
    return folder / "base", words


def toy_settings(**changes):
    sampling = Sampling(workers=1, slots=64, chunk=64)
    plain = {
        "steps": 12,
        "responses": 64,
        "actor_lr": 0.02,
        "critic_lr": 0.02,
        "minibatch": 32,
        "critic": "own",
    }
    return PPO(**(plain | {"sampling": sampling} | changes))


def run(task, base, folder, settings, items=range(8), progress=lambda line: None):
    return ppo.train_ppo(
        task, list(items), base, settings, seed=0, out=folder / "out", work=folder / "work",
        progress=progress,
    )  # fmt: skip
