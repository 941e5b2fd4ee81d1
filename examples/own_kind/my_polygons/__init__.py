"""Polygons as a kind of object for payoff: its name, its options and its files."""

from dataclasses import dataclass
from pathlib import Path

from payoff.configs import option
from payoff.domains.kind import NO, OWN, Kind


@dataclass
class PolygonOptions:
    """Options that only polygons have."""

    corners: int = option(0, "corners of a polygon; 0: as the file has them", group="Polygons")


def reads(source, given):
    """Claim files that end in .polygons."""
    return OWN if isinstance(source, (str, Path)) and str(source).endswith(".polygons") else NO


KIND = Kind(
    name="polygons",
    help="a .polygons file (a JSON object a line: corners, and scores by name)",
    reads=reads,
    domain="my_polygons.domain:Polygons",
    options=PolygonOptions,
    plural="polygons",
)
