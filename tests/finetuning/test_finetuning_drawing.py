"""Samples drawn to be scored, and values, in a context that what is tuned never sees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from finetuning_cases import aimed, quick, small

from payoff.values import Learned

METHODS = [("rgdm", {}), ("rgdm", {"level": "sample"}), ("rwr", {})]


@pytest.mark.parametrize(("name", "given"), METHODS)
def test_only_what_no_weight_of_the_model_hangs_on_is_drawn_apart(
    name: str, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside: list[bool] = []
    seen: dict[str, set[bool]] = {"tuned": set(), "drawn": set(), "valued": set()}

    @contextmanager
    def drawing() -> Iterator[None]:
        inside.append(True)
        try:
            yield
        finally:
            inside.pop()

    def note(module: torch.nn.Module, args: Any, out: Any) -> None:
        kind = "tuned" if torch.is_grad_enabled() and module.training is False else "drawn"
        seen[kind].add(bool(inside))

    target = aimed()
    net = target.denoiser.net  # type: ignore[union-attr]
    net.register_forward_hook(note)  # hooks are copied with the network
    plain = Learned.forward

    def forward(self: Learned, *args: Any, **kwargs: Any) -> torch.Tensor:
        seen["valued"].add(bool(inside))
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(Learned, "forward", forward)
    quick(name, **given).fit(target, small(), drawing=drawing)
    assert seen["tuned"] == {False}
    assert True in seen["drawn"]
    assert seen["valued"] == ({True} if name == "rgdm" and not given else set())
