"""Models start the same for the same seed, and a saved folder is what was trained, whole or refused."""

import json
import math

import pytest
import torch
from conftest import NUMBERS, SHAPE, tiny_model
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig

from grlib.errors import GrlibError
from grlib.models.llama import PERIODS, bake, load_both, load_model, of_shape, output_matrix, save_model
from grlib.models.tokenizer import encode, load_tokenizer, vocabulary_digest
from grlib.runs import files as artefacts
from grlib.runs.notebooks import REPOSITORY
from grlib.tasks.countdown.vocabulary import build_tokenizer

TOKENIZER = build_tokenizer(NUMBERS)
IDS = torch.tensor(encode(TOKENIZER, ["<s>Target: 26, Numbers: [8, 2, 14, 15]\nCurrent State: 26"]))


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.model(IDS).last_hidden_state @ output_matrix(model).T


# structured numbers


def test_the_same_seed_gives_the_same_model_and_leaves_the_generator_alone():
    before = torch.get_rng_state()
    first, second, third = (of_shape(SHAPE, TOKENIZER, 128, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(logits(first), logits(second))
    assert not torch.equal(logits(first), logits(third))


@pytest.mark.parametrize(("token", "sign"), [("27", 0), ("27+", 3)])
def test_numbers_share_digits_and_waves(token, sign):
    """A number's row = its own + digits + Fourier features of the value + the sign; other rows stay."""
    model = of_shape(SHAPE, TOKENIZER, 128)
    embedding = model.get_input_embeddings()
    own, features = embedding.parametrizations.weight.original, embedding.parametrizations.weight[0]
    row = TOKENIZER.get_vocab()[token]
    wave = [math.cos(2 * math.pi * 27 / p) for p in PERIODS] + [
        math.sin(2 * math.pi * 27 / p) for p in PERIODS
    ]
    shared = torch.tensor([*wave, 27 / (NUMBERS - 1)]) @ features.wave_vectors
    digits = features.digit_vectors[0][7] + features.digit_vectors[1][2] + features.digit_vectors[2][0]
    expected = own[row] + shared + digits + features.joined_vectors[sign]
    torch.testing.assert_close(embedding.weight[row], expected)
    comma = TOKENIZER.get_vocab()[", "]
    assert torch.equal(embedding.weight[comma], own[comma])


def test_the_gradient_of_shared_numbers_does_not_depend_on_the_order_of_threads():
    """That of an index adds up rows as threads come to them: the same seed gave other last digits."""
    todo, names = (
        [of_shape(SHAPE, TOKENIZER, 128).get_input_embeddings().weight.grad_fn],
        set(),
    )
    while todo:
        step = todo.pop()
        names.add(step.name())
        todo += [before for before, _ in step.next_functions if before]
    assert "EmbeddingBackward0" in names and not [name for name in names if name.startswith("IndexBackward")]


def test_baking_changes_no_logit_and_ties_the_output():
    model = of_shape(SHAPE, TOKENIZER, 128)
    before = logits(model)
    assert bake(model) is model and bake(model) is model
    assert torch.equal(logits(model), before)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    torch.testing.assert_close(model(IDS).logits, before)
    assert not any("parametrizations" in name for name in model.state_dict())


# folders


def test_a_saved_folder_is_the_model(tmp_path):
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "a [1]*::b:c@d"  # any name will do
    model, tokenizer = of_shape(SHAPE, TOKENIZER, 128, seed=3), TOKENIZER
    before = logits(model)
    save_model(model, tokenizer, folder)
    for loaded in (
        load_model(folder),
        load_both(folder)[0],
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
    ):
        torch.testing.assert_close(loaded(IDS).logits, before)
        assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
        assert not loaded.training
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and config["tie_word_embeddings"] is True
    assert config["vocab_size"] == len(TOKENIZER) and config["eos_token_id"] == TOKENIZER.eos_token_id


def test_saving_again_gives_the_same_bytes(tmp_path):
    model, tokenizer = tiny_model()
    for name in ("a", "b"):
        save_model(model, tokenizer, tmp_path / name)
    save_model(*load_both(tmp_path / "a"), tmp_path / "c")
    assert artefacts.digest(tmp_path / "a") == artefacts.digest(tmp_path / "b")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert artefacts.digest(tmp_path / "a" / name) == artefacts.digest(tmp_path / "c" / name)


def test_a_saved_model_samples_as_the_paper_until_its_trace_ends(tmp_path):
    """In other programs, too: what a pretrained model brings along, as a penalty, is not passed on."""
    model, tokenizer = tiny_model()
    model.generation_config.update(repetition_penalty=5.0, top_k=2, temperature=0.6, eos_token_id=[5, 2])
    save_model(model, tokenizer, tmp_path / "base", budget=100)
    save_model(load_model(tmp_path / "base"), tokenizer, tmp_path / "trained")
    for name in ("base", "trained"):
        made = json.loads((tmp_path / name / "generation_config.json").read_text())
        del made["transformers_version"]
        assert made == {
            "do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 100,
            "bos_token_id": 1, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0,
        }  # fmt: skip
    made = load_model(tmp_path / "trained").generate(IDS, max_new_tokens=3)
    assert made.shape == (1, IDS.shape[1] + 3)


@pytest.mark.parametrize(
    ("name", "budget"),
    {
        "base/sos": 1536,
        "base/bc": 1536,
        "base/repair": 192,
        "base_gpu/sos": 2048,
        "base_gpu/guided_rest_ppo": 2048,
    }.items(),
)
def test_shipped_models_say_how_they_are_used(name, budget):
    folder = REPOSITORY / "paper_results" / name
    made = GenerationConfig.from_pretrained(folder)
    assert (made.max_new_tokens, made.eos_token_id) == (budget, load_tokenizer(folder).eos_token_id)
    assert (made.do_sample, made.temperature, made.top_k, made.top_p) == (True, 1.0, 0, 1.0)
    card = ModelCard.load(folder / "README.md")
    assert (card.data.pipeline_tag, card.data.language) == ("text-generation", "en")
    assert card.data.eval_results[0].metric_value > 0  # the hub's own reading of `model-index`
    assert f"max_new_tokens={budget}" in card.text and "**Limits**" in card.text and "arxiv.org" in card.text


def test_a_failed_save_leaves_the_old_folder(tmp_path, monkeypatch):
    model, tokenizer = tiny_model()
    save_model(model, tokenizer, tmp_path / "m")
    before = artefacts.digest(tmp_path / "m")
    with torch.no_grad():
        model.model.norm.weight += 1
    monkeypatch.setattr(type(tokenizer), "save_pretrained", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_model(model, tokenizer, tmp_path / "m")
    assert artefacts.digest(tmp_path / "m") == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.fixture
def folder(tmp_path):
    save_model(*tiny_model(), tmp_path / "m")
    return tmp_path / "m"


def refusal(folder, load=load_model) -> str:
    with pytest.raises(GrlibError) as caught:
        load(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("share", [0, 0.4, 0.99])
def test_a_truncated_file_is_refused(folder, name, share):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(share * len(content))])
    assert "cannot be read" in refusal(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_missing_file_is_refused(folder, name):
    (folder / name).unlink()
    refusal(folder)


def test_missing_weights_are_refused_instead_of_drawn(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "no weights that fit model.layers.1.mlp.down_proj.weight" in refusal(folder)


def test_weights_of_another_shape_are_refused(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(16)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "cannot be read" in refusal(folder)


@pytest.mark.parametrize("numbers", [NUMBERS - 5, NUMBERS + 5])
def test_a_changed_tokenizer_is_refused(folder, numbers):
    build_tokenizer(numbers).save_pretrained(folder)
    assert "not the one that its model" in refusal(folder, load_both)


def test_a_changed_tokenizer_of_the_same_size_is_refused(folder):
    path = folder / "tokenizer.json"
    text = path.read_text(encoding="utf-8")
    assert text.count('"Moving to Node #":') == 1
    path.write_text(text.replace('"Moving to Node #":', '"Moving to node #":'), encoding="utf-8")
    assert "not the one that its model" in refusal(folder, load_both)


def test_a_model_without_a_recorded_vocabulary_is_held_against_its_size(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config.pop("vocabulary_digest") == vocabulary_digest(TOKENIZER)
    (folder / "config.json").write_text(json.dumps(config))
    load_both(folder)
    build_tokenizer(NUMBERS + 1).save_pretrained(folder)
    assert "not the one that its model" in refusal(folder, load_both)
