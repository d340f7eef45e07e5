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
        """Open a file that `create_pixel_file` made.

        Raises:
            OSError: it can't be opened.
            ValueError, EOFError: it is cut off, or not such a file.
        """
        self.path = path
        mapped = np.load(path, mmap_mode="r")  # checks header and length; no page of it is read
        if mapped.ndim != 4 or mapped.dtype != np.uint8 or not mapped.flags.c_contiguous:
            raise ValueError(f"{path} does not hold photos of uint8")
        self.shape: tuple[int, ...] = mapped.shape
        self._start, self._photo = int(mapped.offset), int(np.prod(self.shape[1:]))
        self._file = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> Pixels:
        """The photo, uint8 (height, width, 3), in memory of its own.

        Raises:
            OSError: it can't be read.
        """
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
        if not 0 <= index < len(self):
            raise IndexError(f"photo {index} of {len(self)}")
        return self._start + index * self._photo


def create_pixel_file(path: Path, shape: tuple[int, int, int, int]) -> PixelFile:
    """A new file whose disk space is taken at once, where the system can: running out of it later would be worse.

    Args:
        shape: (photos, height, width, 3).
    """
    np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    file = PixelFile(path, writable=True)
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file._file, 0, path.stat().st_size)
    return file
