"""Memory does not grow with the number of samples asked for."""

from __future__ import annotations

import os
import subprocess
import sys

PEAK = """
import resource, sys
import torch
from payoff.denoisers import NetDenoiser
from payoff.nets import ResidualMLP
from payoff.processes import GaussianProcess
from payoff.samplers import Ancestral

torch.set_num_threads(1)
dim, total = 2000, 0
denoiser = NetDenoiser(ResidualMLP(dim, width=8, depth=1), GaussianProcess()).eval()
generator = torch.Generator().manual_seed(0)
for batch in Ancestral(denoiser, (dim,), 2).stream(
    int(sys.argv[1]), generator=generator, batch_size=200
):
    total += len(batch)
assert total == int(sys.argv[1])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(samples: int) -> float:
    """Largest resident size in MB of a process that draws so many samples of 8 kB."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PEAK, str(samples)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(done.stdout) / 1024


def test_a_hundred_times_the_samples_in_the_same_memory() -> None:
    """20,000 samples of 8 kB would be 160 MB more, were they kept."""
    assert peak(20_000) - peak(200) < 40
