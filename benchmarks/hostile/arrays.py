"""Weights and logits: safetensors, npz, initial weights, and the cache of decoded photos."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from ensemble.recipes.initial_weights import with_weights
from ensemble.recipes.reading import load_recipe
from folds.files import sha256
from hostile.judge import Verdict, command, judge, judge_call
from hostile.mutations import spoiled_bytes, spoiled_tree
from hostile.records import UNVERIFIED, infer
from hostile.workplace import Workplace

Arrays = dict[str, Any]

JOBS = [(task, fold) for task in ("heads", "mask") for fold in range(2)]


def checkpoint(rng: Random, place: Workplace) -> Verdict:
    """A model.safetensors with other bytes is refused; where job.json is lost, its use is at least told."""
    return _job_file(rng, place, "model.safetensors", spoiled_bytes)


def job_logits(rng: Random, place: Workplace) -> Verdict:
    """A job's oof.npz with other bytes is refused; where job.json is lost, its use is at least told."""
    return _job_file(rng, place, "oof.npz", spoiled_bytes)


def _job_file(rng: Random, place: Workplace, name: str, spoil: Callable[[Random, bytes], bytes]) -> Verdict:
    task, fold = rng.choice(JOBS)
    folder = place.run / task / f"fold{fold}"
    vouched = rng.random() < 0.5
    status = (folder / "job.json").read_bytes() if vouched else None
    spoiled = spoil(rng, (folder / name).read_bytes())
    scoring = name == "oof.npz" and rng.random() < 0.7
    with place.spoiled(folder / name, spoiled), place.spoiled(folder / "job.json", status):
        score = ("score", "--run", place.run, "--json", "--untuned")
        ended = command(*score) if scoring else infer(place, place.scratch("s.csv"))
    told = UNVERIFIED in ended.out and not vouched
    return judge(ended, lambda: "" if told else f"{name} was used, spoiled and without a word")


def resealed_checkpoint(rng: Random, place: Workplace) -> Verdict:
    """A checkpoint that its job vouches for, but that holds something else than its model."""
    task, fold = rng.choice(JOBS)
    file = place.run / task / f"fold{fold}" / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    with safetensors.safe_open(file, framework="np") as opened:
        card = json.loads(opened.metadata()["maskens"])
    name = rng.choice(sorted(tensors))
    way = rng.choice(("another task's", "another fold's", "missing", "more", "shape", "dtype", "nan", "card", "card"))
    if way.startswith("another"):
        other = (next(t for t, _ in JOBS if t != task), fold) if "task" in way else (task, 1 - fold)
        content = (place.run / other[0] / f"fold{other[1]}" / "model.safetensors").read_bytes()
    else:
        if way == "missing":
            del tensors[name]
        elif way == "more":
            tensors["stranger"] = np.zeros(3, np.float32)
        elif way == "shape":
            tensors[name] = tensors[name].reshape(-1)[: rng.randrange(2)]
        elif way == "dtype":
            tensors[name] = tensors[name].astype(rng.choice((np.int32, np.float16, np.bool_)))
        elif way == "nan":
            tensors = {k: np.full_like(v, np.nan) if v.dtype == np.float32 else v for k, v in tensors.items()}
        else:
            card = spoiled_tree(rng, card)
        content = safetensors.numpy.save(tensors, {"maskens": json.dumps(card)})
    usable = way in ("dtype", "card")  # other numbers in good order are another model, and that can't be told
    return _resealed(place, file, content, scoring=False, usable=usable)


def resealed_logits(rng: Random, place: Workplace) -> Verdict:
    """Out-of-fold logits that their job vouches for, but that hold something else."""
    task, fold = rng.choice(JOBS)
    file = place.run / task / f"fold{fold}" / "oof.npz"
    if rng.random() < 0.1:
        other = (next(t for t, _ in JOBS if t != task), fold) if rng.random() < 0.5 else (task, 1 - fold)
        content, usable = (place.run / other[0] / f"fold{other[1]}" / "oof.npz").read_bytes(), False
    else:
        content, usable = _spoiled_npz(rng, file.read_bytes())
    return _resealed(place, file, content, scoring=True, usable=usable)


def _resealed(place: Workplace, file: Path, content: bytes, scoring: bool, usable: bool) -> Verdict:
    """What comes of a job's file whose checksum was made anew; `usable` if it may be told from none in order."""
    status = json.loads(file.with_name("job.json").read_text())
    status["sha256"][file.name] = sha256(content)
    score, before, out = place.untuned_score, place.submission, place.scratch("s.csv")
    with place.spoiled(file, content), place.spoiled(file.with_name("job.json"), json.dumps(status).encode()):
        untuned = ("score", "--run", place.run, "--json", "--untuned")  # as the tuning is of other logits now
        ended = command(*untuned) if scoring else infer(place, out)
    same = ended.out == score if scoring else out.exists() and out.read_bytes() == before
    return judge(ended, lambda: "" if usable or same else f"{file.name} was used, and is not its job's")


def _spoiled_npz(rng: Random, content: bytes) -> tuple[bytes, bool]:
    """(an npz with an array otherwise, whether it may be one in good order)."""
    with np.load(io.BytesIO(content)) as z:
        arrays = {name: z[name] for name in z.files}
    name = rng.choice(sorted(arrays))
    array = arrays[name]
    way = rng.choice(("missing", "shape", "dtype", "nan", "cut", "record", "views", "object"))
    usable = False
    if way == "missing":
        del arrays[name]
    elif way == "shape":
        arrays[name] = rng.choice((array.reshape(-1), array[None], array[..., None]))
    elif way == "dtype" and array.dtype.kind == "f":
        arrays[name] = array.astype(rng.choice((np.float64, np.int32, np.complex64, np.bool_, "U8", "S8")))
        usable = True
    elif way == "nan" and array.dtype.kind == "f":
        array[(rng.randrange(len(array)), *([0] * (array.ndim - 1)))] = rng.choice((math.nan, math.inf))
    elif way == "cut" and array.ndim:
        arrays[name] = np.moveaxis(np.moveaxis(array, axis := rng.randrange(array.ndim), 0)[:-1], 0, axis)
    elif way == "record" and "record" in arrays:
        record = spoiled_tree(rng, json.loads(str(arrays["record"])))
        arrays["record"], usable = np.array(json.dumps(record)), True
    elif way == "views" and "views" in arrays:
        arrays["views"] = np.array(rng.choice((["identity", "identity"], [1, 2], ["hflip", "x"], [])))
    else:
        arrays[name] = np.array([{}], dtype=object)
    return _npz(arrays), usable


def _npz(arrays: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def tuned_logits(rng: Random, place: Workplace) -> Verdict:
    """The tuning.oof.npz by which `maskens score` judges a tuning."""
    file, score = place.run / "tuning.oof.npz", place.score
    content = file.read_bytes()
    by_array = rng.random() < 0.4
    spoiled, usable = _spoiled_npz(rng, content) if by_array else (spoiled_bytes(rng, content), False)
    with place.spoiled(file, spoiled):
        ended = command("score", "--run", place.run, "--json")
    return judge(ended, lambda: "" if usable or ended.out == score else "another score")


def eval_logits(rng: Random, place: Workplace) -> Verdict:
    """The eval.npz behind a submission, as `maskens verify` looks at it."""
    file = place.run / "eval.npz"
    content = file.read_bytes()
    by_array = rng.random() < 0.5
    spoiled, usable = _spoiled_npz(rng, content) if by_array else (spoiled_bytes(rng, content), False)
    with place.spoiled(file, spoiled):
        ended = command("verify", "--run", place.run)

    def fault() -> str:
        return "" if ended.code == 1 or usable or _arrays(spoiled) == _arrays(content) else "it is said to match"

    return judge(ended, fault, done=(0, 1))


def _arrays(content: bytes) -> Arrays:
    with np.load(io.BytesIO(content)) as z:
        return {name: z[name].tolist() for name in z.files if name != "record"}


def initial_weights(rng: Random, place: Workplace) -> Verdict:
    """A file of initial weights, safetensors or torch's own. What it holds can't be held against anything."""
    import torch

    from ensemble.models.create import create

    tensors = safetensors.numpy.load_file(place.run / "mask" / "fold0" / "model.safetensors")
    suffix = rng.choice((".safetensors", ".pth"))
    if suffix == ".pth":
        buffer = io.BytesIO()
        torch.save({name: torch.from_numpy(array.copy()) for name, array in tensors.items()}, buffer)
        content = buffer.getvalue()
    else:
        content = safetensors.numpy.save(tensors)
    file = place.scratch(f"weights{suffix}")
    file.write_bytes(spoiled_bytes(rng, content))
    recipe = load_recipe(str(place.folder / "tiny.toml"))
    return judge_call(
        lambda: create(with_weights(recipe, [str(file)], pretrained=True).tasks["mask"]), lambda model: ""
    )


def state_to_go_on_from(rng: Random, place: Workplace) -> Verdict:
    """The last.pt of an interrupted job: damaged, it is refused."""
    import torch

    from ensemble.training.resume import load_last, save_last

    folder, identity = place.scratch("fold0"), {"task": "mask", "fold": 0}
    weights = torch.from_numpy(np.random.default_rng(0).random((64, 64)))
    save_last(folder, identity, {"weights": weights}, [{"f1": 0.5}])
    (folder / "last.pt").write_bytes(spoiled_bytes(rng, (folder / "last.pt").read_bytes()))

    def fault(state: dict[str, Any] | None) -> str:
        same = state and torch.equal(state["trained"]["weights"], weights) and state["history"] == [{"f1": 0.5}]
        return "" if same else "a job would go on from another state"

    return judge_call(lambda: load_last(folder, identity), fault)


def photo_cache(rng: Random, place: Workplace) -> Verdict:
    """A file of decoded photos that is cut off, or whose header is another's, is made anew."""
    files = sorted((place.folder / "runs" / ".cache").glob("*.npy"), key=lambda file: file.stat().st_size)
    content = files[0].read_bytes()
    header = content.index(b"\n") + 1
    way = rng.randrange(3)
    if way == 0:
        spoiled = content[: rng.randrange(len(content))]
    elif way == 1:
        spoiled = content + b"x"
    else:
        spoiled = spoiled_bytes(rng, content[:header])[:header].ljust(header) + content[header:]
    out = place.scratch("s.csv")
    with place.spoiled(files[0], spoiled):
        ended = infer(place, out)
    return judge(ended, lambda: "" if out.read_bytes() == place.submission else "another submission")
