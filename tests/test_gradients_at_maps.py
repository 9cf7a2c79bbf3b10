"""What tools/gradients.py measures: gradients of terms at the student's maps, beside that of its own losses."""
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from conftest import distiller, distiller_config, losses, raw_batch, run_config

from mmgkd.features import capture_output, feature_maps

sys.path.append(str(Path(__file__).resolve().parents[1] / 'tools'))

from gradients import gradients, measure  # noqa: E402

LOSSES = dict(gkd=dict(type='ChannelGraphLoss', num_eigenvectors=4, vertex_weight=3.), pkd=dict(type='PKDLoss'))


def test_the_parts_are_the_gradient_of_the_whole():
    model = distiller(distill_losses=LOSSES)
    torch.manual_seed(0)
    parts = gradients(model, raw_batch())
    assert list(parts) == ['task', 'gkd_vertex', 'gkd_edge', 'gkd_spectral', 'pkd_correlation']
    with capture_output(model.student.neck) as outputs:
        whole = model.parse_losses(losses(model))[0]
    for level, grad in enumerate(torch.autograd.grad(whole, feature_maps(outputs[0]))):
        torch.testing.assert_close(sum(part[level] for part in parts.values()), grad, rtol=1e-4, atol=1e-7)
        assert level or all(part[level].any() for part in parts.values())  # few anchors fit the last levels


def stored(tmp_path, digits, **more):
    cfg = run_config(digits, tmp_path, distiller_config(**more))
    torch.save(dict(state_dict=distiller(**deepcopy(more)).state_dict()), tmp_path / 'student.pth')
    return cfg, str(tmp_path / 'student.pth')


def test_norms_and_cosines(tmp_path, digits):
    """A weight three times as large pulls three times as hard, in the same direction."""
    single, triple = (measure(*stored(tmp_path, digits, distill_losses=dict(pkd=dict(type='PKDLoss', loss_weight=w))),
                              batches=2)['pkd_correlation'] for w in (1., 3.))
    assert len(single) == 5
    for (norm, cosine), (larger, same) in zip(single, triple, strict=True):
        assert larger == pytest.approx(3 * norm, rel=1e-3) and norm > 0
        assert cosine == pytest.approx(same, abs=1e-4, nan_ok=True) and not abs(cosine) > 1
    assert 1e-4 < single[0][0] < 1e4


def test_what_cannot_be_measured(tmp_path, digits):
    heads = dict(mhgd=dict(type='AttentionGraphLoss', compress='mean', gradient_rule='full'))
    with pytest.raises(ValueError, match='no gradient rule'):
        measure(run_config(digits, tmp_path, distiller_config(distill_losses=heads)), 'student.pth')
