r"""RCGDM on molecules: few labels, a learned score, a conditional generator, samples at an aim.

A share of the molecules is labelled, :math:`y = f(m) + \varepsilon`. A score :math:`\hat f` is
learned from invariant features of these and labels all of them; the denoiser learns
:math:`p(m\mid\hat f(m) + \nu\xi)` and is sampled at the aim a. How large a molecule is drawn is
taken from the data too: from the hundredth of the molecules whose pseudo-labels are nearest to a,
an estimate of :math:`p(N\mid\hat y = a)`.

Reference: Reward-Directed Conditional Diffusion (Yuan, Huang, Ni, Chen, Wang, 2023), algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from payoff.configs import to_dict
from payoff.denoisers import Denoiser, NetDenoiser
from payoff.domains.molecules.codecs import CODECS, Codec
from payoff.domains.molecules.config import TrainConfig
from payoff.domains.molecules.evaluate import products, sample
from payoff.domains.molecules.features import features
from payoff.domains.molecules.files import write_molecules
from payoff.domains.molecules.loop import CHECKPOINT, MODEL
from payoff.domains.molecules.metrics import smiles_of, to_rdkit
from payoff.domains.molecules.model import MoleculeModel
from payoff.domains.molecules.molecule import Molecule
from payoff.domains.molecules.qm9 import PROPERTIES, load_qm9, split
from payoff.domains.molecules.train import Run
from payoff.errors import UserError
from payoff.experiments.finetune.record import changed, spelled
from payoff.experiments.machine import threads
from payoff.experiments.molecules.design_config import MoleculeDesignConfig
from payoff.experiments.molecules.setting import is_stable
from payoff.experiments.progress import Reporter
from payoff.experiments.records import STATE, RunFolder, refuse_occupied
from payoff.guidance import ClassifierFree
from payoff.pretrained import save_pretrained, shipped
from payoff.rewards import LearnedReward, fit_reward

STRUCTURES, DESIGNS, REWARD = "designs.sdf", "designs.csv", "reward"
NEAREST = 0.01  # share of the molecules that sizes are taken from
LEAST = 50  # of them, at least
MIN_LABELLED = 20


@dataclass
class Setting:
    """The data of one run.

    Attributes:
        molecules: all of them; codec, x, mask: how the generator sees them.
        labels: (n,) in the property's unit, NaN = unlabelled.
        base: the model that the generator begins with, or None.
    """

    molecules: list[Molecule]
    codec: Codec
    x: Tensor
    mask: Tensor
    labels: Tensor
    base: MoleculeModel | None


@dataclass
class Scorer:
    """A learned score of molecules, through standardised features.

    Attributes:
        reward: of standardised features (n, D).
        location, scale: (D,); a feature that never varies has scale inf and so counts for nothing.
    """

    reward: LearnedReward
    location: Tensor
    scale: Tensor

    def predict(self, molecules: list[Molecule]) -> tuple[Tensor, Tensor]:
        """Mean and sd (n,) of each molecule's score."""
        return self.reward.predict((features(molecules) - self.location) / self.scale)


def design(
    config: MoleculeDesignConfig,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> pl.DataFrame:
    """Draw molecules whose property is near the aim, learned from few labels.

    Args:
        config: what to design and how.
        out: the run's folder.
        resume: continue an interrupted run.
        overwrite: replace an earlier run in the same folder.
        quiet: no progress on the terminal.

    Returns:
        the molecules, nearest to the aim first, as in ``designs.csv``.

    Raises:
        UserError: an option is wrong or data are missing, and nothing has been written then.
    """
    reporter = Reporter(quiet)
    refuse_occupied(Path(out), resume=resume, overwrite=overwrite)
    setting = make_setting(config)
    request = to_dict(config) | {"source": str(config.source)}
    folder = RunFolder(out, request, resume=resume, overwrite=overwrite)
    if resume and folder.finished:
        reporter.say(f"{folder.path} is finished already")
        return pl.read_csv(folder.path / DESIGNS)
    work = config.batch_size * setting.x.shape[1] ** 2 * 64**2
    with threads(config.threads, work), folder.guarded():
        return _run(setting, config, request, folder, reporter)


def make_setting(config: MoleculeDesignConfig) -> Setting:
    """Read the data, hide labels, and find the base model.

    Raises:
        UserError: there is no such property or model, or there are too few labels.
    """
    if config.score is None:
        raise UserError(f"which property? Name it with --score: one of {', '.join(PROPERTIES)}")
    if config.aim is None:
        raise UserError("molecules need an --aim, in the property's unit")
    data = load_qm9()
    truth = data.column(config.score).double()
    rows = split(config.part, len(data))
    values, n = truth[rows], round(config.labelled * len(rows))
    if n < MIN_LABELLED:
        raise UserError(
            f"--labelled {config.labelled:g} of {len(rows)} molecules are {n} labels: at least "
            f"{MIN_LABELLED} are needed"
        )
    generator = torch.Generator().manual_seed(config.seed)
    chosen = torch.randperm(len(rows), generator=generator)[:n]
    noise = torch.randn(n, generator=generator, dtype=torch.float64)
    labels = torch.full((len(rows),), float("nan"), dtype=torch.float64)
    labels[chosen] = values[chosen] + config.noise * values.std() * noise
    codec = CODECS["united"]()
    base = _base(config, codec)
    if config.batch_size > len(rows):
        raise UserError(f"--batch-size {config.batch_size} is more than {len(rows)} molecules")
    molecules = data.molecules(rows)
    x, cond = codec.encode(molecules)
    return Setting(molecules, codec, x, cond["mask"], labels, base)


def _base(config: MoleculeDesignConfig, codec: Codec) -> MoleculeModel | None:
    name = config.base
    if name is None:
        name = config.source if config.source in shipped() else "none"
    if name == "none":
        return None
    model = MoleculeModel.load(name)
    if model.codec != codec or not isinstance(model.denoiser, NetDenoiser):
        raise UserError(f"--base {name}: it is no model of QM9's united atoms; give another")
    return model


def _run(
    setting: Setting,
    config: MoleculeDesignConfig,
    request: dict[str, Any],
    folder: RunFolder,
    reporter: Reporter,
) -> pl.DataFrame:
    with folder.stage("reward"):
        scorer, summary, pseudo = learn(setting, config, reporter)
    reporter.say(f"the score is learned by {summary['reason']}")
    with folder.stage("training"):
        run = _train(setting, pseudo, config, folder, reporter)
    with folder.stage("designs"):
        found = draw(run, pseudo, config)
        frame, kept = _judged(scorer, found, config)
    with folder.stage("writing"):
        with folder.replacing_files(REWARD) as path:
            scorer.reward.save(path)
        with folder.replacing_files(MODEL) as path:
            save_pretrained(run.averaged(), path, run.metadata({}))
        write_molecules(folder.path / STRUCTURES, kept, frame)
        with folder.replacing(DESIGNS) as path:
            frame.write_csv(path)
    folder.finish(_record(setting, config, request, summary, frame, run, folder.path))
    folder.drop_state()
    return frame


def learn(
    setting: Setting, config: MoleculeDesignConfig, reporter: Reporter
) -> tuple[Scorer, dict[str, Any], Tensor]:
    """The score, the summary of its cross-validation, and pseudo-labels (n,) of all molecules."""
    reporter.say("reading features of all molecules")
    rows = features(setting.molecules)
    scale = rows.std(0)
    scale[scale < 1e-9] = float("inf")
    location = rows.mean(0)
    z = (rows - location) / scale
    known = setting.labels.isfinite()
    names = ("ridge", "ensemble") if config.reward == "auto" else (config.reward,)
    generator = torch.Generator().manual_seed(config.seed + 3)
    with reporter.bar("learning the score", 5 * len(names) + 1) as advance:
        fitted = fit_reward(
            z[known],
            setting.labels[known],
            generator=generator,
            candidates=names,
            progress=lambda done, total: advance(done),
        )
    return Scorer(fitted.reward, location, scale), fitted.summary(), fitted.reward(z)


def _train(
    setting: Setting,
    pseudo: Tensor,
    config: MoleculeDesignConfig,
    folder: RunFolder,
    reporter: Reporter,
) -> Run:
    """The conditional generator, continued from its checkpoint if there is one."""
    net: Any = None if setting.base is None else setting.base.denoiser.net
    sizes: dict[str, Any] = {
        "width": config.width if net is None else net.width,
        "depth": config.depth if net is None else net.depth,
    }
    if net is not None:
        sizes |= {"pair_width": net.pair_width, "vectors": net.vectors}
    options = TrainConfig(
        **sizes,
        part=config.part,
        label=str(config.score),
        label_noise=config.label_noise,
        label_dropout=config.label_dropout,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        seed=config.seed,
        steps=config.steps,
        warmup=min(300, config.steps),
        log_every=min(50, config.steps),
        evaluate_minutes=0.0,
        compile=False,
    )
    state = folder.path / STATE
    try:
        run = Run(options, setting.x, setting.mask, state, pseudo)
    except ValueError as error:  # the network's own rules
        raise UserError(str(error)) from error
    if (state / CHECKPOINT).exists():
        run.load()
    elif setting.base is not None:
        run.begin_from_denoiser(setting.base.denoiser, str(config.base or config.source))
    state.mkdir(exist_ok=True)
    with reporter.bar("training the model", config.steps) as advance:
        advance(run.step)
        run.heard = lambda line: advance(int(line["step"]))
        run.until_stopped()
    if run.interrupted:
        raise KeyboardInterrupt
    return run


def near(pseudo: Tensor, aim: float) -> Tensor:
    """Rows of the molecules whose pseudo-labels (n,) are nearest to the aim."""
    count = min(len(pseudo), max(LEAST, round(NEAREST * len(pseudo))))
    return (pseudo - aim).abs().argsort(stable=True)[:count]


def draw(run: Run, pseudo: Tensor, config: MoleculeDesignConfig) -> list[Molecule | None]:
    """Molecules at the aim, their sizes from the data's nearest."""
    assert config.aim is not None
    label = (config.aim - run.location) / run.spread
    denoiser: Denoiser = AtLabel(run.averaged(), label, config.guidance)
    sizes = run.mask.sum(1)[near(pseudo, config.aim)]
    generator = torch.Generator().manual_seed(config.seed + 2)
    steps = config.sampler_steps
    with products():
        return sample(denoiser, run.codec, sizes, config.count, generator=generator, steps=steps)


class AtLabel(Denoiser):
    """A conditional denoiser held at one label, with guidance where its weight is above 0."""

    def __init__(self, base: Denoiser, label: float, weight: float = 0.0) -> None:
        super().__init__()
        self.base = ClassifierFree(base, weight) if weight else base
        self.process, self.label = base.process, label

    def forward(self, x_t, t, cond=None):
        label = x_t.new_full((len(x_t), 1), self.label)
        return self.base(x_t, t, {**(cond or {}), "label": label})


def _judged(
    scorer: Scorer, found: list[Molecule | None], config: MoleculeDesignConfig
) -> tuple[pl.DataFrame, list[Molecule | None]]:
    """A table of the molecules, valid ones first, then by their distance from the aim."""
    there = [i for i, m in enumerate(found) if m is not None]
    mean = torch.full((len(found),), float("nan"), dtype=torch.float64)
    half = mean.clone()
    if there:
        values, std = scorer.predict([m for m in found if m is not None])
        mean[there], half[there] = values, scorer.reward.half_width(std, beyond=True)
    mols = [to_rdkit(m) for m in found]
    smiles = [None if mol is None else smiles_of(mol) for mol in mols]
    frame = pl.DataFrame(
        {
            "smiles": pl.Series(smiles, dtype=pl.String),
            "predicted": mean.numpy(),
            "predicted_low": (mean - half).numpy(),
            "predicted_high": (mean + half).numpy(),
            "valid": [text is not None for text in smiles],
            "stable": [is_stable(m) for m in found],
        }
    ).with_columns(pl.col(pl.Float64).fill_nan(None).round_sig_figs(6))
    frame = frame.with_row_index("_place").sort(
        [~pl.col("valid"), (pl.col("predicted") - config.aim).abs()],
        nulls_last=True,
        maintain_order=True,
    )
    order = frame["_place"].to_list()
    return frame.drop("_place"), [found[i] for i in order]


def _record(
    setting: Setting,
    config: MoleculeDesignConfig,
    request: dict[str, Any],
    summary: dict[str, Any],
    frame: pl.DataFrame,
    run: Run,
    out: Path,
) -> dict[str, Any]:
    known = int(setting.labels.isfinite().sum())
    evaluations = 2 if config.guidance else 1
    valid = frame.filter(pl.col("valid"))
    error = (frame["predicted"] - config.aim).abs().mean()
    return {
        "kind": "design",
        "command": spelled(
            "design", config.source, [c for c in changed(config) if c[0] != "source"], out
        ),
        "domain": "molecules",
        "name": f"{config.source}: {config.score}",
        "seed": config.seed,
        "config": request,
        "score": {
            "name": config.score,
            "direction": "maximize",
            "unit": PROPERTIES[str(config.score)][2],
        },
        "data": {
            "rows": len(setting.molecules),
            "labelled": known,
            "label_noise_nu": config.label_noise,
        },
        "reward": summary,
        "network_calls": config.count * config.sampler_steps * evaluations,
        "training": {
            "steps": run.step,
            "parameters": sum(p.numel() for p in run.denoiser.parameters()),
        },
        "aim": {"mode": "given", "chosen": config.aim, "reason": "asked for"},
        "designs": {
            "asked": config.count,
            "count": len(frame),
            "valid": len(valid),
            "stable": int(frame["stable"].sum()),
            "unique": valid["smiles"].n_unique(),
            "mean_predicted_error": error,
        },
    }
