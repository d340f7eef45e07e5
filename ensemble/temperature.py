"""Log probabilities that mean what they say: one temperature, fitted on predictions for people never seen."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from folds.labels import IntArray

Floats = npt.NDArray[np.float64]
BOUNDS = (0.05, 20.0)  # beyond them nothing is calibrated: every prediction right, or none of any use


def fit_temperature(log_probabilities: Floats, truth: IntArray) -> float:
    """The temperature at which the log loss is lowest (Guo et al. 2017, "On calibration of modern neural networks").

    Args:
        log_probabilities: float64 (n, labels).
        truth: int64 (n,), 0..labels-1.
    """

    def loss(log_temperature: float) -> float:
        return -float(scaled(log_probabilities, np.exp(log_temperature))[np.arange(len(truth)), truth].mean())

    return float(np.exp(minimize_scalar(loss, bounds=np.log(BOUNDS), method="bounded").x))


def scaled(log_probabilities: Floats, temperature: float) -> Floats:
    """float64 (n, labels): log probabilities at that temperature, above 1 less sure; their order stays as it is."""
    return np.asarray(log_softmax(log_probabilities / temperature, axis=1), dtype=np.float64)
