"""What int8 does to each model and to the ensemble, for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from folds.pages.tables import new_table

if TYPE_CHECKING:
    from ensemble.inference.quantize import EnsembleScore, Quantization


def quantize_table(found: Quantization) -> Table:
    """Each model by each engine: macro F1 of its task on its held-out fold in fp32 and in int8."""
    table = new_table("macro F1 on people the model never saw, and photos of which a label changes")
    for name in ("model", "engine"):
        table.add_column(name, no_wrap=True)
    for name in ("fp32", "int8", "drop", "changed", "used"):
        table.add_column(name, justify="right", no_wrap=True)
    for model in found.models:
        record = model.record
        for engine, score in record.engines.items():
            used = engine in record.accepted
            f1 = (f"{record.f1:.4f}", f"{score.f1:.4f}", f"{record.drop(engine):+.4f}")
            changed = f"{score.changed} of {record.photos}"
            cells = (f"{model.task} fold {model.fold}", engine, *f1, changed, "yes" if used else "no")
            table.add_row(*cells, style=None if used else "dim")
    return table


def quantize_lines(found: Quantization, bound: float) -> list[str]:
    """How many models are accepted, and what that does to the ensemble."""
    lines = []
    for whole in found.ensemble:
        accepted = sum(whole.engine in model.record.accepted for model in found.models)
        lines.append(
            f"{whole.engine}: {accepted} of {len(found.models)} models drop by {bound:g} or less and will predict in "
            f"int8. Out-of-fold macro F1 over the 18 classes: {found.f1:.4f} in fp32, "
            f"{_against(whole.accepted, found)} with these in int8, {_against(whole.every, found)} with all in int8"
        )
    if before := sum(model.before for model in found.models):
        lines.append(f"{before} of {len(found.models)} models were quantized before and not measured again")
    return lines


def _against(score: EnsembleScore, found: Quantization) -> str:
    return f"{score.f1:.4f} ({score.f1 - found.f1:+.4f}, {score.changed} of {found.photos} photos change)"
