"""What it takes to do a search again: the command, the settings, the files' hashes."""

from __future__ import annotations

import hashlib

from ghostnas.errors import GhostnasError
from ghostnas.files import read_bytes
from ghostnas.nas.history import History
from ghostnas.networks import space
from ghostnas.pages.page import shell

HASHED = ("search.toml", "best.json", "trials.csv", "result.json")


def settings(found: History) -> list[tuple[str, str]]:
    """What the search was asked to do, as names and values; without what it was not asked."""
    asked = found.settings
    told = [
        ("data", asked.data),
        ("fingerprint of the images", asked.fingerprint),
        ("space", f"{asked.space}{_space_hash(asked.space)}"),
        ("budgets", ", ".join(asked.budgets)),
        ("target", asked.target),
        ("confidence of latency budgets", str(asked.confidence or "")),
        (
            "deployment",
            asked.deploy + (f", {asked.resolution} px" if asked.resolution else ""),
        ),
        ("recipe of the trials", asked.recipe),
        ("recipe of the finalists", asked.final_recipe),
        ("scorer", asked.scorer),
        ("sampler", asked.sampler),
        ("screened without training", str(asked.screened or "")),
        ("halving", str(asked.halving or "")),
        ("trials, finalists, seeds", f"{asked.trials}, {asked.finalists}, {asked.seeds}"),
        ("seed", str(asked.seed)),
        ("warm start", asked.warm_start),
    ]
    return [(name, value) for name, value in told if value]


def command(found: History) -> str:
    """The command that starts the same search again."""
    asked = found.settings
    words = ["ghostnas", "search", "--target", asked.target]
    for each in asked.budgets:
        words += ["--budget", each]
    for each in asked.blocks:
        words += ["--blocks", each]
    for name in (
        *("space", "data", "effort", "recipe", "final_recipe", "scorer", "screened", "trials"),
        *("halving", "sampler", "pareto", "seed", "finalists", "seeds", "deploy", "resolution"),
        *("confidence", "warm_start"),
    ):
        value = getattr(asked, name)
        if value not in ("", 0) or name in ("seed", "halving", "screened"):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shell([*words, "--out", f"{found.folder}-again"])


def _space_hash(name: str) -> str:
    try:
        return f", hash {space.load(name).hash}"
    except GhostnasError:
        return ", whose file is gone"


def hashes(found: History) -> list[tuple[str, str]]:
    """sha256 of the run folder's files, as far as they are there."""
    files = [found.folder / name for name in HASHED]
    files += sorted((found.folder / "export").glob("model.*"))
    files += sorted((found.folder / "proxy").glob("model.*"))
    return [
        (str(path.relative_to(found.folder)), hashlib.sha256(read_bytes(path)).hexdigest())
        for path in files
        if path.is_file()
    ]
