"""Everything up to training, fine-tuning and steering runs with torch, numpy and safetensors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "payoff"
LIGHT = (
    *("errors", "spaces", "whitening", "configs", "kernels", "naming", "predictions", "schedules"),
    *("processes", "denoisers", "nets", "samplers", "rewards", "pretrained", "targets", "values"),
    *("metrics", "training", "guidance", "problems", "steering", "finetuning"),
)
BLOCKING = """
import importlib, sys
from importlib.abc import MetaPathFinder

import numpy, safetensors.torch, torch
import torch._dynamo, torch.distributed, torch.optim.swa_utils

allowed = {"payoff", *sys.stdlib_module_names, *(name.split(".")[0] for name in sys.modules)}
allowed -= {"accelerate", "sqlalchemy", "huggingface_hub", "polars", "rich", "typer", "plotly"}


class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in allowed:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)


sys.meta_path.insert(0, Refuse())
for module in MODULES:
    importlib.import_module(module)

from payoff.denoisers import NetDenoiser
from payoff.finetuning import METHODS, FinetuneConfig
from payoff.nets import ResidualMLP
from payoff.problems import MixtureProblem
from payoff.processes import GaussianProcess
from payoff.rewards import FunctionReward
from payoff.steering import find
from payoff.targets import Target
from payoff.training import FitConfig, fit

problem = MixtureProblem.two_modes()
x = problem.sample_base(64, generator=torch.Generator().manual_seed(0))
model = fit(
    NetDenoiser(ResidualMLP(1, width=16, depth=1), GaussianProcess()),
    x, None, FitConfig(steps=5, batch_size=16),
)
model.requires_grad_(True)
target = Target(model, FunctionReward(lambda x, cond: x[:, 0]), 1.0)
loop = FinetuneConfig(calls=40, per_round=20, updates=2, sampler_steps=3, evaluate=16)
METHODS["rwr"]().fit(target, loop, shape=(1,))
find("best-of-n")(target, (1,), steps=3).sample(4, generator=torch.Generator().manual_seed(0))
assert "polars" not in sys.modules and "sqlalchemy" not in sys.modules
print("trained, tuned and steered")
"""


def test_training_needs_torch_numpy_and_safetensors_alone() -> None:
    modules = []
    for unit in LIGHT:
        files = [SOURCE / f"{unit}.py"] if (SOURCE / f"{unit}.py").exists() else []
        files += sorted((SOURCE / unit).rglob("*.py"))
        modules += [
            ".".join(("payoff", *f.relative_to(SOURCE).with_suffix("").parts)).removesuffix(
                ".__init__"
            )
            for f in files
        ]
    assert len(modules) > 60
    code = BLOCKING.replace("MODULES", repr(modules))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "trained, tuned and steered" in done.stdout


def test_report_stays_a_function_once_its_package_is_imported() -> None:
    """The package of reports has the name of the public function."""
    import payoff
    import payoff.report

    with pytest.raises(payoff.UserError, match="nowhere"):
        payoff.report("nowhere")
