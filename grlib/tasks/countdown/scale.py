"""The size of the Countdown task; the values of each profile stand in `scale.toml`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Which problems are drawn and which searchers write the traces."""

    num_count: int = 4
    max_number: int = 99
    target_low: int = 10
    target_high: int = 100
    unseen_fraction: float = 0.1
    heuristics: tuple[str, ...] = ("sum", "mult")
    dfs_widths: tuple[int, ...] = (0,)  # 0: no cap, as in the reference
    bfs_beams: tuple[int, ...] = (1, 2, 3, 4, 5)
    target_seed: int = 0  # one split for every seed of a run: a shipped base has seen its "seen" targets
    reserved_test: int = 2000  # problems of each test list that no training set may hold
    reserved_valid: int = 1000
