"""A rehearsal of a command: with GHOSTNAS_REHEARSAL set, its counts are cut to what takes seconds
and its trainings take the recipe `RECIPE`, so that a long command line can be tried as it stands.
What comes of it says nothing about a network.
"""

from __future__ import annotations

import os
from argparse import Namespace

VARIABLE = "GHOSTNAS_REHEARSAL"
RECIPE = "rehearsal"
MOST = {  # of an option's value, whether it was given or left out
    "trials": 2,
    "screened": 4,
    "finalists": 1,
    "seeds": 1,
    "export_front": 1,
    "epochs": 1,
    "batch_size": 16,
    "images": 64,
    "steps": 2,
    "ops": 600,
    "networks": 12,
    "rounds": 2,
    "calibration": 16,
    "test_images": 40,
    "limit": 40,
}
SEEDS_TO_COMPARE = 3  # of a study of the seed, which needs as many
NARROW = 0.125  # of the paper's networks, whose trainings alone have --images
OPTIONAL = ("export_front", "epochs", "batch_size", "images")  # only cut where they are given


def cut(args: Namespace) -> str:
    """Cut the options of a parsed command; returns a line that says so, or nothing without
    VARIABLE. A training or a search that is resumed has the settings of its folder already.
    """
    if not os.environ.get(VARIABLE):
        return ""
    resumed = getattr(args, "resume", False)
    counts = MOST if "finalists" in args else {**MOST, "seeds": SEEDS_TO_COMPARE}
    for key, most in counts.items():
        given = getattr(args, key, None)
        if given is not None:
            setattr(args, key, min(given, most))
        elif key in args and not resumed and key not in OPTIONAL:
            setattr(args, key, most)
    if "images" in args:
        args.width = min(args.width, NARROW)
    for key in ("recipe", "final_recipe"):
        if key in args and not resumed:
            setattr(args, key, RECIPE)
    return f"{VARIABLE} is set: counts are cut, and the result means nothing"
