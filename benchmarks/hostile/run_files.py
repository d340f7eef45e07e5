"""What a run keeps: records, its recipe, weights, logits and decoded photos; each file is spoiled and then used."""

from __future__ import annotations

import io
import json
import math
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from ensemble.jobs.job import Job
from ensemble.recipes.recipe_file import load_recipe, with_weights
from folds.files import sha256
from folds.records import sealed
from folds.run_folder import load_run
from hostile.judge import Verdict, command, judge, judge_call
from hostile.mutations import DEEP, spoiled_bytes, spoiled_text, spoiled_toml, spoiled_tree
from hostile.tables import spoiled_csv
from hostile.workplace import Workplace

JOBS = [(task, fold) for task in ("heads", "mask") for fold in range(2)]
INFORMATION = ("created", "versions", "data", "sha256")  # keys of run.json that decide nothing themselves
UNVERIFIED = "can't be verified"


# Records


def run_json(rng: Random, place: Workplace) -> Verdict:
    """A run.json that says something else is refused."""
    return _record(rng, place, place.run / "run.json", lambda record, scoring: _without(record, INFORMATION))


def tuning_json(rng: Random, place: Workplace) -> Verdict:
    """A tuning.json that says something else is refused: what it holds is applied."""
    return _record(rng, place, place.run / "tuning.json", lambda record, scoring: _without(record, ("sha256",)))


def job_json(rng: Random, place: Workplace) -> Verdict:
    """A job.json that vouches for other files, or for none, is refused or reported."""

    def vouched(record: Any, scoring: bool) -> Any:
        sums = _get(record, "checksums")
        return _get(record, "state"), _get(sums, "oof.npz") if scoring else sums  # scoring uses no models

    task, fold = rng.choice(JOBS)
    return _record(rng, place, place.run / task / f"fold{fold}" / "job.json", vouched)


def _record(rng: Random, place: Workplace, file: Path, said: Callable[[Any, bool], Any]) -> Verdict:
    """Spoil a record and predict, or score, with it.

    Args:
        said: what of a record may not change without a word, to scoring or predicting.
    """
    text = file.read_text()
    spoiled = spoiled_json(rng, text)
    scoring = rng.random() < 0.4
    ended, same = place.used({file: spoiled}, "score" if scoring else "infer")

    def fault() -> str:
        if not same:
            return "another result"
        try:
            after = json.loads(spoiled)
        except (ValueError, RecursionError):
            after = None
        changed = said(after, scoring) != said(json.loads(text), scoring)
        return "nobody says that it was changed" if changed and UNVERIFIED not in ended.out else ""

    return judge(ended, fault)


def spoiled_json(rng: Random, text: str) -> bytes:
    """JSON with a value or its text otherwise."""
    if rng.random() < 0.03:
        return b"[" * DEEP + b"]" * DEEP
    if rng.random() < 0.03:
        return text.replace("{", '{"x": ' + "[" * DEEP + "]" * DEEP + ", ", 1).encode()
    if rng.random() < 0.65:
        return json.dumps(spoiled_tree(rng, json.loads(text)), indent=2).encode()
    return spoiled_text(rng, text)


def _without(record: Any, keys: tuple[str, ...]) -> Any:
    return {k: v for k, v in record.items() if k not in keys} if isinstance(record, dict) else record


def _get(record: Any, key: str) -> Any:
    return record.get(key) if isinstance(record, dict) else None


def run_recipe(rng: Random, place: Workplace) -> Verdict:
    """The recipe.toml of a run, to whose content run.json is bound."""
    file = place.run / "recipe.toml"
    text = file.read_text()
    spoiled = spoiled_toml(rng, tomllib.loads(text)).encode() if rng.random() < 0.5 else spoiled_text(rng, text)
    ended, same = place.used({file: spoiled}, "score")
    return judge(ended, lambda: "" if same else "an edited recipe gives another score")


def run_folds_csv(rng: Random, place: Workplace) -> Verdict:
    """The folds.csv of a run, to whose text run.json is bound, whatever its line ends."""
    file = place.run / "folds.csv"
    before = file.read_bytes()
    spoiled = spoiled_csv(rng, before)
    ended, _ = place.used({file: spoiled}, "score")
    return judge(ended, lambda: "" if spoiled.replace(b"\r\n", b"\n") == before else "an edited folds.csv was accepted")


# Weights and logits of jobs


def checkpoint(rng: Random, place: Workplace) -> Verdict:
    """A model.safetensors with other bytes is refused; where job.json is lost, its use is reported."""
    return _job_file(rng, place, "model.safetensors")


def job_logits(rng: Random, place: Workplace) -> Verdict:
    """A job's oof.npz with other bytes is refused; where job.json is lost, its use is reported."""
    return _job_file(rng, place, "oof.npz")


def _job_file(rng: Random, place: Workplace, name: str) -> Verdict:
    task, fold = rng.choice(JOBS)
    file = place.run / task / f"fold{fold}" / name
    files: dict[Path, bytes | None] = {file: spoiled_bytes(rng, file.read_bytes())}
    vouched = rng.random() < 0.5
    if not vouched:
        files[file.with_name("job.json")] = None
    scoring = name == "oof.npz" and rng.random() < 0.7
    ended, _ = place.used(files, "untuned" if scoring else "infer")
    reported = UNVERIFIED in ended.out and not vouched
    return judge(ended, lambda: "" if reported else f"{name} was used, spoiled and without a word")


def resealed_checkpoint(rng: Random, place: Workplace) -> Verdict:
    """A checkpoint that its job vouches for, but that holds something else than its model."""
    task, fold = rng.choice(JOBS)
    file = place.run / task / f"fold{fold}" / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    with safetensors.safe_open(file, framework="np") as opened:
        card = json.loads(opened.metadata()["maskens"])
    name = rng.choice(sorted(tensors))
    way = rng.choice(("another job's", "another job's", "missing", "more", "shape", "dtype", "nan", "card", "card"))
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
    elif way == "card":
        card = spoiled_tree(rng, card)
    content = safetensors.numpy.save(tensors, {"maskens": json.dumps(card)})
    if way == "another job's":
        content = _another(rng, place, file)
    usable = way in ("dtype", "card")  # other numbers in good order are another model, and that can't be told
    return _resealed(place, file, content, "infer", usable)


def resealed_logits(rng: Random, place: Workplace) -> Verdict:
    """Out-of-fold logits that their job vouches for, but that hold something else."""
    task, fold = rng.choice(JOBS)
    file = place.run / task / f"fold{fold}" / "oof.npz"
    content, usable = _spoiled_npz(rng, file.read_bytes())
    if rng.random() < 0.1:
        content, usable = _another(rng, place, file), False
    return _resealed(place, file, content, "untuned", usable)  # as the tuning is of other logits now


def _another(rng: Random, place: Workplace, file: Path) -> bytes:
    """The same file of another job, of the same fold or the same task."""
    others = [place.run / task / f"fold{fold}" / file.name for task, fold in JOBS]
    near = [o for o in others if (o.parent.name == file.parent.name) != (o.parents[1].name == file.parents[1].name)]
    return rng.choice(near).read_bytes()


def _resealed(place: Workplace, file: Path, content: bytes, how: str, usable: bool) -> Verdict:
    """What comes of a job's file whose checksum was made anew; `usable` if it may be told from none in order."""
    status = json.loads(file.with_name("job.json").read_text())
    status["checksums"][file.name] = sha256(content)
    ended, same = place.used({file: content, file.with_name("job.json"): json.dumps(sealed(status)).encode()}, how)
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
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue(), usable


def tuned_logits(rng: Random, place: Workplace) -> Verdict:
    """The tuning.oof.npz by which `maskens score` judges a tuning."""
    file = place.run / "tuning.oof.npz"
    content = file.read_bytes()
    spoiled, usable = _spoiled_npz(rng, content) if rng.random() < 0.4 else (spoiled_bytes(rng, content), False)
    ended, same = place.used({file: spoiled}, "score")
    return judge(ended, lambda: "" if usable or same else "another score")


def eval_logits(rng: Random, place: Workplace) -> Verdict:
    """The eval.npz behind a submission, as `maskens verify` looks at it."""
    file = place.run / "eval.npz"
    content = file.read_bytes()
    spoiled, usable = _spoiled_npz(rng, content) if rng.random() < 0.5 else (spoiled_bytes(rng, content), False)
    with place.spoiled({file: spoiled}):
        ended = command("verify", "--run", place.run)

    def fault() -> str:
        return "" if ended.code == 1 or usable or _arrays(spoiled) == _arrays(content) else "it is said to match"

    return judge(ended, fault, done=(0, 1))


def _arrays(content: bytes) -> dict[str, Any]:
    with np.load(io.BytesIO(content)) as z:
        return {name: z[name].tolist() for name in z.files if name != "record"}


def photo_cache(rng: Random, place: Workplace) -> Verdict:
    """A file of decoded photos that is cut off, or whose header is another's, is made anew."""
    file = min((place.folder / "runs" / ".cache").glob("*.npy"), key=lambda file: file.stat().st_size)
    content = file.read_bytes()
    header = content.index(b"\n") + 1
    other_header = spoiled_bytes(rng, content[:header])[:header].ljust(header) + content[header:]
    spoiled = rng.choice((content[: rng.randrange(len(content))], content + b"x", other_header))
    ended, same = place.used({file: spoiled}, "infer")
    return judge(ended, lambda: "" if same else "another submission")


# Weights and states from elsewhere


def initial_weights(rng: Random, place: Workplace) -> Verdict:
    """A file of initial weights, safetensors or torch's own. What it holds can't be compared with anything."""
    import torch

    from ensemble.models.build import create

    tensors = safetensors.numpy.load_file(place.run / "mask" / "fold0" / "model.safetensors")
    file, buffer = place.scratch(rng.choice(("weights.safetensors", "weights.pth"))), io.BytesIO()
    torch.save({name: torch.from_numpy(array.copy()) for name, array in tensors.items()}, buffer)
    content = buffer.getvalue() if file.suffix == ".pth" else safetensors.numpy.save(tensors)
    file.write_bytes(spoiled_bytes(rng, content))
    recipe = load_recipe(str(place.folder / "tiny.toml"))
    return judge_call(
        lambda: create(with_weights(recipe, [str(file)], pretrained=True).tasks["mask"]), lambda model: ""
    )


def interrupted_state(rng: Random, place: Workplace) -> Verdict:
    """The last.pt of an interrupted job: damaged, it is refused."""
    import torch

    from ensemble.training.trainer import load_last, save_last

    job = Job(replace(load_run(place.run), folder=place.scratch("run")), "mask", 0)
    identity = {"task": "mask", "fold": 0}
    weights = torch.from_numpy(np.random.default_rng(0).random((64, 64)))
    save_last(job, {"identity": identity, "trained": {"weights": weights}, "history": [{"f1": 0.5}]})
    job.last.write_bytes(spoiled_bytes(rng, job.last.read_bytes()))

    def fault(state: dict[str, Any] | None) -> str:
        same = state and torch.equal(state["trained"]["weights"], weights) and state["history"] == [{"f1": 0.5}]
        return "" if same else "a job would resume from another state"

    return judge_call(lambda: load_last(job, identity), fault)
