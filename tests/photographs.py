"""Real photographs, from the files that scikit-image installs: all public domain or CC0."""

from __future__ import annotations

from pathlib import Path

import skimage

_FOLDER = Path(skimage.__file__).parent / "data"

ROCKET = _FOLDER / "rocket.jpg"
RETINA = _FOLDER / "retina.jpg"
HUBBLE = _FOLDER / "hubble_deep_field.jpg"
ASTRONAUT = _FOLDER / "astronaut.png"
COFFEE = _FOLDER / "coffee.png"
CHELSEA = _FOLDER / "chelsea.png"

JPEGS = (ROCKET, RETINA, HUBBLE)
ALL = (*JPEGS, ASTRONAUT, COFFEE, CHELSEA)
