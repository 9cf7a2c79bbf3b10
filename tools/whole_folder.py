"""A data set that a tool makes from parameters: whole or not at all, and never in place of anybody's own files."""
from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Params = TypeVar('Params')  # a dataclass that equals another of the same values


def make_whole(out: Path, stamp: str, params: Params, files: Callable[[Params], set[str]],
               write: Callable[[Path, Params], None], force: bool = False) -> bool:
    """Make folder out, or return False if it was there already.

    Args:
        out (Path): Absolute.
        stamp (str): Name of the JSON file that holds, as ``parameters``, what the folder was made by.
        params (dataclass): What the content depends on.
        files (Callable): The relative path of every file made by some parameters, the stamp among them.
        write (Callable): Makes the content, stamp and all, in a new folder.
        force (bool): Replace a folder made by other parameters, or a part of one.

    Raises:
        FileExistsError: Out holds something that is not replaced.
        ValueError: Out is a file, or cannot be written.
    """
    if is_made(out, stamp, params, files, force):
        return False
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work = tempfile.TemporaryDirectory(dir=out.parent, prefix='.whole_folder-')
    except OSError as error:
        raise ValueError(f'out: expected a folder that can be written, got {out} ({error})') from error
    with work as name:
        new = Path(name, 'new')
        write(new, params)
        if is_made(out, stamp, params, files, force):  # by another process, meanwhile
            return False
        swap(new, out, Path(name, 'old'))
    return True


def is_made(out: Path, stamp: str, params: Params, files: Callable[[Params], set[str]], force: bool) -> bool:
    """Tell whether out is there, whole and by these parameters; refuse an out that must not be replaced."""
    if out.exists() and not out.is_dir():
        raise ValueError(f'out: expected a folder, got the file {out}')
    found = {path.relative_to(out).as_posix() for path in out.rglob('*')
             if path.is_symlink() or not path.is_dir()}
    if not found:
        return False
    try:
        old = type(params)(**json.loads((out / stamp).read_text())['parameters'])
    except (OSError, ValueError, KeyError, TypeError):
        raise FileExistsError(f'out: expected a new folder or one made by this tool, got {out}') from None
    made = files(old)
    if old == params and found >= made and not force:
        return True
    if found - made:
        raise FileExistsError(f'out: expected only files of this tool, got {out} with {min(found - made)}')
    if not force:
        raise FileExistsError(f'out: expected the whole data set of {params}, got {out} with '
                              f'{len(found)} of {len(made)} files of {old}; --force replaces it')
    return False


def swap(new: Path, out: Path, old: Path) -> None:
    """Put new in the place of out, which goes to old; whatever fails, out is one of the two."""
    try:
        if out.exists():
            out.rename(old)
        new.rename(out)
    finally:
        if old.exists() and not out.exists():
            old.rename(out)
