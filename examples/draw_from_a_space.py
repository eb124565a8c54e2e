"""What a space holds within a budget: random networks, their costs, and the fastest of them.

python examples/draw_from_a_space.py --budget-mflops 150 --count 200
"""

import argparse
import random

import ghostnas
from ghostnas.ir.cost import count
from ghostnas.networks.arch import lower


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", default="ghostnet")
    parser.add_argument("--target", default="arm")
    parser.add_argument("--budget-mflops", type=float, default=150.0)
    parser.add_argument("--count", type=int, default=200)
    args = parser.parse_args()
    space = ghostnas.load_space(args.space)
    rng = random.Random(0)
    drawn = [space.decode(space.sample(rng)) for _ in range(args.count)]
    costs = {arch: count(lower(arch)) for arch in drawn}
    fit = [arch for arch in drawn if costs[arch].macs <= args.budget_mflops * 1e6]
    print(f"{len(fit)} of {len(drawn)} random networks have {args.budget_mflops:g} MFLOPs or fewer")
    latencies = {arch: ghostnas.predict_latency(arch, args.target).latency_ms for arch in fit}
    for arch in sorted(fit, key=latencies.__getitem__)[:5]:
        cost = costs[arch]
        print(
            f"{arch.id}: {latencies[arch]:.1f} ms, {cost.macs / 1e6:.0f} MFLOPs, "
            f"{cost.params / 1e6:.1f} M parameters, {arch.resolution} px"
        )


if __name__ == "__main__":
    main()
