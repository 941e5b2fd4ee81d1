"""The machine a run works on: its device and its threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from payoff.errors import UserError
from payoff.jobs.options import MATMUL_PRECISIONS

SMALL = 1e8  # multiplications of one matrix product up to which one thread is faster


def check_device(device: str) -> None:
    """Stop if tensors cannot be computed with on this device.

    Raises:
        UserError: it does not exist, or not here.
    """
    try:
        torch.ones(1, device=device).sum().item()
    except Exception as error:  # every back end has its own
        try:
            known = torch.device(device).type not in ("meta",)
        except RuntimeError:
            known = False
        first = str(error).splitlines()[0]
        what = f"cannot be used here ({first})" if known else "is no device"
        raise UserError(f"--device {device} {what}; choose cpu, cuda, cuda:1 or mps") from error


@contextmanager
def threads(number: int, work: float) -> Iterator[None]:
    """Set the number of threads for the length of the block.

    Args:
        number: how many; 0 chooses: products of small matrices gain little from a second thread,
            and where the processor is shared they lose much by waiting for it.
        work: multiplications of a typical matrix product.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number or (1 if work <= SMALL else before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def matmul_precision(kind: str = "auto") -> AbstractContextManager[object]:
    """A block in which a CPU takes matrix products in bfloat16 (bf16) or single precision (fp32).

    ``auto`` is bf16 where the processor has instructions for it; elsewhere it would be slow.

    Raises:
        ValueError: another precision.
    """
    if kind not in MATMUL_PRECISIONS:
        raise ValueError(f"the precision must be one of {MATMUL_PRECISIONS}, got {kind!r}")
    able = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    half = kind == "bf16" or (kind == "auto" and able)
    # no cache: inside one block weights may be trained, and rounded copies would be old ones
    return torch.autocast("cpu", torch.bfloat16, enabled=half, cache_enabled=False)
