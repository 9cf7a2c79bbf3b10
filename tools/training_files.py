"""What a training of MMEngine's has left in its folder so far."""
from __future__ import annotations

import contextlib
import json
import zipfile
from pathlib import Path


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; one cut off while it was written is no zip file."""
    found = [path for path in folder.glob('epoch_*.pth') if zipfile.is_zipfile(path)]
    return max(found, key=lambda path: int(path.stem.partition('_')[2]), default=None)


def scalar_files(folder: Path) -> list[Path]:
    """MMEngine's logs, one of each run, the oldest first."""
    return sorted(folder.glob('*/vis_data/scalars.json'))


def read_scalars(folder: Path, since: int = 0) -> list[dict]:
    """The lines that MMEngine logged, of all runs in order, or of the last ``since`` ones."""
    lines = []
    for path in scalar_files(folder)[-since:]:
        for line in path.read_text().splitlines():
            with contextlib.suppress(ValueError):  # the last may be half written
                lines.append(json.loads(line))
    return lines
