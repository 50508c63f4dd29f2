"""The tokenizer loses nothing, spells the trace language in few tokens, and survives being saved."""

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from grlib.errors import GrlibError
from grlib.models.tokenizer import (
    BOS,
    EOS,
    PAD,
    decode,
    encode,
    encode_plain,
    load_tokenizer,
    number_tokens,
    refuse_lossy,
    vocabulary_digest,
)
from grlib.tasks.countdown.fast import solve
from grlib.tasks.countdown.puzzle import Problem
from grlib.tasks.countdown.searchers import HEURISTICS, breadth_first, depth_first, straight_path
from grlib.tasks.countdown.traces import exploring_line
from grlib.tasks.countdown.vocabulary import PHRASES, build_tokenizer, prompt_text, question

TOKENIZER = build_tokenizer()
PROBLEM = Problem((84, 2, 14, 15), 26)


def back(text: str) -> str:
    return TOKENIZER.decode(encode(TOKENIZER, [text])[0])


pieces = st.one_of(
    st.sampled_from([*PHRASES, PAD, BOS, EOS, "<0x41>", "<0xFF>", "\r\n", "\u2028", "\x00", "  "]),
    st.integers(min_value=0).map(str),
    st.text(alphabet="0123456789", min_size=200, max_size=300),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
)


@given(st.lists(pieces, max_size=12).map("".join))
@example("<0x0A>0007</s><s")
@example("e\u0301 \u00e9 \ud7a3 \U0001f600")
def test_every_text_survives(text):
    assert back(text) == text


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=4),
    st.integers(1, 400),
    st.sampled_from(HEURISTICS),
    st.integers(0, 3),
)
def test_every_trace_survives(nums, target, heuristic, beam):
    problem = Problem(tuple(nums), target)
    if beam:
        trace = breadth_first(problem, beam, heuristic, random.Random(0))
    else:
        trace = depth_first(problem, heuristic)
    assert back(trace) == trace
    assert back(prompt_text(problem)) == prompt_text(problem)


@pytest.mark.parametrize("phrase", [*PHRASES, "0", "9", "10", "99", "255"])
def test_stock_phrases_and_numbers_are_single_tokens(phrase):
    assert len(encode(TOKENIZER, [phrase])[0]) == 1


def test_a_number_takes_the_sign_before_the_next_number():
    line = exploring_line("14+15=29", (84, 2, 29))
    assert TOKENIZER.convert_ids_to_tokens(encode(TOKENIZER, [line])[0]) == [
        "Exploring Operation: ", "14+", "15=", "29", ", Resulting Numbers: [", "84, ", "2, ", "29", "]\n",
    ]  # fmt: skip
    apart = build_tokenizer(joined=())
    assert len(encode(apart, [line])[0]) == 13
    assert apart.decode(encode(apart, [line])[0]) == line


def test_number_tokens_know_their_number_and_sign():
    found = {TOKENIZER.convert_ids_to_tokens(row): (n, sign) for row, n, sign in number_tokens(TOKENIZER)}
    assert len(found) == 256 * 8
    assert (found["7"], found["14+"], found["255, "]) == ((7, 0), (14, 3), (255, 1))


def test_a_trace_splits_into_phrases_and_numbers():
    trace = straight_path(PROBLEM, solve(PROBLEM))
    ids = encode(TOKENIZER, [trace])[0]
    numbers = {TOKENIZER.convert_ids_to_tokens(row) for row, _, _ in number_tokens(TOKENIZER)}
    assert {TOKENIZER.convert_ids_to_tokens(i) for i in ids} <= numbers | set(PHRASES)
    assert len(ids) < len(trace) / 4


def test_numbers_beyond_the_vocabulary_are_digits():
    assert TOKENIZER.convert_ids_to_tokens(encode(TOKENIZER, ["255+256=0007"])[0]) == [
        "255+", "2", "5", "6", "=", "0", "0", "0", "7",
    ]  # fmt: skip


def test_two_builds_are_equal():
    assert TOKENIZER.backend_tokenizer.to_str() == build_tokenizer().backend_tokenizer.to_str()
    assert vocabulary_digest(TOKENIZER) == vocabulary_digest(build_tokenizer())
    assert vocabulary_digest(TOKENIZER) != vocabulary_digest(build_tokenizer(30))


def test_special_tokens_are_found_where_the_text_spells_them():
    """A hostile trace can write an end token; the text stays what it is, and so does its verdict."""
    ids = encode(TOKENIZER, [f"26{EOS}27{PAD}"])[0]
    assert ids.count(TOKENIZER.eos_token_id) == 1 and ids.count(TOKENIZER.pad_token_id) == 1
    assert back(f"26{EOS}27{PAD}") == f"26{EOS}27{PAD}"


@given(st.lists(pieces, max_size=12).map("".join))
@example("<<s>><pad></s</s>")
def test_a_text_from_outside_holds_no_special_tokens_and_survives(text):
    [plain], [ids] = encode_plain(TOKENIZER, [text]), encode(TOKENIZER, [text])
    assert decode(TOKENIZER, plain) == text and not set(plain) & set(TOKENIZER.all_special_ids)
    assert plain == ids or set(ids) & set(TOKENIZER.all_special_ids)
    assert encode_plain(TOKENIZER, ["1", text, ""])[::2] == [encode(TOKENIZER, ["1"])[0], []]


def test_nothing_to_encode():
    assert encode(TOKENIZER, []) == []
    assert encode(TOKENIZER, [""]) == [[]]


# chat template

USER = {"role": "user", "content": question(PROBLEM)}


def test_the_chat_template_makes_the_prompt():
    for add in (False, True):
        assert (
            TOKENIZER.apply_chat_template([USER], tokenize=False, add_generation_prompt=add)
            == prompt_text(PROBLEM)
            == "<s>Target: 26, Numbers: [84, 2, 14, 15]\n"
        )


@pytest.mark.parametrize("prefix", ["Current State: 26:[84", "A line\n", "two\n\n", "", "  led by spaces\n"])
def test_the_chat_template_goes_on_exactly_from_a_prefix(prefix):
    messages = [USER, {"role": "assistant", "content": prefix}]
    text = TOKENIZER.apply_chat_template(messages, tokenize=False, continue_final_message=True)
    assert text == prompt_text(PROBLEM) + prefix
    whole = TOKENIZER.apply_chat_template(messages, tokenize=False)
    assert whole == prompt_text(PROBLEM) + prefix + EOS


def test_prompt_and_response_split_alike_apart_and_together():
    trace = depth_first(PROBLEM)
    apart = encode(TOKENIZER, [prompt_text(PROBLEM), trace])
    assert encode(TOKENIZER, [prompt_text(PROBLEM) + trace])[0] == apart[0] + apart[1]


# folders


def test_a_saved_tokenizer_loads_with_transformers(tmp_path):
    from transformers import AutoTokenizer

    TOKENIZER.save_pretrained(tmp_path)
    trace = depth_first(PROBLEM)
    for loaded in (AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(tmp_path)):
        assert encode(loaded, [trace, BOS]) == encode(TOKENIZER, [trace, BOS])
        assert (loaded.pad_token, loaded.bos_token, loaded.eos_token) == (PAD, BOS, EOS)
        assert loaded.apply_chat_template([USER], tokenize=False) == prompt_text(PROBLEM)
        assert vocabulary_digest(loaded) == vocabulary_digest(TOKENIZER)


def test_a_replaced_tokenizer_is_read_anew(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    assert len(load_tokenizer(tmp_path)) == len(TOKENIZER)
    build_tokenizer(30).save_pretrained(tmp_path)
    assert len(load_tokenizer(tmp_path)) == len(TOKENIZER) - 8 * 226


def test_missing_and_damaged_folders_are_named(tmp_path):
    with pytest.raises(GrlibError, match="tokenizer.json is missing"):
        load_tokenizer(tmp_path / "nowhere")
    TOKENIZER.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((tmp_path / "tokenizer.json").read_bytes()[:500])
    with pytest.raises(GrlibError, match="cannot be read") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


# As the template of Llama 3 writes turns: what stands in a turn is trimmed, and the date is told.
TRIMMING = (
    "{{ bos_token }}[{{ date_string | default('today') }}]"
    "{% for message in messages %}({{ message['role'] }}){{ message['content'] | trim }}</s>{% endfor %}"
    "{% if add_generation_prompt %}(assistant){% endif %}"
)


def test_a_prefix_is_continued_exactly_whatever_the_template_trims():
    words = build_tokenizer()
    assert prompt_text(PROBLEM, words) == prompt_text(PROBLEM), "our own template poses it as before"
    words.chat_template = TRIMMING
    prompt = prompt_text(PROBLEM, words)
    assert prompt == f"<s>[26 Jul 2024](user){question(PROBLEM)}</s>(assistant)"
    prefix = "Moving to Node #0\n"  # a turn of the assistant would lose the newline
    ids = [id_ for part in encode(words, [prompt, prefix]) for id_ in part]
    assert words.decode(ids).endswith("(assistant)Moving to Node #0\n")


def test_a_tokenizer_that_changes_traces_is_refused():
    words = build_tokenizer()
    refuse_lossy(words, "Moving to Node #0\n")

    class Lossy:
        def __call__(self, texts, **_):
            return {"input_ids": [[0] for _ in texts]}

        def decode(self, ids, **_):
            return "Moving to node #0\n"

    with pytest.raises(GrlibError, match=r"at character 10: 'Node #0\\n' becomes 'node #0\\n'"):
        refuse_lossy(Lossy(), "Moving to Node #0\n")
