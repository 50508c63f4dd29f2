"""The size of code self-repair; the values of each profile stand in `scale.toml`."""

from __future__ import annotations

from dataclasses import dataclass

from grlib.profiles import SelfTraining, Training


@dataclass(frozen=True)
class Scale:
    """Model, base, self-training and evaluation of code self-repair."""

    pretrained: str = ""  # package, folder or hub name (`llama.load_pretrained`); empty: a model from scratch
    budget: int = 192  # tokens of one answer, end token included
    seconds: float = 0.3  # time limit of one test
    # the base, which imitates repair episodes
    base_problems: int = 40_000  # one episode each for the base to imitate; 0: a pretrained model as it is
    base_training: Training = Training(
        lr=3e-3, batch_rows=16, epochs=2, optimizer="muon", schedule="trapezoid", warmup=0.02
    )
    valid_problems: int = 100
    # self-training, on problems none of which the base has seen
    self_training: SelfTraining = SelfTraining(
        train_problems=400,
        iterations=3,
        rest_epochs=2,
        training=Training(lr=1e-3, batch_rows=16),
        row_length=1536,  # tokens of a whole episode
    )
    episodes: int = 2  # per problem
    learn_from: str = "last"  # of a kept episode: the last answer (the paper's text), or "all" (its code)
    # evaluation
    near_problems: int = 300
    far_problems: int = 150
    deeper_problems: int = 32
    samples: int = 8
    many_samples: int = 0  # more episodes of the first `many_problems` of a split, for large k; 0: none
    many_problems: int = 100
    # where problems come from: "compositions" (composed here), "humaneval", a folder, name or name@commit
    train_source: str = "compositions"
    near_source: str = "compositions"
    far_source: str = "compositions"
