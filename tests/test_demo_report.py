"""The demo's table, sentence and figure, from made-up measurements."""
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

pytest.importorskip('matplotlib')
sys.path.append(str(Path(__file__).resolve().parents[1] / 'tools'))

import demo_figure  # noqa: E402
import demo_report  # noqa: E402
from boxes import Boxes, hits, shown  # noqa: E402
from demo_figure import Example  # noqa: E402


def results(alone, distilled):
    """What a demo would have measured."""
    teacher = [value + 10 for value in alone]
    scores = dict(teacher=teacher, student=alone, gkd=distilled)
    return dict(seeds=list(range(len(alone))), quick=False, cores=2, device='CPU', data='', detectors={
        kind: dict(name=demo_report.NAMES[kind], mAP=values, AP50=[2 * value for value in values],
                   parameters=1_250_000, ms_per_iteration=[400. + i for i in range(len(values))],
                   threads=[1] * len(values), curves=[{1: 0., 2: value} for value in values])
        for kind, values in scores.items()})


@pytest.mark.parametrize('alone, distilled, says', [
    ([20., 21., 22.], [25., 26., 27.], ['better by 5.0', '+5.0, ', 'is more than the spread over seeds, 1']),
    ([25., 26., 27.], [20., 21., 22.], ['worse by 5.0', '-5.0, -5', 'is more than the spread over seeds, 1']),
    ([20., 21., 22.], [19., 22., 24.], ['better by 0.7', 'not more than', '2.5', 'do not tell']),
    ([20., 21., 22.], [21., 21., 19.], ['worse by 0.7', 'not more than', 'do not tell the two apart']),
    ([20.], [23.], ['better by 3.0', 'one seed', 'make demo SEEDS=3', '--seeds 3']),
    ([20.], [17.], ['worse by 3.0', 'one seed']),
    ([20.], [20.], ['as good as alone', 'one seed']),
])
def test_verdict(alone, distilled, says):
    verdict = demo_report.verdict(results(alone, distilled))
    assert all(part in verdict for part in says), verdict


def test_table_and_files(tmp_path, monkeypatch):
    measured = results([20., 21., 22.], [25., 26., 27.])
    monkeypatch.setattr(demo_report, 'examples', lambda results: [example(tmp_path)])
    console = Console(record=True, width=80)
    demo_report.write(measured, tmp_path, console)
    text, saved = console.export_text(), (tmp_path / 'results.md').read_text()
    for said in ('21.0 ± 1.0', '26.0 ± 1.0', '52.0 ± 2.0', '1.25 M', '401', 'better by 5.0', 'one thread'):
        assert said in text and said in saved, said
    assert '…' not in text
    numbers = json.loads((tmp_path / 'results.json').read_text())
    assert numbers['gkd_minus_alone'] == [5., 5., 5.]
    assert numbers['detectors']['gkd']['mAP'] == [25., 26., 27.]
    assert (tmp_path / 'comparison.png').read_bytes()[:4] == b'\x89PNG'


def example(folder, found=True):
    """An image with two digits."""
    cv2.imwrite(str(folder / 'image.jpg'), np.full((96, 96, 3), 90, np.uint8))
    truth = Boxes(np.array([[10., 10, 30, 40], [50, 50, 70, 80]]), np.array([3, 7]), np.ones(2))
    none = Boxes(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))
    found = dict(teacher=truth, student=none, gkd=truth if found else none)
    return Example(folder / 'image.jpg', truth, found)


@pytest.mark.parametrize('seeds', [1, 3])
def test_figure_of_a_short_run(tmp_path, seeds):
    measured = results([0.] * seeds, [0.] * seeds)
    for row in measured['detectors'].values():
        row['curves'] = [{'1': 0.}] * seeds  # one epoch, as --quick has it, and as JSON writes it
    rows = dict(zip(measured['detectors'], demo_report.rows(measured), strict=True))
    path = tmp_path / 'figure.png'
    demo_figure.draw(measured, demo_report.COLUMNS, rows, [example(tmp_path, found=False)], path)
    assert path.stat().st_size > 10_000


def test_a_box_is_right_once_with_its_class_and_half_the_overlap():
    truth = Boxes(np.array([[0., 0, 10, 10], [20, 20, 30, 30]]), np.array([3, 7]), np.ones(2))
    boxes = [[0., 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [20, 20, 30, 26], [20, 20, 30, 24]]
    found = Boxes(np.array(boxes), np.array([3, 3, 1, 7, 7]), np.array([.5, .9, .8, .35, .2]))
    sure = shown(found)
    assert sure.scores.tolist() == [.9, .8, .5, .35]
    assert hits(sure, truth) == [True, False, False, True]


def test_metrics_of_the_last_test_and_of_a_detector_that_finds_nothing(tmp_path):
    measured = {'20260101_000000': {'coco/bbox_mAP': .9, 'coco/bbox_mAP_50': .95}, '20260102_000000': {}}
    for stamp, values in measured.items():
        (tmp_path / stamp).mkdir()
        (tmp_path / stamp / f'{stamp}.json').write_text(json.dumps(values))
        expected = dict(mAP=90., AP50=95.) if values else dict(mAP=0., AP50=0.)
        assert demo_report.read_metrics(tmp_path) == pytest.approx(expected)


def test_curve_takes_the_second_run_of_an_epoch():
    lines = [{'coco/bbox_mAP': .1, 'step': 1}, {'loss': 3., 'time': .2, 'step': 50},
             {'coco/bbox_mAP': .3, 'step': 1}, {'loss': 2., 'time': .4, 'step': 60},
             {'coco/bbox_mAP': -1., 'step': 2}]
    assert demo_report.curve(lines) == {1: 30., 2: 0.}
    assert demo_report.iteration_time(lines) == pytest.approx(300.)


@pytest.mark.parametrize('kind', ['student', 'gkd'])
def test_parameters_are_those_of_the_deployed_student(kind):
    teacher, student, deployed = (
        demo_report.count_parameters(f'configs/digits/{name}.py') for name in ('teacher', 'student', kind))
    assert deployed == student < teacher
