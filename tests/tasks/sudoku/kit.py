"""Sudoku for `tests/tasks/test_every_task.py`."""

from dataclasses import replace
from itertools import product

from grlib.tasks.sudoku import guidance, traces
from grlib.tasks.sudoku.scale import Scale
from grlib.tasks.sudoku.task import SudokuTask, build_tokenizer, imitated, problems

SCALE = replace(Scale(), blanks=16)


class KIT:
    task = SudokuTask(SCALE.budget)
    tokenizer = build_tokenizer()
    items = problems(SCALE, "train", 6)
    lists = {
        (role, unseen): [one.clues for one in problems(SCALE, role, 12, unseen)]
        for role, unseen in product(("train", "valid", "test"), (False, True))
        if not (role == "train" and unseen)
    } | {"imitated": [problem.clues for problem, _ in imitated(SCALE, 40)]}

    @staticmethod
    def traces(item):
        found = [traces.depth_first(item.clues, order) for order in traces.ORDERS]
        return [*found, traces.straight_path(*item)]

    @staticmethod
    def broken(item, trace, rng):
        """Another digit in the answer."""
        place = len(trace) - 1 - rng.randint(1, 36)
        digit = rng.choice("123456".replace(trace[place], ""))
        return trace[:place] + digit + trace[place + 1 :]

    @staticmethod
    def progress(item, trace):
        return 36 - guidance.deepest(trace, item)[1].count(".")
