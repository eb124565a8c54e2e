"""What the paper's experiments train: a named network at a width, perhaps with Ghost modules."""

from __future__ import annotations

from dataclasses import dataclass

from ghostnas.ir.graph import Graph
from ghostnas.networks import zoo
from ghostnas.networks.ghostify import ghostify


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A network of `ghostnas.networks.zoo`; with `s`, its convolutions as Ghost modules of that
    ratio whose cheap operation has kernel `d`.
    """

    network: str
    width: float = 1.0
    s: int | None = None
    d: int = 3

    @property
    def title(self) -> str:
        """``Ghost-vgg16 (s=2, d=3) 0.25x`` or ``vgg16``."""
        ghost = f"Ghost-{self.network} (s={self.s}, d={self.d})" if self.s else self.network
        return ghost if self.width == 1 else f"{ghost} {self.width:g}x"

    @property
    def slug(self) -> str:
        """The title as part of a file's name."""
        ghost = f"-s{self.s}-d{self.d}" if self.s else ""
        return f"{self.network}{ghost}-{self.width:g}x"


def graph_of(subject: Subject, resolution: int, classes: int) -> Graph:
    """The subject for images of so many pixels.

    Raises:
        InputError: there is no such network, or s or d is out of range.
    """
    graph = zoo.graph(subject.network, subject.width, resolution, classes)
    return ghostify(graph, subject.s, subject.d) if subject.s else graph
