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
    "oracle-band": ("rgba(0,114,95,0.14)", "rgba(67,202,166,0.20)"),
    "data-band": ("rgba(124,138,154,0.20)", "rgba(133,147,163,0.26)"),
    "warning": ("#8a5a00", "#f0b84a"),
    "warning-back": ("#fff6e0", "#2b2413"),
    "scale-0": ("#e3e8ee", "#25303c"),
    "scale-1": ("#a9c0d8", "#3d5f83"),
    "scale-2": ("#5b8dbf", "#6a9fd4"),
    "scale-3": ("#1b4f8a", "#b5dbff"),
    "method-3": ("#8a3ca6", "#cd95e6"),
    "method-4": ("#9a7400", "#e3bd45"),
    "method-5": ("#0083a8", "#52c8ef"),
    "method-6": ("#a6185c", "#f27fb6"),
    "method-7": ("#56691a", "#b3c75f"),
    "method-8": ("#7a4b2a", "#cfa27e"),
}

#: the colours that methods take in turn; beyond them the symbols differ
METHODS = (
    *("designs", "labelled", "oracle", "method-3", "method-4"),
    *("method-5", "method-6", "method-7", "method-8"),
)


def _faint(colour: str, opacity: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


# a transparent partner of every method's colour, for bands
for _name in METHODS:
    _light, _dark = PAIRS[_name]
    PAIRS.setdefault(f"{_name}-band", (_faint(_light, "0.14"), _faint(_dark, "0.20")))

LIGHT: dict[str, str] = {name: pair[0] for name, pair in PAIRS.items()}

#: light colour -> dark colour, for the page's script
TO_DARK: dict[str, str] = dict(PAIRS.values())


def variables(dark: bool) -> str:
    """The colours as CSS custom properties."""
    return " ".join(f"--{name}: {pair[dark]};" for name, pair in PAIRS.items())
