"""The size of the Sudoku task; the values of each profile stand in `scale.toml`."""

from __future__ import annotations

from dataclasses import dataclass

from grlib.profiles import Model, SelfTraining, Training


@dataclass(frozen=True)
class Scale:
    """Which problems are drawn, who writes the traces, what learns from them, and what is measured."""

    blanks: int = 22  # empty cells of a problem
    held_out_kinds: int = 4  # of 36 kinds of grids: those of the unseen problems
    orders: tuple[str, ...] = ("rows", "columns", "boxes")  # of the searchers that are imitated
    budget: int = 512  # tokens of a whole response, end token included
    model: Model = Model()
    base_examples: int = 120_000
    base_training: Training = Training(
        lr=3e-3, batch_rows=18, optimizer="muon", schedule="trapezoid", warmup=0.02
    )
    self_training: SelfTraining = SelfTraining(
        train_problems=1000,
        guided_rounds=3,
        training=Training(lr=1e-3, batch_rows=16),
        row_length=552,  # tokens: a prompt has 38
    )
    test_problems: int = 100
    samples: int = 16
