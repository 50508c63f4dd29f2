"""The authors' release read into our tables: a made-up folder in its layout, judged by its own formulas."""

from math import comb, isnan

import numpy as np
import pandas as pd
import pytest

from grlib.__main__ import main
from grlib.errors import GrlibError
from grlib.results import claims, official, tables
from grlib.results import rows as results
from grlib.tasks.countdown import data as countdown_data
from grlib.tasks.countdown.rows import problem_rows
from grlib.tasks.countdown.scale import Scale
from grlib.tasks.countdown.searchers import straight_path

TASK = Scale(max_number=30)
LENGTHS = (400, 3000, 4096)
PLACES = {
    "llama_3.2_1b_base_sft/global_step_3906": 0.4,
    "llama_3.2_1b_rest_sft_3/global_step_1437": 0.6,
    "llama_3.2_1b_guided_rest_sft_3/global_step_1546": 0.8,
    "llama_3.2_1b_guided_rest_rl/global_step_390/actor": 0.9,
}


def generated(items, share, rng):
    """Rows as the release's generation writes them: a search of each problem, some of them wrong."""
    frame = problem_rows(items)
    right = rng.random(len(items)) < share
    texts = [straight_path(*item) if ok else "no search" for item, ok in zip(items, right, strict=True)]
    frame["response"] = [[{"role": "assistant", "content": text}] for text in texts]
    frame["response_length"] = rng.choice(LENGTHS, len(items))
    return frame.assign(score=right.astype(float))


def release(root, problems=12, seeds=4):
    """A folder of the release; returns its rows by place, temperature and split."""
    rng, made = np.random.default_rng(0), {}
    for split in ("test_seen", "test_unseen"):
        items = countdown_data.draw(TASK, split, problems, unseen=split == "test_unseen")
        for place, share in PLACES.items():
            for temperature, count in (("0.0", 1), ("1.0", seeds)):
                folder = root / place / "gen" / f"temp_{temperature}" / "iter_0"
                folder.mkdir(parents=True, exist_ok=True)
                for seed in range(count):
                    frame = generated(items, share, rng)
                    frame.to_parquet(folder / f"{split}_0_{problems}_{seed}.parquet")
                    made.setdefault((place, temperature, split), []).append(frame)
    guided = root / next(iter(PLACES)) / "gen" / "temp_1.0" / "iter_3"  # guided training rows: left alone
    guided.mkdir(parents=True)
    made[next(iter(made))][0].to_parquet(guided / "train_0_12_0.parquet")
    return made


def their_result_file(frames, path):
    """pass@k at budgets, by the formula of the release's evaluation."""
    lines = []
    for budget in range(0, official.BUDGET + 1, 512):
        right = sum(((f["score"] == 1) & (f["response_length"] <= budget)).to_numpy(int) for f in frames)
        n, line = len(frames), {"budget": budget}
        for k in (1, 2, 4, 8):
            chance = [1.0 if n - c < k else 1 - comb(n - c, k) / comb(n, k) for c in right]
            line |= {f"pass_at_{k}_mean": 100 * np.mean(chance), f"pass_at_{k}_std": 1.0}
        lines.append(line)
    path.parent.mkdir(parents=True)
    pd.DataFrame(lines).round(2).to_csv(path, index=False)


def test_the_release_comes_in_and_agrees_with_its_own_result_files(tmp_path, capsys):
    made = release(tmp_path / "countdown")
    place = "llama_3.2_1b_rest_sft_3/global_step_1437"
    file = tmp_path / "countdown" / place / "eval" / "temp_1.0" / "iter_0" / "test_seen_pass_at_k.csv"
    their_result_file(made[place, "1.0", "test_seen"], file)
    dest = tmp_path / "official"
    assert main(["import-official", str(tmp_path / "countdown"), "--dest", str(dest)]) == 0
    assert "--source" in capsys.readouterr().out
    lines = official.import_results(tmp_path / "countdown", dest, print).set_index(
        ["method", "kind", "split"]
    )
    assert lines.loc[("rest", "eval", "seen"), "largest_difference"] < 0.01  # points: theirs has two decimals
    stored = results.load({0: dest}, "paper")
    with pytest.raises(GrlibError, match="profile 'paper' among results of 'laptop'"):
        results.load({0: dest}, "laptop")
    for (place, temperature, split), frames in made.items():
        method, iteration = official._model(place, file)
        rows = stored.rows("greedy" if temperature == "0.0" else "eval")
        rows = rows[(rows["method"] == method) & (rows["split"] == split.removeprefix("test_"))]
        assert rows["correct"].mean() == pytest.approx(np.mean([f["score"].mean() for f in frames]))
        assert set(rows["iteration"]) == {iteration} and rows["sample"].nunique() == len(frames)
        assert (rows["truncated"] == (rows["tokens"] == 4096)).all()
    table = tables.table2(stored).dropna(subset="measured")
    assert set(table["method"]) == {"sos", "rest", "guided_rest"} and set(table["k"]) == {1, 2, 4}
    assert claims.claims(stored)["status"].ne(claims.NOT_RUN).any()


def test_the_lines_say_where_graders_and_result_files_differ(tmp_path):
    made = release(tmp_path)
    place = "llama_3.2_1b_base_sft/global_step_3906"
    file = tmp_path / place / "gen" / "temp_1.0" / "iter_0" / "test_seen_0_12_0.parquet"
    frame = pd.read_parquet(file)
    frame["score"] = 1.0  # theirs says that all of them are right
    frame.to_parquet(file)
    wrong = int((made[place, "1.0", "test_seen"][0]["score"] == 0).sum())
    their_result_file(
        made[place, "1.0", "test_seen"], tmp_path / place / "eval/temp_1.0/iter_0/test_seen_pass_at_k.csv"
    )
    lines = official.import_results(tmp_path, tmp_path / "out", print).set_index(["method", "kind", "split"])
    assert lines.loc[("sos", "eval", "seen"), "grader_disagrees"] == wrong > 0
    assert lines.loc[("sos", "eval", "seen"), "largest_difference"] > 1
    assert lines.loc[("rest", "eval", "seen"), "grader_disagrees"] == 0
    assert isnan(lines.loc[("rest", "eval", "seen"), "largest_difference"])


def test_what_is_no_release_is_told(tmp_path):
    with pytest.raises(GrlibError, match="name the release's folder"):
        official.import_results(tmp_path, tmp_path / "out", print)
    odd = tmp_path / "other_model" / "gen" / "temp_1.0" / "iter_0"
    odd.mkdir(parents=True)
    pd.DataFrame({"score": [1.0]}).to_parquet(odd / "test_seen_0_1_0.parquet")
    with pytest.raises(GrlibError, match="names no model of the release"):
        official.import_results(tmp_path, tmp_path / "out", print)
    (tmp_path / "other_model").rename(tmp_path / "llama_base_sft")
    with pytest.raises(GrlibError, match="must be parquet with the columns"):
        official.import_results(tmp_path, tmp_path / "out", print)
    file = tmp_path / "llama_base_sft" / "gen" / "temp_1.0" / "iter_0" / "test_seen_0_1_0.parquet"
    row = {"extra_info": [{"index": 0}], "response": [[]], "response_length": [1], "score": [0.0]}
    pd.DataFrame(row).to_parquet(file)
    with pytest.raises(GrlibError, match="row 0: KeyError: 'nums'"):
        official.import_results(tmp_path, tmp_path / "out", print)
    right = row | {"extra_info": [{"index": 0, "nums": [1, 2], "target": 3}], "response": [[{"content": ""}]]}
    for name, wrong in (("score", "1"), ("score", float("nan")), ("response_length", "x")):
        pd.DataFrame(right | {name: [wrong]}).to_parquet(file)
        with pytest.raises(GrlibError, match="row 0: .*response_length and score, numbers"):
            official.import_results(tmp_path, tmp_path / "out", print)
    pd.DataFrame(right).to_parquet(file)
    assert len(official.sources(tmp_path)) == 1
    file.parents[1].rename(file.parents[1].with_name("temp_1.0.0"))
    with pytest.raises(GrlibError, match="name the release's folder"):
        official.import_results(tmp_path, tmp_path / "out", print)
