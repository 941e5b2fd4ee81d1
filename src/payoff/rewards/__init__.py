"""Rewards: functions to be made large, their algebra, metering, and learning them from labels."""

from __future__ import annotations

from payoff.rewards.algebra import Clip, Gate, Negate, Product, Scale, Sum
from payoff.rewards.base import FunctionReward, Reward
from payoff.rewards.ensemble import Ensemble
from payoff.rewards.fitting import Candidate, FittedReward, fit_reward, spearman
from payoff.rewards.learned import LearnedReward, Ridge
from payoff.rewards.ledger import Entry, Ledger
from payoff.rewards.metered import BudgetSpent, Meter, Metered
from payoff.rewards.pooled import Lost, Pooled, WorkerError
from payoff.rewards.remembered import Remembered, design_keys

__all__ = [
    "BudgetSpent",
    "Candidate",
    "Clip",
    "Ensemble",
    "Entry",
    "FittedReward",
    "FunctionReward",
    "Gate",
    "LearnedReward",
    "Ledger",
    "Lost",
    "Meter",
    "Metered",
    "Negate",
    "Pooled",
    "Product",
    "Remembered",
    "Reward",
    "Ridge",
    "Scale",
    "Sum",
    "WorkerError",
    "design_keys",
    "fit_reward",
    "spearman",
]
