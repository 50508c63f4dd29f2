"""Attention of one new token per row over a static cache, as a Triton kernel. It writes the key and value of
the token into the cache, reads only the columns that a row has filled, and skips rows that are done.

With TRITON_INTERPRET=1 it runs without a GPU: where Triton is installed, a test compares it with PyTorch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK, WARPS, STAGES = 64, 2, 3  # columns read at once; launch parameters
ROWS = 16  # the least that a matrix unit takes: the heads that share keys and values, and padding


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
    queries, new_keys, new_values, keys, values, length, running, out,
    slot_stride, head_stride,
    GROUPS: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Program (slot, kv head): the GROUPS query heads (scaled, of SIZE numbers each) that share the keys and
    values of this head; columns 0 .. length[slot] - 1 are read, column length[slot] is written."""
    slot, head = tl.program_id(0), tl.program_id(1)
    row, place, column = tl.arange(0, ROWS), tl.arange(0, SIZE), tl.arange(0, BLOCK)
    own = slot * tl.num_programs(1) + head
    at = (own * GROUPS + row[:, None]) * SIZE + place[None, :]
    real = row[:, None] < GROUPS
    q = tl.load(queries + at, mask=real, other=0.0)
    runs = tl.load(running + slot) != 0
    count = tl.where(runs, tl.load(length + slot), 0).to(tl.int32)
    begin = slot.to(tl.int64) * slot_stride + head * head_stride
    k_new, v_new = tl.load(new_keys + own * SIZE + place), tl.load(new_values + own * SIZE + place)
    tl.store(keys + begin + count * SIZE + place, k_new, mask=runs)
    tl.store(values + begin + count * SIZE + place, v_new, mask=runs)
    highest = tl.sum(q.to(tl.float32) * k_new.to(tl.float32)[None, :], 1)  # the token's attention to itself
    total = tl.full([ROWS], 1.0, tl.float32)
    mixed = tl.zeros([ROWS, SIZE], tl.float32) + v_new.to(tl.float32)[None, :]
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
    mixed = mixed / total[:, None]
    tl.store(out + at, mixed.to(out.dtype.element_ty), mask=real)


def attend(
    queries: torch.Tensor,
    new_keys: torch.Tensor,
    new_values: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    length: torch.Tensor,
    running: torch.Tensor,
) -> torch.Tensor:
    """Attention of the new tokens, whose keys and values are written to column `length` of their slots.

    queries (slots, kv heads, groups, size), scaled; new keys and values (slots, kv heads, size); keys and
    values (slots, kv heads, columns, size), with columns 0 .. `length` - 1 filled; all contiguous. The result
    has the shape of the queries; where a slot is not `running` it has no meaning, and the slot's cache does
    not change. At most `ROWS` groups, and a size that is a power of two of 16 or more
    (`static.kernel_takes`)."""
    slots, heads, groups, size = queries.shape
    out = torch.empty_like(queries)
    _attend[(slots, heads)](
        queries, new_keys, new_values, keys, values, length, running, out, keys.stride(0), keys.stride(1),
        GROUPS=groups, SIZE=size, BLOCK=BLOCK, ROWS=ROWS, num_warps=WARPS, num_stages=STAGES,
    )  # fmt: skip
    return out
