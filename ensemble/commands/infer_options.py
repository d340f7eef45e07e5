"""Options of infer alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

DecisionOption = Annotated[
    Literal["joint", "hard", "vote"] | None,
    typer.Option(
        "--decision",
        help="joint: the best of the 18 classes. hard: mask, gender, then age by itself. vote: one vote a run. "
        "By default joint, with --vote vote.",
        show_default=False,
    ),
]
VoteOption = Annotated[
    list[Path] | None,
    typer.Option("--vote", metavar="CSV...", help="Other submissions of the same photos that vote with the runs."),
]
PersonColumnOption = Annotated[
    str | None,
    typer.Option(
        "--person-column",
        metavar="NAME",
        help="Column of eval/info.csv that says who is on a photo: gender and age are decided once a person.",
    ),
]
BudgetOption = Annotated[
    str,
    typer.Option(
        "--budget",
        metavar="exact|SHARE|SECONDSs-per-photo",
        help="Photos leave the ensemble once their class is unlikely to change: a share of the passes, as 0.5, or of "
        "time, as 0.2s-per-photo. How many classes that changes is told.",
    ),
]
EngineOption = Annotated[
    Literal["torch", "onnxruntime", "openvino", "auto"],
    typer.Option(
        "--engine",
        help="What runs the models on a CPU. onnxruntime and openvino are extras. auto: the fastest one whose logits "
        "agree with torch's.",
    ),
]
PrecisionOption = Annotated[
    Literal["fp32", "bf16", "fp16", "auto"],
    typer.Option("--precision", help="Of the arithmetic. auto: 16 bits where that is faster and the logits agree."),
]
SubmissionOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="The CSV; by default submission.csv in the run. Logits beside it."),
]
