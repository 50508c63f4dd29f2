"""A fast tokenizer for the trace language: frequent phrases and numbers are single tokens, all else is bytes.

transformers and vLLM load the same folder. Every text survives encode -> decode unchanged: what is not in the
vocabulary becomes digits and bytes, so large numbers only make a trace longer.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from grlib.errors import GrlibError, one_line

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
# A number and the sign between it and the next number are one token: a quarter fewer tokens in a trace.
JOINED = (", ", ",", "+", "-", "*", "/", "=")
# One user turn and one assistant turn; without the second the text ends where the model begins.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}" + BOS + "{{ message['content'] }}\n"
    "{% else %}{{ message['content'] }}"
    "{% if not (loop.last and continue_final_message | default(false)) %}" + EOS + "{% endif %}"
    "{% endif %}{% endfor %}"
)
# Llama 3's template writes today's date unless it gets one; this is its own fallback.
TEMPLATE_DATE = "26 Jul 2024"


def as_fast(
    tokenizer: Tokenizer, pad: str, bos: str, eos: str, chat_template: str
) -> PreTrainedTokenizerFast:
    """A tokenizer of our own in the form that transformers and vLLM load; decoding changes no spaces."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def of_pieces(pieces: Sequence[str], pattern: str) -> PreTrainedTokenizerFast:
    """A tokenizer of whole pieces, before them `PAD`, `BOS` and `EOS`; equal arguments, equal tokenizers.

    `pattern` is a regular expression that splits text into pieces. What is no piece is spelt by the bytes
    `<0x00>` to `<0xFF>`, where these are pieces.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: index for index, piece in enumerate((PAD, BOS, EOS, *pieces))},
            merges=[],
            ignore_merges=True,
            byte_fallback=True,
            fuse_unk=False,
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in (PAD, BOS, EOS)]
    )
    return as_fast(tokenizer, PAD, BOS, EOS, CHAT_TEMPLATE)


def number_tokens(tokenizer: PreTrainedTokenizerFast) -> list[tuple[int, int, int]]:
    """`(row, number, index in ("", *JOINED) of the sign after it)` of every token that is a number."""
    found = []
    for piece, row in tokenizer.get_vocab().items():
        number = re.match("[0-9]+", piece)
        if number:
            found.append((row, int(number[0]), ("", *JOINED).index(piece[number.end() :])))
    return sorted(found)


def load_tokenizer(folder: Path | str) -> PreTrainedTokenizerFast:
    """The tokenizer saved in a model folder; GrlibError where it is missing or cannot be read."""
    from transformers import AutoTokenizer

    if not (Path(folder) / "tokenizer.json").is_file():
        raise GrlibError(f"no tokenizer in {folder}: tokenizer.json is missing; make the model folder again")
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds for a damaged folder
        raise GrlibError(
            f"the tokenizer in {folder} cannot be read ({one_line(error)}); make the model folder again"
        ) from error


def vocabulary_digest(tokenizer: PreTrainedTokenizerFast) -> str:
    """The SHA-256 of the vocabulary, in hex: a model works only with the one that it was trained with."""
    entries = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(repr(entries).encode()).hexdigest()


def refuse_lossy(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    """GrlibError where encoding and decoding changes a text: its traces could not be graded."""
    again = tokenizer.decode(encode(tokenizer, [text])[0], clean_up_tokenization_spaces=False)
    if again != text:
        place = len(os.path.commonprefix([text, again]))
        raise GrlibError(
            f"the tokenizer changes a trace at character {place}: {text[place : place + 20]!r} becomes "
            f"{again[place : place + 20]!r}; choose a model whose tokenizer keeps every text unchanged"
        )


def encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text; special tokens only where the text contains them."""
    quick = _quick(tokenizer)
    found = [quick.encode(text) if quick else None for text in texts]
    left = [text for text, ids in zip(texts, found, strict=True) if ids is None]
    rest = iter(
        tokenizer(left, add_special_tokens=False, return_attention_mask=False)["input_ids"] if left else []
    )
    return [next(rest) if ids is None else ids for ids in found]


def encode_plain(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts from outside or of a model: one that spells a special token stays text.

    It is cut after the first character of each such token, and its parts are encoded apart.
    """
    special = [one.content for one in tokenizer.added_tokens_decoder.values() if one.special]
    cuts = re.compile("|".join(f"(?<={re.escape(one[0])})(?={re.escape(one[1:])})" for one in special))
    # few texts need the slow pattern
    parts = [cuts.split(text) if any(one in text for one in special) else [text] for text in texts]
    ids = iter(encode(tokenizer, [part for one in parts for part in one]))
    return [[token for _ in one for token in next(ids)] for one in parts]


def decode(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> str:
    """The text of token ids, with special tokens and without changes of spaces."""
    quick = _quick(tokenizer)
    text = quick.decode(ids) if quick else None
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False) if text is None else text


class _Quick:
    """Encodes and decodes the trace language with a regular expression, many times faster than the tokenizer
    (`python -m benchmarks tokenizer`). The result is None for other text, which the tokenizer must handle."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.vocabulary = tokenizer.get_vocab()
        whole = sum(piece.isdecimal() for piece in self.vocabulary)
        spelt = [piece for piece in self.vocabulary if not re.match("[0-9]|<0x", piece)]
        phrases = "|".join(map(re.escape, sorted(spelt, key=len, reverse=True)))
        joined = [sign for sign in JOINED if f"0{sign}" in self.vocabulary]
        signs = "|".join(rf"{re.escape(sign)}(?=[0-9])" for sign in joined)
        number = rf"(?<![0-9])(?:{_below(whole)})(?:{signs}|(?![0-9]))"
        self.pieces = re.compile(rf"{phrases}|{number}|[0-9]")
        self.texts = {row: piece for piece, row in self.vocabulary.items() if not piece.startswith("<0x")}

    def encode(self, text: str) -> list[int] | None:
        pieces = self.pieces.findall(text)
        if sum(map(len, pieces)) != len(text):
            return None
        try:
            return list(map(self.vocabulary.__getitem__, pieces))
        except KeyError:  # a digit that is no token by itself
            return None

    def decode(self, ids: Sequence[int]) -> str | None:
        try:
            return "".join(map(self.texts.__getitem__, ids))
        except KeyError:  # a byte: several of them make one character
            return None


def _below(limit: int) -> str:
    """A regular expression for the numbers 0 .. limit-1 without leading zeros, longer ones first."""
    last = str(limit - 1)
    found = [last]
    for place, digit in enumerate(last):  # of equal length, equal up to `place`, smaller there
        lowest = "1" if place == 0 and len(last) > 1 else "0"
        if digit > lowest:
            smaller = f"[{lowest}-{chr(ord(digit) - 1)}]"
            found.append(last[:place] + smaller + f"[0-9]{{{len(last) - place - 1}}}")
    if len(last) > 1:
        found.append(f"[1-9][0-9]{{0,{len(last) - 2}}}|0")
    return "|".join(found)


def _quick(tokenizer: PreTrainedTokenizerFast) -> _Quick | None:
    """The tokenizer's `_Quick`, stored in it; None unless one pattern splits text into whole pieces, as in
    Countdown's tokenizer."""
    if not hasattr(tokenizer, "get_vocab"):
        return None
    if "_quick" not in vars(tokenizer):
        made = json.loads(tokenizer.backend_tokenizer.to_str())
        ours = (made["pre_tokenizer"] or {}).get("type") == "Split" and not made["model"].get("merges")
        vars(tokenizer)["_quick"] = _Quick(tokenizer) if ours else None
    return vars(tokenizer)["_quick"]
