"""What a request may ask for, and how it is refused. Imports neither torch nor the web framework."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from folds.errors import MaskensError


@dataclass(frozen=True)
class Limits:
    """Beyond these a request is refused, so that memory has a bound: `requests` times `megabytes`, and what decoding
    takes."""

    megabytes: float = 20  # of a request, all its photos together
    megapixels: float = 50  # of a photo
    photos: int = 32  # of a request
    queue: int = 256  # photos that wait for the models
    requests: int = 64  # that are read or wait for their answer
    upload_seconds: float = 60  # for a request to come in

    def __post_init__(self) -> None:
        if not (math.isfinite(self.megabytes) and math.isfinite(self.megapixels)):
            raise MaskensError("--max-mb and --max-megapixels need a finite number.")
        if self.queue < self.photos:
            raise MaskensError(
                f"a queue of {self.queue} photos has no room for a request of {self.photos}: "
                "raise --max-queue or lower --max-photos."
            )


class Refused(Exception):
    """A request gets no answer, and why; `photos` are (name, reason) of each that is at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        photos: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.photos, self.headers = status, message, photos, headers
