"""Every error names the argument, what was expected and what was given."""
import pytest
import torch

from mmgkd.functional import affinity, channel_graph_terms, smallest_eigenpairs, spectral_projector

MAP = torch.randn(2, 5, 4, 6, generator=torch.Generator().manual_seed(0))


def mask(*shape):
    return torch.ones(shape, dtype=torch.bool)


@pytest.mark.parametrize('student, teacher, given', [
    (MAP, MAP[:, :3], ['(2, 5, 4, 6)', '(2, 3, 4, 6)']),
    (MAP, MAP[..., :2], ['(2, 5, 4, 6)', '(2, 5, 4, 2)']),
    (MAP[:1], MAP, ['(1, 5, 4, 6)', '(2, 5, 4, 6)']),
    (MAP[0], MAP[0], ['(5, 4, 6)']),
    (MAP.flatten(2), MAP.flatten(2), ['(2, 5, 24)']),
])
def test_maps_of_different_shapes(student, teacher, given):
    with pytest.raises(ValueError, match='student and teacher') as error:
        channel_graph_terms(student, teacher)
    for shape in given:
        assert shape in str(error.value)


@pytest.mark.parametrize('shape', [(2, 4), (2, 6, 4), (1, 4, 6), (2, 1, 4, 6), (2, 24)])
def test_shape_of_valid(shape):
    with pytest.raises(ValueError, match='valid') as error:
        channel_graph_terms(MAP, MAP, mask(*shape), num_eigenvectors=2)
    assert str(shape) in str(error.value) and '(2, 4, 6)' in str(error.value)


@pytest.mark.parametrize('options, names', [
    (dict(terms=('vertex', 'node')), ['terms', 'node', 'vertex', 'edge', 'spectral']),
    (dict(terms='vertex'), ['terms']),
    (dict(attention=('spatial', 'temporal')), ['attention', 'temporal', 'channel', 'relational']),
    (dict(attention='spatial'), ['attention']),
    (dict(spectral='heat'), ['spectral', 'heat', 'rayleigh', 'subspace']),
    (dict(affinity='square'), ['affinity', 'square', 'relu', 'abs', 'shift']),
    (dict(num_eigenvectors=5), ['num_eigenvectors', '5']),
    (dict(num_eigenvectors=16), ['num_eigenvectors', '16', '5']),
    (dict(num_eigenvectors=0), ['num_eigenvectors', '0']),
    (dict(num_eigenvectors=-1), ['num_eigenvectors', '-1']),
], ids=str)
@pytest.mark.parametrize('mode', ['rayleigh', 'subspace'])
def test_options(options, names, mode):
    with pytest.raises(ValueError) as error:
        channel_graph_terms(MAP, MAP, **{'num_eigenvectors': 2, 'spectral': mode, **options})
    for name in names:
        assert name in str(error.value)


def test_options_at_their_limits_are_taken():
    for r in (1, 4):
        for mode in ('rayleigh', 'subspace'):
            channel_graph_terms(MAP, MAP, num_eigenvectors=r, spectral=mode)


def test_options_that_are_not_used_do_not_matter():
    losses = channel_graph_terms(MAP, MAP, terms=('vertex', 'edge'))  # 16 eigenvectors of 5 channels
    assert set(losses) == {'vertex', 'edge'}


def test_misspelt_option():
    with pytest.raises(TypeError, match='centred'):
        channel_graph_terms(MAP, MAP, centred=True)
    with pytest.raises(TypeError, match='positional'):
        channel_graph_terms(MAP, MAP, None, ('vertex',))


@pytest.mark.parametrize('function', [smallest_eigenpairs, spectral_projector])
@pytest.mark.parametrize('r', [-1, 0, 4, 9])
def test_rank(function, r):
    with pytest.raises(ValueError, match=f'4 .*{r}'):
        function(torch.eye(4)[None], r)


def test_kind_of_affinity():
    with pytest.raises(ValueError, match="affinity.*'square'"):
        affinity(torch.eye(4)[None], 'square')
