"""The runner on little notebooks: order, freshness, artefacts checked, failures explained, kills survived.

Tests marked `integration` run them in kernels, the others run their cells in this process.
"""

import contextlib
import copy
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas
import pytest
from conftest import wait_for

from grlib import profiles
from grlib.__main__ import main
from grlib.errors import GrlibError
from grlib.runs import (
    deadline,
    execute,
    freshness,
    housekeeping,
    notebooks,
    outcome,
    recording,
    runner,
    sources,
)
from grlib.runs import files as artefacts
from grlib.runs import run as runs

integration = pytest.mark.integration
REPOSITORY = Path(__file__).resolve().parents[2]
PARAMETERS = 'profile = "laptop"  # which\nseed = 0\nrun_dir = ""\nrows = 3\nbase = "shipped"'
WRITE = """
from pathlib import Path
folder = Path(run_dir)
(folder / "data").mkdir(exist_ok=True)
print(f"writing {rows} rows", flush=True)
(folder / "data" / "a.csv").write_text("x\\n" + "1\\n" * rows)
"""
READ = """
from pathlib import Path
text = (Path(run_dir) / "data" / "a.csv").read_text()
(Path(run_dir) / "tables").mkdir(exist_ok=True)
(Path(run_dir) / "tables" / "b.csv").write_text("n\\n" + str(len(text)) + "\\n")
"""


def make_notebook(
    folder: Path, name: str, *cells: str, reads=(), may_read=(), writes=(), parameters: str = PARAMETERS
) -> Path:
    """A notebook with a parameters cell; cells that start with # are markdown."""
    tagged = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    made = [nbformat.v4.new_markdown_cell("# Title"), tagged]
    for number, cell in enumerate(cells):
        new = nbformat.v4.new_markdown_cell if cell.startswith("#") else nbformat.v4.new_code_cell
        made.append(new(cell, id=f"cell-{number}"))
    made[0]["id"], made[1]["id"] = "title", "parameters"
    book = nbformat.v4.new_notebook(cells=made)
    book.metadata["grlib"] = {"reads": list(reads), "may_read": list(may_read), "writes": list(writes)}
    path = folder / f"{name}.ipynb"
    nbformat.write(book, path)
    return path


def in_process(notebook, parameters, folder, resume):
    """Stands for `execute`: runs the cells without a kernel and keeps what they print."""
    names, content = {}, copy.deepcopy(notebook.content)
    for cell in [cell for cell in content["cells"] if cell["cell_type"] == "code"]:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(cell["source"], names)
        if notebooks.is_tagged(cell, "parameters"):
            names |= parameters
        stream = {"output_type": "stream", "name": "stdout", "text": printed.getvalue()}
        cell["outputs"] = [stream] if printed.getvalue() else []
    artefacts.write_json(freshness.executed_path(notebook, folder), content)


@pytest.fixture
def lab(tmp_path, monkeypatch, request):
    """A repository with two good notebooks; a kernel imports its grlib from there too."""
    if not request.node.get_closest_marker("integration"):
        monkeypatch.setattr(execute, "execute", in_process)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "grlib").mkdir()
    (tmp_path / "grlib" / "__init__.py").write_text("")
    (tmp_path / "grlib" / "fake.py").write_text('"""Doc."""\n\n\ndef f():\n    return 1  # one\n')
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path / "notebooks")
    for module in (notebooks, freshness, recording):
        monkeypatch.setattr(module, "REPOSITORY", tmp_path)
    monkeypatch.setattr(recording, "FIGURES", tmp_path / "figures")
    monkeypatch.setattr(housekeeping, "git_state", lambda: {"commit": "abc", "dirty": False})
    monkeypatch.setattr(sources, "PACKAGE", tmp_path / "grlib")
    make_notebook(tmp_path / "notebooks", "01_write", WRITE, writes=["data/a.csv"])
    make_notebook(
        tmp_path / "notebooks", "02_read", "if False:\n    from grlib import fake", READ,
        reads=["data/a.csv"], writes=["tables/b.csv"],
    )  # fmt: skip
    return tmp_path


def replace(path: Path, old: str, new: str) -> None:
    """Edit the text of a file."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def ran(capsys) -> list[str]:
    """Names of the notebooks that ran since the last look at the output."""
    lines = capsys.readouterr().out.splitlines()
    return [line.split()[1].rstrip(":") for line in lines if ": done in" in line]


# order and freshness


@integration
def test_a_run_that_is_out_of_time_says_how_to_go_on(lab, capsys, monkeypatch):
    monkeypatch.setenv(deadline.VARIABLE, "")
    source = "import os\n\nclass OutOfTime(Exception):\n    pass\n\n"
    source += "raise OutOfTime(float(os.environ['GRLIB_DEADLINE']) > 0)"
    make_notebook(lab / "notebooks", "02_read", source, writes=["tables/b.csv"])
    for more in ([], ["--plain"]):
        assert main(["reproduce", "--profile", "smoke", "--seconds", "600", *more]) == 9
        said = capsys.readouterr().err
        assert "02_read stopped (out of time)" in said and "OutOfTime: True" in said
        assert " ".join(["--seconds 600", *more]) in said.splitlines()[-1]
    assert main(["reproduce", "--profile", "smoke", "--seconds", "1e-9", "--force"]) == 9
    assert "the time is over before 01_write; resume: python -m grlib" in capsys.readouterr().err
    assert main(["reproduce", "--profile", "smoke", "--seconds", "0"]) == 2


@integration
def test_plain_python_makes_the_same_files(lab, capsys):
    source = "import inspect\nfrom IPython.display import display\ndisplay(rows)\ndef f():\n    return 1\n"
    steps = ["a: 1/2 done", "a: a warning", "b: 1 of 2 done", "b: 2/2"]
    say = "from grlib.runs import run as runs\nrun = runs.start('02_read', profile, seed, run_dir)\n"
    say += f"for line in {steps}:\n    run.say(line)"
    make_notebook(
        lab / "notebooks", "02_read", source + "inspect.getsource(f)", READ, say,
        reads=["data/a.csv"], writes=["tables/b.csv"],
    )  # fmt: skip
    shutil.copytree(REPOSITORY / "grlib", lab / "grlib", dirs_exist_ok=True)
    files = {}
    for run_dir, more in (("kernel", []), ("plain", ["--plain"])):
        options = ["reproduce", "--profile", "smoke", "-p", "rows", "2", "--run-dir", str(lab / run_dir)]
        assert main([*options, *more]) == 0
        files[run_dir] = [(lab / run_dir / name).read_bytes() for name in ("data/a.csv", "tables/b.csv")]
        said = capsys.readouterr().out
        assert "      | writing 2 rows\n" in said and "all up to date" in said
        assert "".join(f"      | {line}\n" for line in steps) in said, "the log keeps every line of progress"
        [kept] = notebooks.read(lab / run_dir / "executed" / "02_read.ipynb").code()[-1]["outputs"]
        assert [line.strip() for line in kept["text"].splitlines()] == ["a: a warning", "b: 2/2"]
    assert files["plain"] == files["kernel"]
    assert "      | 2\n      | def f():\n      |     return 1\n" in said
    assert main([*options]) == 0 and ran(capsys) == []  # a run with kernels finds it up to date
    executed = notebooks.read(lab / "plain" / "executed" / "02_read.ipynb")
    assert executed.code()[1]["outputs"][0]["text"].startswith("2\n") and dict(executed.seconds_by_section())


def test_a_failure_in_plain_python_is_explained(lab, capsys):
    make_notebook(lab / "notebooks", "01_write", "# Part", "1 / 0", writes=["data/a.csv"])
    assert main(["reproduce", "--profile", "smoke", "--plain"]) == 4
    said = capsys.readouterr().err
    assert "<01_write, cell 4>" in said and "section: Part" in said
    assert "cell:    4 of 4 (code cell 2)" in said and "cause:   ZeroDivisionError: division by zero" in said


HIDDEN = """
import sys
for name in ("papermill", "nbformat", "nbclient", "IPython", "ipykernel", "jupyter_client", "datasets"):
    sys.modules[name] = None
from grlib.__main__ import main
sys.exit(main(["reproduce", "--profile", "smoke", "--only", "01", "--plain", "--run-dir", sys.argv[1]]))
"""


def test_plain_python_needs_no_notebook_packages(tmp_path):
    command = [sys.executable, "-c", HIDDEN, str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    book = notebooks.find(notebooks.every(), "01")
    assert all(artefacts.is_whole(tmp_path / name) for name in book.files("smoke", "writes"))


def test_an_input_that_may_be_missing_is_noticed_when_it_comes_and_changes(lab, capsys):
    path = lab / "notebooks" / "02_read.ipynb"
    book = nbformat.read(path, as_version=4)
    book.metadata["grlib"]["may_read"] = ["data/extra.csv"]
    nbformat.write(book, path)
    request = runner.Request("smoke")
    runner.reproduce(request)  # it is not there, and nobody asks for it
    extra = request.folder / "data" / "extra.csv"
    for text in ("x\n1\n", "x\n2\n"):
        extra.write_text(text)
        assert dict(runner.status(request))["02_read"] == "input data/extra.csv changed"
        runner.reproduce(request)
        assert dict(runner.status(request))["02_read"] == "up to date"


def test_runs_in_order_skips_and_reruns_only_what_changed(lab, capsys):
    request = runner.Request("smoke", parameters={"rows": "2"})
    runner.reproduce(request)
    output = capsys.readouterr().out
    assert output.index("01_write: done") < output.index("02_read: running (not finished here yet)")
    assert (request.folder / "tables" / "b.csv").read_text() == "n\n6\n"

    runner.reproduce(request)
    assert ran(capsys) == []

    replace(lab / "notebooks" / "02_read.ipynb", "# Title", "# Another title")
    replace(lab / "notebooks" / "02_read.ipynb", "import fake", "import fake  # why")
    replace(lab / "grlib" / "fake.py", '"""Doc."""', '"""Other doc."""\n# a comment')
    assert [reason for _, reason in runner.status(request)] == ["up to date", "up to date"]

    replace(lab / "grlib" / "fake.py", "return 1", "return 2")
    runner.reproduce(request)
    assert ran(capsys) == ["02_read"]

    (request.folder / "data" / "a.csv").write_text("x\n1\n")
    reasons = dict(runner.status(request))
    assert reasons["01_write"] == "output data/a.csv is missing or was changed"
    assert reasons["02_read"] == "input data/a.csv changed"
    runner.reproduce(request)
    assert ran(capsys) == ["01_write"], "the same bytes again leave what follows up to date"

    changed = runner.Request("smoke", parameters={"rows": "4"})
    assert dict(runner.status(changed))["01_write"] == "parameter rows changed"


def test_only_settings_that_were_asked_for_make_a_notebook_stale(lab, monkeypatch):
    asks = (
        "from grlib.runs import run as runs\n"
        "run = runs.start('03_ask', profile=profile, seed=seed, run_dir=run_dir)\n"
        "print(run.profile.samples, run.profile.ppo.steps)\nrun.finish()"
    )
    make_notebook(lab / "notebooks", "03_ask", asks)
    request = runner.Request("smoke", only=("03",))
    runner.reproduce(request)
    folder = shutil.copytree(profiles.FOLDER, lab / "profiles")
    monkeypatch.setattr(profiles, "FOLDER", folder)
    for old, new, reason in (
        ("hint_problems = 6", "hint_problems = 7", "up to date"),
        ("minibatch = 4", "minibatch = 8", "setting ppo changed"),
        ("samples = 4", "samples = 5", "setting ppo changed (and 1 more)"),
    ):
        replace(folder / "smoke.toml", old, new)
        profiles.load_file.cache_clear()
        assert dict(runner.status(request))["03_ask"] == reason
    monkeypatch.undo()
    profiles.load_file.cache_clear()


def test_force_runs_again_and_forgets_finished_chunks(lab, capsys):
    request = runner.Request("smoke", only=("1",))
    runner.reproduce(request)
    chunk = request.folder / "steps" / "01_write" / "part" / "chunk_000000.parquet"
    artefacts.write_table(chunk, pandas.DataFrame({"x": [1]}))
    capsys.readouterr()
    runner.reproduce(runner.Request("smoke", only=("1",), force=True))
    assert ran(capsys) == ["01_write"]
    assert not chunk.exists()


# artefacts checked before and after


def test_a_missing_input_stops_the_notebook_and_names_its_maker(lab, capsys):
    assert main(["reproduce", "--profile", "smoke", "--only", "02"]) == 3
    message = capsys.readouterr().err
    assert message == (
        "error: 02_read needs data/a.csv: missing in runs/smoke/seed0; notebook 01_write makes it: "
        "python -m grlib reproduce --profile smoke --seed 0 --only 01\n"
    )


def test_the_remedy_names_all_missing_makers_in_the_same_folder_and_obeyed_it_works(lab, capsys):
    make_notebook(
        lab / "notebooks", "03_last", "1", reads=["tables/b.csv"],
        writes=[],
    )  # fmt: skip
    options = ["reproduce", "--profile", "smoke", "--seed", "3", "--run-dir", str(lab / "my run")]
    assert main([*options, "--only", "03"]) == 3
    printed = capsys.readouterr()
    remedy = shlex.split(printed.err.partition("makes it: ")[2])
    assert remedy == ["python", "-m", "grlib", *options, "--only", "01", "02"] and not printed.out
    assert main(remedy[3:]) == 0 and main([*options, "--only", "03"]) == 0


def test_an_input_that_differs_from_what_its_maker_noted_is_refused_by_name(lab, capsys):
    noted = 'import json\nfrom grlib.runs.files import digest\n(folder / "manifests").mkdir(exist_ok=True)\n'
    noted += 'outputs = {"data/a.csv": digest(folder / "data" / "a.csv")}\n'
    noted += '(folder / "manifests" / "01_write.json").write_text(json.dumps({"outputs": outputs}))'
    make_notebook(lab / "notebooks", "01_write", WRITE, noted, writes=["data/a.csv"])
    assert main(["reproduce", "--profile", "smoke"]) == 0
    made = lab / "runs" / "smoke" / "seed0" / "data" / "a.csv"
    replace(made, "x\n1\n", "x\n3\n")
    assert main(["reproduce", "--profile", "smoke", "--only", "02"]) == 3
    assert "data/a.csv: damaged or changed in runs/smoke/seed0; notebook 01" in capsys.readouterr().err
    with pytest.raises(artefacts.MissingArtefact, match="damaged or changed"):
        runs.refuse_missing(["data/a.csv"], "smoke", 0, made.parents[1], "02_read")
    runs.refuse_missing(["data/a.csv"], "smoke", 0, made.parents[1], "01_write")
    assert main(["reproduce", "--profile", "smoke"]) == 0 and "x\n1\n" in made.read_text()


@pytest.mark.parametrize("text", ["[1, 2]", '{"written": {}}', '{"depends_on', None])
@pytest.mark.parametrize(
    "name", ["state/01_write.json", "executed/01_write.ipynb", "manifests/01_write.json"]
)
def test_a_damaged_record_of_a_run_is_out_of_date_and_made_again(lab, capsys, name, text):
    manifest = '(folder / "manifests").mkdir(exist_ok=True)\n'
    manifest += '(folder / "manifests" / "01_write.json").write_text("{}")'
    make_notebook(lab / "notebooks", "01_write", WRITE, manifest, writes=["data/a.csv"])
    request = runner.Request("smoke", only=("01",))
    runner.reproduce(request)
    path = request.folder / name
    content = artefacts.read_json(path)
    path.unlink() if text is None else path.write_text(text)
    [(_, reason)] = runner.status(request)
    assert "damaged" in reason or "not finished" in reason or f"{name} is missing or was changed" in reason
    runner.reproduce(request)
    assert dict(runner.status(request)) == {"01_write": "up to date"}
    for cost in ("seconds", "peak_memory_mb"):
        content.pop(cost, None)
    assert content.items() <= artefacts.read_json(path).items()


@pytest.mark.parametrize("text", ["[1, 2]", '{"profile": "smoke"}', '{"prof'])
def test_a_damaged_owner_of_a_run_folder_is_refused_by_name(lab, capsys, text):
    (lab / "mine").mkdir()
    (lab / "mine" / "run.json").write_text(text)
    assert main(["reproduce", "--profile", "smoke", "--run-dir", str(lab / "mine")]) == 3
    assert f"error: {lab / 'mine' / 'run.json'}: " in capsys.readouterr().err
    assert (lab / "mine" / "run.json").read_text() == text


@pytest.mark.parametrize(
    ("cell", "fault"),
    [("1", "missing"), ("open(run_dir + '/out.csv', 'w').write('x\\n')", "without rows"),
     ("open(run_dir + '/out.csv', 'w').write('x\\n1')", "cut short or damaged")],
)  # fmt: skip
def test_green_without_its_artefact_fails(lab, capsys, cell, fault):
    make_notebook(lab / "notebooks", "03_empty", cell, writes=["out.csv"])
    assert main(["reproduce", "--profile", "smoke", "--only", "03"]) == 3
    assert (
        f"03_empty ran to its end, but its declared artefact out.csv is {fault};" in capsys.readouterr().err
    )
    reasons = dict(runner.status(runner.Request("smoke")))
    assert reasons["03_empty"] == "not finished here yet"


def test_what_shows_a_notebook_that_was_not_run_may_have_no_rows(lab, capsys):
    cell, folder = "open(run_dir + '/out.csv', 'w').write('x\\n')", lab / "runs" / "smoke" / "seed0"
    make_notebook(lab / "notebooks", "03_shows", cell, may_read=["data/more.csv"], writes=["out.csv"])
    assert main(["reproduce", "--profile", "smoke", "--only", "03"]) == 0
    (folder / "data").mkdir()
    (folder / "data" / "more.csv").write_text("x\n1\n")
    assert main(["reproduce", "--profile", "smoke", "--only", "03"]) == 3
    assert "out.csv is without rows" in capsys.readouterr().err


# kernels and failures


@integration
def test_a_kernel_is_of_this_interpreter_and_imports_the_grlib_of_the_repository(lab, monkeypatch, capsys):
    spec = lab / "jupyter" / "kernels" / "python3"  # a kernel of the user's under this name does not win
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(
        json.dumps({"argv": ["/bin/false"], "display_name": "x", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(lab / "jupyter"))
    cells = [
        "## Fake",
        "from grlib import fake\nprint('one is', fake.f())",
        "import sys\nprint(sys.executable)",
    ]
    make_notebook(lab / "notebooks", "05_which", *cells)
    assert main(["reproduce", "--profile", "smoke", "--only", "05", "-p", "rows", "5"]) == 0
    folder, said = lab / "runs" / "smoke" / "seed0", capsys.readouterr().out
    assert "      | one is 1\n" in said and f"      | {sys.executable}\n" in said
    assert [path.name for path in (folder / "executed").iterdir()] == ["05_which.ipynb"]
    state = artefacts.read_json(folder / "state" / "05_which.json")
    assert [name for name, _ in state["sections"]] == ["Title", "Fake"] and state["peak_memory_mb"] > 0
    assert state["depends_on"]["parameter rows"] == 5


def fail(lab, capsys, *cells: str, options=()) -> tuple[int, str]:
    """Run a notebook made of these cells; the exit code and the message."""
    make_notebook(lab / "notebooks", "04_fail", *cells)
    code = main(["reproduce", "--profile", "smoke", "--only", "04", *options])
    return code, capsys.readouterr().err


@integration
def test_an_error_names_section_cell_cause_and_command(lab, capsys):
    code, message = fail(lab, capsys, "## First", "x = 1", "## Second part", "text", "x / 0")
    assert code == 4, message
    assert message == (
        "error: 04_fail failed (error)\n"
        "  section: Second part\n"
        "  cell:    6 of 7 (code cell 3)\n"
        "  cause:   NameError: name 'text' is not defined\n"
        "  so far:  runs/smoke/seed0/executed/04_fail.failed.ipynb\n"
        "  resume:  python -m grlib reproduce --profile smoke --seed 0 --only 04\n"
    )


@integration
def test_a_dead_kernel_has_its_exit_code(lab, capsys):
    code, message = fail(lab, capsys, "## Here", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert code == 5 and "failed (dead kernel)" in message, message
    assert "section: Here" in message and "resume:" in message


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("MemoryError", "", 5),
        ("RuntimeError", "DefaultCPUAllocator: can't allocate memory", 5),
        ("torch.OutOfMemoryError", "CUDA out of memory", 5),
        ("OSError", "[Errno 28] No space left on device", 7),
        ("grlib.runs.files.MissingArtefact", "gone", 3),
        ("ZeroDivisionError", "division by zero", 4),
    ],
)
def test_each_class_of_cause_has_its_exit_code(name, text, code):
    error = execute.PapermillExecutionError(3, 2, "source", name, text, [f"{name}: {text}"])
    cause, line = execute._cause(error)
    assert outcome.CAUSES[cause][0] == code and line == f"{name}: {text}".strip()


def test_the_time_of_each_section_is_that_of_its_cells(lab):
    path = make_notebook(
        lab / "notebooks", "04_slow", "## Quick", "x = 1", "## Slow", "y = 1", "### more", "z = 1"
    )
    book = nbformat.read(path, as_version=4)
    for cell, seconds in zip(book.cells, (0, 0.1, 0, 0.2, 0, 1, 0, 2), strict=True):
        cell.metadata["papermill"] = {"duration": seconds}
    nbformat.write(book, path)
    assert notebooks.read(path).seconds_by_section() == [("Title", 0.1), ("Quick", 0.2), ("Slow", 3.0)]


def test_the_base_of_the_gpu_is_a_profile_of_its_own(lab, capsys):
    assert main(["reproduce", "--base", "gpu", "--only", "01"]) == 0
    assert (lab / "runs" / "gpu_base" / "seed0" / "data" / "a.csv").is_file()
    for way in (["--base", "gpu"], ["-p", "base", "gpu"]):
        assert main(["status", *way, "--only", "01"]) == 0
        assert "up to date" in capsys.readouterr().out


# bad input


def test_the_base_reaches_the_notebooks(lab, capsys):
    """A table of the profile has the same name, and is no size."""
    make_notebook(lab / "notebooks", "01_write", "print(base)", WRITE, writes=["data/a.csv"])
    assert main(["reproduce", "--base", "scratch"]) == 0, capsys.readouterr().err
    assert "scratch" in (lab / "runs/laptop/seed0/executed/01_write.ipynb").read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--profile", "laptob"], ["'laptob'", "laptop"]),
        (["--only", "7"], ["notebook '7'", "01_write"]),
        (["--only", "02_raed"], ["'02_raed'", "did you mean '02_read'?"]),
        (["-p", "row", "3"], ["'row'", "did you mean 'rows'?"]),
        (["-p", "rows", "many"], ["rows='many'", "must be of type int"]),
        (["-p", "seed", "3"], ["use --seed"]),
        (["--seed", "-1"], ["seed=-1", "from 0"]),
        *((["--seconds", value], [f"--seconds {value}", "finite"]) for value in ("-1", "nan", "1e+10")),
        (["-p", "base", "nonsense"], ["base='nonsense'", "shipped, scratch"]),
        (["-p", "test_problems", "-5"], ["test_problems = -5", "from 0 to"]),
        (["-p", "test_problems", "1" * 30], ["test_problems = 1.11", "from 0 to"]),
        (["-p", "test_problems", "5000"], ["5000 test problems: only 2000"]),
        (["-p", "ppo_steps", "-1"], ["size ppo_steps", "steps = -1"]),
        (["-p", "problems_source", "/nonexistent"], ["problems_source='/nonexistent'", "whole path"]),
        (["-p", "problems_source", "./data"], ["problems_source='./data'", "whole path"]),
        (["-p", "problems_source", "owner/data"], ["problems_source 'owner/data'", "give both or none"]),
        (["--run-dir", "~nouser/x"], ["~nouser/x: no such user"]),
        (["--run-dir", "/dev/null/x"], ["/dev/null/x", "Not a directory"]),
        (["--run-dir", __file__], [__file__, "File exists"]),
        (["--run-dir", "/tmp/" + "n" * 300], ["nnnn", "name too long"]),
        (["--base", "gpu", "--profile", "smoke"], ["--base gpu", "--profile laptop, not smoke"]),
    ],
)
def test_bad_input_is_one_line_before_any_work(lab, capsys, options, words):
    sizes = 'test_problems = 0\nppo_steps = 0\nproblems_source = ""\n'
    make_notebook(lab / "notebooks", "02_read", READ, parameters=sizes + PARAMETERS, reads=["data/a.csv"])
    assert main(["reproduce", *options]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert all(word in message for word in words), message
    assert not (lab / "runs").exists()


@pytest.mark.parametrize(
    "command",
    [
        ["record", "--profile", "smoke", "--dest", __file__],
        ["figures", "--source", "~nouser/x"],
    ],
)
def test_a_place_that_cannot_be_used_is_one_line(lab, capsys, command):
    (lab / "runs" / "smoke" / "seed0").mkdir(parents=True)
    assert main(command) in (2, 3)
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1


def test_a_closed_pipe_is_left_quietly():
    command = [sys.executable, "-m", "grlib", "status", "--profile", "smoke", "--only", "01"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 141


def test_usage_errors_exit_with_2(lab, capsys):
    for options in (["reproduce", "--bass", "scratch"], ["reproduce", "--base", "none"], ["dance"], []):
        with pytest.raises(SystemExit) as caught:
            main(options)
        assert caught.value.code == 2


def test_a_run_folder_belongs_to_one_profile_and_seed(lab):
    runs.claim(lab / "here", "smoke", 0)
    runs.claim(lab / "here", "smoke", 0)
    with pytest.raises(GrlibError, match="holds a run of profile smoke, seed 0, not laptop, 0"):
        runs.claim(lab / "here", "laptop", 0)


def test_a_damaged_notebook_is_named(lab):
    (lab / "notebooks" / "06_cut.ipynb").write_text('{"cells": [')
    with pytest.raises(GrlibError, match=r"06_cut\.ipynb: not a notebook"):
        list(runner.status(runner.Request("smoke")))


# a Run, as notebooks hold it


def test_start_resolves_sizes_and_refuses_bad_ones(tmp_path):
    run = runs.start(
        "03_x", profile="smoke", seed=4, run_dir=str(tmp_path / "run"), samples=7, test_problems=0
    )
    standard = profiles.get("smoke")
    assert run.profile.samples == 7
    assert run.profile.test_problems == standard.test_problems
    nan, inf = float("nan"), float("inf")
    for bad in (
        *({"sampels": 3}, {"samples": "3"}, {"samples": -1}, {"samples": True}, {"ppo_actor_lr": inf}),
        *({"sampling": {"temperature": nan}}, {"sampling": {"engine": "foo"}}, {"sampling": 5}, {"lr": inf}),
    ):
        with pytest.raises(
            GrlibError, match="sampel|samples ?=|actor_lr = inf|temperature = nan|'foo'|= 5|'lr'"
        ):
            runs.start("03_x", profile="smoke", run_dir=str(tmp_path / "other"), **bad)
    for profile, seed in (("huge", 0), (3, 0), ("smoke", 1.5), ("smoke", True), ("smoke", -1)):
        with pytest.raises(GrlibError):
            runs.start("03_x", profile=profile, seed=seed, run_dir=str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_a_run_reads_writes_and_leaves_a_manifest(tmp_path, capsys):
    import matplotlib.figure

    folder, table = tmp_path / "run", pandas.DataFrame({"x": [1, 2]})
    runs.start("01_x", "smoke", run_dir=str(folder)).save_table(table, "results/01.parquet")
    run = runs.start("02_x", "smoke", run_dir=str(folder))
    pandas.testing.assert_frame_equal(run.load_table("results/01.parquet"), table)
    run.save_table(table, "tables/a.csv")
    figures = []
    for _ in range(2):
        figure = matplotlib.figure.Figure(figsize=(2, 2))
        figure.add_subplot().plot([1, 2], [3, 4], label="x")
        assert run.save_figure(figure, "fig1_x", table).read_bytes().startswith(b"\x89PNG")
        figures.append(artefacts.digest(folder / "figures"))
    assert figures[0] == figures[1], "the same bytes each time"
    rows = run.chunked(
        "part", {}, 2, lambda number: table, modules=["grlib.errors"], inputs=["results/01.parquet"]
    )
    assert len(rows) == 4
    assert "part: 2/2 chunks" in capsys.readouterr().out
    run.finish()
    manifest = artefacts.read_json(folder / "manifests" / "02_x.json")
    assert manifest["inputs"] == {"results/01.parquet": artefacts.digest(folder / "results" / "01.parquet")}
    drawn = {f"figures/fig1_x.{end}" for end in ("png", "svg", "csv")}
    assert set(manifest["outputs"]) == {"tables/a.csv", *drawn}
    assert {"commit", "dirty", "versions", "device", "seeds", "wall_seconds", "peak_memory_mb"} <= set(
        manifest
    )
    assert str(tmp_path) not in json.dumps(manifest)
    shown = run.show()
    assert "smoke" in shown.loc["profile", "value"] and {"torch", "budget"} <= set(shown.index)
    part = run.show("budget", "countdown.max_number")["value"]
    assert list(part.index[2:]) == ["budget", "countdown.max_number"] and part["budget"] == "512"
    with pytest.raises(GrlibError, match="did you mean 'self_training.iterations'"):
        run.show("self_training.iteration")


def test_numbers_of_csv_files_have_the_digits_that_mean_something(tmp_path):
    run = runs.start("01_x", profile="smoke", run_dir=str(tmp_path / "run"))
    first = pandas.DataFrame(
        {"x": [12.5234375, 48.59375, 1 / 3, 0.0, 1234567.5, 1e-7, None], "n": 3, "s": "a"}
    )
    texts = set()
    for error in (0, 1e-14, -1e-14):
        other = first.assign(x=first["x"] + error)
        texts.add(run.save_table(other, "tables/t.csv").read_text())
        exact = run.save_table(other, "results/t.parquet")
        assert artefacts.read_table(exact)["x"].equals(other["x"])
    assert texts == {
        "x,n,s\n12.5234,3,a\n48.5938,3,a\n0.333333,3,a\n0.0,3,a\n1234567.5,3,a\n1e-07,3,a\n,3,a\n"
    }


def test_paths_outside_the_run_folder_are_refused(tmp_path):
    run = runs.start("01_x", profile="smoke", run_dir=str(tmp_path / "run"))
    for name in ("../x.csv", "/tmp/x.csv", "repo:../x"):
        with pytest.raises(GrlibError, match="must lie inside the run folder"):
            run.path(name)
    with pytest.raises(GrlibError, match="must lie inside the run folder"):
        run.steps("../../../x")
    with pytest.raises(artefacts.MissingArtefact, match="no notebook declares to write it"):
        run.require("results/nobody.parquet")


# record and redraw

COMMON = 'profile = "laptop"\nseed = 0\nrun_dir = ""\n'
SEEDED = """
import json, sys
from pathlib import Path
folder = Path(run_dir)
for name in ("results", "figures", "manifests"):
    (folder / name).mkdir(exist_ok=True)
print(f"seed {seed}, {test_problems} problems, {run_dir}, {sys.executable}")
(folder / "results" / "r.csv").write_text("x\\n" + f"{seed}\\n" * test_problems)
(folder / "figures" / "f.jpg").write_text(f"<svg>{seed}</svg>\\n")
manifest = {"commit": "abc", "wall_seconds": 1, "parameters": {"test_problems": test_problems}}
(folder / "manifests" / "03_test.json").write_text(json.dumps(manifest))
"""
ALL_SEEDS = """
from pathlib import Path
folder = Path(run_dir)
for name in ("figures", "tables", "manifests"):
    (folder / name).mkdir(exist_ok=True)
found = sorted(Path(results_dir or folder).glob("laptop/seed*/results/r.csv"))
rows = [path.read_text().splitlines()[1] for path in found] or ["one"]
print("seeds", *rows)
(folder / "figures" / "all.csv").write_text("x\\n" + "\\n".join(rows) + "\\n")
(folder / "tables" / "t.csv").write_text("x\\n" + "\\n".join(rows) + "\\n")
(folder / "manifests" / "09_figures.json").write_text('{"commit": "abc", "wall_seconds": 1}')
"""


@pytest.fixture
def study(lab):
    """A repository with a notebook that makes results, and one that draws those of all seeds."""
    for path in (lab / "notebooks").glob("*.ipynb"):
        path.unlink()
    make_notebook(
        lab / "notebooks", "03_test", "## Test", SEEDED, parameters=COMMON + "test_problems = 2",
        writes=["results/r.csv", "figures/f.jpg"],
    )  # fmt: skip
    make_notebook(
        lab / "notebooks", "09_figures", "## Draw", ALL_SEEDS, parameters=COMMON + 'results_dir = ""',
        reads=["results/r.csv"], writes=["figures/all.csv", "tables/t.csv"],
    )  # fmt: skip
    return lab


@integration
def test_record_stores_a_whole_run_and_figures_redraws_it(study, capsys):
    assert main(["record"]) == 2
    assert "not finished here yet" in capsys.readouterr().err
    assert main(["figures"]) == 3
    assert main(["reproduce"]) == 0
    assert main(["record"]) == 0
    measured, figures = study / "paper_results" / "measured" / "laptop", study / "figures" / "laptop"
    assert {path.name for path in (measured / "seed0").iterdir()} == {*recording.STORED, "record.json"}
    assert {path.name for path in figures.iterdir()} == {"f.jpg", "all.csv"}

    path = study / "notebooks" / "03_test.ipynb"
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    assert not any("injected-parameters" in cell.metadata.get("tags", []) for cell in book.cells)
    assert [cell.execution_count for cell in book.cells if cell.cell_type == "code"] == [1, 2]
    manifest = artefacts.digest(measured / "seed0" / "manifests" / "03_test.json")
    assert book.metadata.grlib.recorded.manifest == manifest
    text = path.read_text()
    assert str(study) not in text and "papermill" not in text
    capsys.readouterr()
    assert main(["status"]) == 0
    assert capsys.readouterr().out.count("up to date") == 2, "recording leaves the run up to date"

    (figures / "all.csv").unlink()
    before = artefacts.digest(measured)
    assert main(["figures"]) == 0
    assert (figures / "all.csv").exists()
    assert artefacts.digest(measured) == before, "redrawing gives the recorded tables"


@pytest.mark.parametrize("name", ["executed/09_figures.ipynb", "manifests/09_figures.json"])
def test_record_writes_all_or_nothing(study, capsys, name):
    """The last input is damaged: nothing before it may have been written."""
    request, target = runner.Request("laptop"), study / "trial"
    runner.reproduce(request)
    (request.folder / name).write_text("{")
    assert main(["record", "--dest", str(target)]) == 2
    assert f"09_figures: output {name} is missing or was changed" in capsys.readouterr().err
    assert not [path for path in target.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dirty": True}, "02_read: ran with changes that are in no commit"),
        ({"commit": "b"}, "02_read: its commit is not that of 01_write"),
        ({"settings": {"budget": 2, "unread": 2}}, "02_read: its setting budget is not that of 01_write"),
        ({"settings": {"budget": 1, "unread": 2}}, ""),
    ],
)
def test_a_record_has_one_commit_and_one_set_of_settings(changes, words):
    first = {
        "commit": "a",
        "dirty": False,
        "settings": {"budget": 1, "unread": 1},
        "settings_read": ["budget"],
    }
    refused = pytest.raises(GrlibError, match=words) if words else contextlib.nullcontext()
    with refused:
        recording._refuse_mixed({"01_write": first, "02_read": first | changes})


def test_the_cost_of_a_run_adds_up_over_its_interruptions(tmp_path, monkeypatch):
    """What an earlier part kept counts, if it ran the same code with the same parameters."""
    monkeypatch.setattr(runs, "KEPT_EACH", 0.0)
    path, kept = tmp_path / "spent.json", {"wall_seconds": 100.0, "peak_memory_mb": 10**6}
    artefacts.write_json(path, {"key": "a", **kept})
    found = runs.Cost(path, "a").end()
    assert 100 <= found["wall_seconds"] < 200 and found["peak_memory_mb"] == 10**6 and not path.exists()
    artefacts.write_json(path, {"key": "a", **kept})
    other = runs.Cost(path, "b")
    other.keep()
    assert artefacts.read_json(path)["key"] == "b" and other.end()["wall_seconds"] < 100
    assert runs.Cost().end()["peak_memory_mb"] < 10**6


def test_seeds_recorded_one_after_another_stand_side_by_side(study, capsys):
    lab = study
    measured = lab / "paper_results" / "measured" / "laptop"
    assert main(["reproduce"]) == 0
    assert main(["record"]) == 0
    costs = (measured.parent / "costs.csv").read_text()
    assert "laptop,03_test" in costs
    assert main(["reproduce", "-p", "test_problems", "4"]) == 0, "notebook 09 ignores the parameter"
    assert main(["status"]) == 0
    assert "parameter test_problems changed" in capsys.readouterr().out
    for seed in (1, 0, 2):  # the lowest wins, whatever the order
        options = ["--seed", str(seed)]
        assert main(["reproduce", *options, "-p", "test_problems", "4"]) == 0
        assert main(["record", *options]) == 0, "the parameters are those that the run had"

    for seed in (0, 1, 2):
        assert (measured / f"seed{seed}" / "results" / "r.csv").read_text() == "x\n" + f"{seed}\n" * 4
        manifest = artefacts.read_json(measured / f"seed{seed}" / "manifests" / "03_test.json")
        assert manifest["parameters"] == {"test_problems": 4}
    assert (measured / "tables" / "t.csv").read_text() == "x\n0\n1\n2\n"
    assert (lab / "figures" / "laptop" / "all.csv").read_text() == "x\n0\n1\n2\n"
    assert (lab / "figures" / "laptop" / "f.jpg").read_text() == "<svg>0</svg>\n"
    lowest, all_seeds = (
        nbformat.read(lab / "notebooks" / f"{name}.ipynb", as_version=4) for name in ("03_test", "09_figures")
    )
    said = lowest.cells[-1].outputs[0].text
    assert said == "seed 0, 4 problems, runs/laptop/seed0, <environment>/bin/python\n"
    assert all_seeds.cells[-1].outputs[0].text == "seeds 0 1 2\n"
    assert all_seeds.metadata.grlib.recorded.seeds == [0, 1, 2]
    manifest = artefacts.digest(measured / "manifests" / "09_figures.json")
    assert all_seeds.metadata.grlib.recorded.manifest == manifest

    before = artefacts.digest(lab / "notebooks")
    assert main(["record", "--seed", "2"]) == 0
    assert "hold another profile or a lower seed" in capsys.readouterr().out
    assert (measured.parent / "costs.csv").read_text() == costs, "costs are those of the profile's own sizes"
    assert artefacts.digest(lab / "notebooks") == before

    assert main(["reproduce", "--only", "03"]) == 0
    assert main(["reproduce", "--only", "09"]) == 0
    assert main(["reproduce", "--only", "03", "-p", "test_problems", "5"]) == 0
    assert main(["record"]) == 2
    assert "input results/r.csv changed" in capsys.readouterr().err


SHOWS = """
from grlib.runs import run as runs
run = runs.start("04_shows", profile=profile, seed=seed, run_dir=run_dir)
run.say("1/2 chunks")
run.show("budget", "samples")
"""


def test_outputs_that_follow_from_the_code_are_made_again_without_a_run(study):
    done = "print(run.profile.budget > 0)\nrun.say('2/2 chunks')\nrun.finish()"
    path = make_notebook(study / "notebooks", "04_shows", SHOWS, done, parameters=COMMON)
    book = nbformat.read(path, as_version=4)
    book.cells[2].metadata["tags"] = [recording.FROM_CODE]
    nbformat.write(book, path)
    assert main(["reproduce"]) == 0
    assert main(["record"]) == 0
    recorded = notebooks.read(path).code()
    assert [len(cell["outputs"]) for cell in recorded] == [0, 0, 1], "progress is no result"

    assert main(["record", "--outputs"]) == 0
    _, shown, kept = notebooks.read(path).code()
    assert kept == recorded[-1]
    budget = str(profiles.get("laptop").budget)
    assert re.search(rf"budget +{budget}\n", shown["outputs"][-1]["data"]["text/plain"])
    nbformat.validate(nbformat.read(path, as_version=4))
    before = path.read_bytes()
    assert main(["record", "--outputs"]) == 0
    assert path.read_bytes() == before

    stored = recording.measured_folder("laptop", 0) / "manifests" / "04_shows.json"
    manifest = artefacts.read_json(stored)
    assert "budget" in manifest["settings_read"]
    manifest["settings"]["budget"] += 1
    artefacts.write_json(stored, manifest)
    path.write_text(path.read_text().replace(budget, "of the record"))
    assert main(["record", "--outputs"]) == 0
    assert "of the record" in path.read_text(), "settings of another run wait for the next record"


def test_one_notebook_joins_a_record_and_leaves_the_others_alone(study, capsys):
    lab = study
    assert main(["reproduce"]) == 0
    assert main(["record"]) == 0
    stored = lab / "paper_results" / "measured" / "laptop" / "seed0"
    before = {path: path.read_bytes() for path in stored.rglob("*.*") if path.name != "record.json"}
    later = SEEDED.replace("r.csv", "new.csv").replace("f.jpg", "new.jpg").replace("03_test", "08_new")
    make_notebook(
        lab / "notebooks", "08_new", later, parameters=COMMON + "test_problems = 7",
        writes=["results/new.csv", "figures/new.jpg"],
    )  # fmt: skip
    joins = ["--only", "08", "--run-dir", str(lab / "other")]
    assert main(["reproduce", *joins]) == 0
    assert main(["record", *joins]) == 0
    assert {path: path.read_bytes() for path in before} == before
    assert (stored / "results" / "new.csv").read_text() == "x\n" + "0\n" * 7
    assert artefacts.read_json(stored / "record.json")["commits"] == ["abc"]
    assert {path.name for path in (lab / "figures" / "laptop").iterdir()} == {"f.jpg", "new.jpg", "all.csv"}

    used = later.replace('"commit"', '"inputs": {"results/r.csv": "1234", "repo:x": "1"}, "commit"')
    make_notebook(
        lab / "notebooks", "08_new", used, parameters=COMMON + "test_problems = 7",
        writes=["results/new.csv", "figures/new.jpg"],
    )  # fmt: skip
    assert main(["reproduce", *joins]) == 0
    for known in ({"results/r.csv": "5678"}, {}):
        artefacts.write_json(stored / "manifests" / "03_test.json", {"outputs": known, "commit": "abc"})
        assert main(["record", *joins]) == 2
        assert "08_new: it used a results/r.csv that is not in the record" in capsys.readouterr().err
    assert main(["record", *joins, "--dest", str(lab / "apart")]) == 0
    assert (lab / "apart" / "results" / "new.csv").exists(), "a record of its own may hold a single notebook"
    artefacts.write_json(
        stored / "manifests" / "03_test.json", {"outputs": {"results/r.csv": "1234"}, "commit": "abc"}
    )
    assert main(["record", *joins]) == 0


def test_a_record_of_notebooks_with_different_parameters_is_refused(lab, capsys):
    request = runner.Request("laptop", parameters={"rows": "2"})
    runner.reproduce(request)
    runner.reproduce(runner.Request("laptop", only=("02",), parameters={"rows": "3"}))
    assert main(["record"]) == 2
    message = capsys.readouterr().err
    assert message == (
        "error: 02_read: parameter rows changed, so this run is not complete; "
        "first: python -m grlib reproduce --profile laptop --seed 0 -p rows 2\n"
    )


def test_the_expected_time_is_that_of_a_recorded_run_of_the_same_sizes(lab, capsys):
    measured = lab / "paper_results" / "measured"
    artefacts.write_json(
        measured / "laptop" / "seed0" / "manifests" / "01_write.json",
        {"wall_seconds": 7200, "parameters": {"rows": 99}},  # a record of other sizes
    )
    costs = [["laptop", "01_write", "", 120, 300], ["laptop", "01_write", "Write", 60, 300]]
    columns = ["profile", "notebook", "section", "seconds", "peak_memory_mb"]
    artefacts.write_table(measured / "costs.csv", pandas.DataFrame(costs, columns=columns))
    assert main(["reproduce", "--only", "01"]) == 0
    assert "01_write: running (not finished here yet), takes about 2 min" in capsys.readouterr().out
    assert main(["reproduce", "--only", "01", "-p", "rows", "3", "--seed", "1"]) == 0
    assert "takes about" not in capsys.readouterr().out, "nothing is known of other sizes"


def test_smoke_is_recorded_only_on_request_and_never_over_another_profile(lab, capsys):
    for name in ("01_write", "02_read"):
        manifest = f"from grlib.runs import files\nfiles.write_json(Path(run_dir, 'manifests/{name}.json'), "
        book = lab / "notebooks" / f"{name}.ipynb"
        content = nbformat.read(book, as_version=4)
        content.cells.append(nbformat.v4.new_code_cell(manifest + f"{{'commit': '{name}'}})", id="manifest"))
        nbformat.write(content, book)
    runner.reproduce(runner.Request("smoke"))
    assert main(["record", "--profile", "smoke"]) == 2
    assert "give --dest" in capsys.readouterr().err
    assert main(["record", "--profile", "smoke", "--dest", str(lab / "trial")]) == 0
    assert artefacts.read_json(lab / "trial" / "record.json")["commits"] == ["01_write", "02_read"]
    artefacts.write_json(lab / "laptop" / "record.json", {"profile": "laptop", "seed": 0})
    assert main(["record", "--profile", "smoke", "--dest", str(lab / "laptop")]) == 2
    assert "holds the record of profile laptop" in capsys.readouterr().err


# kills, and two runners at once

CHUNKED = """
import time
import pandas
from grlib.runs import run as runs
run = runs.start("01_long", profile=profile, seed=seed, run_dir=run_dir)

def compute(number):
    time.sleep(pause if number < 4 else 150 * pause)  # long enough for a second command to start meanwhile
    return pandas.DataFrame({"chunk": number, "value": [number / 3, seed]})

table = run.chunked("part", {}, 8, compute, modules=["grlib.errors"])
run.save_table(table, "results/table.parquet")
run.finish()
"""


@pytest.fixture
def clone(tmp_path):
    """A copy of the package with one long notebook, to be run by processes of their own."""
    copy = tmp_path / "clone"
    shutil.copytree(REPOSITORY / "grlib", copy / "grlib", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "notebooks").mkdir()
    parameters = 'profile = "laptop"\nseed = 0\nrun_dir = ""\npause = 0.4'
    make_notebook(
        copy / "notebooks", "01_long", CHUNKED, writes=["results/table.parquet"], parameters=parameters
    )
    return copy


def command_line(clone: Path, *options: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(clone)}
    command = [sys.executable, "-m", "grlib", "reproduce", "--profile", "smoke", *options]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, cwd=clone.parent, preexec_fn=heed_interrupts, **streams)


def heed_interrupts() -> None:
    """A suite started in the background has SIGINT ignored, and its children would inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@integration
def test_killed_runner_resumes_inside_the_notebook_to_the_same_bytes(clone):
    folder = clone / "runs" / "smoke" / "seed0"
    chunks = folder / "steps" / "01_long" / "part"
    first = command_line(clone)
    wait_for(lambda: first.poll() is not None or len(list(chunks.glob("chunk_*.parquet"))) >= 3)
    assert first.poll() is None, first.communicate()

    second = command_line(clone)
    assert second.wait() == 2
    assert f"process {first.pid} is running notebooks here" in second.stderr.read()

    first.send_signal(signal.SIGKILL)
    first.communicate()
    found = len(list(chunks.glob("chunk_*.parquet")))
    (folder / "results").mkdir(exist_ok=True)
    (folder / "results" / f".table.parquet.{first.pid}-1-new.tmp").write_text("half")
    resumed = command_line(clone, "-p", "pause", "0.0")
    output, errors = resumed.communicate()
    assert resumed.returncode == 0, errors
    assert f"part: {found}" in output or f"part: {found + 1}" in output, output
    assert "of 8 chunks were done before" in output
    assert {path.name for path in (folder / "results").iterdir()} == {"README.md", "table.parquet"}

    straight = command_line(clone, "--run-dir", str(clone / "straight"), "-p", "pause", "0.0")
    _, errors = straight.communicate()
    assert straight.returncode == 0, errors
    assert artefacts.digest(folder / "results") == artefacts.digest(clone / "straight" / "results")


@integration
def test_an_interrupted_runner_ends_its_kernel_and_says_so(clone):
    process = command_line(clone, "--force")
    steps = clone / "runs" / "smoke" / "seed0" / "steps"
    wait_for(lambda: process.poll() is not None or list(steps.glob("*/*/chunk_*.parquet")))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == (
        "interrupted; resume: python -m grlib reproduce --profile smoke --seed 0"
    )


def test_a_missing_engine_is_said_before_the_first_notebook_runs(tmp_path, monkeypatch, capsys):
    """The paper's profile samples with vLLM from notebook 03 on, after hours of training."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["reproduce", "--profile", "paper", "--run-dir", str(tmp_path / "run")]) == 2
    assert "run `make vllm`" in capsys.readouterr().err and not (tmp_path / "run").exists()
    monkeypatch.setattr(runner, "_bring_up_to_date", lambda *given: {"seconds": 1, "peak_memory_mb": 1})
    assert main(["reproduce", "--profile", "paper", "--only", "01", "--run-dir", str(tmp_path / "run")]) == 0
