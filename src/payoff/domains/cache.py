"""Where data that were derived once are kept for the next time."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """Where derived data are kept: $PAYOFF_CACHE, $XDG_CACHE_HOME/payoff, or the platform's place.

    The folder need not exist.
    """
    if given := os.environ.get("PAYOFF_CACHE"):
        return Path(given).expanduser()
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given).expanduser() / "payoff"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local")) / "payoff/Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/payoff"
    return Path.home() / ".cache/payoff"
