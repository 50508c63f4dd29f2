"""Stored results: the per-example rows with their checks, published numbers, the authors' result files.

A row is one sampled trace. `load` reads the rows of a run, `grlib.results.tables` summarises them and
`grlib.results.claims` judges the paper's claims.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from grlib.errors import GrlibError
from grlib.runs.files import read_json, read_table, write_bytes

PUBLISHED = Path(__file__).resolve().parents[2] / "paper_results" / "published"
IMITATED = (  # trained on traces
    "base", "bc", "sos", "rest", "rest_matched", "rest_more", "guided_rest", "guided_rest_own_goal"
)  # fmt: skip
STARTS = {  # trained by reinforcement learning: method -> the model that it starts from
    "sos_ppo": "sos",
    "rest_ppo": "rest",
    "guided_rest_ppo": "guided_rest",
    "guided_rest_ppo_token": "guided_rest",
    "sos_ppo_dense": "sos",
    "guided_rest_grpo": "guided_rest",
}
METHODS = (*IMITATED, *STARTS)
SPLITS = ("seen", "unseen", "valid", "train", "near", "far", "deeper")  # the last three: of code self-repair

# A later file replaces the rows of earlier ones for its methods: notebook 06 may test the SoS model again.
FILES = {
    "eval": ("03_eval", "06_eval", "07_eval"),
    "greedy": ("03_greedy", "06_greedy", "07_greedy"),
    "hints": ("04_hints",),
    "likelihood": ("05_likelihood",),
    "rounds": ("05_solved",),
    "selection": ("05_selection",),
    "yield": ("06_yield",),
    "repair": ("08_eval",),
    "repair_yield": ("08_yield",),
    "curve": ("03_curve",),
    "ppo_curve": ("07_curve",),
    "gradient": ("07_gradient",),
}
# files that a run may lack
OPTIONAL = ("05_solved", "07_eval", "07_greedy", "07_curve", "07_gradient", "08_eval", "08_yield")
_ROW = "method:str split:str index:int sample:int correct:bool reason:str tokens:int truncated:bool"
_YIELD = "method:str iteration:int index:int round_solved:int tokens:int truncated:bool"
_ANSWERS = (
    "model:str answers:int right_answer:int copied:bool like_reference:number like_before:number unread:int"
)
_LIKELIHOOD = "index:int nll:number nll_tokens:number"
_WATCHED = (
    *("accuracy", "reward", "tokens", "truncated", "actions", "entropy", "clipped", "value_error"),
    *("ratio_01", "ratio_50", "ratio_99", "rescore_gap", "explained", "explained_by_place"),
)
_COLUMNS = {
    "eval": _ROW,
    "greedy": _ROW,
    "hints": f"{_ROW} steps:int nll:number nll_tokens:number",
    "likelihood": f"kind:str {_LIKELIHOOD}",
    "rounds": "choose:str index:int round:int",
    "gradient": "method:str cosine:number",
    "selection": f"choose:str correct:bool round:int tokens:int {_LIKELIHOOD}",
    "yield": _YIELD,
    "repair": f"{_ROW} {_ANSWERS}",
    "repair_yield": f"{_YIELD} sample:int {_ANSWERS}",
    "curve": "method:str step:int tokens_seen:int loss:number",
    "ppo_curve": "method:str step:int " + " ".join(f"{name}:number" for name in _WATCHED),
}
SCHEMAS = {kind: dict(column.split(":") for column in columns.split()) for kind, columns in _COLUMNS.items()}
_IS = {
    "str": pd.api.types.is_string_dtype,
    "int": pd.api.types.is_integer_dtype,
    "bool": pd.api.types.is_bool_dtype,
    "number": pd.api.types.is_numeric_dtype,
}
# Those of these columns that a kind has identify one row. A problem may give several likelihood rows.
_IDENTITY = ("method", "choose", "steps", "iteration", "split", "seed", "index", "sample")
_REPEATED = ("likelihood", "curve", "ppo_curve")


def check_rows(frame: pd.DataFrame, kind: str, name: str = "") -> pd.DataFrame:
    """The frame itself; GrlibError unless its columns, types, keys and sample counts suit its kind."""
    for fault in _faults(frame, kind):
        raise GrlibError(f"{name or f'{kind} results'}: {fault}")
    return frame


def _faults(frame: pd.DataFrame, kind: str) -> Iterator[str]:
    for column, wanted in SCHEMAS[kind].items():
        if column not in frame:
            yield f"column {column!r} is missing; write it with the notebook that makes it"
        if len(frame) and not _IS[wanted](frame[column].dtype):
            yield f"column {column!r} is {frame[column].dtype}: must be {wanted}; make the file again"
        if wanted != "number" and frame[column].isna().any():
            yield f"column {column!r} has missing values: none allowed; make the file again"
    for column, allowed in (("method", METHODS), ("split", SPLITS)):
        for unknown in sorted(set(frame[column].unique() if column in frame else ()) - set(allowed)):
            yield f"{column} {unknown!r} is unknown: must be one of {', '.join(allowed)}"
    if "model" in frame and frame["model"].nunique() > 1:
        yield f"rows of models {sorted(frame['model'].unique())} are mixed; keep one model"
    keys = [key for key in _IDENTITY if key in frame]
    if kind not in _REPEATED and frame.duplicated(keys).any():
        twice = frame.loc[frame.duplicated(keys), keys].iloc[0].to_dict()
        yield f"two rows for {twice}: one row per sample; remove the doubled results"
    if "sample" in keys and len(frame):
        spread = frame.groupby(keys[:-1])["sample"].agg(["size", "max"])
        sizes = spread["size"].groupby(level=keys[:-2]).nunique()
        uneven = kind != "repair" and (sizes > 1).any()  # some problems of self-repair have more, for large k
        if uneven or (spread["size"] != spread["max"] + 1).any():
            yield "problems have different numbers of samples: must be 0..n-1 for all; resample"


@dataclass(frozen=True)
class Results:
    """The rows of one profile, all seeds together (column `seed`), by kind (`FILES`)."""

    profile: str
    seeds: tuple[int, ...] = ()
    frames: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    def rows(self, kind: str) -> pd.DataFrame:
        """Rows of one kind; an empty frame with the right columns if nothing was stored."""
        if kind in self.frames:
            return self.frames[kind]
        return pd.DataFrame(columns=list(dict.fromkeys([*SCHEMAS[kind], "iteration", "seed"])))


def without_rows(kind: str) -> pd.DataFrame:
    """An empty table with the columns and types of a kind."""
    types = {"str": "str", "int": "int64", "bool": "bool", "number": "float64"}
    columns = {name: pd.Series(dtype=types[wanted]) for name, wanted in SCHEMAS[kind].items()}
    return pd.DataFrame(columns)


def load(folders: Mapping[int, Path], profile: str) -> Results:
    """Read and check the files of each seed's folder (`results/*.parquet`); absent ones are skipped.

    Raises GrlibError, with the file, for unreadable or wrong rows and for those of another profile.
    """
    parts: dict[str, list[pd.DataFrame]] = {}
    for seed, folder in folders.items():
        _check_profile(folder, profile)
        for kind, stems in FILES.items():
            frames: list[pd.DataFrame] = []
            paths = [folder / "results" / f"{stem}.parquet" for stem in stems]
            for path in filter(Path.is_file, paths):
                newest = check_rows(read_table(path), kind, str(path)).assign(seed=seed)
                frames = [old[~old["method"].isin(newest["method"].unique())] for old in frames]
                frames.append(newest)
            parts.setdefault(kind, []).extend(frames)
    joined = {kind: _joined(frames, kind) for kind, frames in parts.items() if frames}
    return Results(profile, tuple(sorted(folders)), joined)


def _joined(frames: list[pd.DataFrame], kind: str) -> pd.DataFrame:
    rows = pd.concat(frames, ignore_index=True)
    if kind in ("eval", "greedy", "hints", "repair"):
        rows["iteration"] = rows["iteration"].fillna(0).astype(int) if "iteration" in rows else 0
    return check_rows(rows, kind)


def _check_profile(folder: Path, profile: str) -> None:
    for path in (*folder.glob("run.json"), *sorted(folder.glob("manifests/*.json"))):
        manifest = read_json(path)
        found = manifest.get("profile") or manifest.get("parameters", {}).get("profile")
        if isinstance(found, str) and found != profile:
            raise GrlibError(f"{path}: profile {found!r} among results of {profile!r}: must be one profile")


def published(name: str) -> pd.DataFrame:
    """One table of paper_results/published, copied by hand from the paper: `value` is a number, `digits` the
    text as printed."""
    path = PUBLISHED / f"{name}.csv"
    if not path.is_file():
        raise GrlibError(f"{path}: published numbers are missing; use a full checkout of the repository")
    frame = pd.read_csv(path, keep_default_na=False, dtype={"value": str})
    return frame.assign(digits=frame["value"], value=pd.to_numeric(frame["value"], errors="coerce"))


def write_authors_csv(table: pd.DataFrame, path: Path) -> None:
    """Write `budget, pass_at_{k}_mean, pass_at_{k}_std` (percent, two decimals), as the authors do.

    `table` has the columns budget, k, mean and std (`tables.pass_at_budgets`). The std is our bootstrap
    standard error over problems; the authors' is that of a Beta posterior.
    """
    wide = table.pivot(index="budget", columns="k", values=["mean", "std"])
    ordered = [(part, k) for k in sorted(table["k"].unique()) for part in ("mean", "std")]
    wide = wide[ordered].set_axis([f"pass_at_{k}_{part}" for part, k in ordered], axis=1)
    write_bytes(path, wide.to_csv(float_format="%.2f", lineterminator="\n").encode())


def read_authors_csv(path: Path) -> pd.DataFrame:
    """Read the authors' result file into the columns budget, k, mean, std (percent)."""
    wide = read_table(path)
    ks = [int(k) for k in re.findall(r"pass_at_(\d+)_mean", " ".join(wide))]
    columns = {k: ["budget", f"pass_at_{k}_mean", f"pass_at_{k}_std"] for k in ks}
    wanted = {name for names in columns.values() for name in names}
    if not wanted or not wanted <= set(wide.select_dtypes("number")):
        raise GrlibError(
            f"{path}: columns {list(wide)}: must be budget, pass_at_K_mean, pass_at_K_std in numbers"
        )
    parts = [wide[columns[k]].set_axis(["budget", "mean", "std"], axis=1).assign(k=k) for k in ks]
    return pd.concat(parts)[["budget", "k", "mean", "std"]].sort_values(["budget", "k"], ignore_index=True)
