r"""What a user would pick instead: Gaussian processes and acquisition functions from ``botorch``.

Inputs are scaled to the unit cube over the box (column ranges of the data), labels are standardised
by the model, everything else of :class:`~botorch.models.SingleTaskGP` is its default: a squared
exponential kernel with one length scale a column and the dimension-scaled prior of Hvarfner,
Hellsten and Nardi (2024). Expected improvement is greedy: point k maximises :math:`\log` qEI *of
the batch so far*, the earlier points pending, from Sobol starts and starts around the best rows.
Thompson sampling draws whole functions (Matheron's rule over random features) and follows each
one's gradient to its maximum.

References: Balandat et al., "BoTorch" (2020); Ament et al., "Unexpected Improvements to Expected
Improvement" (2023); Wilson et al., "Efficiently Sampling Functions from Gaussian Process
Posteriors" (2020).
"""

from __future__ import annotations

import warnings

import torch
from airfoil_proposals import Evidence  # beside this file
from botorch.acquisition.logei import qLogExpectedImprovement
from botorch.fit import fit_gpytorch_mll
from botorch.generation import MaxPosteriorSampling
from botorch.models import SingleTaskGP
from botorch.optim import optimize_acqf
from botorch.sampling import SobolQMCNormalSampler
from botorch.sampling.pathwise import draw_matheron_paths
from botorch.utils.sampling import optimize_posterior_samples
from gpytorch.mlls import ExactMarginalLogLikelihood
from torch import Tensor


def expected_improvement(evidence: Evidence, *, inner: bool = False) -> Tensor:
    """A batch of ``count`` designs by sequential greedy log-EI, (count, D) in codec coordinates."""
    effort = evidence.effort
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(evidence.seed)
        model, box, cube = _fitted(evidence, inner)
        with torch.no_grad():  # labels are noisy, so the best *mean* is what must be improved on
            best = model.posterior(model.train_inputs[0]).mean.max()
        pending: Tensor | None = None
        for i in range(evidence.count):
            sampler = SobolQMCNormalSampler(
                torch.Size([effort.ei_samples]), seed=1000 * evidence.seed + i
            )
            acquisition = qLogExpectedImprovement(model, best, sampler=sampler, X_pending=pending)
            point, _ = optimize_acqf(
                acquisition,
                cube,
                q=1,
                num_restarts=effort.ei_restarts,
                raw_samples=effort.ei_raw,
                options={"maxiter": effort.ei_steps, "sample_around_best": True},
            )
            pending = point.detach() if pending is None else torch.cat([pending, point.detach()])
    assert pending is not None
    return box[0] + pending * (box[1] - box[0])


def thompson_sampling(evidence: Evidence, *, inner: bool = False) -> Tensor:
    """The maxima of ``count`` functions drawn from the posterior, (count, D)."""
    effort = evidence.effort
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(evidence.seed)
        model, box, cube = _fitted(evidence, inner)
        parts = []
        for first in range(0, evidence.count, 10):  # few at a time: memory
            paths = draw_matheron_paths(model, torch.Size([min(10, evidence.count - first)]))
            points, _ = optimize_posterior_samples(
                paths,  # type: ignore[arg-type]  # any module that maps points to values will do
                cube,
                raw_samples=effort.ts_raw,
                num_restarts=effort.ts_restarts,
            )
            parts.append(points.detach().reshape(-1, cube.shape[1]))
    return box[0] + torch.cat(parts).clamp(0, 1) * (box[1] - box[0])


def thompson_sampling_rows(evidence: Evidence) -> Tensor:
    """The table's rows that are the best of one function drawn from the posterior, (count, D)."""
    with torch.random.fork_rng(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.manual_seed(evidence.seed)
        with torch.enable_grad():
            model, box, _ = _fitted(evidence, inner=False)
        rows = evidence.x.unique(dim=0)
        inputs = (rows - box[0]) / (box[1] - box[0])
        strategy = MaxPosteriorSampling(model, replacement=False)
        points = strategy(inputs, num_samples=evidence.count)
    return box[0] + points * (box[1] - box[0])


def _fitted(evidence: Evidence, inner: bool) -> tuple[SingleTaskGP, Tensor, Tensor]:
    """The model on the labelled rows, the box (2, D) and the unit cube (2, D)."""
    box = evidence.box(inner)
    known = evidence.labels.isfinite()
    inputs = (evidence.x[known] - box[0]) / (box[1] - box[0])
    model = SingleTaskGP(inputs, evidence.labels[known, None].double())
    fit_gpytorch_mll(
        ExactMarginalLogLikelihood(model.likelihood, model),
        optimizer_kwargs={"options": {"maxiter": evidence.effort.fit_steps}},
    )
    cube = torch.stack([torch.zeros_like(box[0]), torch.ones_like(box[0])])
    return model, box, cube
