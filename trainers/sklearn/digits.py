"""Owns the handwritten digits that ship with scikit-learn: 1797 grey images of 8x8 pixels, ten classes.

The file is read directly, because importing `sklearn.datasets` would add to the start-up time of a trainer. Nothing
here needs the trainer SDK, so that `make_dataset` runs with this folder's environment alone.
"""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path
from typing import Any, Tuple

import numpy as np

SIDE = 8
CLASSES = tuple(str(digit) for digit in range(10))


def load_digits() -> Tuple[Any, Any]:
    """Return images `(n, 8, 8)` float32 from 0 (paper) to 1 (ink), and labels `(n,)` int64.

    Raises:
        ImportError: scikit-learn is not installed or came without its data files.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise ImportError("scikit-learn is not installed; install this trainer's environment with `uv sync`")
    path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    try:
        with gzip.open(path, "rt") as stream:
            table = np.loadtxt(stream, delimiter=",", dtype=np.float32)
    except OSError as error:
        raise ImportError(f"the digits of scikit-learn are missing at {path}: {error}") from error
    return table[:, :-1].reshape(-1, SIDE, SIDE) / 16.0, table[:, -1].astype(np.int64)
