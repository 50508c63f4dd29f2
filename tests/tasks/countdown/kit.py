"""Countdown for `tests/tasks/test_every_task.py`."""

import re
from random import Random

from grlib.tasks.countdown import data, guidance
from grlib.tasks.countdown.puzzle import problem_key
from grlib.tasks.countdown.scale import Scale
from grlib.tasks.countdown.searchers import breadth_first, straight_path
from grlib.tasks.countdown.task import CountdownTask
from grlib.tasks.countdown.traces import grade
from grlib.tasks.countdown.vocabulary import build_tokenizer

SCALE = Scale(max_number=30, reserved_test=60, reserved_valid=40)
SPLITS = data.make_splits(SCALE, 30, 20, 20)


class KIT:
    task = CountdownTask(1024)
    tokenizer = build_tokenizer()
    items = SPLITS.train[:6]
    lists = {name: [problem_key(problem) for problem, _ in part] for name, part in vars(SPLITS).items()}
    lists["imitated"] = sorted({problem_key(one.problem) for one in data.imitation_examples(SCALE, 40)})

    @staticmethod
    def traces(item):
        found = [straight_path(*item), breadth_first(item[0], 30, "sum", Random(0))]
        return [trace for trace in found if grade(trace, item[0])]

    @staticmethod
    def broken(item, trace, rng):
        """Another number in the last operation or the goal line."""
        start = trace.rindex("Exploring Operation")
        places = [found for found in re.finditer(r"[0-9]+", trace) if found.start() > start]
        place = rng.choice(places)
        return trace[: place.start()] + str(int(place[0]) + rng.randint(1, 9)) + trace[place.end() :]

    @staticmethod
    def progress(item, trace):
        return guidance.progress(trace, *item)
