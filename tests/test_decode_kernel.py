"""The decoding kernel against plain attention, by Triton's interpreter where there is no GPU."""

import os

import pytest
import torch

pytest.importorskip("triton", reason="comes with CUDA builds of torch")
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from grlib.decode_kernel import attend


@pytest.mark.parametrize(
    ("slots", "heads", "groups", "columns", "size"),
    [(5, 2, 3, 200, 64), (3, 1, 4, 130, 32), (4, 2, 1, 64, 16), (6, 3, 16, 65, 128)],
)
def test_it_reads_what_is_filled_and_nothing_else(slots, heads, groups, columns, size):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(slots)
    draw = lambda *shape: torch.randn(*shape, generator=generator).to(device)  # noqa: E731
    q = draw(slots, heads, groups, size) / size**0.5
    k, v = draw(slots, heads, columns, size), draw(slots, heads, columns, size)
    length = torch.randint(0, columns, (slots,), generator=generator).to(device)
    length[0], length[1] = columns - 1, 0
    running = torch.ones(slots, dtype=torch.int32, device=device)
    running[2] = 0
    beyond = torch.arange(columns, device=device) > length[:, None]
    for tensor in (k, v):
        tensor.masked_fill_(beyond[:, None, :, None], float("nan"))  # none of it may be read
    found = attend(q, k, v, length, running)
    hidden = torch.zeros(slots, columns, device=device).masked_fill(beyond, float("-inf"))
    scores = q @ k.nan_to_num().transpose(-1, -2) + hidden[:, None, None]
    expected = torch.softmax(scores, -1) @ v.nan_to_num()
    expected[2] = 0
    assert torch.allclose(found, expected, atol=1e-2 if device == "cuda" else 1e-5)
