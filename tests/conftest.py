from __future__ import annotations

import signal

import pytest
import torch

torch.set_num_threads(1)
# a shell starts what runs in the background with Ctrl-C ignored, and children inherit that: tests
# that stop a run by a signal would find it deaf
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
