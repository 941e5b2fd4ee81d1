r"""Fine-tuning: a Denoiser in, a Denoiser out, its weights moved towards :math:`p\,e^{r/\tau}`.

=========  =======================================  ===============  ======================
name       method                                   reward           fixed point
=========  =======================================  ===============  ======================
`rgdm`     pay-off law on steps or samples          black box        p* (see its options)
`rwr`      reward-weighted denoising                black box        p*
`ddpo`     PPO on the reverse process               black box        maximum of r
`dpok`     policy gradient with divergence          black box        p*
`grpo`     group advantages                         black box        maximum of r
`nft`      for and against, forward process         black box        improvement, not p*
`awm`      advantage-weighted denoising             black box        p*
`draft`    gradient through the sampler             differentiable   maximum of r (kl: p*)
`adjoint`  adjoint matching                         differentiable   p*
`dpo`      preferences                              pairs            near p*
`gradient` adaptive gradient guidance               differentiable   maximum of r
=========  =======================================  ===============  ======================
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from payoff.finetuning.config import FinetuneConfig

if TYPE_CHECKING:
    from payoff.finetuning.adjoint import AdjointMatching
    from payoff.finetuning.awm import AWM
    from payoff.finetuning.base import Finetuner
    from payoff.finetuning.ddpo import DDPO
    from payoff.finetuning.dpo import DPO
    from payoff.finetuning.dpok import DPOK
    from payoff.finetuning.draft import DRaFT
    from payoff.finetuning.gradient import GradientGuided
    from payoff.finetuning.grpo import GRPO
    from payoff.finetuning.monitor import Monitor
    from payoff.finetuning.nft import NFT
    from payoff.finetuning.rgdm import RGDM
    from payoff.finetuning.rgdm_sampling import ShiftedSampler
    from payoff.finetuning.run import RatioMismatch, RewardFailed
    from payoff.finetuning.rwr import RWR

    METHODS: dict[str, type[Finetuner]]

_METHODS = {
    "rgdm": "RGDM",
    "rwr": "RWR",
    "ddpo": "DDPO",
    "dpok": "DPOK",
    "grpo": "GRPO",
    "nft": "NFT",
    "awm": "AWM",
    "draft": "DRaFT",
    "adjoint": "AdjointMatching",
    "dpo": "DPO",
    "gradient": "GradientGuided",
}
_WHERE = {
    **{attribute: f"payoff.finetuning.{name}" for name, attribute in _METHODS.items()},
    "Finetuner": "payoff.finetuning.base",
    "Monitor": "payoff.finetuning.monitor",
    "RatioMismatch": "payoff.finetuning.run",
    "RewardFailed": "payoff.finetuning.run",
    "ShiftedSampler": "payoff.finetuning.rgdm_sampling",
}


def __getattr__(name: str) -> Any:
    """Import on first use: the command line reads the options of a run without the methods."""
    if name == "METHODS":
        found: Any = {key: __getattr__(attribute) for key, attribute in _METHODS.items()}
    elif name in _WHERE:
        found = getattr(importlib.import_module(_WHERE[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


__all__ = [
    "AWM",
    "DDPO",
    "DPO",
    "DPOK",
    "GRPO",
    "METHODS",
    "NFT",
    "RGDM",
    "RWR",
    "AdjointMatching",
    "DRaFT",
    "FinetuneConfig",
    "Finetuner",
    "GradientGuided",
    "Monitor",
    "RatioMismatch",
    "RewardFailed",
    "ShiftedSampler",
]
