"""Versions of the libraries that decide a result."""

from __future__ import annotations

import functools
from importlib import metadata

LIBRARIES = (
    "maskens",
    "torch",
    "timm",
    "albumentations",
    "ttach",
    "scikit-learn",
    "joblib",
    "numpy",
    "opencv-python-headless",
    "pillow",
)


@functools.cache
def library_versions() -> dict[str, str]:
    """Installed version of each library that decides a result."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
