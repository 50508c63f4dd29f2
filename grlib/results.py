"""Stored results: reading and checking per-example rows, published numbers and the authors' result files.

A row is one sampled trace; `grlib.tables` makes the tables and `grlib.claims` judges the paper's claims.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pandas as pd

from grlib.errors import GrlibError

PUBLISHED = Path(__file__).resolve().parents[1] / "paper_results" / "published"
METHODS = (
    *("base", "bc", "sos", "rest", "rest_matched", "guided_rest"),
    *("sos_ppo", "rest_ppo", "guided_rest_ppo", "guided_rest_ppo_token", "guided_rest_ppo_dense"),
)
SPLITS = ("seen", "unseen", "valid", "train")

# Later files replace earlier ones for the methods they hold: notebook 06 may test the SoS model again.
FILES = {
    "eval": ("03_eval", "06_eval"),
    "greedy": ("03_greedy", "06_greedy"),
    "hints": ("04_hints",),
    "likelihood": ("05_likelihood",),
    "selection": ("05_selection",),
    "yield": ("06_yield",),
    "curve": ("03_curve",),
}
_ROW = {
    "method": "str",
    "split": "str",
    "index": "int",
    "sample": "int",
    "correct": "bool",
    "reason": "str",
} | {"tokens": "int", "truncated": "bool"}
_NLL = {"nll": "number", "nll_tokens": "number"}
SCHEMAS: dict[str, dict[str, str]] = {
    "eval": _ROW,
    "greedy": _ROW,
    "hints": _ROW | {"steps": "int"} | _NLL,
    "likelihood": {"kind": "str", "index": "int"} | _NLL,
    "selection": {"choose": "str", "index": "int", "correct": "bool", "round": "int", "tokens": "int"} | _NLL,
    "yield": {
        "method": "str",
        "iteration": "int",
        "index": "int",
        "round_solved": "int",
        "tokens": "int",
        "truncated": "bool",
    },
    "curve": {"method": "str", "step": "int", "tokens_seen": "int", "loss": "number"},
}
_KEYS = {
    "eval": ("method", "iteration", "split", "index", "sample"),
    "greedy": ("method", "iteration", "split", "index", "sample"),
    "hints": ("method", "steps", "split", "index", "sample"),
    "selection": ("choose", "index", "sample"),
    "yield": ("method", "iteration", "index", "sample"),
}
_IS: dict[str, Callable[[object], bool]] = {
    "str": pd.api.types.is_string_dtype,
    "int": pd.api.types.is_integer_dtype,
    "bool": pd.api.types.is_bool_dtype,
    "number": pd.api.types.is_numeric_dtype,
}


def check_rows(frame: pd.DataFrame, kind: str, name: str = "") -> pd.DataFrame:
    """The frame itself when its columns, types, keys and sample counts are right; else GrlibError."""
    name = name or f"{kind} results"
    for column, wanted in SCHEMAS[kind].items():
        if column not in frame:
            raise GrlibError(
                f"{name}: column {column!r} is missing; write it with the notebook that makes it"
            )
        values = frame[column]
        if len(frame) and not _IS[wanted](values.dtype):
            raise GrlibError(
                f"{name}: column {column!r} is {values.dtype}: must be {wanted}; make the file again"
            )
        if wanted != "number" and values.isna().any():
            raise GrlibError(
                f"{name}: column {column!r} has missing values: none allowed; make the file again"
            )
    for column, allowed in (("method", METHODS), ("split", SPLITS)):
        unknown = sorted(set(frame[column].unique()) - set(allowed)) if column in frame else []
        if unknown:
            raise GrlibError(
                f"{name}: {column} {unknown[0]!r} is unknown: must be one of {', '.join(allowed)}"
            )
    if "profile" in frame and frame["profile"].nunique() > 1:
        raise GrlibError(
            f"{name}: rows of profiles {sorted(set(frame['profile']))} are mixed; keep one profile"
        )
    for column in {"index", "sample", "tokens", "nll_tokens"} & set(frame):
        if (frame[column] < 0).any():
            raise GrlibError(f"{name}: column {column!r} holds {frame[column].min()}: must not be negative")
    keys = [key for key in (*_KEYS.get(kind, ()), "seed") if key in frame]
    if kind in _KEYS and frame.duplicated(keys).any():
        twice = frame.loc[frame.duplicated(keys), keys].iloc[0].to_dict()
        raise GrlibError(f"{name}: two rows for {twice}: one row a sample; remove the doubled results")
    if "sample" in keys and len(frame):
        _check_samples(frame, [key for key in keys if key != "sample"], name)
    return frame


def _check_samples(frame: pd.DataFrame, problem: list[str], name: str) -> None:
    """Every problem of a group (method, split, ...) has samples 0..n-1 with one n."""
    spread = frame.groupby(problem)["sample"].agg(["size", "max"])
    groups = [key for key in problem if key != "index"]
    sizes = spread.groupby(level=groups)["size"].nunique()
    if (sizes > 1).any() or (spread["size"] != spread["max"] + 1).any():
        raise GrlibError(
            f"{name}: problems have different numbers of samples: must be 0..n-1 for all; resample"
        )


@dataclass(frozen=True)
class Results:
    """The rows of one profile, all seeds together (column `seed`), by kind (`FILES`)."""

    profile: str
    seeds: tuple[int, ...] = ()
    frames: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    def rows(self, kind: str) -> pd.DataFrame:
        """Rows of one kind; an empty frame with the right columns when nothing was stored."""
        if kind in self.frames:
            return self.frames[kind]
        optional = [] if "iteration" in SCHEMAS[kind] else ["iteration"]
        return pd.DataFrame(columns=[*SCHEMAS[kind], *optional, "seed"])


def seed_folders(measured: Path, profile: str) -> dict[int, Path]:
    """Folders `seed<number>` under measured/profile, by seed."""
    found = {}
    for folder in sorted((Path(measured) / profile).glob("seed*")):
        match = re.fullmatch(r"seed(\d+)", folder.name)
        if match and folder.is_dir():
            found[int(match[1])] = folder
    return dict(sorted(found.items()))


def load(folders: Mapping[int, Path], profile: str) -> Results:
    """Read and check the files of each seed's folder (`results/*.parquet`); absent ones are skipped."""
    parts: dict[str, list[pd.DataFrame]] = {}
    for seed, folder in folders.items():
        _check_profile(Path(folder), profile)
        for kind, stems in FILES.items():
            frames: list[pd.DataFrame] = []
            for stem in stems:
                path = Path(folder) / "results" / f"{stem}.parquet"
                if path.is_file():
                    newest = check_rows(_read(path), kind, str(path))
                    frames = [_without(old, newest) for old in frames] + [newest]
            if frames:
                both = pd.concat(frames, ignore_index=True)
                parts.setdefault(kind, []).append(both.assign(seed=seed))
    frames_by_kind = {kind: _joined(frames, kind, profile) for kind, frames in parts.items()}
    return Results(profile, tuple(sorted(folders)), frames_by_kind)


def _joined(frames: list[pd.DataFrame], kind: str, profile: str) -> pd.DataFrame:
    rows = pd.concat(frames, ignore_index=True)
    if kind in ("eval", "greedy", "hints"):
        rows["iteration"] = rows["iteration"].fillna(0).astype(int) if "iteration" in rows else 0
    if "profile" in rows and set(rows["profile"]) - {profile}:
        raise GrlibError(
            f"{kind} results of {sorted(set(rows['profile']))}: must all be of profile {profile!r}"
        )
    return check_rows(rows, kind)


def _without(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    return old[~old["method"].isin(new["method"].unique())]


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise GrlibError(f"{path}: cannot be read ({type(error).__name__}); make it again") from error


def _check_profile(folder: Path, profile: str) -> None:
    for path in sorted(folder.glob("manifests/*.json")):
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise GrlibError(f"{path}: is not JSON; run its notebook again") from error
        found = manifest.get("profile") or manifest.get("parameters", {}).get("profile")
        if isinstance(found, str) and found != profile:
            raise GrlibError(f"{path}: profile {found!r} among results of {profile!r}: must be one profile")


@cache
def _published(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise GrlibError(f"{path}: published numbers are missing; use a full checkout of the repository")
    return pd.read_csv(path, keep_default_na=False, dtype={"value": str})


def published(name: str) -> pd.DataFrame:
    """One hand-copied table of paper_results/published: `value` as a number, `digits` as printed."""
    frame = _published(PUBLISHED / f"{name}.csv").copy()
    frame["digits"] = frame["value"]
    frame["value"] = pd.to_numeric(frame["value"], errors="coerce")
    return frame


def write_authors_csv(table: pd.DataFrame, path: Path) -> None:
    """Write `budget, pass_at_{k}_mean, pass_at_{k}_std` (percent, two decimals), as the authors do.

    `table` has the columns budget, k, mean and std (`tables.pass_at_budgets`). The std is our bootstrap
    standard error over problems; theirs is that of a Beta posterior.
    """
    wide = table.pivot(index="budget", columns="k", values=["mean", "std"])
    ordered = [(part, k) for k in sorted(table["k"].unique()) for part in ("mean", "std")]
    wide = wide[ordered].set_axis([f"pass_at_{k}_{part}" for part, k in ordered], axis=1)
    partial = Path(path).with_suffix(".partial")
    wide.to_csv(partial, float_format="%.2f", lineterminator="\n")
    partial.replace(path)


def read_authors_csv(path: Path) -> pd.DataFrame:
    """Read the authors' result file into the columns budget, k, mean, std (percent)."""
    try:
        wide = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise GrlibError(f"{path}: cannot be read as CSV ({type(error).__name__}); check the file") from error
    ks = [int(match[1]) for name in wide if (match := re.fullmatch(r"pass_at_(\d+)_mean", str(name)))]
    wanted = ["budget", *(f"pass_at_{k}_{part}" for k in ks for part in ("mean", "std"))]
    if (
        not ks
        or not set(wanted) <= set(wide)
        or not all(pd.api.types.is_numeric_dtype(wide[c]) for c in wanted)
    ):
        raise GrlibError(
            f"{path}: columns {list(wide)}: must be budget, pass_at_K_mean, pass_at_K_std in numbers"
        )
    parts = [
        pd.DataFrame(
            {
                "budget": wide["budget"],
                "k": k,
                "mean": wide[f"pass_at_{k}_mean"],
                "std": wide[f"pass_at_{k}_std"],
            }
        )
        for k in ks
    ]
    return pd.concat(parts, ignore_index=True).sort_values(["budget", "k"], ignore_index=True)
