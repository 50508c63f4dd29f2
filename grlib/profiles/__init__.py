"""The one dial: `smoke`, `laptop`, `gpu` and `paper`, one TOML file each; `get(name)` reads it."""

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
