"""How much faster the proxy loop trains than the straightforward PyTorch loop, in one run.

    python scripts/training_benchmark.py [--data synthetic] [--arch ghostnet] [--rounds 3]

The straightforward loop is what a tutorial shows: a Dataset that transforms one image at a time, a
DataLoader with two workers, planes in memory (NCHW), eager float32, the library's threads, one
network after another, and the held-out images at the end. The proxy loop is a search's: as many
processes as cores, with one thread each. Both train the same networks for the same steps and
measure accuracy on the same held-out images. They take turns; the medians are printed.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ghostnas.data import datasets
from ghostnas.data.images import Pictures
from ghostnas.nas.evaluators import EvaluatorPool
from ghostnas.networks.arch import Arch, lower
from ghostnas.networks.zoo import ghostnet
from ghostnas.processes import usable_cpus
from ghostnas.training import recipe, splits
from ghostnas.training.initialization import fresh
from ghostnas.training.recipe import Recipe
from ghostnas.training.splits import Split


class Tutorial(Dataset):
    """One image at a time: padded, cropped, mirrored, normalised."""

    def __init__(self, pictures: Pictures, split: Split, padding: int | None) -> None:
        self.pictures, self.padding = pictures, padding
        self.mean = torch.tensor(split.preprocessing.mean).view(3, 1, 1)
        self.std = torch.tensor(split.preprocessing.std).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = torch.from_numpy(self.pictures.images[index]).permute(2, 0, 1).float() / 255
        image = (image - self.mean) / self.std
        if self.padding is not None:
            size = image.shape[1]
            image = F.pad(image, [self.padding] * 4)
            top, left = torch.randint(0, 2 * self.padding + 1, (2,)).tolist()
            image = image[:, top : top + size, left : left + size]
            if torch.rand(()) < 0.5:
                image = image.flip(2)
        return image, int(self.pictures.labels[index])


def straightforward(arch: Arch, split: Split, how: Recipe, seed: int) -> float:
    net = fresh(lower(splits.fit(arch, split)), seed)
    optimizer = torch.optim.AdamW(net.parameters(), how.learning_rate, weight_decay=0.02)
    train = Tutorial(split.train, split, how.crop_padding)
    held_out = Tutorial(split.validation, split, None)
    batches = DataLoader(train, how.batch_size, shuffle=True, num_workers=2, drop_last=True)
    for _ in range(how.epochs):
        net.train()
        for images, labels in batches:
            loss = F.cross_entropy(net(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    net.eval()
    right = 0
    with torch.no_grad():
        for images, labels in DataLoader(held_out, 250, num_workers=2):
            right += int((net(images).argmax(1) == labels).sum())
    return right / len(held_out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--recipe", default="quick")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    how = recipe.load(args.recipe)
    split = splits.split(datasets.load(args.data), how)
    arch = ghostnet(args.width)
    workers = usable_cpus()
    pool = EvaluatorPool(args.data, how, workers)
    for future in [pool.submit(arch, seed) for seed in range(workers)]:  # processes and data
        future.result()
    pictures = len(split.train) // how.batch_size * how.batch_size * how.epochs
    ours, theirs = [], []
    for round_ in range(args.rounds):
        began = time.perf_counter()
        found = [pool.submit(arch, 10 * round_ + seed) for seed in range(workers)]
        accuracies = [future.result() for future in found]
        ours.append((time.perf_counter() - began) / workers)
        began = time.perf_counter()
        accuracy = straightforward(arch, split, how, round_)
        theirs.append(time.perf_counter() - began)
        print(
            f"round {round_ + 1}: proxy {ours[-1]:.1f} s per trial ({np.mean(accuracies):.1%}), "
            f"straightforward {theirs[-1]:.1f} s ({accuracy:.1%})",
            flush=True,
        )
    pool.close()
    quick, slow = statistics.median(ours), statistics.median(theirs)
    print(
        f"{pictures} images and {len(split.validation)} held out per trial, GhostNet "
        f"{args.width:g}x at {split.resolution} px, {workers} cores:\n"
        f"proxy loop {pictures / quick:.0f} images per second, {quick:.1f} s per trial\n"
        f"straightforward loop {pictures / slow:.0f} images per second, {slow:.1f} s per trial\n"
        f"ratio {slow / quick:.2f}"
    )


if __name__ == "__main__":
    main()
