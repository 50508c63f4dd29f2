"""The batched decoder against transformers and against itself one by one; budgets; chunks that resume."""

import math
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from conftest import NUMBERS, POSITIONS, SHAPE, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from grlib.errors import GrlibError
from grlib.models.llama import load_both, of_shape, save_model
from grlib.models.tokenizer import encode
from grlib.profiles import Sampling
from grlib.runs.files import MissingArtefact
from grlib.sampling import pool as sampling
from grlib.sampling import static as static_decoding
from grlib.sampling.batched import Decoder
from grlib.sampling.pool import (
    Request,
    Sampled,
    answer,
    sample,
)
from grlib.sampling.static import StaticDecoder
from grlib.tasks.countdown.vocabulary import build_tokenizer
from grlib.training.parallel import release_gpus

GREEDY = Sampling(temperature=0.0, workers=1)
ONE = Sampling(workers=1, slots=8, chunk=7)


def requests_of(count: int, budget: int = 40) -> list[Request]:
    """Prompts and prefixes of many lengths, every seventh prefix too long for the budget."""
    found = []
    for i in range(count):
        prefix = "Moving to Node #0,1\n" * (40 if i % 7 == 6 else i % 4)
        found.append(Request(f"<s>Target: {i}, Numbers: {[*range(i % 5 + 1)]}\n", prefix, budget - i % 3))
    return found


def greedy_of_transformers(model, prompt: list[int], budget: int) -> list[int]:
    if budget < 1:
        return []
    output = model.generate(torch.tensor([prompt]), max_new_tokens=budget, do_sample=False)
    return output[0, len(prompt) :].tolist()


@pytest.fixture(scope="module", params=["tiny_folder", "grouped_folder"])
def pair(request):
    return load_both(request.getfixturevalue(request.param))


# the decoder against transformers


@pytest.mark.parametrize("engine", ["batched", "static"])
def test_greedy_text_is_that_of_transformers(pair, engine):
    """Prompt lengths, prefixes and budgets mixed; key-value heads as many as heads, or half as many."""
    model, tokenizer = pair
    asked = requests_of(25, budget=60)
    found = answer(model, tokenizer, asked, replace(GREEDY, slots=7, engine=engine), seed=0)
    assert len({sampled.ended for sampled in found}) == 2, "some must end and some must run into the budget"
    for request, sampled in zip(asked, found, strict=True):
        prompt, prefix = encode(tokenizer, [request.prompt, request.prefix])
        new = greedy_of_transformers(model, prompt + prefix, request.budget - len(prefix))
        ended = bool(new) and new[-1] == tokenizer.eos_token_id
        text = request.prefix + tokenizer.decode(new[:-1] if ended else new)
        assert sampled == Sampled(text, len(prefix) + len(new), ended, len(new))


@pytest.mark.parametrize("engine", ["batched", "static", "transformers"])
def test_a_folder_with_several_ends_and_a_penalty_is_sampled_as_any_other(engine):
    """Pretrained models bring such settings: an answer ends with the tokenizer's end token alone."""
    model, tokenizer = tiny_model()
    asked, greedy = requests_of(6), replace(GREEDY, engine=engine)
    plain = answer(model, tokenizer, asked, greedy, 0)
    other = encode(tokenizer, [plain[0].text])[0][-1]
    for config in (model.config, model.generation_config):
        config.eos_token_id = [other, tokenizer.eos_token_id]
    steering = {"repetition_penalty": 5.0, "min_p": 0.9, "no_repeat_ngram_size": 1, "num_beams": 2}
    steering |= {"min_new_tokens": 9, "suppress_tokens": [other], "max_time": 0.0, "guidance_scale": 3.0}
    for name, value in steering.items():
        setattr(model.generation_config, name, value)
    assert answer(model, tokenizer, asked, greedy, 0) == plain


def test_a_model_in_training_is_decoded_as_it_will_be_saved(tmp_path):
    tokenizer = build_tokenizer(NUMBERS)
    model = of_shape(SHAPE, tokenizer, POSITIONS)
    asked = requests_of(5)
    before = answer(model, tokenizer, asked, GREEDY, 0)
    save_model(model, tokenizer, tmp_path / "m")
    assert answer(*load_both(tmp_path / "m"), asked, GREEDY, 0) == before


def test_other_architectures_are_refused():
    model, tokenizer = tiny_model()
    model.config.hidden_act = "gelu"
    with pytest.raises(GrlibError, match="use 'transformers'"):
        Decoder(model, tokenizer.eos_token_id)


def test_new_weights_take_the_place_of_old_ones_in_a_static_cache():
    first, tokenizer = tiny_model()
    second, _ = tiny_model()
    with torch.no_grad():
        for weights in second.parameters():
            weights.add_(0.1 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(0)))
    static, asked = replace(GREEDY, engine="static", slots=5), requests_of(9)
    for model in (first, second, first):
        assert answer(model, tokenizer, asked, static, 0) == answer(model, tokenizer, asked, GREEDY, 0)
    assert len(static_decoding._KEPT) == 1


def test_log_probabilities_by_vllm_are_not_those_of_a_model_at_hand():
    with pytest.raises(GrlibError, match="need a model in a folder"):
        answer(*tiny_model(), requests_of(2), replace(ONE, engine="vllm", logprobs=True), 0)


# the distribution


@pytest.mark.parametrize("engine", ["batched", "static"])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_draws_follow_the_softmax(temperature, engine):
    """Chi-square of thousands of draws of one token, rare ones pooled; limit at 4 standard deviations."""
    model, tokenizer = tiny_model(spread=False)
    with torch.no_grad():
        model.model.norm.weight *= 3 * temperature
        prompt = encode(tokenizer, ["<s>Target: 7"])[0]
        hidden = model.model(torch.tensor([prompt])).last_hidden_state[0, -1]
        expected = torch.softmax(hidden @ model.get_input_embeddings().weight.T / temperature, -1).double()
    draws, slots = (20_000, 4000) if engine == "batched" else (5000, 500)
    how = Sampling(engine, temperature, slots=slots)
    rows, _ = sampling.engine(engine).generate(model, tokenizer, [prompt] * draws, [1] * draws, how, 5)
    counts = torch.bincount(torch.tensor([row[0] for row in rows]), minlength=len(tokenizer)).double()
    dense = expected * draws >= 5
    assert dense.sum() > 50
    expected = torch.cat([expected[dense], expected[~dense].sum()[None]]) * draws
    counts = torch.cat([counts[dense], counts[~dense].sum()[None]])
    statistic, freedom = float(((counts - expected) ** 2 / expected).sum()), len(expected) - 1
    assert abs(statistic - freedom) < 4 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("engine", ["batched", "static"])
def test_log_probabilities_are_those_of_a_second_look(tiny_folder, tmp_path, engine):
    """What the sampler says it drew with is what training would compute, through files and without."""
    model, tokenizer = load_both(tiny_folder)
    asked, kept = requests_of(7), replace(ONE, engine=engine, logprobs=True, chunk=5)
    found = sample(tiny_folder, asked, kept, seed=3, folder=tmp_path)
    plain = sample(tiny_folder, asked, replace(kept, logprobs=False), seed=3, folder=tmp_path)
    assert [one[:4] for one in found] == [one[:4] for one in plain]
    assert all(one.ids == one.logprobs == () for one in plain)
    for request, one in zip(asked, found, strict=True):
        before = encode(tokenizer, [request.prompt])[0] + encode(tokenizer, [request.prefix])[0]
        with torch.no_grad():
            logits = model(torch.tensor([[*before, *one.ids]])).logits[0, len(before) - 1 : -1]
        again = torch.log_softmax(logits, -1).gather(1, torch.tensor(one.ids)[:, None])[:, 0]
        assert len(one.logprobs) == one.new == len(one.ids)
        assert list(one.logprobs) == pytest.approx(again.tolist(), abs=1e-4)


def test_equal_arguments_give_equal_samples(pair):
    asked = requests_of(20)
    for how in (ONE, replace(ONE, engine="static", slots=6)):
        first = answer(*pair, asked, how, seed=3)
        assert answer(*pair, asked, how, seed=3) == first
        assert answer(*pair, asked, how, seed=4) != first


def test_rows_with_the_same_prompt_are_drawn_apart(pair):
    found = answer(*pair, [Request("<s>", "", 20)] * 40, ONE, seed=0)
    long = [sampled.text for sampled in found if sampled.new == 20]  # some end at once, and so alike
    assert len(set(long)) == len(long) > 20


# budgets


@pytest.mark.parametrize("engine", ["batched", "static", "transformers"])
def test_budgets_are_exact(pair, engine):
    """Prefix, text and end token stay within the budget and use all of it unless the row ended."""
    model, tokenizer = pair
    asked = requests_of(60)
    found = answer(model, tokenizer, asked, replace(ONE, engine=engine), seed=1)
    assert len({sampled.ended for sampled in found}) == 2
    for request, sampled in zip(asked, found, strict=True):
        prefix = len(encode(tokenizer, [request.prefix])[0])
        assert sampled.text.startswith(request.prefix) and sampled.tokens == prefix + sampled.new
        if prefix >= request.budget:
            assert sampled == Sampled(request.prefix, prefix, False, 0)
        elif not sampled.ended:
            assert sampled.tokens == request.budget
        else:
            assert prefix < sampled.tokens <= request.budget


def test_the_end_token_counts_and_may_be_the_last_of_the_budget(pair):
    model, tokenizer = pair
    prompt = next(
        request.prompt for request in requests_of(60) if answer(*pair, [request], GREEDY, 0)[0].ended
    )
    full = answer(model, tokenizer, [Request(prompt, "", 60)], GREEDY, 0)[0]
    for budget in (full.tokens - 1, full.tokens, full.tokens + 1):
        found = answer(model, tokenizer, [Request(prompt, "", budget)], GREEDY, 0)[0]
        assert found.ended == (budget >= full.tokens) and found.tokens == min(budget, full.tokens)
        assert found.text == full.text


def test_a_prefix_longer_than_the_model_only_skips_its_row(pair):
    """A rewritten trace can outgrow the budget, even the model: its row is skipped, not the whole run."""
    long = Request("<s>", "Moving to Node #0,1\n" * POSITIONS, 40)
    alone, skipped = answer(*pair, [Request("<s>", "", 40), long], GREEDY, 0)
    assert alone.new > 0 and skipped.new == 0 and not skipped.ended


@pytest.mark.parametrize("engine", ["batched", "static", "transformers"])
@pytest.mark.parametrize(
    "request_", [Request("<s>" * POSITIONS, "", 1), Request("<s>", "", POSITIONS), Request("", "", 1)]
)
def test_a_prompt_that_cannot_fit_is_refused(pair, engine, request_):
    with pytest.raises(GrlibError, match=f"the model takes 1 to {POSITIONS} in all"):
        answer(*pair, [Request("<s>", "", 4), request_], replace(GREEDY, engine=engine), 0)


def test_the_last_position_can_be_used(pair):
    model, tokenizer = pair
    found = answer(model, tokenizer, [Request("<s>", "", POSITIONS - 1)] * 9, ONE, seed=0)
    assert all(sampled.ended or sampled.tokens == POSITIONS - 1 for sampled in found)


def test_a_finished_row_may_wait_beyond_the_last_position(pair):
    """Eight short prompts run on while a long one of their wave is done: it must not fall off."""
    decoder = Decoder(pair[0], end=-1)
    prompts = [[1] * 6] * 8 + [[1] * (POSITIONS - 4)]
    budgets = [POSITIONS - 6] * 8 + [4]
    found, _ = decoder.generate(prompts, budgets, replace(GREEDY, slots=36), 0)
    assert [len(tokens) for tokens in found] == budgets
    assert found[8] == decoder.generate(prompts[8:], budgets[8:], replace(GREEDY, slots=1), 0)[0][0]


# slots


shapes = st.lists(st.tuples(st.integers(0, 99), st.integers(0, 30), st.integers(0, 45)), max_size=14)


@settings(max_examples=20, derandomize=True)
@given(shapes=shapes, slots=st.integers(1, 20))
def test_slots_neither_lose_nor_mix_up_requests(shapes, slots):
    """Any number of requests of any lengths in any number of slots: what each would get alone."""
    decoder = _decoder()
    prompts = [[1, 3 + first % 30] + [(7 * first + i) % 90 for i in range(more)] for first, more, _ in shapes]
    budgets = [budget for *_, budget in shapes]
    found, _ = decoder.generate(prompts, budgets, replace(GREEDY, slots=slots), 0)
    assert len(found) == len(prompts)
    if any(budgets):
        static = StaticDecoder(tiny_model()[0], slots, 256, 45, decoder.end)
        assert static.respond(prompts, budgets, temperature=0.0, seed=0)[0] == found
    for prompt, budget, tokens in zip(prompts, budgets, found, strict=True):
        assert tokens == _alone(tuple(prompt), budget)


_kept: dict = {}


def _decoder() -> Decoder:
    if "decoder" not in _kept:
        model, tokenizer = tiny_model()
        _kept["decoder"] = Decoder(model, tokenizer.eos_token_id)
    return _kept["decoder"]


def _alone(prompt: tuple[int, ...], budget: int) -> list[int]:
    if prompt not in _kept:
        _kept[prompt] = _decoder().generate([prompt], [45], replace(GREEDY, slots=1), 0)[0][0]
    return _kept[prompt][:budget]


def test_no_more_rows_run_at_once_than_there_are_slots(pair):
    decoder, most = Decoder(pair[0], pair[1].eos_token_id), []
    advance = decoder._advance
    decoder._advance = lambda waves: most.append(sum(len(wave.rows) for wave in waves)) or advance(waves)
    decoder.generate([[1, 5]] * 50, [30] * 50, Sampling(slots=10), 0)
    assert max(most) <= 10


def test_nothing_asked_nothing_done(pair, tmp_path):
    assert answer(*pair, [], GREEDY, 0) == []
    assert sample(tmp_path / "no model is needed", [], GREEDY, seed=0, folder=tmp_path / "steps") == []


# settings


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"temperature": -1.0}, "must be a number from 0 to"),
        ({"slots": 0}, "slots=0: must be positive"),
        ({"chunk": 0}, "chunk=0: must be positive"),
        ({"workers": -1}, "must be a number from 0 to"),
        ({"engine": "vlm"}, "engine is 'vlm'; choose one of batched, static, transformers"),
        ({"temperature": 0.5, "logprobs": True}, "temperature 0.5"),
    ],
)
def test_wrong_settings_are_refused(wrong, words):
    with pytest.raises(GrlibError, match=words):
        Sampling(**wrong)


# chunks


@pytest.fixture
def steps(tmp_path):
    return tmp_path / "steps"


def test_chunks_are_kept_and_only_open_ones_are_done_again(tiny_folder, steps, chunks_done):
    asked = requests_of(30)
    first = sample(tiny_folder, asked, ONE, seed=0, folder=steps)
    assert chunks_done == [7, 7, 7, 7, 2]
    model, tokenizer = load_both(tiny_folder)
    assert [found.text[: len(asked[i].prefix)] for i, found in enumerate(first)] == [r.prefix for r in asked]
    assert answer(model, tokenizer, asked[7:14], ONE, sampling.crc32(b"0/1")) == first[7:14]
    chunks = sorted(steps.glob("chunk_*.parquet"))
    contents = [path.read_bytes() for path in chunks]
    chunks[1].unlink()
    chunks[3].write_bytes(contents[3][:-20])
    chunks_done.clear()
    assert sample(tiny_folder, asked, ONE, seed=0, folder=steps) == first
    assert chunks_done == [7, 7]
    assert [path.read_bytes() for path in chunks] == contents
    chunks_done.clear()
    assert sample(tiny_folder, asked, ONE, seed=0, folder=steps) == first
    assert not chunks_done


@pytest.mark.integration
def test_any_number_of_workers_gives_the_same(tiny_folder, tmp_path):
    asked = requests_of(30)
    found = sample(tiny_folder, asked, replace(ONE, workers=2), seed=0, folder=tmp_path / "two")
    assert found == sample(tiny_folder, asked, ONE, seed=0, folder=tmp_path / "one")
    sampling.end_workers()


def test_workers_end_before_training_where_a_gpu_must_have_its_memory_back(monkeypatch):
    two = replace(ONE, workers=2)
    pool = sampling._pool(two)
    release_gpus()  # no GPU here: the workers stay
    assert sampling._pool(two) is pool
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    release_gpus()
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(int)
    assert sampling._pool(two) is not pool
    other = sampling._pool(replace(ONE, workers=3))  # another kind takes the place of the first
    assert [other] == list(sampling.RUNNING.values())
    sampling.end_workers()


def test_killed_workers_are_replaced_in_the_next_call(tiny_folder, steps, monkeypatch):
    pools = []

    def submit(*_) -> Future:
        future: Future = Future()
        if len(pools) == 1:
            future.set_exception(BrokenProcessPool("killed"))
        else:
            future.set_result(pd.DataFrame([Sampled("", 1, True, 1)] * 7))
        return future

    def pool(processes, gpus):
        pools.append(SimpleNamespace(submit=submit, shutdown=lambda: None))
        return pools[-1]

    sampling.end_workers()
    monkeypatch.setattr(sampling, "worker_pool", pool)
    with pytest.raises(BrokenProcessPool):
        sample(tiny_folder, requests_of(14), replace(ONE, workers=2), seed=0, folder=steps)
    assert len(sample(tiny_folder, requests_of(14), replace(ONE, workers=2), seed=0, folder=steps)) == 14
    assert len(pools) == 2
    sampling.end_workers()


@pytest.mark.parametrize("change", ["model", "requests", "seed", "temperature", "slots", "chunk"])
def test_a_changed_argument_starts_anew(steps, chunks_done, tmp_path, change):
    asked, folder, how, seed = requests_of(8), tmp_path / "m", ONE, 0
    model, tokenizer = tiny_model()
    save_model(model, tokenizer, folder)
    first = sample(folder, asked, how, seed=seed, folder=steps)
    chunks_done.clear()
    if change == "model":  # saved over the one before
        with torch.no_grad():
            model.get_input_embeddings().weight *= -1
        save_model(model, tokenizer, folder)
    elif change == "requests":
        asked = [*asked[:-1], asked[-1]._replace(budget=41)]
    elif change == "seed":
        seed = 1
    else:
        how = replace(how, **{change: 4})
    found = sample(folder, asked, how, seed=seed, folder=steps)
    assert sum(chunks_done) == 8 and (found != first or change != "model")


def test_a_changed_tokenizer_is_refused_before_the_first_chunk(steps, tmp_path):
    save_model(*tiny_model(), tmp_path / "m")
    sample(tmp_path / "m", requests_of(8), ONE, seed=0, folder=steps)
    build_tokenizer(NUMBERS - 1).save_pretrained(tmp_path / "m")
    with pytest.raises(GrlibError, match="not the one that its model"):
        sample(tmp_path / "m", requests_of(8), ONE, seed=0, folder=steps)
    assert not list(steps.glob("chunk_*"))


def test_a_missing_or_cut_model_is_refused_before_work(steps, tmp_path):
    with pytest.raises(MissingArtefact, match="missing"):
        sample(tmp_path / "m", requests_of(8), ONE, seed=0, folder=steps)
    save_model(*tiny_model(), tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(MissingArtefact, match="model.safetensors is cut short"):
        sample(tmp_path / "m", requests_of(8), ONE, seed=0, folder=steps)
    assert not steps.exists()


def test_odd_tokens_survive_the_files(steps, tiny_folder):
    """Bytes that are no UTF-8, special tokens and empty texts come back from a chunk as they went in."""
    asked = [Request("<s>", "\x00<s></s>\ud7a3\r\n", 60), Request("<s>", "", 1), Request("<s>", "", 0)]
    found = sample(tiny_folder, asked, ONE, seed=0, folder=steps)
    assert found == answer(*load_both(tiny_folder), asked, ONE, sampling.crc32(b"0/0"))
    assert found[0].text.startswith(asked[0].prefix), (
        "a prefix is text, and so are the special tokens it spells"
    )
    assert found[0].tokens - found[0].new == len("\x00<s></s>\ud7a3\r\n".encode()) and found[2] == Sampled(
        "", 0, False, 0
    )
