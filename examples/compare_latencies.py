"""Which network is fastest where: predicted latencies of known networks on every float32 target.

python examples/compare_latencies.py ghostnet mobilenetv3-large
"""

import argparse

import ghostnas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="+", help="names, .json files or run folders")
    names = parser.parse_args().networks
    targets = [row["target"] for row in ghostnas.list_targets() if row["dtype"] == "fp32"]
    print("target".ljust(20), *(name.rjust(20) for name in names))
    for target in targets:
        found = [ghostnas.predict_latency(name, target) for name in names]
        cells = [
            f"{each.latency_ms:.1f} ({each.low_ms:.1f}-{each.high_ms:.1f}) ms" for each in found
        ]
        print(target.ljust(20), *(cell.rjust(20) for cell in cells))


if __name__ == "__main__":
    main()
