"""Saving and loading denoisers: weights as safetensors, everything else as JSON beside them.

An object is described by its class, as ``module:Class``, and its constructor's arguments, read from
the attributes of the same names; arguments may themselves be described objects. Loading imports
only classes of payoff and of installed kinds of objects, unless the user trusts the model, checks
that they are what is expected in that place, and never unpickles anything.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from payoff.configs import suggest
from payoff.denoisers import Denoiser
from payoff.errors import UserError
from payoff.processes import Process
from payoff.schedules import KeepSchedule, Schedule
from payoff.spaces import Space

WEIGHTS, CONFIG = "model.safetensors", "config.json"
SHIPPED = Path(__file__).parent / "weights"
"""Models that come with the package, a folder each."""
HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_TRUST: ContextVar[bool] = ContextVar("payoff_trust", default=False)
_PARTS = (nn.Module, Process, Schedule, KeepSchedule, Space)


def describe(part: Any) -> Any:
    """A JSON-able description of ``part`` from which :func:`build` makes it again."""
    if part is None or isinstance(part, (bool, int, float, str)):
        return part
    if isinstance(part, (list, tuple)):
        return [describe(item) for item in part]
    if not isinstance(part, _PARTS):
        raise TypeError(f"cannot describe {type(part).__name__} in a model's configuration")
    arguments = {}
    for name in inspect.signature(type(part)).parameters:
        if not hasattr(part, name):
            raise TypeError(
                f"{type(part).__name__} does not keep its argument {name!r} as an attribute, so it "
                "cannot be saved: store it under that name"
            )
        value = getattr(part, name)
        if not isinstance(
            value, Tensor
        ):  # a tensor argument is a start value; it is in the weights
            arguments[name] = describe(value)
    cls = type(part)
    return {"class": f"{cls.__module__}:{cls.__qualname__}", **arguments}


def build(description: Any) -> Any:
    """The inverse of :func:`describe`.

    Raises:
        UserError: a class is of a package that is not trusted, and nothing has been imported then;
            or it is not installed, or no part of a model.
    """
    if isinstance(description, list):
        return tuple(build(item) for item in description)
    if not isinstance(description, dict):
        return description
    arguments = {k: build(v) for k, v in description.items() if k != "class"}
    name = str(description.get("class", ""))
    module, _, qualname = name.partition(":")
    _check_trust(name)
    try:
        cls: Any = importlib.import_module(module)
        for part in qualname.split("."):
            cls = getattr(cls, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"the model needs {name!r}, which is not installed here: {error}"
        ) from error
    if not (inspect.isclass(cls) and issubclass(cls, _PARTS)):
        raise UserError(f"{name!r} is no network, process, schedule or space: refusing to call it")
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name!r} cannot be made from the saved arguments: {error}") from error


@contextmanager
def trusting(trust: bool = True) -> Iterator[None]:
    """Let saved models name classes of any package while the block runs.

    Loading such a model imports that package, which runs its code. Classes of payoff and of
    packages that are installed as kinds of objects are always allowed.
    """
    before = _TRUST.set(trust or _TRUST.get())
    try:
        yield
    finally:
        _TRUST.reset(before)


def _check_trust(name: str) -> None:
    """Refuse a class of a package that is not trusted, before it is imported."""
    package = name.partition(":")[0].split(".")[0]
    if package == "payoff" or package in _kind_packages() or _TRUST.get():
        return
    raise UserError(
        f"the model needs {name!r}, and loading it would import the package {package!r} and run "
        "its code. If you trust whoever made the model, say so with --trust, or in Python with "
        "payoff.pretrained.trusting()"
    )


@cache
def _kind_packages() -> frozenset[str]:
    """The packages that announce kinds of objects; none of them is imported."""
    points = entry_points(group="payoff.kinds")
    return frozenset(point.value.partition(":")[0].split(".")[0] for point in points)


def save_pretrained(
    denoiser: Denoiser,
    folder: str | Path,
    metadata: dict[str, Any] | None = None,
    *,
    half: str | None = None,
) -> Path:
    """Write ``model.safetensors`` and ``config.json`` into ``folder``; return the folder.

    Args:
        denoiser: what is saved.
        folder: made if missing.
        metadata: data set, units, metrics; kept under its own key in the JSON.
        half: ``float16`` or ``bfloat16``: parameters are rounded to it in the file, which is half
            the size, and come back in the precision they had. float16 keeps three bits more.

    Raises:
        ValueError: a parameter is too large for ``half``, or there is no such precision.
    """
    config = {"denoiser": describe(denoiser), "metadata": metadata or {}}
    return write_module(denoiser, folder, config, half)


def write_module(
    module: nn.Module, folder: str | Path, config: dict[str, Any], half: str | None = None
) -> Path:
    """Write a module's state and a JSON-able ``config`` beside it; the weights first, each whole.

    Raises:
        ValueError: as :func:`save_pretrained`.
    """
    folder, config = Path(folder), {"format": 1, **config}
    state = {k: v.detach().contiguous().clone() for k, v in module.state_dict().items()}
    if half is not None:
        state, config["dtype"] = _halved(module, state, half)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / (WEIGHTS + ".tmp"), metadata={"format": "pt"})
    os.replace(folder / (WEIGHTS + ".tmp"), folder / WEIGHTS)
    (folder / (CONFIG + ".tmp")).write_text(json.dumps(config, indent=2) + "\n")
    os.replace(folder / (CONFIG + ".tmp"), folder / CONFIG)
    return folder


def read_weights(folder: Path, config: dict[str, Any]) -> dict[str, Tensor]:
    """The state that :func:`write_module` wrote, in the precision that it had before rounding."""
    weights = load_file(folder / WEIGHTS)
    if "dtype" not in config:
        return weights
    full = {"float32": torch.float32, "float64": torch.float64}.get(config["dtype"])
    halves = tuple(HALVES.values())
    return {k: v.to(full) if v.dtype in halves else v for k, v in weights.items()}


def _halved(
    module: nn.Module, state: dict[str, Tensor], half: str
) -> tuple[dict[str, Tensor], str]:
    """A module's state with its parameters rounded, and the precision that they had."""
    if half not in HALVES:
        raise ValueError(f"half must be one of {', '.join(HALVES)}, got {half!r}")
    kinds = {name: p.dtype for name, p in module.named_parameters() if p.is_floating_point()}
    # what is no parameter, such as a table of frequencies, is small and may need all its digits
    rounded = {k: v.to(HALVES[half]) if k in kinds else v for k, v in state.items()}
    for name in kinds:
        if bool(state[name].isfinite().all()) and not bool(rounded[name].isfinite().all()):
            raise ValueError(f"{name} has values that {half} cannot hold: save it in full")
    return rounded, str(next(iter(kinds.values()))).removeprefix("torch.")


def from_pretrained(name: str | Path, device: str = "cpu") -> Denoiser:
    """Load a denoiser by the name of a folder, of shipped weights, or of a hub repository.

    See :func:`find_pretrained` for which of them a name means.

    Raises:
        UserError: the folder or a file in it is missing or damaged, or needs code that is not here.
    """
    folder = find_pretrained(name)
    config = read_config(folder)
    denoiser = build(config["denoiser"])
    if not isinstance(denoiser, Denoiser):
        raise UserError(f"{folder / CONFIG} describes a {type(denoiser).__name__}, no denoiser")
    try:
        weights = read_weights(folder, config)
        # built in single precision; weights in double would be rounded to it
        denoiser.to(next(w.dtype for w in weights.values() if w.is_floating_point()))
        denoiser.load_state_dict(weights)
    except Exception as error:
        raise UserError(f"the weights in {folder / WEIGHTS} do not load: {error}") from error
    return denoiser.to(device).eval().requires_grad_(False)


def read_config(folder: str | Path) -> dict[str, Any]:
    """The parsed ``config.json`` of a saved model."""
    path = Path(folder) / CONFIG
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{folder} holds no saved model: {CONFIG} is missing") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    if "denoiser" not in config:
        raise UserError(f"{path} has no 'denoiser' entry: it was not written by payoff")
    return config


def push_to_hub(folder: str | Path, repository: str, *, private: bool = True) -> str:
    """Upload a saved model; returns its address. Needs a Hugging Face token in the environment."""
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repository, private=private, exist_ok=True)
    return str(api.upload_folder(repo_id=repository, folder_path=str(folder)))


def shipped() -> dict[str, Path]:
    """The models that come with the package, by name."""
    return {path.parent.name: path.parent for path in sorted(SHIPPED.glob(f"*/{CONFIG}"))}


def find_beside(name: str | Path, part: str) -> Path:
    """A folder, or, for the name of shipped weights, the ``part`` that comes beside them.

    A folder of that name comes first. What is neither is returned as it is given.
    """
    here, known = Path(name), shipped()
    if here.exists() or str(name) not in known:
        return here
    return known[str(name)] / part


def find_pretrained(name: str | Path) -> Path:
    """The folder of a saved model.

    A folder that holds a model comes first, so that what lies in front of the user is what is
    used; then the models that come with the package (:func:`shipped`); then, for a name of the
    form ``owner/repository``, the Hugging Face Hub. ``./qm9`` is always the folder.

    Raises:
        UserError: there is none; the message lists the shipped ones.
    """
    text, here = str(name), Path(name)
    known = shipped()
    if (here / CONFIG).exists() or (here.is_dir() and text not in known):
        return here
    if text in known:
        return known[text]
    if text.count("/") == 1 and not text.startswith((".", "/", "~")):
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(text, allow_patterns=[WEIGHTS, CONFIG]))
        except Exception as error:
            raise UserError(
                f"there is no folder {text!r} here, and it cannot be had from the hub: {error}"
            ) from error
    if here.name == text:
        names = ", ".join(known) or "none"
        raise UserError(
            f"there is no model {text!r}: no folder of that name, and payoff comes with the "
            f"weights of: {names}{suggest(text, known)}"
        )
    raise UserError(f"no such folder: {text}")
