"""A user's own object by its name, ``module:attribute``, with errors that say what is wrong."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from payoff.errors import UserError


def plainly(error: BaseException) -> str:
    """An exception in a line."""
    return f"{type(error).__name__}: {error}"


def load_named(
    name: str,
    said: str,
    form: str,
    example: str,
    hint: Callable[[Any, str], str],
    told: Callable[[BaseException], str] = plainly,
) -> Any:
    """What ``name`` stands for, from the current folder or the environment.

    Args:
        name: ``module:attribute``.
        said: how the name was given, for messages: ``--oracle lab:strength``.
        form: what is expected: ``MODULE:FUNCTION``.
        example: one that is right: ``lab:strength``.
        hint: hint(owner, missing) -> what may have been meant, appended to the message.
        told: how an exception of the user's own code is told.

    Raises:
        UserError: the form is wrong, the module cannot be imported or it has no such name.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise UserError(f"{said}: write it as {form}, for instance {example}")
    if module_name.endswith(".py") or "/" in module_name or "\\" in module_name:
        stem = os.path.basename(module_name).removesuffix(".py")
        raise UserError(
            f"{said}: name the module, not the file: {stem}:{attribute}, with the file in the "
            "folder where payoff is started"
        )
    found = _imported(module_name, said, told)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UserError(f"{said}: '{module_name}' has no '{attribute}'{hint(found, part)}")
        found = getattr(found, part)
    return found


def _imported(module_name: str, said: str, told: Callable[[BaseException], str]) -> Any:
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and module_name.split(".")[0] == error.name.split(".")[0]:
            raise UserError(
                f"{said}: there is no module '{module_name}' in {os.getcwd()} or the Python "
                "environment"
            ) from None
        raise UserError(
            f"{said}: '{module_name}' imports '{error.name}', which is not installed"
        ) from error
    except (Exception, SystemExit) as error:  # importing runs the user's code
        raise UserError(f"{said}: importing '{module_name}' failed: {told(error)}") from error
