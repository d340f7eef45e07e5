"""What keeping memory in the process (ensemble/models/process.py) is worth, beside the C library's own way.

    python benchmarks/allocator.py [--rounds 3]

Each figure comes from a process of its own, the two ways in turn: one model from scratch predicts and trains on
random tensors. Where the C library is not glibc both ways are the same.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time

MODELS = (("tf_efficientnet_lite0", 128, 96, 32), ("test_resnet", 64, 48, 16), ("tf_efficientnet_b3", 380, 350, 8))


def measure(name: str, height: int, width: int, batch: int, kept: bool) -> None:
    """Print (photos a second predicted, trained)."""
    import timm
    import torch

    from ensemble.models.inputs import to_device
    from ensemble.models.process import configure_process

    threads = torch.get_num_threads()
    if kept:
        configure_process(threads)
    model = to_device(timm.create_model(name, num_classes=8), torch.device("cpu"))
    x = torch.randn(batch, 3, height, width).to(memory_format=torch.channels_last)
    y = torch.randint(0, 8, (batch,))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def predict() -> None:
        model.eval()
        with torch.inference_mode():
            model(x)

    def train() -> None:
        model.train()
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    speeds = []
    for what in (predict, train):
        what()
        times = []
        for _ in range(5):
            started = time.perf_counter()
            what()
            times.append(time.perf_counter() - started)
        speeds.append(batch / min(times))
    print(*speeds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        name, *numbers = args.one
        height, width, batch, kept = map(int, numbers)
        return measure(name, height, width, batch, bool(kept))
    print(f"{platform.machine()}, {os.cpu_count()} cores, {' '.join(platform.libc_ver())}\n")
    print("| model | what | photos/s, as it is | photos/s, kept | ratio, median (min-max) |\n|---|---|---|---|---|")
    for model in MODELS:
        rounds = []
        for _ in range(args.rounds):
            pair = []
            for kept in (0, 1):
                command = [sys.executable, __file__, "--one", *map(str, model), str(kept)]
                pair.append([float(v) for v in subprocess.check_output(command, text=True).split()])
            rounds.append(pair)
        for number, what in enumerate(("predict", "train")):
            plain, kept_ = ([r[way][number] for r in rounds] for way in (0, 1))
            ratios = sorted(b / a for a, b in zip(plain, kept_, strict=True))
            spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
            print(
                f"| {model[0]}, {model[1]}x{model[2]} | {what}, batch {model[3]} | {statistics.median(plain):.1f} "
                f"| {statistics.median(kept_):.1f} | {spread} |"
            )
    return None


if __name__ == "__main__":
    main()
