"""Write hexagons.polygons: irregular hexagons, some with a measured stiffness."""

import json

import numpy as np

random = np.random.default_rng(0)
with open("hexagons.polygons", "w") as file:
    for i in range(150):
        angles = np.sort(np.linspace(0, 2 * np.pi, 6, endpoint=False) + random.normal(0, 0.15, 6))
        radii = random.uniform(0.6, 1.4) * (1 + 0.2 * random.standard_normal(6))
        corners = np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1).round(4)
        entry = {"corners": corners.tolist()}
        if i % 2 == 0:
            entry["stiffness"] = round(float(radii.mean() ** 2 + random.normal(0, 0.05)), 4)
        file.write(json.dumps(entry) + "\n")
