"""Operation-level PPO: by hand, against the authors' numbers, the textbook, and autograd."""

import json
import math
from dataclasses import replace
from pathlib import Path
from random import Random

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from two_arms import TwoArms, run, toy, toy_settings

from grlib import profiles
from grlib.errors import GrlibError
from grlib.models.llama import load_both, load_model
from grlib.models.tokenizer import encode
from grlib.ppo import loop as ppo
from grlib.ppo.learner import PLACES, ActorCritic, Critic, Learner, batch_of, to_length_one
from grlib.ppo.losses import (
    clipped_share,
    group_advantages,
    operation_advantages,
    operation_policy_loss,
    value_loss,
)
from grlib.profiles import Sampling
from grlib.runs import deadline
from grlib.runs.notebooks import REPOSITORY
from grlib.sampling.pool import answer
from grlib.tasks.countdown import data as countdown_data
from grlib.tasks.countdown import searchers as search
from grlib.tasks.countdown.fast import solve
from grlib.tasks.countdown.puzzle import Problem
from grlib.tasks.countdown.task import CountdownTask, ppo_settings
from grlib.tasks.countdown.vocabulary import build_tokenizer
from grlib.tasks.trace_task import line_ends, line_last, line_starts
from grlib.training.loss import states_before
from grlib.training.rows import Rollout, make_rows, micro_batches

# Small cases with the outputs of the authors' released advantage estimator and loss.
CASES = [json.loads(line) for line in (Path(__file__).parents[1] / "data/operation_ppo.jsonl").open()]


def tensor(*rows):
    return torch.tensor(rows, dtype=torch.float32)


def draw_starts(generator, batch, tokens, share=0.3):
    starts = (torch.rand(batch, tokens, generator=generator) < share).float()
    starts[:, 0] = 1
    return starts


@pytest.mark.parametrize("case", CASES)
def test_the_authors_numbers(case):
    made = {key: torch.tensor(value) for key, value in case.items() if isinstance(value, list)}
    starts = made["action_start"]
    advantage, returns = operation_advantages(
        made["reward"], made["value"], starts, case["gamma"], case["lam"]
    )
    at = starts > 0
    assert advantage[at] == pytest.approx(made["advantage"][at], abs=1e-4)
    assert returns[at] == pytest.approx(made["returns"][at], abs=1e-4)
    step = (made["old_logprob"], made["new_logprob"], made["advantage"], starts, case["clip"])
    assert float(operation_policy_loss(*step, case["dual_clip"])) == pytest.approx(
        case["policy_loss"], abs=1e-4
    )
    assert float(clipped_share(*step)) == pytest.approx(case["clip_fraction"], abs=1e-4)


def test_three_lines_by_hand():
    # Lines of 2, 1 and 2 tokens; reward 1 at the end; values 0.2, 0.4 and 0.7 at the lines' first tokens.
    starts = tensor([1, 0, 1, 1, 0])
    reward, value = tensor([0, 0, 0, 0, 1]), tensor([0.2, 9, 0.4, 0.7, 9])  # 9: never looked at
    _, returns = operation_advantages(reward, value, starts, 1.0, 1.0)
    assert returns == pytest.approx(tensor([1, 0, 1, 1, 0]))  # Monte Carlo: what comes in the end
    advantage, _ = operation_advantages(reward, value, starts, 1.0, 1.0)
    raw = torch.tensor([0.8, 0.6, 0.3])
    expected = (raw - raw.mean()) / raw.std()
    assert advantage[starts > 0] == pytest.approx(expected, abs=1e-5)
    # One step ahead only (lam = 0), half weight for what comes later.
    _, returns = operation_advantages(reward, value, starts, 0.5, 0.0)
    assert returns[starts > 0] == pytest.approx([0.5 * 0.4, 0.5 * 0.7, 1.0])


def test_the_loss_by_hand():
    starts, old = tensor([1, 0, 1, 1]), tensor([-1, -1, -1, -1])
    log = torch.log
    new = old + torch.stack([log(torch.tensor([1.5, 0.8, 0.5, 4.0]))])
    advantage = tensor([1, 0, -1, -2])
    # ratios 1.5 * 0.8 = 1.2 (at the bound), 0.5 (clipped to 0.8), 4 (bounded by dual clip 3)
    expected = (-1.2 + 0.8 + 3 * 2) / 3
    assert float(operation_policy_loss(old, new, advantage, starts, 0.2, 3.0)) == pytest.approx(expected)


def textbook_token_advantages(reward, value, gamma, lam):
    advantage = torch.zeros_like(reward)
    for row in range(len(reward)):
        last, after = 0.0, 0.0
        for t in reversed(range(reward.shape[1])):
            delta = reward[row, t] + gamma * after - value[row, t]
            last = delta + gamma * lam * last
            after = value[row, t]
            advantage[row, t] = last
    return advantage


@given(st.integers(0, 10**6), st.floats(0.5, 1), st.floats(0, 1))
def test_a_start_at_every_token_is_the_textbook(seed, gamma, lam):
    generator = torch.Generator().manual_seed(seed)
    reward, value, old, new = (torch.randn(3, 7, generator=generator) for _ in range(4))
    starts = torch.ones(3, 7)
    advantage, returns = operation_advantages(reward, value, starts, gamma, lam)
    expected = textbook_token_advantages(reward, value, gamma, lam)
    assert returns == pytest.approx(expected + value, abs=1e-4)
    white = (expected - expected.mean()) / expected.std()
    assert advantage == pytest.approx(white, abs=1e-3)
    ratio = (new - old).exp()
    terms = torch.maximum(-white * ratio, -white * ratio.clamp(0.8, 1.2))
    terms = torch.where(white < 0, torch.minimum(terms, -3 * white), terms)
    loss = operation_policy_loss(old, new, white, starts, 0.2, 3.0)
    assert float(loss) == pytest.approx(float(terms.mean()), abs=1e-4)


@given(st.integers(0, 10**6))
def test_rewards_never_leak(seed):
    generator = torch.Generator().manual_seed(seed)
    starts = draw_starts(generator, 2, 8)
    reward, value = torch.zeros(2, 8), torch.zeros(2, 8)
    reward[0, 5] = 1
    _, returns = operation_advantages(reward, value, starts, 1.0, 1.0)
    assert bool((returns[1] == 0).all())  # not to another response
    later = torch.arange(8) > 5
    assert bool((returns[0, later] == 0).all())  # not to actions that begin after it
    assert bool((returns[0, ~later & (starts[0] > 0)] == 1).all())


def test_at_ratio_one_the_loss_has_the_policy_gradient():
    logits = torch.tensor([0.3, -0.2], requires_grad=True)  # a policy over two tokens
    tokens = torch.tensor([[0, 1, 1], [1, 0, 0]])
    starts, gain = tensor([1, 0, 1], [1, 1, 0]), tensor([0.7, 0, -1.1], [0.4, -0.3, 0])
    new = torch.log_softmax(logits, 0)[tokens]
    loss = operation_policy_loss(new.detach(), new, gain, starts, 0.2, 3.0)
    (found,) = torch.autograd.grad(loss, logits)
    chance = torch.softmax(logits.detach(), 0)
    score = torch.eye(2)[tokens] - chance  # gradient of the log probability of each token
    weights = torch.tensor([[0.7, 0.7, -1.1], [0.4, -0.3, -0.3]])  # every token of an action, its advantage
    expected = -(weights[..., None] * score).sum((0, 1)) / 4
    assert found == pytest.approx(expected, abs=1e-6)


def test_a_constant_reward_teaches_nothing():
    starts = tensor([1, 0, 1], [1, 1, 0])
    advantage, _ = operation_advantages(tensor([0, 0, 1], [0, 1, 0]), torch.zeros(2, 3), starts, 1.0, 1.0)
    assert bool((advantage == 0).all())
    assert bool((group_advantages(tensor([0, 0, 1], [0, 1, 0]), starts, 2) == 0).all())


def test_runaway_ratios_leave_the_gradient_finite():
    new = torch.full((1, 8), 60.0, requires_grad=True)
    for gain in (1.0, -1.0):
        starts = tensor([1, 0, 0, 0, 0, 0, 0, 0])
        loss = operation_policy_loss(-new.detach(), new, gain * starts, starts, 0.2, 3.0)
        (found,) = torch.autograd.grad(loss, new)
        assert bool(torch.isfinite(loss))
        assert bool((found == 0).all())


def test_groups_compare_samples_of_one_problem():
    starts = tensor([1, 0, 1], [1, 1, 0], [1, 1, 1], [1, 0, 0])
    reward = tensor([0, 0, 1], [0, 0, 0], [0, 0, 1], [0, 0, 1])
    advantage = group_advantages(reward, starts, 2)
    half = 0.5**0.5
    assert advantage[:2] == pytest.approx(tensor([half, 0, half], [-half, -half, 0]), abs=1e-5)
    assert bool((advantage[2:] == 0).all())


def test_the_value_loss_counts_the_worse_error():
    starts, returns, old = tensor([1, 0, 1]), tensor([1, 9, 0]), tensor([0, 9, 0])
    value = tensor([0.8, -9, 0.1])  # the first moved further than 0.5: its error is that of 0.5
    expected = 0.5 * (0.5**2 + 0.1**2) / 2
    assert float(value_loss(value, old, returns, starts, 0.5)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"action_start": tensor([0, 1, 0], [1, 0, 0])}, "must be 1 at the first token"),
        ({"action_start": tensor([1, 0.5, 0], [1, 0, 0])}, "0 elsewhere"),
        ({"reward": torch.zeros(2, 4)}, r"reward of shape \(2, 4\)"),
        ({"value": torch.full((2, 3), float("nan"))}, "value must be finite"),
    ],
)
def test_bad_input_is_named(change, words):
    given = {
        "reward": torch.zeros(2, 3),
        "value": torch.zeros(2, 3),
        "action_start": tensor([1, 0, 0], [1, 0, 0]),
    }
    with pytest.raises(GrlibError, match=words):
        operation_advantages(**(given | change), gamma=1.0, lam=1.0)


def test_log_probabilities_must_be_finite():
    starts = tensor([1, 0])
    with pytest.raises(GrlibError, match="new_logprob must be finite"):
        operation_policy_loss(starts, tensor([0, float("-inf")]), starts, starts, 0.2, 3.0)


@pytest.mark.parametrize("group", [0, 1, 3])
def test_a_group_needs_company(group):
    with pytest.raises(GrlibError, match=f"group={group} for 4 responses"):
        group_advantages(torch.zeros(4, 2), tensor(*[[1, 0]] * 4), group)


# the loop


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"critic": "placed"},
        {"baseline": "group", "group": 8},
        {"critic": "shared", "optimizer": "normed_sgd", "actor_lr": 0.3},
    ],
)
def test_a_bandit_is_solved(tmp_path, changes):
    base, words = toy(tmp_path)
    curve = run(TwoArms(words), base, tmp_path, toy_settings(steps=25, **changes))
    assert curve["step"].tolist() == list(range(1, 26))
    assert curve["accuracy"].iloc[0] < 0.1
    assert curve["accuracy"].iloc[-1] > 0.9
    assert curve["rescore_gap"].max() < 1e-4  # the sampler's log probabilities are the policy's
    assert curve["entropy"].iloc[-1] < curve["entropy"].iloc[0]
    model, _ = load_both(tmp_path / "out")
    assert not model.training


@pytest.mark.parametrize("critic", ["own", "shared"])
def test_a_killed_run_goes_on_to_the_same_end(tmp_path, monkeypatch, critic):
    base, words = toy(tmp_path)
    settings = toy_settings(steps=4, checkpoint_seconds=0.0, critic=critic)
    whole = run(TwoArms(words), base, tmp_path / "a", settings)

    class Killed(Exception):
        pass

    update, calls = Learner.update, []

    def dies(self, batch, rng):
        calls.append(1)
        if len(calls) == 3:
            raise Killed
        return update(self, batch, rng)

    monkeypatch.setattr(Learner, "update", dies)
    with pytest.raises(Killed):
        run(TwoArms(words), base, tmp_path / "b", settings)
    monkeypatch.setattr(Learner, "update", update)
    again = run(TwoArms(words), base, tmp_path / "b", settings)
    assert again.drop(columns=[*ppo.TIMES]).equals(whole.drop(columns=[*ppo.TIMES]))
    weights = [load_both(tmp_path / name / "out")[0].state_dict() for name in "ab"]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    # other problems are another run, even as many
    other = run(TwoArms(words), base, tmp_path / "b", settings, items=range(8, 16))
    assert not other["sampling_s"].equals(again["sampling_s"])
    # other settings are another run
    other = run(TwoArms(words), base, tmp_path / "b", toy_settings(steps=2))
    assert len(other) == 2


def test_a_run_that_is_out_of_time_after_every_step_ends_alike(tmp_path, monkeypatch):
    base, words = toy(tmp_path)
    settings = toy_settings(steps=3)
    whole = run(TwoArms(words), base, tmp_path / "a", settings)
    monkeypatch.setenv(deadline.VARIABLE, "1")  # 1970
    for step in (1, 2):
        with pytest.raises(deadline.OutOfTime, match=f"PPO: the time is over, {step}/3 steps are stored"):
            run(TwoArms(words), base, tmp_path / "b", settings)
    found = run(TwoArms(words), base, tmp_path / "b", settings)
    pd.testing.assert_frame_equal(*(one.drop(columns=[*ppo.TIMES]) for one in (found, whole)))
    (tmp_path / "b" / "work" / "checkpoint.pt").unlink()
    monkeypatch.setattr(Learner, "update", None)  # it has ended
    pd.testing.assert_frame_equal(run(TwoArms(words), base, tmp_path / "b", settings), found)


def a_curve(**newest):
    """Five quiet steps, the last one changed."""
    quiet = {"step": 1.0, "entropy": 0.1, "truncated": 0.2, "rescore_gap": 1e-5, "gradient": 0.3}
    return [quiet | {"step": float(i + 1)} for i in range(4)] + [quiet | {"step": 5.0} | newest]


@pytest.mark.parametrize(
    ("newest", "words"),
    [
        ({}, ""),
        ({"entropy": 0.019}, "entropy fell from 0.1 to 0.019: lower actor_lr"),
        ({"entropy": 0.6}, "entropy rose from 0.1 to 0.6"),
        ({"truncated": 0.5}, "50 % of the responses run into the budget, in the beginning 20 %"),
        ({"gradient": 0.0}, "nothing is learnt; take problems that are solved now and then"),
        ({"rescore_gap": 0.02}, "differ by 0.02 nats for a token (bound 0.01)"),
    ],
)
def test_what_gives_cause_for_concern_is_said(newest, words):
    found = ppo.concerns(a_curve(**newest), "float32")
    assert len(found) == bool(words)
    assert all(words in text for text in found.values())


def test_a_beginning_is_not_compared_with_itself():
    assert ppo.concerns(a_curve(entropy=0.001)[-1:], "float32") == {}


def test_bfloat16_may_round_otherwise():
    assert ppo.concerns(a_curve(rescore_gap=4.4), "bfloat16") == {}
    assert "differ by 6.5 nats" in ppo.concerns(a_curve(rescore_gap=6.5), "bfloat16")["gap"]


def test_a_warning_is_given_once(tmp_path, monkeypatch):
    base, words = toy(tmp_path)
    monkeypatch.setattr(ppo, "DEAD", 1e9)
    said = []
    run(TwoArms(words), base, tmp_path, toy_settings(steps=3), progress=said.append)
    assert [line for line in said if "warning" in line] == [
        line for line in said if line.startswith("PPO: warning, step 1: the gradient is")
    ]
    assert sum("warning" in line for line in said) == 1 and "gradient" in said[0]


def test_a_reward_stands_inside_the_response_and_nothing_follows_its_end():
    """An end token is the last one: what pays for a response pays there, and no action begins after it."""
    model, words = load_both(REPOSITORY / "paper_results/base/sos")
    task, settings = CountdownTask(200), ppo_settings(profiles.get("smoke"), "sos_ppo_dense")
    items = countdown_data.draw(profiles.get("smoke").countdown, "ends", 12)
    drawn = replace(settings.sampling, logprobs=True, slots=12)
    rollouts = task.rollouts(lambda asked: answer(model, words, asked, drawn, 0), items, words, settings)
    assert any(rollout.ended for rollout in rollouts)
    for rollout in rollouts:
        ends = [place for place, token in enumerate(rollout.response) if token == words.eos_token_id]
        assert ends == ([len(rollout.response) - 1] if rollout.ended else [])
        assert max(place for place, _ in rollout.rewards) == len(rollout.response) - 1
        assert max(rollout.starts) < len(rollout.response)
    batch = batch_of(rollouts)
    for row, rollout in enumerate(rollouts):
        beyond = slice(len(rollout.response), None)
        assert not batch.reward[row, beyond].any() and not batch.action_start[row, beyond].any()


def test_problems_of_a_step_come_once_an_epoch():
    settings = toy_settings(responses=3)
    seen = [ppo.problems_of_step(list(range(7)), settings, 0, step) for step in range(7)]
    flat = [item for step in seen for item in step]
    assert sorted(flat[:7]) == sorted(flat[7:14]) == sorted(flat[14:]) == list(range(7))
    assert flat[:7] != flat[7:14]


@pytest.mark.parametrize("changes", [{"action": "operation"}, {"action": "token", "reward": "dense"}])
def test_countdown_from_the_shipped_base(tmp_path, changes):
    profile = profiles.get("smoke")
    tests, _ = countdown_data.reserved_keys(profile.countdown)
    items = countdown_data.draw(profile.countdown, "valid", 4, exclude=tests)
    sampling = Sampling(workers=1, slots=4, chunk=4)
    settings = toy_settings(
        steps=1, responses=4, minibatch=2, actor_lr=1e-5, critic_lr=1e-4, sampling=sampling, **changes
    )
    base = Path(__file__).parents[2] / "paper_results/base/sos"
    row = run(CountdownTask(200), base, tmp_path, settings, items).iloc[0]
    assert row["rescore_gap"] < 1e-3
    assert row["ratio_01"] == pytest.approx(1, abs=0.2)
    assert (row["actions"] == row["tokens"]) == (changes["action"] == "token")


def test_lines_and_tokens_pull_the_same_way_while_the_critic_knows_nothing(tmp_path):
    profile = profiles.get("smoke")
    items = countdown_data.draw(profile.countdown, "train/0", 24)  # of which some are solved
    sampling = Sampling(workers=1, slots=24, chunk=24)
    settings = toy_settings(steps=1, responses=24, minibatch=2, critic="shared", sampling=sampling)
    base = Path(__file__).parents[2] / "paper_results/base/sos"
    how = {"seed": 1, "work": tmp_path}
    cosine = ppo.gradient_cosine(CountdownTask(500), items, base, settings, **how)
    assert 0.99 < cosine <= 1 + 1e-5


def test_actions_are_lines():
    words = build_tokenizer()
    problem = Problem((84, 2, 14, 15), 26)
    trace = search.depth_first(problem, heuristic="mult")
    ids = encode(words, [trace])[0]
    starts = line_starts(ids, line_ends(words))
    lines = [words.decode(ids[a:b]) for a, b in zip(starts, [*starts[1:], len(ids)], strict=True)]
    assert lines == trace.splitlines(keepends=True)
    assert [line_last(starts, len(ids), i) for i in range(len(starts))][-1] == len(ids) - 1
    assert line_last(starts, len(ids), 0) == starts[1] - 1


def test_dense_reward_pays_each_subgoal_once_where_its_state_line_ends():
    problem = Problem((84, 2, 14, 15), 26)
    solution = solve(problem)
    path = search.straight_path(problem, solution)
    lines = path.splitlines()
    found = CountdownTask(1).subgoal_lines((problem, solution), path + path)
    assert [lines[i].startswith("Current State") for i in found] == [True, True]
    assert found == [i for i, line in enumerate(lines) if line.startswith("Current State")][1:3]
    assert CountdownTask(1).subgoal_lines((problem, solution), "nonsense\n") == []
    assert (
        CountdownTask(1).subgoal_lines((problem, solution), search.depth_first(problem, heuristic="mult"))
        == []
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"action": "word"}, "action is 'word'; choose one of operation, token"),
        ({"baseline": "group", "group": 1}, "group=1"),
        ({"optimizer": "sgd"}, "optimizer is 'sgd'; choose one of adamw, normed_sgd"),
        ({"steps": 0}, "steps=0"),
        ({"actor_lr": -1.0}, "actor_lr=-1.0"),
    ],
)
def test_settings_are_checked(changes, words):
    with pytest.raises(GrlibError, match=words):
        toy_settings(**changes)


def test_steps_of_one_length_keep_the_direction_of_the_gradient():
    parts = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]
    to_length_one(parts)
    assert [part.flatten().tolist() for part in parts] == [[pytest.approx(0.6), 0], [pytest.approx(0.8)]]
    still = [torch.zeros(2)]
    to_length_one(still)
    assert still[0].tolist() == [0, 0]


def test_a_step_has_the_length_that_is_asked_for(tmp_path):
    base, words = toy(tmp_path)
    policy = load_model(base)
    learner = Learner(policy, toy_settings(optimizer="normed_sgd", actor_lr=0.3, minibatch=4))
    before = torch.cat([weights.detach().flatten().clone() for weights in policy.parameters()])
    prompt, answers = tuple(encode(words, ["<s>"])[0]), [encode(words, [str(i)])[0] for i in range(4)]
    rollouts = [
        Rollout(prompt, tuple(ids), (-2.0,), (0,), ((0, float(i == 0)),), i == 0, True)
        for i, ids in enumerate(answers)
    ]
    learner.update(batch_of(rollouts), Random(0))
    after = torch.cat([weights.detach().flatten() for weights in policy.parameters()])
    assert float((after - before).norm()) == pytest.approx(0.3, rel=1e-4)


def test_a_linear_rate_falls_to_zero_and_a_constant_one_stays(tmp_path):
    base, _ = toy(tmp_path)
    for schedule, expected in (("linear", [0.4, 0.3, 0.2, 0.1]), ("constant", [0.4] * 4)):
        learner = Learner(load_model(base), toy_settings(steps=4, actor_lr=0.4, schedule=schedule))
        rates = []
        for step in range(4):
            learner.set_rate(step)
            rates.append(learner.optimizers[0].param_groups[0]["lr"])
        assert rates == pytest.approx(expected)


def test_what_the_critic_explains_beside_what_the_place_explains(tmp_path):
    base, _ = toy(tmp_path)
    learner = Learner(load_model(base), toy_settings())
    start = torch.zeros(4, 2 * PLACES)
    start[:, [0, PLACES]] = 1  # actions at two places
    returns = torch.zeros_like(start)
    returns[0, 0] = returns[1, 0] = 1  # half of the responses at the first place, none at the second
    watched = learner._critic_quality(returns, returns, start)  # a critic that knows it all
    assert watched["explained"] == pytest.approx(1) and watched["value_error"] == 0
    assert watched["explained_by_place"] == pytest.approx(1 - (4 * 0.25 / 8) / (1.5 / 7))  # left over spread
    nothing = learner._critic_quality(torch.zeros_like(start), returns, start)
    assert nothing["explained"] == pytest.approx(0, abs=1e-6)
    alone = Learner(load_model(base), toy_settings(baseline="group", group=2))
    assert all(math.isnan(value) for value in alone._critic_quality(returns, returns, start).values())


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    base, words = toy(tmp_path)
    with pytest.raises(GrlibError, match="finite"):
        run(TwoArms(words), base, tmp_path, toy_settings(actor_lr=1e9, minibatch=16))


def test_a_shared_critic_learns_without_teaching_the_policy(tmp_path):
    base, words = toy(tmp_path)
    policy = load_model(base)
    rows = make_rows(words, ["1"] * 4, ["2", "3", "22", "33"], 16)
    _, ids, mask = next(micro_batches(rows, 999))
    critic = Critic(policy, "shared")
    with torch.no_grad():
        critic.head[-1].weight.normal_()
    states = states_before(policy.model, ids, mask)
    values = critic(ids, mask, states)
    _, alone = ActorCritic(policy, critic)(ids, mask, only_values=True)
    assert torch.allclose(values, alone), "the states are those of the policy"
    values.square().sum().backward()
    assert all(weights.grad is None for weights in policy.parameters())
    assert all(weights.grad is not None for weights in critic.parameters())
    assert sum(weights.numel() for weights in critic.parameters()) == 16 * 16 + 16 + 16 + 1
    own = Critic(policy, "own")
    assert sum(weights.numel() for weights in own.body.parameters()) == policy.num_parameters()


def test_a_placed_critic_knows_how_much_of_a_response_is_spent(tmp_path):
    base, _ = toy(tmp_path)
    mask = torch.tensor([[0, 1, 1, 1], [0, 0, 1, 0]], dtype=torch.bool)
    states, found = torch.zeros(4, 16), {}
    for kind in ("shared", "placed"):
        critic = Critic(load_model(base), kind)
        with torch.no_grad():
            critic.head[-1].weight.normal_()
        found[kind] = critic(torch.zeros_like(mask, dtype=torch.long), mask, states).tolist()
    assert len(set(found["shared"])) == 1, "the states are equal"
    first, second, third, other = found["placed"]
    assert first == other and len({first, second, third}) == 3
