"""How often inference opens a photo, and what it saves: one pass for all models beside a pass for each.

    python benchmarks/inference_decodes.py [--photos 600]

Twenty models from scratch (4 tasks x 5 folds, recipe demo) over generated photos, with flip. The other way is the
usual loop: for each model, go over the photos once more. Both without a cache, so that opening a photo costs what
it costs; the logits are compared.
"""

from __future__ import annotations

import argparse
import collections
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import ensemble.cache
import folds.decode
from ensemble.infer import infer
from ensemble.members import Ensemble, Member
from ensemble.models import ModelCard, create, load_checkpoint, normalisation, save_checkpoint
from ensemble.predict import predict
from ensemble.recipe_file import load_recipe
from ensemble.train import Hardware
from folds.layout import read_eval
from folds.sample import write_sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=600)
    args = parser.parse_args()
    opened: collections.Counter[str] = collections.Counter()

    def counting(path: Path) -> np.ndarray:
        opened[path.name] += 1
        return folds.decode.read_photo(path)

    ensemble.cache.read_photo = counting  # type: ignore[attr-defined]
    recipe, hardware = load_recipe("demo"), Hardware("cpu", 0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_sample(root / "data", 6, eval_people=-(-args.photos // 7))
        data = read_eval(root / "data")
        members = []
        for task, spec in recipe.tasks.items():
            for fold in range(5):
                model = create(spec)
                mean, std = normalisation(model)
                card = ModelCard(
                    model=spec.model, model_args={}, predicts=spec.predicts, cuts=spec.ages.cuts,
                    merge=spec.ages.bands, task=task, fold=fold, k=5, resize=spec.resize, crop=spec.crop, mean=mean,
                    std=std, labels={}, task_hash="", folds_hash="", seed=0, epoch=1, f1=0.0,
                )  # fmt: skip
                path = root / task / f"fold{fold}" / "model.safetensors"
                save_checkpoint(path, model, card)
                members.append(Member(task, fold, path, card))
        started = time.perf_counter()
        ours = infer([Ensemble(tuple(members), {})], data, "flip", hardware, None)
        our_seconds, our_opened = time.perf_counter() - started, sum(opened.values())
        opened.clear()
        started = time.perf_counter()
        worst, rows = 0.0, np.arange(len(data.ids))
        for member in members:
            model, card = load_checkpoint(member.path, torch.device("cpu"))
            shape = ensemble.cache.Geometry(card.resize, card.crop)
            photos = ensemble.cache.Photos(data.root, data.files, [shape], None)
            found = predict(model, photos, rows, card.mean, card.std, torch.device("cpu"), "flip", 64, 0)
            worst = max(worst, float(np.abs(found - ours.logits[0][member.task][member.fold]).max()))
        their_seconds = time.perf_counter() - started
    print(f"{len(members)} models, {len(data.ids)} photos, flip; largest difference of a logit {worst:.1e}\n")
    print("| way | photos opened | seconds |\n|---|---|---|")
    print(f"| one pass for all models | {our_opened} | {our_seconds:.1f} |")
    print(f"| a pass for each model | {sum(opened.values())} | {their_seconds:.1f} |")
    print(f"\nratio {their_seconds / our_seconds:.1f}")


if __name__ == "__main__":
    main()
