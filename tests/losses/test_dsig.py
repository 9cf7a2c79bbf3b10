"""DSIG against loops over the instances of each image, with proposals made by hand."""
import math

import pytest
import torch
from common import LAYOUTS, boxes, data_samples, feature_maps, keyword_options, randn
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.registry import MODELS

from mmgkd.functional import dsig_terms
from mmgkd.losses import DSIGLoss
from mmgkd.readings import Proposals

TERMS = ('foreground', 'background', 'edge')


def nodes_by_hand(counts, d=4, seed=0):
    """Instances of each image, given as (foreground, background, hard of these), and what ``dsig_terms`` takes."""
    image, foreground, hard = [], [], []
    for i, (front, back, mined) in enumerate(counts):
        image += [i] * (front + back)
        foreground += [True] * front + [False] * back
        hard += [False] * (front + back - mined) + [True] * mined
    order = torch.randperm(len(image), generator=torch.Generator().manual_seed(seed))
    columns = [torch.tensor(x, dtype=dtype)[order] for x, dtype in (
        (image, torch.long), (foreground, torch.bool), (hard, torch.bool))]
    teacher = randn(len(image), d, seed=seed + 1)
    return teacher + 0.5 * randn(len(image), d, seed=seed + 2), teacher, *columns


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def by_loops(student, teacher, image, foreground, hard, num_images, ratio=7.5):
    total = dict.fromkeys(TERMS, 0.)
    student, teacher = student.tolist(), teacher.tolist()
    for i in range(num_images):
        mine = [k for k in range(len(student)) if image[k] == i]
        error = {k: sum((a - b) ** 2 for a, b in zip(student[k], teacher[k], strict=True)) / len(student[k])
                 for k in mine}
        front, back = ([k for k in mine if foreground[k] == kind] for kind in (True, False))
        graph = [k for k in mine if foreground[k] or hard[k]]
        if front:
            total['foreground'] += sum(error[k] for k in front) / len(front)
        if back:
            total['background'] += ratio * len(front) / len(back) * sum(error[k] for k in back) / len(back)
        if graph:
            total['edge'] += 0.5 * sum((cosine(student[a], student[b]) - cosine(teacher[a], teacher[b])) ** 2
                                       for a in graph for b in graph) / len(graph) ** 2
    return {term: value / num_images for term, value in total.items()}


COUNTS = [
    [(3, 5, 2), (2, 4, 4)],  # foreground, background, hard
    [(3, 5, 0)],
    [(4, 0, 0), (3, 5, 1), (1, 1, 1)],
    [(0, 5, 3), (3, 0, 0)],
    [(0, 0, 0), (5, 6, 2)],
]


@pytest.mark.parametrize('ratio', [7.5, 2])
@pytest.mark.parametrize('counts', COUNTS, ids=str)
def test_terms_agree_with_loops(counts, ratio):
    nodes = nodes_by_hand(counts)
    want = by_loops(*nodes, len(counts), ratio)
    got = dsig_terms(*nodes, num_images=len(counts), background_ratio=ratio)
    assert set(got) == set(TERMS) and sum(want.values()) > 0.1
    for term, value in want.items():
        assert got[term].item() == pytest.approx(value, rel=1e-9, abs=1e-15), term


def test_a_mean_over_images():
    """Of one image twice, it is that of the image."""
    nodes = nodes_by_hand([(3, 5, 2)])
    twice = [torch.cat([x, x]) for x in nodes]
    twice[2][len(nodes[2]):] = 1
    torch.testing.assert_close(dsig_terms(*twice, num_images=2), dsig_terms(*nodes, num_images=1))


@pytest.mark.parametrize('term', TERMS)
def test_a_term_alone(term):
    nodes = nodes_by_hand(COUNTS[0])
    got = dsig_terms(*nodes, num_images=2, terms=(term,))
    assert set(got) == {term} and torch.equal(got[term], dsig_terms(*nodes, num_images=2)[term])


def test_zero_at_equality_and_edges_for_any_scale_or_rotation():
    _, teacher, *rest = nodes_by_hand(COUNTS[0])
    assert max(dsig_terms(teacher, teacher, *rest, num_images=2).values()) < 1e-20
    rotation = torch.linalg.qr(randn(4, 4, seed=5))[0]
    moved = dsig_terms((0.5 + randn(14, 1).abs()) * teacher @ rotation, teacher, *rest, num_images=2)
    assert moved['edge'] < 1e-20 and min(moved['foreground'], moved['background']) > 0.1


def test_the_order_of_instances_does_not_matter():
    nodes = nodes_by_hand(COUNTS[0])
    order = torch.randperm(14, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(dsig_terms(*(x[order] for x in nodes), num_images=2), dsig_terms(*nodes, num_images=2))


@pytest.mark.parametrize('term', TERMS)
def test_gradients(term):
    student, teacher, *rest = nodes_by_hand(COUNTS[0])
    torch.autograd.gradcheck(lambda x: dsig_terms(x, teacher, *rest, num_images=2)[term], student.requires_grad_())
    teacher.requires_grad_()
    dsig_terms(student, teacher, *rest, num_images=2)[term].backward()
    _, foreground, hard = rest
    reached = dict(foreground=foreground, background=~foreground, edge=foreground | hard)[term]
    assert torch.equal(student.grad.ne(0).any(1), reached) and teacher.grad is None


@pytest.mark.parametrize('counts', [[], [(0, 0, 0)], [(0, 0, 0)] * 2, [(1, 0, 0)], [(0, 1, 1)], [(0, 1, 0)],
                                    [(2, 0, 0), (0, 0, 0)], [(1, 1, 1)]], ids=str)
def test_few_instances_or_none(counts):
    student, *rest = nodes_by_hand(counts)
    student.requires_grad_()
    for term, value in dsig_terms(student, *rest, num_images=len(counts)).items():
        gradient, = torch.autograd.grad(value, student, retain_graph=True)
        assert value.shape == () and value.isfinite() and gradient.isfinite().all()
        if sum(map(sum, counts)) < 2 and (term != 'foreground' or not rest[2].any()):
            assert value.item() == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('side', [0, 1])
@pytest.mark.parametrize('kind', ['zero', 'constant'])
def test_degenerate_instances_are_finite(kind, side, dtype):
    nodes = list(nodes_by_hand(COUNTS[0]))
    nodes[side] = 0 * nodes[side] if kind == 'zero' else nodes[side][:1].repeat(14, 1)
    student, teacher = (x.to(dtype) for x in nodes[:2])
    terms = dsig_terms(student.requires_grad_(), teacher, *nodes[2:], num_images=2)
    sum(terms.values()).backward()
    assert all(v.dtype == torch.float32 and v.isfinite() for v in terms.values()) and student.grad.isfinite().all()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
def test_autocast_changes_nothing(dtype):
    student, teacher, *rest = nodes_by_hand(COUNTS[0], d=300)
    student, teacher = student.to(dtype), teacher.to(dtype)
    want = dsig_terms(student.float(), teacher.float(), *rest, num_images=2)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert dsig_terms(student, teacher, *rest, num_images=2) == want


# the loss

LOSSES = [torch.tensor([0.1, 0.2, 0.59, 0.6, 2.0, 0.0]), torch.tensor([9., 0.7, 0.1, 0.8])]
FOREGROUND = [torch.tensor([True, True, False, False, False, False]), torch.tensor([True, False, False, False])]


def proposals(**changes):
    return Proposals([boxes(6), boxes(4, 1)], FOREGROUND, LOSSES)._replace(**changes)


def features(feats, given, cells=14, output_size=7):
    """(K, C * P) by mmdet's extractor."""
    extract = SingleRoIExtractor(
        dict(type='RoIAlign', output_size=output_size, sampling_ratio=0), out_channels=feats[0].shape[1],
        featmap_strides=[4, 8], finest_scale=4 * cells)
    rois = torch.cat([torch.cat([torch.full((len(b), 1), float(i)), b], 1) for i, b in enumerate(given.boxes)])
    return extract(feats, rois).flatten(1)


@pytest.mark.parametrize('options', [{}, dict(hard_threshold=0.75), dict(background_ratio=3.),
                                     dict(output_size=3, cells=2)], ids=str)
def test_the_loss_agrees_with_loops_over_what_mmdets_extractor_reads(options):
    student, teacher = (feature_maps(3, seed=i, dtype=torch.float32) for i in (0, 4))
    given = proposals()
    reading = {k: v for k, v in options.items() if k in ('output_size', 'cells')}
    foreground = torch.cat(FOREGROUND)
    hard = ~foreground & (torch.cat(LOSSES) >= options.get('hard_threshold', 0.6))
    want = by_loops(features(student, given, **reading).double(), features(teacher, given, **reading).double(),
                    torch.tensor([0] * 6 + [1] * 4), foreground, hard, 2, options.get('background_ratio', 7.5))
    got = DSIGLoss(**options)(student, teacher, data_samples(*given.boxes), proposals=given)
    assert min(want.values()) > 1e-3
    for term, (value,) in got.items():
        assert value.item() == pytest.approx(want[term], rel=1e-5), term


@pytest.mark.parametrize('left_out', TERMS)
def test_a_term_of_weight_zero_is_not_computed(left_out):
    student, teacher, given = feature_maps(3), feature_maps(3, seed=4), proposals()
    every = DSIGLoss()(student, teacher, data_samples(*given.boxes), proposals=given)
    some = DSIGLoss(**{f'{left_out}_weight': 0})(student, teacher, data_samples(*given.boxes), proposals=given)
    assert set(some) == set(TERMS) - {left_out}
    torch.testing.assert_close(some, {term: every[term] for term in some})


def test_background_that_no_term_needs_is_not_read(monkeypatch):
    read = []
    monkeypatch.setattr('mmgkd.losses.dsig.read_rois', lambda feats, rois, *_, **__: read.append(len(rois)) or
                        torch.zeros(len(rois), 49, 3))
    given, feats = proposals(), feature_maps(3)
    for weight, want in ((1., 10), (0., 3 + 4)):  # foreground, and what is hard
        DSIGLoss(background_weight=weight)(feats, feats, data_samples(*given.boxes), proposals=given)
        assert read[-2:] == [want] * 2


def test_without_the_teachers_losses_no_background_is_hard():
    student, teacher = feature_maps(3), feature_maps(3, seed=4)
    given = proposals(teacher_loss=None)
    samples = data_samples(*given.boxes)
    got = DSIGLoss()(student, teacher, samples, proposals=given)
    want = DSIGLoss(hard_threshold=100.)(student, teacher, samples, proposals=proposals())
    torch.testing.assert_close(got, want)


def test_one_stage_detectors_have_foreground_alone():
    student, teacher = feature_maps(3), feature_maps(3, seed=4)
    given = proposals(foreground=[torch.ones(6, dtype=torch.bool), torch.ones(4, dtype=torch.bool)], teacher_loss=None)
    got = DSIGLoss()(student, teacher, data_samples(*given.boxes), proposals=given)
    assert got['background'][0] == 0 and min(got['foreground'][0], got['edge'][0]) > 1e-3


@pytest.mark.parametrize('layout', LAYOUTS)
def test_layouts_and_gradients(layout):
    student, teacher, given = feature_maps(3), feature_maps(3, seed=4), proposals()
    samples, loss = data_samples(*given.boxes), DSIGLoss()
    want = loss(student, teacher, samples, proposals=given)
    leaves = [x.requires_grad_() for x in (*student, *teacher)]
    got = loss(*([LAYOUTS[layout](x) for x in feats] for feats in (leaves[:2], leaves[2:])), samples, proposals=given)
    torch.testing.assert_close({t: [v.detach() for v in x] for t, x in got.items()}, want)
    sum(sum(got.values(), [])).backward()
    assert any(x.grad is not None and x.grad.any() for x in leaves[:2]) and all(x.grad is None for x in leaves[2:])


@pytest.mark.parametrize('counts', [(0, 0), (0, 1), (2, 0)])
def test_without_proposals_the_maps_are_connected_all_the_same(counts):
    student, teacher = feature_maps(3), feature_maps(3, seed=4)
    leaves = [x.requires_grad_() for x in student]
    given = Proposals(list(map(boxes, counts)), [torch.ones(n, dtype=torch.bool) for n in counts],
                      [torch.zeros(n) for n in counts])
    terms = DSIGLoss()(student, teacher, data_samples(*given.boxes), proposals=given)
    for value, in terms.values():
        assert value.isfinite()
        value.backward(retain_graph=True)
    assert any(x.grad is not None for x in leaves)
    assert any(x.grad.any() for x in leaves if x.grad is not None) == (sum(counts) > 0)


def test_options_and_weights():
    loss = MODELS.build(dict(type='DSIGLoss'))
    assert loss.weights == dict(foreground=1., background=1., edge=2.) and loss.needs == ('proposals',)
    assert loss.same_shape  # nodes are compared feature by feature
    options, own = keyword_options(dsig_terms), keyword_options(DSIGLoss.__init__)
    assert own['background_ratio'] == options['background_ratio']
    assert set(own) == set(options) - {'terms', 'num_images'} | {
        'foreground_weight', 'background_weight', 'edge_weight', 'hard_threshold', 'output_size', 'cells'}


def test_errors():
    nodes = nodes_by_hand(COUNTS[0])
    with pytest.raises(ValueError, match=r'instances of one shape \(K, D\), got \(14, 4\) and \(14, 3\)'):
        dsig_terms(nodes[0], nodes[1][:, :3], *nodes[2:], num_images=2)
    for terms in ('edge', ('edges',)):
        with pytest.raises(ValueError, match=r"terms must be a sequence of \('foreground'.*got"):
            dsig_terms(*nodes, num_images=2, terms=terms)
    for weights in (dict(edge_weight=-1.), dict(foreground_weight=0, background_weight=0, edge_weight=0)):
        with pytest.raises(ValueError, match='DSIGLoss: weights must be at least 0, and one above it'):
            DSIGLoss(**weights)
    for name in ('output_size', 'cells'):
        with pytest.raises(ValueError, match=f'{name} must be at least 1, got 0'):
            DSIGLoss(**{name: 0})
    with pytest.raises(TypeError, match='proposals'):
        DSIGLoss()(feature_maps(3), feature_maps(3), [])
