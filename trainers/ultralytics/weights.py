"""Owns where a model's first weights come from: a local file, a short download, or none (random weights).

A trainer may run where no network is, or one that swallows packets, so a download is given seconds to begin.
"""

from __future__ import annotations

import os
import threading
import urllib.request
from pathlib import Path
from typing import Callable, List, Optional, Sequence

RELEASE = "https://github.com/ultralytics/assets/releases/download/v8.4.0"
CONNECT_SECONDS = 5.0
TRANSFER_SECONDS = 120.0
_BLOCK = 1 << 20


def search_folders(work: Path) -> List[Path]:
    """Folders that may hold weights, in order: the work folder, then WEIGHTS_DIR where it is set."""
    named = os.environ.get("WEIGHTS_DIR", "").strip()
    return [work, Path(named)] if named else [work]


def find(name: str, folders: Sequence[Path]) -> Optional[Path]:
    """The first of `folders` that holds the file `name`, as an absolute path of the file."""
    for folder in folders:
        if (folder / name).is_file():
            return (folder / name).absolute()
    return None


def download(
    name: str,
    folder: Path,
    log: Callable[[str], object],
    release: str = RELEASE,
    connect_seconds: float = CONNECT_SECONDS,
) -> Optional[Path]:
    """Fetch a weights file into `folder`; None when that does not begin in time or fails, and then `log` says why."""
    target = folder / name
    part = folder / f".{name}.{os.getpid()}.part"
    began = threading.Event()
    failure: List[str] = []

    def transfer() -> None:
        try:
            with urllib.request.urlopen(f"{release}/{name}", timeout=connect_seconds) as response:
                began.set()
                with open(part, "wb") as stream:
                    for block in iter(lambda: response.read(_BLOCK), b""):
                        stream.write(block)
            os.replace(part, target)
        except (OSError, ValueError) as error:
            failure.append(str(getattr(error, "reason", None) or error))
            began.set()
            part.unlink(missing_ok=True)

    # A thread, because looking up a name may take far longer than the time limit of a connection.
    worker = threading.Thread(target=transfer, daemon=True)
    worker.start()
    if began.wait(connect_seconds):
        worker.join(TRANSFER_SECONDS)
    if not worker.is_alive() and not failure and target.is_file():
        return target.absolute()
    log(f"{name} could not be downloaded: {failure[0] if failure else 'no answer in time'}")
    return None
