"""Profiles: every setting is read somewhere, every value of the paper has a source, unknown names are
refused."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest

from grlib import profiles
from grlib.errors import GrlibError
from grlib.runs import freshness, notebooks
from grlib.tasks.countdown.task import PPO_RUNS

ROOT = Path(__file__).parents[2]


def all_code():
    """The package and the code cells of the notebooks as one text."""
    pieces = [path.read_text() for path in (ROOT / "grlib").rglob("*.py")]
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        pieces += ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return "\n".join(pieces)


TABLES = (
    *(profiles.Profile, profiles.Stage, *map(type, profiles.get("laptop").tasks.values()), profiles.Sampling),
    *(profiles.Training, profiles.SelfTraining, profiles.PPO, profiles.Model, profiles.Base),
)


@pytest.mark.parametrize("table", TABLES)
def test_every_setting_is_read(table):
    code = all_code()
    unread = [field.name for field in dataclasses.fields(table) if not re.search(rf"\.{field.name}\b", code)]
    assert not unread, f"set but never read: {unread}"


def test_every_value_of_the_paper_profile_has_a_source():
    sources = profiles.sources("paper")
    assert set(sources) >= profiles.get("paper").settings().keys() - {"name"}
    assert sources["repair"].startswith("paper, code self-repair") and "data" in sources["countdown"]
    assert sources["repair.base_training"].startswith("only for a stand-in")
    assert all(len(source) > 10 for source in sources.values())


def test_the_paper_profile_is_the_papers():
    paper = profiles.get("paper")
    assert paper.countdown.num_count == 4 and paper.countdown.max_number == 99
    assert (paper.countdown.target_low, paper.countdown.target_high, paper.countdown.unseen_fraction) == (
        10,
        100,
        0.1,
    )
    assert paper.countdown.dfs_widths == (0,) and paper.countdown.bfs_beams == (1, 2, 3, 4, 5)
    assert sum(stage.examples for stage in paper.base.stages) == 500_000
    assert (paper.self_training.train_problems, paper.test_problems, paper.samples) == (200_000, 10_000, 32)
    loop, how = paper.self_training, paper.self_training.training
    assert (paper.base.training.lr, how.batch_rows, loop.iterations) == (1e-5, 256, 3)
    assert (loop.rest_epochs, loop.guided_epochs, paper.budget, paper.sampling.temperature) == (3, 2, 4096, 1)
    assert paper.budgets == tuple(range(0, 4097, 512))


@pytest.mark.parametrize("name", ["smoke", "laptop", "overnight", "gpu", "paper", "rehearsal", "gpu_base"])
def test_a_profile_makes_sense(name):
    profile = profiles.get(name)
    assert profile.name == name
    assert (
        profile.model.hidden % profile.model.heads == 0 and profile.model.heads % profile.model.kv_heads == 0
    )
    assert profile.base.stages and profile.base.stages[-1].num_count == profile.countdown.num_count
    assert profile.test_list <= profile.countdown.reserved_test
    assert {*profile.ppo_runs} <= {*PPO_RUNS} and profile.ppo_runs
    assert profile.valid_problems <= profile.countdown.reserved_valid
    assert profile.self_training.guided_rounds <= profile.countdown.num_count - 1
    assert (
        profile.budgets[0] == 0 and profile.budgets[-1] == profile.budget < profile.self_training.row_length
    )
    for field in dataclasses.fields(profile):
        value = getattr(profile, field.name)
        assert not isinstance(value, (int, float)) or isinstance(value, bool) or value >= 0, field.name
    with pytest.raises(dataclasses.FrozenInstanceError):
        profile.budget = 1


def test_smoke_is_the_laptop_profile_with_smaller_sizes():
    """The shipped base belongs to both, so nothing that shapes the model, its tokens or its problems may
    differ."""
    smoke, laptop = profiles.get("smoke"), profiles.get("laptop")
    for name in ("countdown", "model", "whole_numbers"):
        assert getattr(smoke, name) == getattr(laptop, name), name
    assert smoke.base.shipped and smoke.base.folder == laptop.base.folder
    assert smoke.self_training.train_problems < laptop.self_training.train_problems
    assert smoke.test_problems <= laptop.test_problems and smoke.budget <= laptop.budget


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("[ppo]\nstep = 3", "ppo: setting 'step' is unknown; did you mean 'steps'"),
        ("budget = 'long'", "budget = 'long' must be of type int, as 1024 is"),
        ("[countdown]\nmax = 3", "countdown: setting 'max' is unknown"),
        ("[base]\nstages = [{ num = 3 }]", "setting 'num' is unknown"),
        ("budget = = 3", "correct the line"),
        ("budget = -1", "budget = -1: must be a number from 0 to 1,000,000,000"),
        ("[sampling]\ntemperature = nan", "temperature = nan: must be a number from 0 to 100"),
        ("[self_training.training]\nlr = inf", "lr = inf: must be a number from 0 to"),
        ("[self_training.training]\nwarmup = 1.5", "warmup = 1.5: must be a number from 0 to 1"),
        ("[self_training.training]\nbetas = [0.9, -1.0]", "betas = -1: must be a number from 0 to 1"),
        ("countdown = 3", "countdown = 3: must be a table of settings"),
    ],
)
def test_a_profile_file_with_a_mistake_is_refused(tmp_path, monkeypatch, line, words):
    (tmp_path / "mine.toml").write_text(line + "\n")
    monkeypatch.setattr("grlib.profiles.FOLDER", tmp_path)
    with pytest.raises(GrlibError, match=re.escape(words)):
        profiles.get("mine")


def test_a_profile_file_holds_what_differs(tmp_path, monkeypatch):
    (tmp_path / "one.toml").write_text(
        "budget = 10\n[self_training.training]\nlr = 1\n[countdown]\ndfs_widths = [0, 2]\n"
    )
    (tmp_path / "two.toml").write_text("extends = 'one'\nsamples = 3\n[countdown]\nmax_number = 7\n")
    monkeypatch.setattr("grlib.profiles.FOLDER", tmp_path)
    profile = profiles.get("two")
    assert (profile.name, profile.budget, profile.samples, profile.self_training.training.lr) == (
        "two",
        10,
        3,
        1,
    )
    assert (profile.countdown.dfs_widths, profile.countdown.max_number) == ((0, 2), 7)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("laptp", "did you mean 'laptop'"),
        ("", "choose one of"),
        (3, "choose one of"),
        (["smoke"], "did you mean 'smoke'"),
    ],
)
def test_an_unknown_profile_is_one_clear_line(name, words):
    with pytest.raises(GrlibError, match=words) as caught:
        profiles.get(name)
    assert "\n" not in str(caught.value)


def test_only_the_values_of_its_own_profile_make_a_notebook_stale(tmp_path, monkeypatch):
    folder = tmp_path / "profiles"
    shutil.copytree(profiles.FOLDER, folder)
    monkeypatch.setattr(profiles, "FOLDER", folder)
    book = notebooks.find(notebooks.every(), "01")

    def after(name, old, new):
        path = folder / f"{name}.toml"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
        profiles.load_file.cache_clear()
        return freshness.snapshot(book, {"profile": "laptop"}, tmp_path)

    before = freshness.snapshot(book, {"profile": "laptop"}, tmp_path)
    try:
        assert after("paper", "budget = 4096", "budget = 2048") == before
        assert after("laptop", "actor_lr = 0.2", "actor_lr = 0.3")["setting ppo"]["actor_lr"] == 0.3
    finally:
        profiles.load_file.cache_clear()
