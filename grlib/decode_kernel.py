"""Attention of one new token a row over a static cache, as a Triton kernel: it reads what a row has filled,
not what the cache could hold, and nothing of rows that are done.

With TRITON_INTERPRET=1 it runs without a GPU: where Triton is installed, a test compares it with PyTorch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 64  # columns read at once
ROWS = 16  # the least that a matrix unit takes: heads that share keys and values, and padding


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
    queries, keys, values, length, running, out,
    slot_stride, head_stride,
    GROUPS: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Program (slot, kv head): the GROUPS query heads that share this head's keys and values, of SIZE numbers
    each, scaled already; columns 0 .. length[slot] are read."""
    slot, head = tl.program_id(0), tl.program_id(1)
    row, place, column = tl.arange(0, ROWS), tl.arange(0, SIZE), tl.arange(0, BLOCK)
    at = ((slot * tl.num_programs(1) + head) * GROUPS + row[:, None]) * SIZE + place[None, :]
    real = row[:, None] < GROUPS
    q = tl.load(queries + at, mask=real, other=0.0)
    count = tl.where(tl.load(running + slot) != 0, tl.load(length + slot) + 1, 0).to(tl.int32)
    begin = slot.to(tl.int64) * slot_stride + head * head_stride
    highest = tl.full([ROWS], -1.0e30, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    mixed = tl.zeros([ROWS, SIZE], tl.float32)
    for first in range(0, count, BLOCK):
        there = first + column < count
        cell = begin + (first + column)[:, None] * SIZE + place[None, :]
        k = tl.load(keys + cell, mask=there[:, None], other=0.0)
        v = tl.load(values + cell, mask=there[:, None], other=0.0)
        scores = tl.where(there[None, :], tl.dot(q, tl.trans(k)), -1.0e30)
        higher = tl.maximum(highest, tl.max(scores, 1))
        chances = tl.exp(scores - higher[:, None])
        shrink = tl.exp(highest - higher)
        total = total * shrink + tl.sum(chances, 1)
        mixed = mixed * shrink[:, None] + tl.dot(chances.to(v.dtype), v)
        highest = higher
    mixed = mixed / tl.maximum(total, 1.0e-30)[:, None]
    tl.store(out + at, mixed.to(out.dtype.element_ty), mask=real)


def attend(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    length: torch.Tensor,
    running: torch.Tensor,
) -> torch.Tensor:
    """queries (slots, kv heads, groups, size), scaled; keys and values (slots, kv heads, columns, size), in
    one piece, columns 0 .. `length` of them filled; the result is shaped as the queries, 0 where a slot is
    not `running`. At most `ROWS` groups, and a size that is a power of two of 16 or more
    (`static_decoding.kernel_takes`)."""
    slots, heads, groups, size = queries.shape
    out = torch.empty_like(queries)
    _attend[(slots, heads)](
        queries, keys, values, length, running, out, keys.stride(0), keys.stride(1),
        GROUPS=groups, SIZE=size, BLOCK=BLOCK, ROWS=ROWS, num_warps=2, num_stages=3,
    )  # fmt: skip
    return out
