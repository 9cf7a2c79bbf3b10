"""What an annotation file says of its classes, read without the rest of it."""
from __future__ import annotations

import json
import mmap
import os

__all__ = ['categories']

LONGEST = 2 ** 20
"""Of a list of categories, in bytes; LVIS' 1203 with their definitions take half of it."""


def categories(path: str) -> list[str] | None:
    """The names in the ``categories`` of a COCO annotation file, or None where that cannot be told.

    Mostly the list stands at a file's beginning or end; only elsewhere is all of it searched, and none of it is parsed.
    """
    if not os.path.isfile(path) or not os.path.getsize(path):
        return None
    with open(path, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for start, end in ((0, LONGEST), (-LONGEST, len(content)), (0, len(content))):
            found = content.rfind(b'"categories"', start, end)
            text = content[found:found + LONGEST].decode(errors='ignore') if found >= 0 else ''
            _, _, listed = text.partition(':')
            try:
                names = [item['name'] for item in json.JSONDecoder().raw_decode(listed.lstrip())[0]]
            except (KeyError, TypeError, ValueError):
                continue
            return [str(name) for name in names]
    return None
