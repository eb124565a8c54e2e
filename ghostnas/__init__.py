"""ghostnas: for one device and one budget, the best GhostNet, trained and exported.

What the commands do, as functions of Python: `search`, `pick`, `report`, `supernet`, `train`,
`evaluate`, `export`, `show`, `predict_latency`, `build_table`, `check_table`, `calibrate_table`,
`import_table`, `list_targets`, `load_blocks`, `load_network`, `load_space`, `load_data`,
`ghostify`, `paper_table`, `paper_figures`, `paper_seeds`, `paper_page`; `DeviceOptions` says how to
measure on a device. Each is loaded when it is first asked for; importing ghostnas loads neither
torch nor Optuna nor a runtime.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ghostnas._version import __version__ as __version__

if TYPE_CHECKING:
    from ghostnas.api import (
        DeviceOptions,
        build_table,
        calibrate_table,
        check_table,
        evaluate,
        export,
        ghostify,
        import_table,
        list_targets,
        load_blocks,
        load_data,
        load_network,
        load_space,
        paper_figures,
        paper_page,
        paper_seeds,
        paper_table,
        pick,
        predict_latency,
        report,
        search,
        show,
        supernet,
        train,
    )
    from ghostnas.errors import GhostnasError
    from ghostnas.ir.graph import Graph
    from ghostnas.latency.predictor import Prediction
    from ghostnas.networks.arch import Arch
    from ghostnas.networks.space import Space
    from ghostnas.training.recipe import Recipe

__all__ = [
    "Arch",
    "DeviceOptions",
    "GhostnasError",
    "Graph",
    "Prediction",
    "Recipe",
    "Space",
    "build_table",
    "calibrate_table",
    "check_table",
    "evaluate",
    "export",
    "ghostify",
    "import_table",
    "list_targets",
    "load_blocks",
    "load_data",
    "load_network",
    "load_space",
    "paper_figures",
    "paper_page",
    "paper_seeds",
    "paper_table",
    "pick",
    "predict",
    "predict_latency",
    "report",
    "search",
    "show",
    "supernet",
    "train",
]
_TYPES = {
    "Arch": "ghostnas.networks.arch",
    "GhostnasError": "ghostnas.errors",
    "Graph": "ghostnas.ir.graph",
    "Prediction": "ghostnas.latency.predictor",
    "Recipe": "ghostnas.training.recipe",
    "Space": "ghostnas.networks.space",
}


def __getattr__(name: str) -> Any:
    """The verb or type of this name, imported when it is first asked for (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_TYPES.get(name, "ghostnas.api")), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
