"""Windows of minutes on one GPU, rehearsed on the CPU: results in the record's layout, models that travel."""

import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import Future
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny_model

from grlib import one_gpu
from grlib.__main__ import main
from grlib.errors import GrlibError
from grlib.one_gpu import (
    estimating,
    exporting,
    imitating,
    iterating,
    learning,
    probing,
    reinforcing,
    selecting,
    travelling,
    utilisation,
    window,
)
from grlib.profiles import get
from grlib.results import gpu as report
from grlib.results import rows as results
from grlib.runs.notebooks import REPOSITORY
from grlib.tasks.countdown.base import imitation_rows
from grlib.tasks.countdown.data import imitation_examples
from grlib.tasks.countdown.vocabulary import build_tokenizer

pytestmark = pytest.mark.integration

BASE = REPOSITORY / "paper_results" / "base"
PPO = ("guided_rest_ppo", "sos_ppo", "rest_ppo")


@pytest.fixture
def small(monkeypatch):
    """A rehearsal of seconds: nothing is compiled."""
    plain = learning.PackedScorer
    monkeypatch.setattr(learning, "PackedScorer", lambda *a, compiled: plain(*a, compiled=False))
    profile, _ = one_gpu.sizes(tiny=True)
    profile = replace(
        profile, train_problems=12, test_problems=2, hint_problems=3, ppo_problems=4, budget=400
    )
    return profile, 1024  # tokens of a line: bfloat16 is slow on a CPU


@pytest.mark.skipif(torch.cuda.is_available(), reason="a rehearsal for machines without a GPU")
def test_a_window_leaves_results_in_the_layout_of_a_record(small, tmp_path):
    profile, tokens = small
    iterating.iterate(tmp_path, profile, tokens, 1e9, BASE, 0, PPO[:2])
    stored = results.load({0: tmp_path}, "laptop")
    evaluated = stored.rows("eval")
    trained = {"bc", "sos", "rest", "rest_matched", "guided_rest"}
    assert set(evaluated["method"]) == {*trained, "guided_rest_ppo", "sos_ppo"}
    counts = evaluated.groupby(["method", "split", "iteration"])["index"].nunique()
    assert (counts == profile.test_problems).all()
    final = evaluated[
        (evaluated["method"] == "rest") & (evaluated["iteration"] == profile.self_training.iterations)
    ]
    assert len(final) == 2 * profile.test_problems * profile.samples
    assert set(stored.rows("greedy")["method"]) == set(evaluated["method"])
    hints = stored.rows("hints")
    assert hints.groupby("steps")["index"].apply(list).tolist() == [[0, 1, 2]] * 4
    assert hints.loc[hints["steps"] == 3, "correct"].all()
    solved = stored.rows("yield").groupby(["method", "iteration"])["index"].nunique()
    assert (solved == profile.self_training.train_problems).all() and len(solved) == 4
    first = (
        stored.rows("yield")
        .query("iteration == 1 and round_solved == 0")
        .groupby("method")["index"]
        .apply(set)
    )
    assert first.get("rest") == first.get("guided_rest")  # the base's own attempts serve both
    assert stored.rows("ppo_curve")["step"].tolist() == [1, 2, 3] * 2
    made = json.loads((tmp_path / "manifests" / "iterate.json").read_text())
    assert made["settings"]["ppo_steps"] == 3 and made["parts"][0][0] == "loading"
    assert sum(spent for _, spent in made["parts"]) == pytest.approx(made["wall_seconds"], abs=2)
    tuning = pd.read_parquet(tmp_path / "results" / "tuning.parquet").query("iteration == 2")
    steps = tuning.groupby("method")["steps"].max()
    assert steps["rest_matched"] == steps["guided_rest"] > steps["rest"]
    again = iterating.Iterating(iterating.Window("iterate", tmp_path, profile, 0, seconds=1e9), BASE, tokens)
    assert "rest_matched" in again.newest
    folder = exporting.export(tmp_path, profile, tokens, BASE, "rest_matched")
    assert "repeated for as many steps as Guided-ReST had" in (folder / "README.md").read_text()
    from grlib.models.llama import load_model

    base = load_model(BASE / "sos")
    changed = travelling.read_difference(tmp_path / "guided_rest_2.safetensors", load_model(BASE / "sos"))
    assert any(not torch.equal(a, b) for a, b in zip(changed.parameters(), base.parameters(), strict=True))


def check_exports(out, profile, tokens):
    """Folders of transformers with the facts of the rows."""
    from grlib.models.llama import load_both, load_model

    guided = exporting.export(out, profile, tokens, BASE, "guided_rest")
    facts = json.loads((guided / "manifest.json").read_text())
    rows = pd.read_parquet(out / "results" / "06_yield.parquet").query("method == 'guided_rest'")
    last = rows[rows["iteration"] == 2]["round_solved"]
    assert facts["iteration"] == 2 and facts["problems"] == len(last) == 6
    assert facts["kept"] == (last >= 0).sum() and sum(facts["solved_in_round"].values()) == 6
    assert f"traces of {facts['kept']} of 6 training problems" in (guided / "README.md").read_text()
    model, _ = load_both(guided)
    expected = travelling.read_difference(out / "guided_rest_2.safetensors", load_model(BASE / "sos"))
    for found, wanted in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(found, wanted.to(torch.bfloat16).float())
    reinforced = exporting.export(out, profile, tokens, BASE, "rest_ppo")
    facts = json.loads((reinforced / "manifest.json").read_text())
    assert (facts["start"], facts["steps"], facts["action"]) == ("rest", 2, "operation")
    assert pd.read_csv(reinforced / "curve.csv")["step"].tolist() == [1, 2]
    assert facts["start_iteration"] == 2 and facts["greedy"].keys() == {"seen", "unseen"}
    for method in ("guided_rest_grpo", "bc"):
        with pytest.raises(GrlibError, match=f"no model of '{method}' there; first `python -m grlib gpu"):
            exporting.export(out, profile, tokens, BASE, method)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a rehearsal for machines without a GPU")
def test_the_next_window_goes_on_behind_the_last(small, tmp_path, capsys):
    profile, tokens = small
    profile = replace(profile, train_problems=6, hint_problems=2)
    once = replace(profile, iterations=1)
    iterating.iterate(tmp_path, once, tokens, 1e9, BASE, 0, PPO[:1], steps=1)
    first = results.load({0: tmp_path}, "laptop")
    rows = pd.read_parquet(tmp_path / "results" / "06_yield.parquet")
    cut_off = pd.concat(
        [rows, rows.assign(iteration=2)], ignore_index=True
    )  # an iteration that was sampled, not trained
    cut_off.to_parquet(tmp_path / "results" / "06_yield.parquet")
    capsys.readouterr()
    iterating.iterate(tmp_path, profile, tokens, 1e9, BASE, 0, PPO[:3], steps=2)
    assert "guided_rest: goes on behind iteration 1" in capsys.readouterr().out
    second = results.load({0: tmp_path}, "laptop")
    for kind in ("eval", "greedy", "yield", "hints", "likelihood"):
        before = first.rows(kind)
        after = second.rows(kind)
        if "method" in before and kind != "hints":
            before = before[~before["method"].isin(results.STARTS)]
            after = after[after["method"].isin(before["method"]) & (after["iteration"] <= 1)]
        pd.testing.assert_frame_equal(before.reset_index(drop=True), after.reset_index(drop=True))
    counts = second.rows("yield").groupby(["method", "iteration"]).size()
    assert counts.to_dict() == {(m, i): 6 for m in ("rest", "guided_rest") for i in (1, 2)}
    curve = second.rows("ppo_curve")
    assert curve["method"].unique().tolist() == ["guided_rest_ppo", "sos_ppo", "rest_ppo"]
    assert curve["step"].tolist() == [1, 2] * 3
    solved = second.rows("yield").query("method == 'rest' and iteration == 2")["round_solved"] >= 0
    matched = ["rest_matched_2.safetensors"] if solved.any() else []  # what ReST kept, trained for longer
    assert {path.name for path in tmp_path.glob("*.safetensors")} == {
        *("rest_2.safetensors", "guided_rest_2.safetensors", *matched),
        *(f"{method}.safetensors" for method in curve["method"].unique()),
    }
    check_exports(tmp_path, profile, tokens)
    files = {path: path.read_bytes() for path in (tmp_path / "results").glob("*.parquet")}
    capsys.readouterr()
    iterating.iterate(tmp_path, profile, tokens, 1e9, BASE, 0, PPO[:3])
    assert " %" not in capsys.readouterr().out  # nothing is measured again
    assert {path: path.read_bytes() for path in files} == files
    manifests = sorted(path.stem for path in (tmp_path / "manifests").glob("*.json"))
    assert manifests == ["iterate", "iterate_2", "iterate_3"]
    with pytest.raises(GrlibError, match=r"--steps 5: PPO of 2 steps is in .*; ask for 2 or 0"):
        iterating.iterate(tmp_path, profile, tokens, 1e9, BASE, 0, PPO[:3], steps=5)
    with pytest.raises(GrlibError, match=r"holds a run of seed 0 \(asked: 1\): ask for the same, or name an"):
        iterating.iterate(tmp_path, profile, tokens, 1e9, BASE, seed=1)
    (tmp_path / "rest_2.safetensors").unlink()
    with pytest.raises(
        GrlibError, match=r"rest_2.safetensors: no such file, but the rows of its measurement"
    ):
        iterating.iterate(tmp_path, profile, tokens, 1e9, BASE, seed=0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a rehearsal for machines without a GPU")
def test_what_a_cut_off_window_lacked_is_made_up_for(small, tmp_path):
    """Killed after ReST's second iteration was trained: what PPO learnt from SoS stands, the rest is made."""
    profile, tokens = small
    profile = replace(profile, train_problems=4, hint_problems=1, iterations=3)
    first = replace(profile, iterations=1)
    iterating.iterate(tmp_path, first, tokens, 1e9, BASE, 0, PPO[:3], steps=1)
    window = iterating.Window("iterate", tmp_path, profile, 0, seconds=1e9)
    work = iterating.Iterating(window, BASE, tokens)
    for stem in ("06_eval", "06_greedy"):  # also cut off before it was measured
        work.rows.drop(stem, method="guided_rest")
    work._iterate("rest", 2)
    left = set(pd.read_parquet(tmp_path / "results" / "07_eval.parquet")["method"])
    assert left == {"guided_rest_ppo", "sos_ppo"}
    assert not (tmp_path / "rest_ppo.safetensors").exists()
    again = iterating.Iterating(iterating.Window("iterate", tmp_path, profile, 0, seconds=1e9), BASE, tokens)
    assert again.done == {"sos": 3, "rest": 2, "guided_rest": 1}
    again.self_train(0.0)
    measured = again.rows.of("06_eval").groupby("method")["iteration"].unique().map(sorted).to_dict()
    assert measured == {"rest": [1, 2], "guided_rest": [1, 2]}
    assert again.done == {"sos": 3, "rest": 3, "guided_rest": 3}


@pytest.mark.skipif(torch.cuda.is_available(), reason="a rehearsal for machines without a GPU")
def test_ppo_alone_from_models_that_are_there(small, tmp_path):
    profile, tokens = small
    shutil.copytree(BASE / "sos", tmp_path / "from" / "sos")
    shutil.copytree(BASE / "bc", tmp_path / "from" / "guided_rest")  # another model: its start is told apart
    methods, out = ["guided_rest_grpo", "sos_ppo_dense"], tmp_path / "out"
    profile = replace(profile, ppo_group=2)
    reinforcing.reinforce_models(out, profile, tokens, 1e9, tmp_path / "from", 0, methods, 2)
    stored = results.load({0: out}, "laptop")
    assert set(stored.rows("greedy")["method"]) == {"sos", "guided_rest", *methods}
    counts = stored.rows("eval").groupby("method").size()
    assert counts.to_dict() == dict.fromkeys(
        ("sos", "guided_rest", *methods), 2 * profile.test_problems * profile.ppo_samples
    )
    assert set(stored.rows("greedy").query("method == 'guided_rest'")["iteration"]) == {
        profile.self_training.iterations
    }
    curve = stored.rows("ppo_curve")
    assert (
        curve["step"].tolist() == [1, 2] * 2
        and curve["value_error"].isna().tolist() == [True] * 2 + [False] * 2
    )
    greedy = stored.rows("greedy").groupby("method")["tokens"].mean()
    assert greedy["guided_rest"] < 110 < greedy["sos"]  # BC's traces are short
    made = json.loads((out / "manifests" / "reinforce.json").read_text())
    assert made["settings"]["ppo_steps"] == 2 and made["parts"][0][0] == "loading"
    files = {path: path.read_bytes() for path in (out / "results").glob("*.parquet")}
    reinforcing.reinforce_models(out, profile, tokens, 1e9, tmp_path / "from", 0, methods, 2)
    assert {path: path.read_bytes() for path in files} == files
    folder = exporting.export(out, profile, tokens, tmp_path / "from", "guided_rest_grpo")
    facts, card = json.loads((folder / "manifest.json").read_text()), (folder / "README.md").read_text()
    assert facts["rollouts_of_a_step"] == profile.ppo.responses == 4 and facts["device"] != "unknown"
    assert "`python -m grlib gpu reinforce`" in card and "of 2 test problems a split" in card
    shutil.copytree(BASE / "bc", tmp_path / "other" / "sos")
    for start, model in (("sos", "sos"), ("guided_rest", "sos")):  # another Guided-ReST beside the same SoS
        shutil.copytree(BASE / model, tmp_path / "third" / start)
    for folder, words in (("other", "holds a run of base"), ("third", "holds a run of start guided_rest")):
        wanted = methods[1:] if folder == "other" else methods
        with pytest.raises(GrlibError, match=words):
            reinforcing.reinforce_models(out, profile, tokens, 1e9, tmp_path / folder, 0, wanted, 2)
    with pytest.raises(
        GrlibError, match="from/rest: no model there, from which PPO was to start; take other"
    ):
        reinforcing.reinforce_models(out, profile, tokens, 1e9, tmp_path / "from", 0, ["rest_ppo"], 2)


def test_how_much_of_the_time_the_card_computes(tmp_path, monkeypatch):
    told, asked = tmp_path / "nvidia-smi", tmp_path / "asked"
    told.write_text(  # says [N/A], then 80, 90, 80, 90, ...
        f"#!/bin/sh\necho x >> {asked}\nn=$(wc -l < {asked})\n"
        "[ $n = 1 ] && echo '[N/A]' || echo $((80 + 10 * (n % 2)))\n"
    )
    told.chmod(0o755)
    monkeypatch.setattr(utilisation, "EVERY", 0.01)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    began = time.monotonic()
    with utilisation.watched() as busy:
        while len(busy.seen) < 2 and time.monotonic() - began < 30:
            time.sleep(0.01)
    assert busy.seen[:2] == [80, 90] and 80 < busy.percent < 90
    monkeypatch.setenv("PATH", "")
    with utilisation.watched() as busy:
        pass
    assert math.isnan(busy.percent)
    curve = pd.DataFrame({"sampling_s": [2.0], "scoring_s": [0.5], "updating_s": [1.0]})
    assert report.ppo_split(curve, "a card").endswith("updating (medians).")
    assert report.ppo_split(curve.assign(gpu_busy=91.6), "a card").endswith("GPU computed 92 % of the time.")


def test_problems_of_ppo_come_three_times_at_most(monkeypatch):
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(
        reinforcing, "training_problems", lambda task, n, seed, start: asked.append((start, n)) or []
    )
    work = SimpleNamespace(
        profile=get("gpu"), seed=0, window=SimpleNamespace(profile=get("gpu"), write_manifest=lambda: None),
        rows=SimpleNamespace(of=lambda stem: pd.DataFrame()),
    )  # fmt: skip
    for steps in (0, 100, 390):
        reinforcing.reinforce(work, [], steps)
    assert asked == [(50_000, 50_000), (50_000, 50_000), (50_000, 133_120)]


def test_a_plan_in_the_sizes_of_the_record_is_the_record():
    rates, (profile, _) = estimating.Rates(estimating.RECORD), one_gpu.sizes(tiny=False)
    found = estimating.of_self_training(profile, rates)
    spent = dict.fromkeys(("sampling guided_rest", "training rest", "measuring"), 0.0)
    for name in ("iterate", "iterate_2"):
        parts = json.loads((estimating.RECORD / "manifests" / f"{name}.json").read_text())["parts"]
        for part, seconds in parts:
            for kind in spent:
                if part.startswith(kind) and part != "measuring bc" and "ppo" not in part:
                    spent[kind] += seconds
    for kind in ("sampling guided_rest", "training rest"):
        assert found[kind] == pytest.approx(spent[kind], rel=0.01)
    # the first window measured all samples after the first iteration, too: about twice three models
    together = sum(
        seconds for part, seconds in found.items() if part.startswith("measuring") and "ppo" not in part
    )
    assert 0.5 * spent["measuring"] < together < spent["measuring"]
    ppo = estimating.of_ppo(profile, ["guided_rest_ppo"], 25, rates)
    assert ppo["PPO guided_rest_ppo, 25 steps"] == pytest.approx(101.7, rel=0.1)
    larger = estimating.of_self_training(replace(profile, train_problems=24_000, test_problems=800), rates)
    for name, seconds in larger.items():
        assert seconds == pytest.approx(found[name] * (1 if name in ("loading", "hints") else 2))


def test_the_minutes_in_the_guide_are_those_of_the_plan():
    guide = (REPOSITORY / "docs" / "at-scale.md").read_text()
    rows = re.findall(r"^\| .* \| `((?:iterate|reinforce) .*)` \| (\d+) \|$", guide, re.MULTILINE)
    assert len(rows) == 4
    for command, minutes in rows:
        chosen = one_gpu.parser().parse_args(command.split())
        profile, _ = one_gpu.sizes(False, chosen.train_problems, chosen.test_problems)
        alone = chosen.stage == "reinforce"
        said = estimating.beforehand(profile, chosen.methods.split(","), chosen.steps, alone)
        assert round(float(said.split()[0])) == int(minutes), said
        assert chosen.seconds == 0 or chosen.seconds > 60 * float(said.split()[0])


def test_a_plan_says_what_fits_a_card(capsys, tmp_path, monkeypatch):
    assert main(["gpu", "plan", "--steps", "100", "--methods", "sos_ppo"]) == 0
    told = capsys.readouterr().out
    assert "PPO sos_ppo, 100 steps" in told and "guided_rest_ppo" not in told
    fitting = {int(line.split()[0]): line.split()[2:] for line in told.splitlines() if " GB " in line}
    row = 2 * 6 * 2 * 64 * 2304 * 2  # bytes of keys and values: layers, heads, size, columns, bfloat16
    assert fitting[16][0] == f"{int(0.4 * 16e9 / row):,}" and fitting[80] == ["4,096", "65,536"]
    assert int(fitting[16][1].replace(",", "")) < 65_536
    profile, _ = one_gpu.sizes(tiny=False)
    ppo, whole = (
        estimating.beforehand(profile, ["sos_ppo"], 100, alone=alone).split() for alone in (True, False)
    )
    assert 5.5 < float(ppo[0]) < 7 < float(whole[0]) < 20 and "H200" in " ".join(ppo)
    monkeypatch.setattr(estimating, "RECORD", tmp_path)
    assert "is not known" in estimating.beforehand(profile, ["sos_ppo"], 100)
    with pytest.raises(GrlibError, match="no record of a window there, whose rates are needed"):
        estimating.Rates(tmp_path)


def test_ppo_that_does_not_fit_the_seconds_is_not_begun(monkeypatch):
    curve = pd.DataFrame({"step": [1, 2], "sampling_s": 2.0, "scoring_s": 0.0, "updating_s": 1.0})
    curve["method"] = "guided_rest_ppo"
    said: list[str] = []
    tried: list[tuple[str, int]] = []

    class Work:
        profile, seed, window = get("laptop"), 0, iterating.Window("select", REPOSITORY, get("laptop"))
        rows = type("Rows", (), {"of": lambda self, stem: curve})()
        forget = staticmethod(lambda method: None)
        say = staticmethod(said.append)
        last = staticmethod(lambda: 0.0)
        is_measured = staticmethod(lambda method, iteration: method == "guided_rest_ppo")

    work = Work()
    work.profile = replace(work.profile, train_problems=2, test_problems=400)  # tests as in the record
    monkeypatch.setattr(work.window, "write_manifest", lambda: None)
    monkeypatch.setattr(reinforcing, "GPU", True)
    monkeypatch.setattr(
        reinforcing, "_reinforce", lambda work, method, items, seconds, steps: tried.append((method, steps))
    )
    for left, expected in ((25.0, []), (40.0, [("sos_ppo", 2), ("rest_ppo", 2)])):
        monkeypatch.setattr(work.window, "left", lambda left=left: left)
        tried.clear()
        reinforcing.reinforce(work, PPO[:3], 9)
        assert tried == expected  # two steps of 3.3 s, 12 s of compiling, 12 s of measuring
    assert said == ["no time for sos_ppo: it takes 19 s and 12 s of measuring"]
    assert work.window.profile.ppo.steps == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="a rehearsal for machines without a GPU")
def test_node_selection_by_all_choices(tmp_path):
    profile = replace(one_gpu.sizes(tiny=True)[0], budget=300)
    selecting.select(tmp_path, profile, BASE, 4, seed=0)
    rows = results.load({0: tmp_path}, "laptop").rows("selection")
    assert rows.groupby("choose")["index"].apply(list).to_dict() == dict.fromkeys(
        ("first", "last", "random"), [0, 1, 2, 3]
    )
    unaided = rows[rows["round"] == 0].groupby("index")["tokens"].nunique()
    assert (unaided[rows.groupby("index")["round"].max() == 0] == 1).all()  # the same first attempts


@pytest.mark.skipif(torch.cuda.is_available(), reason="a rehearsal for machines without a GPU")
def test_bases_are_trained_by_the_clock_and_described(tmp_path, monkeypatch):
    plain = imitating.PackedScorer
    monkeypatch.setattr(imitating, "PackedScorer", lambda *a, compiled: plain(*a, compiled=False))
    profile, tokens = one_gpu.sizes(tiny=True)
    imitating.make_bases(tmp_path, replace(profile, budget=300), tokens, 4.0)
    for method in ("sos", "bc"):
        folder = tmp_path / "models" / method
        curve = pd.read_csv(folder / "curve.csv")
        facts = json.loads((folder / "manifest.json").read_text())
        assert facts["tokens_seen"] == curve["tokens_seen"].iloc[-1] > 0
        assert facts["validation_loss_nats_per_token"] == pytest.approx(
            curve["valid_loss"].iloc[-1], abs=1e-4
        )
        card = (folder / "README.md").read_text()
        assert f"{facts['steps']:,} steps" in card and "400 examples of 3 numbers" in card
    made = json.loads((tmp_path / "manifests" / "base.json").read_text())
    assert made["parameters"] == {"seconds": "4.0", "tokens": str(tokens)}
    assert "test_problems" not in made["settings"] and made["settings"]["hidden"] == profile.model.hidden


@pytest.mark.skipif(torch.cuda.is_available(), reason="a rehearsal for machines without a GPU")
def test_the_probe_finds_the_code_right(tmp_path, monkeypatch):
    plain = probing.PackedScorer
    monkeypatch.setattr(probing, "PackedScorer", lambda *a, **k: plain(*a[:2], compiled=False))
    monkeypatch.setattr(probing, "sampling_pace", probing.ceilings)
    profile, tokens = one_gpu.sizes(tiny=True)
    found = probing.probe(tmp_path, profile, tokens)
    assert json.loads((tmp_path / "probe.json").read_text()).keys() == found.keys()
    assert abs(found["packing"]["loss_plain"]) < 1e-2 and found["packing"]["gradient_plain"] < 0.02
    assert found["sampled"]["greedy_equal"] == 1 and found["sampled"]["rescored"] < 1e-5
    assert found["training_pace"]["packed"] > 0
    only = probing.probe(tmp_path, profile, tokens, ["attention"])
    assert "packing" in only and only["attention"].keys() == {"device"}  # the others stand
    assert len(list((tmp_path / "manifests").glob("probe*.json"))) == 2
    with pytest.raises(GrlibError, match="--checks nothing: not a check; choose of ceilings, packing, "):
        probing.probe(tmp_path, profile, tokens, ["nothing"])


def test_a_check_that_fails_leaves_the_others(tmp_path, monkeypatch):
    def ceilings(profile, tokens):
        raise RuntimeError("no such card")

    for name in ("packing", "sampled", "training_pace", "sampling_pace"):
        monkeypatch.setattr(probing, name, lambda profile, tokens: {"fine": 1.0})
        getattr(probing, name).__name__ = name
    monkeypatch.setattr(probing, "ceilings", ceilings)
    found = probing.probe(tmp_path, *one_gpu.sizes(tiny=True))
    assert "no such card" in found["ceilings"] and found["packing"] == {"fine": 1.0}
    assert report.pace_table(found, {"parameters": 1}) == "The probe's ceilings failed: see its probe.json."


def test_a_base_of_another_shape_is_refused(tmp_path):
    profile, _ = one_gpu.sizes(tiny=False)
    with pytest.raises(
        GrlibError, match=r"hidden size, layers, positions are \(128, .*name a base of this profile"
    ):
        learning.Trainer(BASE / "sos", profile, 4096, 0, print)


def test_rows_that_workers_make_are_those_of_the_imitation_list(monkeypatch):
    monkeypatch.setattr(imitating, "PART", 3)
    profile = get("laptop")

    class Here:
        def submit(self, function, *arguments):
            done: Future = Future()
            done.set_result(function(*arguments))
            return done

    made = list(itertools.islice(imitating.stream(Here(), 1, "sos", profile, first=6), 10))
    words = build_tokenizer(profile.whole_numbers)
    examples = imitation_examples(profile.task, 6, num_count=3) + imitation_examples(profile.task, 4)
    expected = imitation_rows("sos", examples, words, profile.self_training.row_length)
    assert [row.ids.tolist() for row in made] == [row.ids.tolist() for row in expected]
    assert [row.start for row in made] == [row.start for row in expected]


def test_the_clock_starts_after_the_first_steps(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    said: list[str] = []
    done = imitating.by_the_clock(50.0, 1000, said.append)
    for step, moment, share in ((0, 100, 0.0), (2, 140, 0.0), (3, 140, 0.0), (9, 165, 0.5), (20, 190, 1.0)):
        now[0] = moment
        assert done(step) == share
    monkeypatch.setattr(imitating, "GPU", True)
    for step in (20, 21):
        done(step)
    assert [line.partition(",")[0] for line in said] == ["warning: 400 tokens a second"]


def test_a_change_travels_in_eight_bits():
    model, _ = tiny_model()
    changed, _ = tiny_model()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in changed.parameters():
            weights += 0.01 * torch.randn(weights.shape, generator=generator)
    before = {name: weights.clone() for name, weights in model.named_parameters()}
    again = travelling.apply_difference(model, travelling.difference(model, changed))
    for (name, weights), wanted in zip(again.named_parameters(), changed.parameters(), strict=True):
        change = (wanted - before[name]).reshape(len(wanted), -1).abs().amax(1)
        error = (weights - wanted).reshape(len(wanted), -1).abs().amax(1)
        assert (error <= change / 254 + 1e-6).all(), name


def test_a_change_is_refused_with_another_base_or_a_damaged_file(tmp_path):
    model, _ = tiny_model()
    travelling.write_difference(tmp_path / "c", model, model)
    with pytest.raises(GrlibError, match="not a change of this base"):
        travelling.read_difference(tmp_path / "c", tiny_model(2)[0])
    (tmp_path / "c").write_bytes((tmp_path / "c").read_bytes()[:100])
    with pytest.raises(GrlibError, match="cannot be read"):
        travelling.read_difference(tmp_path / "c", model)


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["probe", "X"], "no GPU is there; `--tiny` rehearses"),
        (["iterate", "X"], "X/models/sos: no model there; first `python -m grlib gpu base X`"),
        (["base", "X", "--seconds", "-1"], "--seconds -1 --problems 2000: must be more than 0"),
        (["select", "X", "--problems", "0"], "--problems 0: must be more than 0"),
        (
            ["iterate", "X", "--methods", "ppo"],
            "--methods ppo: not trained by PPO; choose of sos_ppo, rest_ppo",
        ),
        (["iterate", "X", "--methods", "sos_ppo,sos_ppo"], "sos_ppo,sos_ppo: a method twice"),
        (["iterate", "X", "--steps", "-1"], "--steps -1: must be 0 (as by default) or more"),
        (["iterate", "X", "--test_problems", "-1"], "--test_problems -1: must be 0 (as by default)"),
        (["iterate"], "`gpu iterate` needs a folder: python -m grlib gpu iterate OUT"),
        (["export", "X"], "X/models/sos: no model there"),
    ],
)
def test_bad_requests_are_one_clear_line(arguments, message, capsys):
    assert main(["gpu", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_record_is_whole_and_reported():
    folder = REPOSITORY / "paper_results" / "measured" / "gpu" / "seed0"
    stored = results.load({0: folder}, "gpu")
    evaluated = stored.rows("eval")
    guided = evaluated[evaluated["method"] == "guided_rest"]
    for iteration, samples in ((1, 32), (2, 4), (3, 32)):
        shape = guided[guided["iteration"] == iteration].groupby(["split", "index"]).size()
        assert (shape == samples).all() and len(shape) == 800
    assert stored.rows("ppo_curve").groupby("method")["step"].apply(list).tolist() == [list(range(1, 26))] * 4
    made = report.windows(folder / "manifests")
    assert list(made) == ["base", "iterate", "iterate_2", "iterate_3"]
    for manifest in made.values():
        assert sum(spent for _, spent in manifest["parts"]) == pytest.approx(
            manifest["wall_seconds"], abs=1.5
        )
    text = "\n".join(
        report.paragraphs(
            REPOSITORY / "paper_results" / "measured", REPOSITORY / "paper_results" / "base_gpu" / "sos"
        )
    )
    sos = evaluated[(evaluated["method"] == "sos") & (evaluated["split"] == "seen")]
    assert f"55.3 / {100 * sos['correct'].mean():.1f}" in text
    assert f"{sum(m['wall_seconds'] for m in made.values()) / 60:.1f} |" in text
    assert (
        "A step of PPO in the windows (on NVIDIA H200) took 3.4 s: " in text
        and "iterations of 12,000 problems: 3, steps of PPO: 25, " in text
    )


def test_the_shipped_models_search():
    from grlib.models.llama import load_both
    from grlib.sampling import pool as sampling
    from grlib.tasks.countdown import task as countdown_task
    from grlib.tasks.countdown import traces
    from grlib.tasks.countdown.puzzle import Problem

    greedy = sampling.Sampling(temperature=0, slots=2)
    problem = Problem((3, 5, 7, 11), 26)
    for name in ("sos", "guided_rest", "guided_rest_ppo"):
        model, words = load_both(REPOSITORY / "paper_results" / "base_gpu" / name)
        ask = sampling.Request(countdown_task.prompt_text(problem), "", 300)
        [found] = sampling.answer(model, words, [ask], greedy, 0)
        audit = traces.audit(found.text, problem)
        assert audit["lines"] > 10 and audit["malformed_lines"] == 0, name
        assert audit["wrong_arithmetic"] == 0, name


def test_the_stages_need_no_notebook_packages():
    stages = "imitating, iterating, probing, selecting"
    code = f"import sys; from grlib.one_gpu import {stages}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert not {"nbformat", "IPython", "papermill", "datasets", "matplotlib"} & set(done.stdout.split())


def test_nothing_is_said_of_a_record_that_is_not_there(tmp_path):
    assert report.paragraphs(tmp_path, tmp_path) == ["Nothing is recorded yet."]


def test_paces_stand_beside_the_ceilings_of_the_card():
    found = {
        "device": "a card",
        "ceilings": {"copy_tb_s": 2.0, "bf16_tflop_s": 500.0},
        "training_pace": {"packed": 1e6, "padded": 4e5},
        "sampling_pace": {"static": 6e5, "read_tb_s": 0.5, "generate": 2e4, "generate_device": "another"},
    }
    text = report.pace_table(found, {"parameters": 10_000_000})
    assert "attention" not in text
    reading = {"device": "a third", "copy_tb_s": 4.0, "read_tb_s": 3.0}
    more = report.pace_table(found | {"attention": reading}, {"parameters": 1})
    assert (
        "attention of a sampling step, most slots (on a third) | 3.00 TB/s | keys and values read; 75% of"
        in more
    )
    assert "2.5 times rows padded" in text and "60 TFLOP/s at 6 a parameter, 12% of" in text
    assert "25% of the copy's rate" in text and "20,000 tokens/s (on another) | 30 times slower" in text


def test_minutes_of_all_windows_by_kind_of_work():
    """By hand: hints and likelihoods are measuring; the windows' own totals stand below."""
    made = {
        "base": {"parts": [["sos steps", 60.0], ["hints", 30.0]], "wall_seconds": 96.0},
        "iterate": {
            "parts": [["sos again", 12.0], ["likelihoods", 6.0], ["PPO", 120.0]],
            "wall_seconds": 138.0,
        },
    }
    assert report.cost_table(made).splitlines()[2:] == [
        "| PPO | 0.0 | 2.0 | 2.0 |",
        "| sos | 1.0 | 0.2 | 1.2 |",
        "| measuring | 0.5 | 0.1 | 0.6 |",
        "| **all** | 1.6 | 2.3 | 3.9 |",
    ]


def test_many_requests_are_sampled_in_more_rows_at_once(monkeypatch):
    used = []
    monkeypatch.setattr(window.sampling, "answers", lambda *given: used.append(given[3].slots) or [])
    sampler = window.Sampler(None, None, slots=4, seed="0")
    for count in (window.MANY * 4 - 1, window.MANY * 4):
        sampler.as_they_come([None] * count)
    assert used == [4, 4 * window.WIDER]


def test_measured_numbers_are_numbers():
    frame = pd.read_parquet(REPOSITORY / "paper_results/measured/gpu/seed0/results/05_likelihood.parquet")
    assert set(frame["kind"]) == {"self_generated", "hinted", "guided"}
    assert np.isfinite(frame["nll"]).all() and (frame["nll_tokens"] > 0).all()
