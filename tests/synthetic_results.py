"""Made-up per-example rows with known effects, for the tests of tables, claims and figures."""

import numpy as np
import pandas as pd

from grlib.results.rows import SCHEMAS, STARTS, Results

SKILL = {"base": 0.12, "bc": 0.1, "sos": 0.25, "rest": 0.4, "rest_matched": 0.42, "guided_rest": 0.42}


def sampled(method, split, problems, samples, rng, iteration=0, spread=2.0):
    """Rows of one method: a per-problem chance drawn around the method's skill."""
    mean = SKILL[method] * (0.95 if split == "unseen" else 1.0)
    chance = rng.beta(spread * mean, spread * (1 - mean), size=problems)
    correct = rng.random((problems, samples)) < chance[:, None]
    tokens = rng.integers(40, 600, size=correct.shape)
    index, sample = np.indices(correct.shape)
    truncated = ~correct & (tokens > 560)
    return pd.DataFrame(
        {
            "method": method,
            "split": split,
            "index": index.ravel(),
            "sample": sample.ravel(),
            "correct": correct.ravel(),
            "reason": np.where(correct, "correct", "no goal line").ravel(),
            "tokens": tokens.ravel(),
            "truncated": truncated.ravel(),
            "iteration": iteration,
        }
    )


def with_likelihood(rows, rng, base):
    tokens = rows["tokens"].to_numpy()
    nll = np.where(rows.get("correct", True), tokens * base * rng.uniform(0.8, 1.2, len(rows)), np.nan)
    return rows.assign(nll=nll, nll_tokens=tokens)


def with_answers(rows, rng):
    """Columns of code self-repair: right episodes are right after the first to the fourth answer."""
    right = np.where(rows["correct"], rng.integers(1, 5, len(rows)), 0)
    likeness = rng.random((2, len(rows)))
    return rows.assign(
        model="compact", answers=np.where(right, right, 4), right_answer=right,
        copied=(right > 0) & (rng.random(len(rows)) < 0.2),
        like_reference=likeness[0], like_before=np.where(right == 1, np.nan, likeness[1]),
        unread=rows["index"] % 3,
    )  # fmt: skip


def made_up(problems=60, samples=32, seeds=(0,), profile="laptop"):
    """Results with every effect of the paper, as `results.load` would return them."""
    frames = {}
    for seed in seeds:
        for kind, frame in one_seed(problems, samples, seed).items():
            frames.setdefault(kind, []).append(frame.assign(seed=seed))
    return Results(
        profile, tuple(seeds), {kind: pd.concat(parts, ignore_index=True) for kind, parts in frames.items()}
    )


def made_up_reinforced(problems=60, seeds=(0,), profile="laptop"):
    """Greedy traces, samples and curves before and after PPO; after it a tenth of the problems are gained."""
    frames = {"greedy": [], "eval": [], "ppo_curve": []}
    for seed in seeds:
        rng = np.random.default_rng(seed)
        for kind, samples in (("greedy", 1), ("eval", 4)):
            for split in ("seen", "unseen"):
                before = {
                    m: sampled(m, split, problems, samples, rng) for m in ("sos", "rest", "guided_rest")
                }
                after = {m: before[start].assign(method=m) for m, start in STARTS.items()}
                for rows in after.values():
                    rows["correct"] |= rows["index"] % 10 == 0
                    rows["truncated"] &= ~rows["correct"]
                frames[kind] += [rows.assign(seed=seed) for rows in (*before.values(), *after.values())]
        for method in STARTS:
            watched = {name: np.linspace(0.1, 0.9, 6) for name in SCHEMAS["ppo_curve"]}
            curve = pd.DataFrame(watched | {"method": method, "step": range(1, 7), "seed": seed})
            frames["ppo_curve"].append(curve)
    joined = {kind: pd.concat(parts, ignore_index=True) for kind, parts in frames.items()}
    return Results(profile, tuple(seeds), joined)


def one_seed(problems, samples, seed):
    rng = np.random.default_rng(seed)
    evaluated = []
    for split in ("seen", "unseen"):
        for method, spread in (("bc", 0.3), ("sos", 0.8)):
            evaluated.append(sampled(method, split, problems, samples, rng, 0, spread))
        for method, spread in (("rest", 0.5), ("rest_matched", 0.6), ("guided_rest", 6.0)):
            for iteration in (1, 2):
                evaluated.append(sampled(method, split, problems, samples, rng, iteration, spread))
    hints = []
    for steps, skill in enumerate((0.3, 0.6, 0.85, 1.0)):
        rows = sampled("sos", "train", problems, 1, rng)
        rows["correct"] = rng.random(problems) < skill
        hints.append(with_likelihood(rows.assign(steps=steps), rng, 0.05 * (1 + steps)))
    likelihood = []
    for kind, base in (("self_generated", 0.05), ("hinted", 0.2), ("guided", 0.1)):
        rows = pd.DataFrame(
            {"kind": kind, "index": np.arange(problems), "tokens": rng.integers(50, 500, problems)}
        )
        likelihood.append(with_likelihood(rows, rng, base).drop(columns="tokens"))
    selection = []
    for choose, success, base in (("first", 0.95, 0.2), ("random", 0.8, 0.14), ("last", 0.6, 0.1)):
        rows = pd.DataFrame({"choose": choose, "index": np.arange(problems)})
        rows["correct"] = rng.random(problems) < success
        rows["round"] = rng.integers(1, 4, problems)
        rows["tokens"] = rng.integers(50, 500, problems)
        selection.append(with_likelihood(rows, rng, base))
    first = rng.random(problems) < 0.3
    attempts = []
    for choose, chance in (("random", 0.7), ("sample_again", 0.3)):
        later = np.where(rng.random(problems) < chance, rng.integers(1, 4, problems), -1)
        rows = pd.DataFrame({"choose": choose, "index": np.arange(problems)})
        attempts.append(rows.assign(round=np.where(first, 0, later)))
    solved = []
    for iteration in (1, 2):
        unguided = rng.random(problems) < 0.4
        later = np.where(rng.random(problems) < 0.7, rng.integers(1, 4, problems), -1)
        for method, rounds in (
            ("rest", np.where(unguided, 0, -1)),
            ("guided_rest", np.where(unguided, 0, later)),
        ):
            rows = pd.DataFrame({"method": method, "iteration": iteration, "index": np.arange(problems)})
            tokens = rng.integers(50, 500, problems)
            solved.append(rows.assign(round_solved=rounds, tokens=tokens, truncated=tokens > 480))
    steps = np.arange(0, 1000, 50)
    curve = [
        pd.DataFrame(
            {
                "method": m,
                "step": steps,
                "tokens_seen": steps * 2048,
                "loss": 1.2 * np.exp(-steps / 300) + floor,
            }
        )
        for m, floor in (("bc", 0.3), ("sos", 0.2))
    ]
    curve = pd.concat(curve, ignore_index=True)
    curve["valid_loss"] = np.where(curve["step"] % 200 == 0, curve["loss"] + 0.05, np.nan)
    repaired, episodes = [], []
    for split in ("near", "far"):
        for method in ("base", "rest", "guided_rest"):
            repaired.append(with_answers(sampled(method, split, problems, samples, rng), rng))
    for method, rounds in (("rest", 1), ("guided_rest", 4)):
        for iteration in (1, 2):
            rows = sampled("base", "train", problems, 2, rng)[["index", "sample", "tokens", "truncated"]]
            solved_in = np.where(
                rng.random(len(rows)) < 0.3 + 0.1 * rounds, rng.integers(0, rounds, len(rows)), -1
            )
            rows = rows.assign(
                method=method, iteration=iteration, round_solved=solved_in, correct=solved_in >= 0
            )
            episodes.append(with_answers(rows, rng).drop(columns="correct"))
    concat = {
        "repair": repaired,
        "repair_yield": episodes,
        "eval": evaluated,
        "hints": hints,
        "likelihood": likelihood,
        "rounds": attempts,
        "selection": selection,
        "yield": solved,
    }
    return {kind: pd.concat(parts, ignore_index=True) for kind, parts in concat.items()} | {"curve": curve}
