"""Photos of one size in one .npy file, read and written one at a time."""

from __future__ import annotations

import errno
import os
import weakref
from pathlib import Path

import numpy as np

from folds.photos import Pixels


class PixelFile:
    """uint8 (photos, height, width, 3) on disk, indexable by photo.

    Reads and writes name their place in the file, so that processes and threads share the system's page cache but no
    file position. Pages of a memory map would count as memory of every process that has touched them.
    """

    def __init__(self, path: Path, writable: bool = False) -> None:
        """Open a file of `create_pixel_file`. Raises OSError, or ValueError: it is cut off, or not such a file."""
        self.path = path
        with path.open("rb") as handle:
            if np.lib.format.read_magic(handle) != (1, 0):
                raise ValueError(f"{path} is not of the .npy version 1.0")
            try:
                self.shape, columns_first, dtype = np.lib.format.read_array_header_1_0(handle)
            except Exception as error:  # numpy parses it as Python, with all the errors of that
                raise ValueError(f"{path} has a damaged header") from error
            self._start, self._photo = handle.tell(), int(np.prod(self.shape[1:]))
        whole = self._start + self.shape[0] * self._photo
        if columns_first or dtype != np.uint8 or len(self.shape) != 4 or path.stat().st_size != whole:
            raise ValueError(f"{path} does not hold photos of uint8, or not all of them")
        self._file = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def __getitem__(self, index: int) -> Pixels:
        """The photo, uint8 (height, width, 3), in memory of its own. Raises OSError."""
        photo = np.empty(self.shape[1:], np.uint8)
        if os.preadv(self._file, [photo.data], self._place(index)) != self._photo:
            raise OSError(errno.EIO, f"{self.path} has become shorter")
        return photo

    def __setitem__(self, index: int, photo: Pixels) -> None:
        if photo.shape != self.shape[1:] or photo.dtype != np.uint8:
            raise ValueError(f"a photo of {photo.dtype} {photo.shape} is not one of uint8 {self.shape[1:]}")
        if os.pwrite(self._file, np.ascontiguousarray(photo).data, self._place(index)) != self._photo:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def flush(self) -> None:
        """Write to the disk what is still in memory."""
        os.fsync(self._file)

    def _place(self, index: int) -> int:
        if not 0 <= index < self.shape[0]:
            raise IndexError(f"photo {index} of {self.shape[0]}")
        return self._start + index * self._photo


def create_pixel_file(path: Path, shape: tuple[int, int, int, int]) -> PixelFile:
    """A new file for (photos, height, width, 3). Its disk space is taken at once, where the system can."""
    with path.open("xb") as handle:
        np.lib.format.write_array_header_1_0(handle, {"descr": "|u1", "fortran_order": False, "shape": shape})
        size = handle.tell() + int(np.prod(shape))
        handle.truncate(size)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle.fileno(), 0, size)
    return PixelFile(path, writable=True)
