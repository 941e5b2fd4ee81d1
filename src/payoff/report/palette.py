"""The page's colours, in pairs: light theme and dark theme.

Figures are written in the light colours; the page's script replaces each by its dark partner where
the reader's system asks for a dark page. Blue, vermilion and green stay apart for colour-blind
readers, and every series also differs by shape or position.
"""

from __future__ import annotations

PAIRS: dict[str, tuple[str, str]] = {
    "page": ("#f4f5f7", "#0f1318"),
    "surface": ("#ffffff", "#171c23"),
    "ink": ("#18202b", "#e7eaee"),
    "muted": ("#5a6573", "#9ea8b5"),
    "rule": ("#dde1e6", "#2c343e"),
    "grid": ("#e9ecf0", "#262d36"),
    "data": ("#7c8a9a", "#8593a3"),
    "labelled": ("#2166ac", "#74b3ee"),
    "designs": ("#c2410c", "#ff8a50"),
    "designs-band": ("rgba(194,65,12,0.14)", "rgba(255,138,80,0.20)"),
    "oracle": ("#00725f", "#43caa6"),
    "warning": ("#8a5a00", "#f0b84a"),
    "warning-back": ("#fff6e0", "#2b2413"),
    "scale-0": ("#e3e8ee", "#25303c"),
    "scale-1": ("#a9c0d8", "#3d5f83"),
    "scale-2": ("#5b8dbf", "#6a9fd4"),
    "scale-3": ("#1b4f8a", "#b5dbff"),
}

LIGHT: dict[str, str] = {name: pair[0] for name, pair in PAIRS.items()}

#: light colour -> dark colour, for the page's script
TO_DARK: dict[str, str] = dict(PAIRS.values())


def variables(dark: bool) -> str:
    """The colours as CSS custom properties."""
    return " ".join(f"--{name}: {pair[dark]};" for name, pair in PAIRS.items())
