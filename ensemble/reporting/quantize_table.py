"""What int8 does to each model and to the ensemble, for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from folds.pages.tables import new_table

if TYPE_CHECKING:
    from ensemble.inference.quantize import Quantization


def quantize_table(found: Quantization) -> Table:
    """Each model by each engine: macro F1 of its task on its held-out fold in fp32 and in int8."""
    table = new_table("int8 on people the model never saw")
    for name in ("model", "engine"):
        table.add_column(name, no_wrap=True)
    for name in ("photos", "F1 fp32", "int8", "drop", "labels changed", ""):
        table.add_column(name, justify="right", no_wrap=True)
    for model in found.models:
        for engine, score in model.record.engines.items():
            accepted = engine in model.record.accepted
            table.add_row(
                f"{model.task} fold {model.fold}",
                engine,
                str(model.record.photos),
                f"{model.record.f1:.4f}",
                f"{score.f1:.4f}",
                f"{model.record.drop(engine):+.4f}",
                str(score.changed),
                "accepted" if accepted else "stays in fp32",
                style=None if accepted else "dim",
            )
    return table


def quantize_lines(found: Quantization, bound: float) -> list[str]:
    """How many models are accepted, and what that does to the ensemble."""
    lines = []
    for whole in found.ensemble:
        accepted = sum(whole.engine in model.record.accepted for model in found.models)
        lines.append(
            f"{whole.engine}: {accepted} of {len(found.models)} models drop by {bound:g} or less and will predict in "
            f"int8; the ensemble's out-of-fold macro F1 over the 18 classes: {found.f1:.4f} in fp32, {whole.f1:.4f} "
            f"so ({whole.f1 - found.f1:+.4f}); {whole.changed} of {found.photos} photos get another class"
        )
    if before := sum(model.before for model in found.models):
        lines.append(f"{before} of {len(found.models)} models were quantized before and not measured again")
    return lines
