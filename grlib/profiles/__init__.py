"""Settings of every scale: `get(name)` reads profile `smoke`, `laptop`, `gpu` or `paper` from its file."""

from grlib.profiles.settings import (  # noqa: F401
    DIAL,
    NO_EVIDENCE,
    PPO,
    Compute,
    CountdownSettings,
    Profile,
    RepairScale,
    Sampling,
    SelfTraining,
    Stage,
    Training,
    Watched,
    changed,
    get,
    load_file,
    shared,
    sources,
    with_sizes,
)
