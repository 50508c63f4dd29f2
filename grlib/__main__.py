"""Command line: python -m grlib COMMAND --help."""

from __future__ import annotations

import argparse
import signal
import sys
from typing import Any

from grlib.errors import GrlibError

OVERVIEW = """\
Guided Reinforced Self-Training, reproduced: run the notebooks, redraw the figures, record a run.

  python -m grlib reproduce                        every notebook of the laptop profile that is not up to date
  python -m grlib reproduce --profile smoke        the same in a few minutes, to see that everything works
  python -m grlib reproduce --only 06              one notebook; its inputs must be there
  python -m grlib status                           what would run, and why
  python -m grlib figures                          figures and tables again, from stored results
"""
EXIT_CODES = """\
exit codes: 0 all is well; 2 wrong usage or bad input; 3 an artefact is missing; 4 a cell raised an error;
            5 out of memory or dead kernel; 6 time-out; 7 disk full; 130 interrupted
"""


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = argparse.ArgumentParser(
        prog="python -m grlib",
        description=OVERVIEW,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_reproduce(commands)
    _add_stored(commands)
    commands.add_parser("bench", help="compare the speed of grlib with a textbook version", add_help=False)
    commands.add_parser("check", help="check Python, the packages' versions, memory and disk")
    command = commands.add_parser("clean", help="remove runs/, caches and .venv (nothing that git tracks)")
    command.add_argument("--keep-runs", action="store_true", help="keep runs/")
    command.add_argument("--venv", default=".venv", help="the virtual environment to remove (default: .venv)")
    return top


def _add_reproduce(commands: Any) -> None:
    command = commands.add_parser(
        "reproduce", help="run every notebook that is not up to date, in order", epilog=EXIT_CODES,
        description="Run the notebooks in order; what is up to date is skipped, an interrupted one goes on.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    _add_selection(command)
    command.add_argument(
        "--force", action="store_true", help="run them again from the start, even if up to date"
    )
    command.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="stop a notebook after this time (default: never)"
    )
    command = commands.add_parser("status", help="show what is up to date, what would run, and why")
    _add_selection(command)


def _add_selection(command: argparse.ArgumentParser) -> None:
    _add_run(command)
    command.add_argument(
        "--only", nargs="+", default=[], metavar="NB", help="only these notebooks, as 06 or a full name"
    )
    command.add_argument("--from", dest="start", metavar="NB", help="this notebook and those after it")
    command.add_argument(
        "--base", choices=["shipped", "scratch"], help="start from the shipped base model, or train it"
    )
    command.add_argument(
        "-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
        help="set a parameter of the notebooks that have it (repeat for more)",
    )  # fmt: skip


def _add_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("--profile", default="laptop", help="smoke, laptop, gpu or paper (default: laptop)")
    command.add_argument("--seed", type=int, default=0, help="seed of everything random (default: 0)")
    command.add_argument(
        "--run-dir", default="", metavar="DIR", help="run folder (default: runs/<profile>/seed<seed>)"
    )


def _add_stored(commands: Any) -> None:
    command = commands.add_parser("figures", help="draw every figure and table again from stored results")
    command.add_argument(
        "--profile", default="laptop", help="whose results, all recorded seeds (default: laptop)"
    )
    command.add_argument(
        "--source", default="", metavar="DIR",
        help="a run folder, or one with seed<number>/results (default: the record of the profile)",
    )  # fmt: skip
    command.add_argument(
        "--dest", default="", metavar="DIR", help="write here and leave the repository's figures alone"
    )
    command = commands.add_parser(
        "record", help="store a finished run's results, figures and outputs in the repository"
    )
    _add_run(command)
    command.add_argument(
        "--dest", default="", metavar="DIR", help="store in this folder instead of the repository"
    )
    command.add_argument(
        "--allow-stale", action="store_true", help="store results of older code too, and say so"
    )


def request_of(options: argparse.Namespace) -> Any:
    """The runner's request for parsed options."""
    from grlib import runner

    parameters: dict[str, Any] = dict(getattr(options, "parameters", []))
    if getattr(options, "base", None):
        parameters["base"] = options.base
    for name in {"profile", "seed", "run_dir"}.intersection(parameters):
        raise GrlibError(f"-p {name}: has an option of its own; use --{name.replace('_', '-')}")
    return runner.Request(
        profile=options.profile,
        seed=options.seed,
        run_dir=options.run_dir,
        only=tuple(getattr(options, "only", ())),
        start=getattr(options, "start", None),
        force=getattr(options, "force", False),
        timeout=getattr(options, "timeout", None),
        parameters=parameters,
    )


def run_command(options: argparse.Namespace, rest: list[str]) -> int:
    """Carry out one parsed command; `rest` is for `bench` to parse. Returns the exit code."""
    if options.command == "clean":
        from grlib import housekeeping

        return housekeeping.clean(options.venv, options.keep_runs)
    if options.command == "check":
        from grlib import housekeeping

        return housekeeping.check()
    if options.command == "bench":
        from grlib import bench

        return bench.main(rest) or 0
    from grlib import recording, runner

    if options.command == "reproduce":
        runner.reproduce(request_of(options))
    elif options.command == "status":
        for name, reason in runner.status(request_of(options)):
            print(f"{name:32s} {reason}")
    elif options.command == "figures":
        redraw(options.profile, options.source, options.dest)
    elif options.command == "record":
        print("\n".join(recording.record(request_of(options), options.dest, options.allow_stale)))
        if not options.dest:
            from grlib import readme

            readme.record_costs()
            redraw(options.profile)
    return 0


def redraw(profile: str, source: str = "", dest: str = "") -> None:
    """Figures and tables from stored results; where they are the record, the README's numbers too."""
    from grlib import readme, recording

    for name in recording.redraw(profile, source, dest):
        print(f"wrote {name}")
    if not source and not dest and readme.refresh():
        print("wrote README.md")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; mistakes become one line on stderr and an exit code."""
    top = parser()
    options, rest = top.parse_known_args(arguments)
    if rest and options.command != "bench":
        top.error(f"unknown argument {rest[0]!r}; see python -m grlib {options.command} --help")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return run_command(options, rest)
    except KeyboardInterrupt:
        again = request_of(options).resume_command() if options.command == "reproduce" else "the same command"
        print(f"interrupted; resume: {again}", file=sys.stderr)
        return 130
    except GrlibError as error:
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 2)
    except OSError as error:
        from grlib import artefacts

        if not artefacts.is_disk_full(error):
            raise
        print(f"error: disk full ({error}); free some space and run the same command again", file=sys.stderr)
        return artefacts.DiskFull.exit_code


if __name__ == "__main__":
    sys.exit(main())
