"""The controls of a study shuffle the teacher's maps, and only those."""
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / 'tools'))

from controls import SHUFFLES, ShuffledConnector  # noqa: E402

SHAPES = [(6, 4, 5), (6, 2, 3)]


def maps():
    return [torch.randn(3, *shape) for shape in SHAPES]


@pytest.mark.parametrize('shuffle', SHUFFLES)
def test_the_teacher_is_shuffled_and_the_student_is_not(shuffle):
    connector, student, teacher = ShuffledConnector(
        shuffle=shuffle, student_shapes=SHAPES, teacher_shapes=SHAPES), maps(), maps()
    state = torch.get_rng_state()
    found = [connector(student, teacher) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)  # an experiment differs from its control by nothing else
    for level, (given, own) in enumerate(zip(teacher, student, strict=True)):
        first, second = (maps[level] for _, maps in found)
        assert torch.equal(found[0][0][level], own) and first.shape == given.shape
        assert not torch.equal(first, given) and torch.equal(first, second) == (shuffle != 'channels anew')
        axis = 0 if shuffle == 'images' else 1
        rows, sought = (x.movedim(axis, 0).flatten(1) for x in (first, given))
        assert sorted(rows.tolist()) == sorted(sought.tolist())


def test_levels_have_orders_of_their_own():
    shapes = [(32, 1, 1)] * 2
    same = [torch.arange(32.).view(1, 32, 1, 1)] * 2
    _, (one, other) = ShuffledConnector(shuffle='channels', student_shapes=shapes, teacher_shapes=shapes)(same, same)
    assert not torch.equal(one, other)


def test_unknown_shuffles_are_refused():
    with pytest.raises(ValueError, match="shuffle must be one of .*got 'all'"):
        ShuffledConnector(shuffle='all', student_shapes=SHAPES, teacher_shapes=SHAPES)
