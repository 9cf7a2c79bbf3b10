"""A loss from outside the project, to be measured beside its own."""
from __future__ import annotations

import importlib.util
from pathlib import Path

from mmgkd import DistillLoss


def peer(path: str, name: str) -> type[DistillLoss]:
    """A loss from outside, a class or function in a file, as one of ours: it is called with the maps of each level.

    Args:
        path (str): A Python file.
        name (str): What it defines: a function of the student's and the teacher's map (N, C, H, W) that gives a
            scalar, or a class of such callables, which is built without arguments.

    Raises:
        SystemExit: There is no such file, or nothing of that name in it.
    """
    if not Path(path).is_file():
        raise SystemExit(f'tools/benchmark.py: --peer: no file {path!r}')
    spec = importlib.util.spec_from_file_location('peer', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, name):
        raise SystemExit(f'tools/benchmark.py: --peer: {path} defines no {name}')
    given = getattr(module, name)

    class PeerLoss(DistillLoss):

        def __init__(self) -> None:
            super().__init__()
            self.weights, self.given = {'peer': 1.}, given() if isinstance(given, type) else given

        def forward(self, student_feats, teacher_feats, data_samples=None):
            return {'peer': [self.given(s, t) for s, t in zip(student_feats, teacher_feats, strict=True)]}
    return PeerLoss
