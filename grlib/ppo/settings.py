"""The settings of one run of reinforcement learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from grlib.errors import GrlibError
from grlib.sampling.pool import SamplingSettings
from grlib.training.parallel import (
    PRECISIONS,
    STRATEGIES,
    refuse_uneven,
)

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class PPOSettings:
    """One run. Defaults of the algorithm: the paper's, or its release where the text gives none."""

    steps: int
    problems: int  # problems of one step
    actor_lr: float
    critic_lr: float
    sampling: SamplingSettings
    action: str = "operation"  # or "token"
    baseline: str = "value"  # a critic (PPO), or "group": other samples of the same problem (GRPO)
    optimizer: str = "adamw"  # of the policy; or "normed_sgd": steps of length `actor_lr` down the gradient
    schedule: str = "constant"  # of the policy's rate; or "linear": falls to zero
    # "own": with a body of its own, as the paper's; "shared": reads the policy's states; "placed": these, and
    # how far the response has come
    critic: str = "own"
    reward: str = "outcome"  # or "dense": also for each subgoal reached
    group: int = 1  # samples of a problem in one step
    minibatch: int = 256  # responses of one optimiser step
    clip: float = 0.2
    dual_clip: float = 3.0
    value_clip: float = 0.5
    gamma: float = 1.0
    lam: float = 1.0
    max_norm: float = 1.0  # of a gradient
    weight_decay: float = 0.01
    micro_tokens: int = 2048  # padded tokens of one forward pass: bounds memory
    precision: str = "float32"  # these four as in `training.TrainSettings`
    processes: int = 1
    strategy: str = "ddp"
    recompute: bool = False
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise GrlibError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(allowed)}")
        if self.baseline == "group" and self.group < 2:
            raise GrlibError(f"group={self.group} with baseline 'group': must be 2 or more; raise it")
        names = ("steps", "problems", "group", "minibatch", "processes")
        sizes = {name: getattr(self, name) for name in names}
        rates = {name: getattr(self, name) for name in ("actor_lr", "critic_lr", "clip", "dual_clip")}
        for name, value in (sizes | rates).items():
            if value <= 0:
                raise GrlibError(f"{name}={value}: must be positive")
        refuse_uneven(self.processes, "minibatch", self.minibatch)


CHOICES = {
    "action": ("operation", "token"),
    "baseline": ("value", "group"),
    "optimizer": ("adamw", "normed_sgd"),
    "schedule": ("constant", "linear"),
    "critic": ("own", "shared", "placed"),
    "reward": ("outcome", "dense"),
    "precision": PRECISIONS,
    "strategy": STRATEGIES,
}
