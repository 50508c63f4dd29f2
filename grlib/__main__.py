"""Guided Reinforced Self-Training, reproduced: run the notebooks, redraw the figures, record a run.

  python -m grlib reproduce                        every notebook of the laptop profile that is not up to date
  python -m grlib reproduce --profile smoke        the same in a few minutes, to see that everything works
  python -m grlib reproduce --only 06              one notebook; its inputs must be there
  python -m grlib status                           what would run, and why
  python -m grlib figures                          figures and tables again, from stored results
  python -m grlib search 3 5 7 11 --target 26      watch a trained model search for a solution

exit codes: 0 all is well; 1 no solution (of `search`); 2 wrong usage or bad input; 3 an artefact is missing;
            4 a cell raised an error; 5 out of memory or dead kernel; 7 disk full;
            9 out of time (--seconds): the same command continues; 130 interrupted;
            141 nobody reads the output any more
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grlib.errors import GrlibError
from grlib.runs import deadline, housekeeping  # what a bare Python has; the rest when it is needed
from grlib.runs.housekeeping import cores

if TYPE_CHECKING:
    from grlib.tasks.countdown.puzzle import Problem

DISK_FULL = 7  # exit code
COMMANDS = {
    "reproduce": "run every notebook that is not up to date, in order; an interrupted one continues",
    "status": "show what is up to date, what would run, and why",
    "figures": "draw every figure and table again from stored results; write RESULTS.md",
    "record": "store a finished run's results, figures and outputs in the repository",
    "plan": "estimate hours, memory and disk of a run before it starts",
    "import-official": "read the rows that the authors' release generated, for figures and tables",
    "publish": "upload a model or a record to the hub of Hugging Face",
    "search": "type a problem and watch the best model here search for a solution",
    "check": "check Python, the packages' versions, memory and disk",
}
OPTIONS: dict[str, dict[str, Any]] = {
    "--profile": {"default": "laptop", "help": "smoke, laptop, gpu or paper (default: laptop)"},
    "--seed": {"type": int, "default": 0, "help": "seed of everything random (default: 0)"},
    "--run-dir": {"default": "", "metavar": "DIR", "help": "run folder (default: runs/<profile>/seed<seed>)"},
    "--only": {"nargs": "+", "default": [], "metavar": "NB", "help": "only these, as 06 or a full name"},
    "--base": {
        "choices": ["shipped", "scratch", "gpu"],
        "help": "base model: the shipped one, a new one, or (profile laptop) that of the GPU record",
    },
    "-p": {
        "dest": "parameters", "nargs": 2, "action": "append", "default": [], "metavar": ("NAME", "VALUE"),
        "help": "set a parameter of the notebooks that have it; repeat for more",
    },
    "--force": {"action": "store_true", "help": "run them again from the start, even if up to date"},
    "--seconds": {"type": float, "metavar": "N", "help": "stop the run after N seconds; the work is stored"},
    "--plain": {"action": "store_true", "help": "run code cells as plain Python: no papermill, no kernel"},
    "--gpus": {"type": int, "default": 1, "help": "how many GPUs (default: 1)"},
    "--device": {"default": "cpu", "help": "a card such as t4, rtx4090 or h100 (default: cpu, this machine)"},
    "--cores": {"type": int, "default": cores(), "help": "CPU cores (default: those of this machine)"},
    "release": {"metavar": "DIR", "help": "the folder checkpoints/countdown of the release"},
    "repo": {"metavar": "OWNER/NAME", "help": "the repository on the hub; made if it is not there"},
    "folder": {"type": Path, "metavar": "FOLDER", "help": "of a model, or of a record: .../laptop/seed0"},
    "--private": {"action": "store_true", "help": "for nobody else to see"},
    "--dry-run": {"action": "store_true", "help": "only list what would be uploaded"},
    "--source": {"default": "", "metavar": "DIR", "help": "a run folder, or one with seed<number>/results"},
    "--dest": {"default": "", "metavar": "DIR", "help": "write here and do not change the repository"},
    "--outputs": {"action": "store_true", "help": "no run: make outputs that show code or settings again"},
}  # fmt: skip
RUN, CHOICE = ("--profile", "--seed", "--run-dir"), ("--only", "--base", "-p")
TAKES = {
    "reproduce": (*RUN, *CHOICE, "--force", "--seconds", "--plain"),
    "status": (*RUN, *CHOICE),
    "figures": ("--profile", "--source", "--dest"),
    "record": (*RUN, "--only", "--dest", "--outputs"),
    "plan": ("--profile", "--gpus", "--device", "--cores"),
    "import-official": ("release", "--dest"),
    "publish": ("repo", "folder", "--private", "--dry-run"),
}


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    layout = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(prog="python -m grlib", description=__doc__, formatter_class=layout)
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, about in COMMANDS.items():
        command = commands.add_parser(name, help=about, description=about, add_help=name != "search")
        for option in TAKES.get(name, ()):
            command.add_argument(option, **OPTIONS[option])
    return top


def request_of(options: argparse.Namespace) -> Any:
    """The runner's request for parsed options."""
    from grlib.runs import runner

    given = vars(options)
    parameters = dict(given.get("parameters", [])) | ({"base": given["base"]} if given.get("base") else {})
    if parameters.get("base") == "gpu":  # results from another base are stored as another profile
        if given["profile"] not in ("laptop", "gpu_base"):
            raise GrlibError(f"--base gpu: goes with --profile laptop, not {given['profile']}")
        given = given | {"profile": "gpu_base"}
        del parameters["base"]
    for name in {"profile", "seed", "run_dir"}.intersection(parameters):
        raise GrlibError(f"-p {name}: there is an option for it; use --{name.replace('_', '-')}")
    taken = {name: given[name] for name in runner.Request.__dataclass_fields__ if name in given}
    return runner.Request(**taken | {"parameters": parameters, "only": tuple(given.get("only", ()))})


def _refuse_impossible(request: Any) -> None:
    """GrlibError for problems that cannot be had and for a sampling engine that is not installed: before the
    first notebook, not after hours."""
    from grlib.tasks.countdown.sources import check_sources

    name, chosen = request.profile, request.notebooks()
    check_sources(request.resolved(chosen))
    files = {file for book in chosen for file in book.files(name, "reads", "writes")}
    sampling = request.resolved(chosen).sampling
    if sampling.engine == "vllm" and any(file.startswith("models/") for file in files):
        from grlib.sampling.pool import check_engine  # loads torch, for which other engines need not wait

        check_engine(sampling)


def _refresh_report(elsewhere: str) -> None:
    """Write the generated parts of README.md, RESULTS.md and docs/ again, unless results went elsewhere."""
    from grlib.results import report
    from grlib.runs import run as runs

    for path in () if elsewhere else report.refresh():
        print("wrote", runs.shown(path))


def _played(problem: Problem, trace: str, solution: Sequence[str]) -> str:
    """A page that plays a search."""
    from grlib.results import player

    title = f"{', '.join(map(str, problem.nums))} → {problem.target}"
    return player.page([player.view("search", trace, solution)], title, f"solution: {', '.join(solution)}")


def run_command(options: argparse.Namespace, rest: list[str]) -> int:
    """Carry out one parsed command; `rest` are the arguments of a command that parses them itself.

    Returns the exit code.
    """
    if options.command not in ("search", "check", "publish"):
        housekeeping.refuse_without_clone(options.command)
    match options.command:
        case "reproduce":
            from grlib.runs import runner

            request = request_of(options)
            _refuse_impossible(request)
            runner.reproduce(request)
        case "status":
            from grlib.runs import runner

            for name, reason in runner.status(request_of(options)):
                print(f"{name:32s} {reason}")
        case "figures":
            from grlib.runs import recording

            recording.redraw(options.profile, options.source, options.dest)
            _refresh_report(options.source or options.dest)
        case "record":
            from grlib.runs import files, recording

            if options.outputs:
                for book in request_of(options).notebooks():
                    files.write_bytes(book.path, recording.refreshed(book))
                return 0
            notes = recording.record(request_of(options), options.dest)
            _refresh_report(options.dest)
            print(*notes, sep="\n")
        case "plan":
            from grlib import plan

            plan.main(options.profile, options.gpus, options.device, options.cores)
        case "import-official":
            from grlib.results import official

            dest = Path(options.dest or "runs/official")
            table = official.import_results(Path(options.release), dest, print)
            print(table.round(2).to_string(index=False))
            print(
                f"stored in {dest}; then: python -m grlib figures --profile paper --source {dest} --dest DIR"
            )
        case "publish":
            from grlib.runs.publish import publish

            publish(options.repo, options.folder, options.private, options.dry_run)
        case "search":
            from grlib.tasks.countdown import live

            return live.main(rest, _played)
        case "check":
            return housekeeping.check()
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run one command; an error becomes one line on stderr and an exit code."""
    top = parser()
    options, rest = top.parse_known_args(arguments)
    if rest and options.command != "search":  # which parses its arguments itself
        top.error(f"unknown argument {rest[0]!r}; see python -m grlib {options.command} --help")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # of torch's threads: see the Makefile
    try:
        code = run_command(options, rest)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        again = f"; resume: {request_of(options).resume_command()}" if options.command == "reproduce" else ""
        print(f"interrupted{again}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # as `status | head -1`; what is still to be printed goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except GrlibError as error:
        planned = error.exit_code == deadline.OutOfTime.exit_code  # also of a notebook that stopped for it
        print(error if planned else f"error: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        print(f"error: {error.name} is not installed; run `pip install 'grlib[notebooks]'`", file=sys.stderr)
        return GrlibError.exit_code
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            print(f"error: disk full ({error}); free some space, then the same command", file=sys.stderr)
            return DISK_FULL
        place, why = error.filename or options.command, error.strerror or error
        print(f"error: {place}: {why}; name another place, or correct this one", file=sys.stderr)
        return GrlibError.exit_code


if __name__ == "__main__":
    sys.exit(main())
