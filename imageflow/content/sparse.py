"""Where a sparse file has data."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator


def extents(file: int, size: int) -> Iterator[tuple[int, int]]:
    """The data extents of an open file, as (start, end) in bytes."""
    end = 0
    while end < size:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole up to the end
                return
            raise
        end = os.lseek(file, start, os.SEEK_HOLE)
        yield start, end
