"""What merging parallel branches is worth: a network as it is trained against the same as deployed.

For GhostNetV3 and RepGhostNet at 1.0x with random weights, PyTorch on one core runs the graph with
its branches and batch norms, and the graph of `ghostnas.ir.branches.merge_weights`. The table has
the median milliseconds of one 224 px image, taken in turns, and the largest difference of a logit
relative to the largest logit.

    python scripts/branches_benchmark.py --rounds 30
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from ghostnas.backends.torch_module import Net, net_of
from ghostnas.ir.branches import count_terms, merge_weights
from ghostnas.ir.graph import Graph, weight_shapes
from ghostnas.ir.random_weights import random_weights
from ghostnas.networks import zoo
from ghostnas.networks.arch import lower

NETWORKS = ("ghostnetv3", "repghostnet")


def milliseconds(nets: tuple[Net, ...], image: torch.Tensor, rounds: int) -> list[float]:
    """The median of each network's, which take turns."""
    found: list[list[float]] = [[] for _ in nets]
    for round_ in range(rounds + 1):
        for own, net in zip(found, nets, strict=True):
            began = time.perf_counter()
            net(image)
            if round_:  # the first prepares
                own.append(1e3 * (time.perf_counter() - began))
    return [statistics.median(own) for own in found]


def nets_of(graph: Graph) -> tuple[Net, Net]:
    """As trained and as deployed, in evaluation mode."""
    weights = random_weights(graph, 0)
    trained = net_of(graph, weights)
    merged, found = merge_weights(graph, weights)
    deployed = net_of(
        merged, {key: found[key] for node in merged.nodes for key in weight_shapes(node)}
    )
    trained.eval()
    deployed.eval()
    return trained, deployed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| network | branches merged | trained, ms | deployed, ms | ratio | difference |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in NETWORKS:
        graph = lower(zoo.named(name))
        trained, deployed = nets_of(graph)
        image = torch.randn(1, *graph.input_shape)
        with torch.inference_mode():
            before, after = trained(image), deployed(image)
            difference = float((before - after).abs().max() / before.abs().max())
            times = milliseconds((trained, deployed), image, asked.rounds)
        merged = len(count_terms(graph))
        print(
            f"| {name} | {merged} | {times[0]:.1f} | {times[1]:.1f} | "
            f"{times[1] / times[0]:.2f} | {difference:.0e} |"
        )


if __name__ == "__main__":
    main()
