"""The decoding kernel against plain attention, by Triton's interpreter where there is no GPU."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported
pytest.importorskip("triton", reason="comes with CUDA builds of torch")

from grlib.sampling.kernel import attend


@pytest.mark.parametrize(
    ("slots", "heads", "groups", "columns", "size"),
    [(5, 2, 3, 200, 64), (3, 1, 4, 130, 32), (4, 2, 1, 64, 16), (6, 3, 16, 65, 128)],
)
def test_it_reads_what_is_filled_writes_one_column_and_nothing_else(slots, heads, groups, columns, size):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(slots)
    draw = lambda *shape: torch.randn(*shape, generator=generator).to(device)  # noqa: E731
    q = draw(slots, heads, groups, size) / size**0.5
    k, v = draw(slots, heads, columns, size), draw(slots, heads, columns, size)
    length = torch.randint(0, columns, (slots,), generator=generator).to(device)
    length[0], length[1] = columns - 1, 0
    running = torch.ones(slots, dtype=torch.int32, device=device)
    running[2] = 0
    new_k, new_v = draw(slots, heads, size), draw(slots, heads, size)
    beyond = torch.arange(columns, device=device) >= length[:, None]
    for tensor in (k, v):
        tensor.masked_fill_(beyond[:, None, :, None], float("nan"))  # none of it may be read
    before = k.clone(), v.clone()
    found = attend(q, new_k, new_v, k, v, length, running)
    after = before[0].clone(), before[1].clone()
    for slot in running.nonzero()[:, 0].tolist():
        after[0][slot, :, length[slot]], after[1][slot, :, length[slot]] = new_k[slot], new_v[slot]
    assert torch.equal(k.nan_to_num(7), after[0].nan_to_num(7))
    assert torch.equal(v.nan_to_num(7), after[1].nan_to_num(7))
    beyond = torch.arange(columns, device=device) > length[:, None]
    hidden = torch.zeros(slots, columns, device=device).masked_fill(beyond, float("-inf"))
    scores = q @ k.nan_to_num().transpose(-1, -2) + hidden[:, None, None]
    expected = torch.softmax(scores, -1) @ v.nan_to_num()
    alive = running.bool()
    assert torch.allclose(found[alive], expected[alive], atol=1e-2 if device == "cuda" else 1e-5)
