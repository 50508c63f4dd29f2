"""Countdown as a task: attempts are graded, guided one subgoal further, and evaluated a row a trace."""

from random import Random

import pandas as pd
import pytest

from grlib import profiles
from grlib.errors import GrlibError
from grlib.models.tokenizer import encode
from grlib.sampling.pool import Request, Sampled
from grlib.selftrain import Attempt, evaluate, gather
from grlib.tasks.countdown.data import make_splits
from grlib.tasks.countdown.fast import solve
from grlib.tasks.countdown.guidance import progress
from grlib.tasks.countdown.puzzle import Problem
from grlib.tasks.countdown.scale import Scale
from grlib.tasks.countdown.searchers import depth_first, straight_path
from grlib.tasks.countdown.task import (
    PPO_RUNS,
    CountdownTask,
    evaluate_splits,
    hint,
    ppo_settings,
    solved_unaided,
)
from grlib.tasks.countdown.traces import grade
from grlib.tasks.countdown.vocabulary import build_tokenizer, prompt_text

TOKENIZER = build_tokenizer()
PROBLEMS = [
    Problem((84, 2, 14, 15), 26),
    Problem((3, 5, 7, 9), 24),
    Problem((1, 2, 3, 4), 25),
    Problem((6, 6, 30), 11),
]
ITEMS = [(problem, solve(problem)) for problem in PROBLEMS]
TASK = CountdownTask(budget=600)


def tokens(text: str) -> int:
    return len(encode(TOKENIZER, [text])[0])


def policy_of(continuation):
    """A policy that answers each request with `continuation(request)` after the prefix, cut at the budget."""

    def policy(requests):
        found = []
        for request in requests:
            prefix = tokens(request.prefix)
            if prefix >= request.budget:
                found.append(Sampled(request.prefix, prefix, False, 0))
                continue
            new = encode(TOKENIZER, [continuation(request)])[0] + [TOKENIZER.eos_token_id]
            new = new[: request.budget - prefix]
            ended = new[-1] == TOKENIZER.eos_token_id
            text = request.prefix + TOKENIZER.decode(new[:-1] if ended else new)
            found.append(Sampled(text, prefix + len(new), ended, len(new)))
        return found

    return policy


silent = policy_of(lambda request: "")


def solver(request: Request) -> str:
    """Writes the whole solution, whatever stands before it."""
    return next(straight_path(*item) for item in ITEMS if prompt_text(item[0]) == request.prompt)


# attempts


def test_an_attempt_is_the_graded_trace():
    found = TASK.attempt(policy_of(solver), ITEMS, [None] * len(ITEMS))
    for (problem, solution), attempt in zip(ITEMS, found, strict=True):
        trace = straight_path(problem, solution)
        assert attempt == Attempt(prompt_text(problem), trace, tokens(trace) + 1, True, True, attempt.reason)
    wrong = TASK.attempt(policy_of(lambda request: "26,26 equal: Goal Reached\n"), ITEMS, [None] * len(ITEMS))
    assert not any(attempt.correct for attempt in wrong)
    assert wrong[0].reason == grade("26,26 equal: Goal Reached\n", PROBLEMS[0]).reason != ""


def test_starts_and_budgets_reach_the_model():
    asked = []
    TASK.attempt(lambda requests: asked.extend(requests) or silent(requests), ITEMS[:2], [None, "Current"])
    assert asked == [
        Request("<s>Target: 26, Numbers: [84, 2, 14, 15]\n", "", 600),
        Request("<s>Target: 24, Numbers: [3, 5, 7, 9]\n", "Current", 600),
    ]


def test_a_policy_that_leaves_an_answer_out_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        TASK.attempt(lambda requests: silent(requests)[1:], ITEMS, [None] * len(ITEMS))


def test_a_start_that_fills_the_budget_is_no_attempt():
    start = straight_path(*ITEMS[0])
    full = CountdownTask(budget=tokens(start))
    assert full.attempt(silent, ITEMS[:2], [start, None]) == [
        None,
        full.attempt(silent, ITEMS[1:2], [None])[0],
    ]
    roomy = CountdownTask(budget=tokens(start) + 1)
    assert roomy.attempt(silent, ITEMS[:1], [start])[0].ended


def test_an_attempt_cut_by_the_budget_says_so():
    attempt = CountdownTask(budget=40).attempt(policy_of(solver), ITEMS[:1], [None])[0]
    assert (attempt.ended, attempt.tokens, attempt.correct) == (False, 40, False)


# guidance


def failed(trace: str, problem: Problem) -> Attempt:
    verdict = grade(trace, problem)
    return Attempt(prompt_text(problem), trace, tokens(trace), False, verdict.correct, verdict.reason)


def test_rounds_lead_a_silent_model_to_the_goal():
    """It writes nothing itself: the first round gives the root, each further one a step."""
    for rounds in range(6):
        task = CountdownTask(budget=600, rounds=5)
        found = gather(task, ITEMS[:1], lambda number: silent, rounds, seed=0)
        assert found.solved_in == [4 if rounds >= 4 else -1]
        expected = straight_path(*ITEMS[0], steps=min(rounds - 1, 3)) if rounds else ""
        assert found.attempts[0].response == expected


def test_a_prefix_ends_with_a_line():
    """The model goes on at the start of a line, also after a goal line, which the release leaves open."""
    for item in ITEMS:
        trace = straight_path(*item, steps=len(item[1]) - 1)
        start = TASK.guide(item, failed(trace, item[0]), 1, Random(0))
        assert start.endswith(" equal: Goal Reached\n") and grade(start, item[0]).correct
        assert all(hint(item, steps).endswith("\n") for steps in range(1, len(item[1]) + 1))


def test_without_guidance_a_failed_problem_is_attempted_from_the_start():
    problem, solution = ITEMS[0]
    attempt = failed(depth_first(problem, "sum", 1), problem)
    assert CountdownTask(100, guided=False).guide((problem, solution), attempt, 1, Random(0)) == ""


def test_where_guidance_may_not_write_the_goal_the_last_step_is_left_to_the_model():
    """The control of case b: of a silent model nothing is kept, whose traces guidance alone would finish."""
    task = CountdownTask(budget=600, rounds=5, writes_goal=False)
    found = gather(task, ITEMS[:1], lambda number: silent, 5, seed=0)
    assert found.solved_in == [-1]
    assert found.attempts[0].response == straight_path(*ITEMS[0], steps=2)


def test_a_guided_round_without_room_keeps_the_trace():
    root = policy_of(lambda request: "" if request.prefix else depth_first(PROBLEMS[2])[:400])
    budget = 60
    found = gather(CountdownTask(budget), ITEMS[2:3], lambda number: root, 3, 0)
    assert found.attempts[0].tokens <= budget
    kept = CountdownTask(1)
    assert gather(kept, ITEMS[:1], lambda number: silent, 3, 0).solved_in == [-1]


# hints and evaluation


def test_hints_are_the_first_steps_of_the_solution():
    problem, solution = ITEMS[0]
    assert hint(ITEMS[0], 0) is None
    for steps in (1, 2, 3):
        assert progress(hint(ITEMS[0], steps), problem, solution) == steps
    assert grade(hint(ITEMS[0], 3), problem).correct


def test_an_evaluation_has_a_row_a_trace():
    seen = iter(range(100))
    found = evaluate(
        TASK, policy_of(lambda request: "" if next(seen) % 2 else solver(request)), ITEMS, samples=4
    )
    assert list(found.columns) == ["index", "sample", "correct", "reason", "tokens", "truncated", "response"]
    assert found["index"].tolist() == [i for i in range(4) for _ in range(4)]
    assert found["sample"].tolist() == [0, 1, 2, 3] * 4
    assert found["correct"].tolist() == [True, False] * 8
    assert not found["truncated"].any()
    assert found["tokens"].tolist() == [tokens(text) + 1 for text in found["response"]]
    assert found["correct"].dtype == bool and found["tokens"].dtype == "int64"


def test_an_evaluation_goes_on_from_starts():
    starts = [hint(item, 1) for item in ITEMS]
    found = evaluate(TASK, silent, ITEMS, 2, starts)
    assert found["response"].tolist() == [start for start in starts for _ in range(2)]


def test_a_start_without_room_is_refused_in_an_evaluation():
    with pytest.raises(GrlibError, match="budget=20.*start of item 1 fills the budget"):
        evaluate(CountdownTask(20), silent, ITEMS[:2], 3, [None, hint(ITEMS[1], 2)])


def test_splits_are_evaluated_from_a_model_folder(tiny_folder, tmp_path, monkeypatch, chunks_done):
    profile = profiles.changed(profiles.get("smoke"), budget=40, samples=3, sampling={"chunk": 100})
    task = Scale(num_count=3, max_number=20, target_high=30, reserved_test=20, reserved_valid=10)
    splits = make_splits(task, 5, 3, 4)
    arguments = {"seed": 0, "work": tmp_path, "progress": str}
    both = {"seen": splits.seen, "unseen": splits.unseen}
    found = evaluate_splits("sos", tiny_folder, profile, both, **arguments)
    assert found.groupby("split").size().to_dict() == {"seen": 12, "unseen": 12}
    assert found.groupby("split", sort=False)["index"].unique().map(list).to_dict() == dict.fromkeys(
        both, [0, 1, 2, 3]
    )
    assert set(found["method"]) == {"sos"} and chunks_done == [24]
    greedy = evaluate_splits("sos", tiny_folder, profile, both, **arguments, temperature=0)
    assert len(greedy) == 8 and chunks_done == [24, 8]
    assert evaluate_splits("sos", tiny_folder, profile, both, **arguments).equals(found)
    assert chunks_done == [24, 8]
    fewer = profiles.changed(profile, test_problems=2, greedy_problems=4)
    assert fewer.test_list == 4 and profiles.changed(fewer, greedy_problems=0).test_list == 2
    sampled = evaluate_splits("sos", tiny_folder, fewer, both, **arguments)
    assert sampled.groupby("split")["index"].max().to_dict() == {"seen": 1, "unseen": 1}
    assert len(evaluate_splits("sos", tiny_folder, fewer, both, **arguments, temperature=0)) == 8


# settings of a profile


@pytest.mark.parametrize("name", ["smoke", "laptop"])
def test_rest_is_guided_rest_without_rounds(name):
    profile = profiles.get(name)
    rest, guided = (profile.self_training.of(method) for method in ("rest", "guided_rest"))
    assert rest.guided_rounds == 0 and guided.guided_rounds == profile.self_training.guided_rounds == 3
    assert (rest.training.epochs, guided.training.epochs) == (
        profile.self_training.rest_epochs,
        profile.self_training.guided_epochs,
    )
    assert rest.sampling == guided.sampling == profile.sampling
    assert rest.training.lr == guided.training.lr == profile.self_training.training.lr
    with pytest.raises(GrlibError, match="'bc' is not self-trained"):
        profile.self_training.of("bc")


def test_every_ppo_run_samples_as_many_responses_a_step():
    profile = profiles.get("laptop")
    made = {method: ppo_settings(profile, method) for method in PPO_RUNS}
    assert {one.problems * one.samples_each for one in made.values()} == {profile.ppo.responses}
    assert made["guided_rest_ppo_token"].action == "token"
    assert made["sos_ppo_dense"].reward == "dense"
    assert made["guided_rest_grpo"].baseline == "group"
    with pytest.raises(GrlibError, match="method 'rest' is not trained by PPO"):
        ppo_settings(profile, "rest")


def test_rollouts_earn_at_the_end_and_at_subgoals():
    item = ITEMS[0]
    trace = straight_path(*item)
    ids = tuple(encode(TOKENIZER, [trace])[0] + [TOKENIZER.eos_token_id])
    settings = ppo_settings(profiles.get("laptop"), "sos_ppo_dense")

    def policy(requests):
        return [Sampled(trace, len(ids), True, len(ids), ids, (-0.5,) * len(ids)) for _ in requests]

    (rollout,) = TASK.rollouts(policy, [item], TOKENIZER, settings)
    assert rollout.correct
    assert sum(amount for _, amount in rollout.rewards) == 1.5
    last, *paid = [place for place, _ in rollout.rewards]
    assert last == len(ids) - 1
    for place in paid:
        read = TOKENIZER.decode(ids[: place + 1])
        assert read.endswith("\n")
        assert read.splitlines()[-1].startswith("Current State")
    assert len(rollout.starts) == trace.count("\n") + 1  # the end token is an action of its own


def test_problems_within_reach_are_those_solved_without_guidance():
    yields = pd.DataFrame({"index": [0, 1, 2, 3, 2, 9], "round_solved": [0, 1, -1, 2, 0, 0]})
    assert solved_unaided(["a", "b", "c", "d"], yields) == ["a", "c"], "9 was not asked for"
    assert solved_unaided(["a", "b"], yields.assign(round_solved=-1)) == ["a", "b"], "none: all of them"
