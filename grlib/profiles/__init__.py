"""The one dial: `smoke`, `laptop`, `gpu` and `paper`, one TOML file each; `get(name)` reads it."""

from grlib.profiles.settings import (
    GPU_BASE,
    LAPTOP,
    NO_EVIDENCE,
    PRETRAINED_REPAIR,
    PROFILES,
    REHEARSAL,
    CountdownSettings,
    Profile,
    RepairScale,
    Stage,
    get,
    sources,
)

__all__ = [
    "GPU_BASE",
    "LAPTOP",
    "NO_EVIDENCE",
    "PRETRAINED_REPAIR",
    "PROFILES",
    "REHEARSAL",
    "CountdownSettings",
    "Profile",
    "RepairScale",
    "Stage",
    "get",
    "sources",
]
