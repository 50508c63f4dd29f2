"""Upload a model or a record to the hub of Hugging Face: `python -m grlib publish OWNER/NAME FOLDER`."""

from __future__ import annotations

from pathlib import Path

from grlib.errors import GrlibError, one_line
from grlib.runs.files import problem_with


def publish(repo: str, folder: Path, private: bool = False, dry_run: bool = False) -> None:
    """Upload a folder with its card: as a model if it holds config.json, else as a data set.

    Lists the files first; with `dry_run`, that is all. GrlibError for each reason not to upload it.
    """
    from huggingface_hub import HfApi, get_token

    if fault := problem_with(folder):
        raise GrlibError(f"{folder}: {fault}; name the folder of a model or of a record")
    if not (folder / "README.md").is_file():
        raise GrlibError(f"{folder}: no card (README.md), which the hub shows; models and records have one")
    if any(folder.glob("*.difference.*")):
        raise GrlibError(f"{folder}: a difference; first save_model(*load_both(FOLDER), OTHER)")
    kind = "model" if (folder / "config.json").is_file() else "dataset"
    print(f"{kind} {repo}{', private' if private else ''}:")
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".tmp"):
        print(f"{path.stat().st_size:12,} {path.relative_to(folder)}")
    if dry_run:
        return
    if get_token() is None:
        raise GrlibError("no token of the hub; log in with `hf auth login`, or set HF_TOKEN")
    api, place = HfApi(), {"repo_id": repo, "repo_type": kind}
    try:
        address = api.create_repo(**place, private=private or None, exist_ok=True)
        if private and not api.repo_info(**place).private:
            raise GrlibError("it exists already, and is public")
        api.upload_folder(**place, folder_path=folder, commit_message="From grlib", ignore_patterns=["*.tmp"])
    except Exception as error:  # the hub, its client and the network raise many kinds
        raise GrlibError(f"{repo}: not uploaded ({one_line(error)}); then the same command") from error
    print(f"uploaded: {address}")
