"""Fast tokenizers made of a task's own pieces (`of_pieces`), and encoding and decoding for any model.

transformers and vLLM load the same folder. With the pieces of all bytes every text survives encode -> decode
unchanged: what is no piece of its own becomes digits and bytes, so large numbers only make a trace longer.
"""

from __future__ import annotations

import hashlib
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
    if not texts:
        return []
    return tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)["input_ids"]


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
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)
