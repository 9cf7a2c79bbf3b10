"""The demo data set maker: reproducible, consistent in both layouts, careful with what is on disk."""
import contextlib
import io
import json
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('sklearn')
sys.path.append(str(Path(__file__).resolve().parents[1] / 'tools'))

import make_digits as tool  # noqa: E402

COUNTS = dict(train=40, val=15, size=192, seed=3)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob('*')
            if path.is_file()}


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp('digits') / 'a'
    assert tool.make_digits(out, **COUNTS)
    return out


@pytest.fixture
def small(tmp_path):
    out = tmp_path / 'digits'
    assert tool.make_digits(out, train=2, val=1, size=64)
    return out


def read_coco(folder, split):
    return json.loads((folder / f'annotations/{split}.json').read_text())


def test_same_seed_same_bytes_other_seed_other_bytes(made, tmp_path):
    tool.make_digits(tmp_path / 'again', **COUNTS)
    assert contents(tmp_path / 'again') == contents(made)
    tool.make_digits(tmp_path / 'other', **{**COUNTS, 'train': 1, 'val': 1, 'seed': 4})
    first = 'images/train/000001.jpg'
    assert contents(tmp_path / 'other')[first] != contents(made)[first]


def test_writes_exactly_the_files_it_announces(made):
    assert set(contents(made)) == tool.expected_files(tool.Params(**COUNTS))
    assert [path.name for path in made.parent.iterdir()] == [made.name]


def test_coco_boxes_lie_inside_images_and_have_the_announced_sizes(made):
    for split in tool.SPLITS:
        data = read_coco(made, split)
        assert [c['name'] for c in data['categories']] == list('0123456789')
        assert [c['id'] for c in data['categories']] == list(range(1, 11))
        assert len(data['images']) == COUNTS[split]
        for annotation in data['annotations']:
            x, y, w, h = annotation['bbox']
            assert 0 <= x < x + w <= 192 and 0 <= y < y + h <= 192
            assert 8 <= max(w, h) <= 62
            assert annotation['area'] == w * h and annotation['iscrowd'] == 0
        per_image = Counter(annotation['image_id'] for annotation in data['annotations'])
        assert len(per_image) == COUNTS[split]
        assert all(3 <= count <= 9 for count in per_image.values())


def test_images_have_the_announced_size_and_are_the_same_in_both_layouts(made):
    for split in tool.SPLITS:
        for image in read_coco(made, split)['images']:
            path = made / f'images/{split}' / image['file_name']
            assert cv2.imread(str(path)).shape == (image['height'], image['width'], 3)
            assert (made / 'VOC2007/JPEGImages' / image['file_name']).read_bytes() == path.read_bytes()


def test_pycocotools_loads_and_scores_the_ground_truth_as_perfect(made):
    coco_module = pytest.importorskip('pycocotools.coco')
    from pycocotools.cocoeval import COCOeval
    with contextlib.redirect_stdout(io.StringIO()):
        coco = coco_module.COCO(str(made / 'annotations/val.json'))
        found = [dict(image_id=a['image_id'], category_id=a['category_id'], bbox=a['bbox'], score=1.0)
                 for a in coco.dataset['annotations']]
        evaluation = COCOeval(coco, coco.loadRes(found), 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)


def test_voc_agrees_with_coco(made):
    """VOC counts pixels from 1 and includes both ends: mmdet subtracts 1 of all four."""
    seen = []
    for split in tool.SPLITS:
        data, boxes = read_coco(made, split), {}
        for a in data['annotations']:
            x, y, w, h = a['bbox']
            box = (str(a['category_id'] - 1), x + 1, y + 1, x + w, y + h)
            boxes.setdefault(a['image_id'], []).append(box)
        names = (made / f'VOC2007/ImageSets/Main/{split}.txt').read_text().split()
        assert [f'{name}.jpg' for name in names] == [image['file_name'] for image in data['images']]
        for name in names:
            root = ET.parse(made / f'VOC2007/Annotations/{name}.xml').getroot()
            assert root.findtext('filename') == f'{name}.jpg'
            size = [root.findtext(f'size/{key}') for key in ('width', 'height', 'depth')]
            assert size == ['192', '192', '3']
            found = [(o.findtext('name'), *(int(o.findtext(f'bndbox/{key}'))
                                            for key in ('xmin', 'ymin', 'xmax', 'ymax')))
                     for o in root.findall('object')]
            assert found == boxes[int(name)]
        seen += names
    assert len(seen) == len(set(seen))


def test_mmdet_reads_both_layouts_within_a_pixel(made):
    pytest.importorskip('mmcv')
    datasets = pytest.importorskip('mmdet.datasets')
    common = dict(metainfo=dict(classes=tool.CLASSES), pipeline=[], test_mode=True)
    coco = datasets.CocoDataset(data_root=str(made), ann_file='annotations/val.json',
                                data_prefix=dict(img='images/val/'), **common)
    voc = datasets.VOCDataset(data_root=str(made), ann_file='VOC2007/ImageSets/Main/val.txt',
                              data_prefix=dict(sub_data_root='VOC2007/'), **common)
    assert len(coco) == len(voc) == COUNTS['val']
    for i in range(len(coco)):
        one, two = (data.get_data_info(i) for data in (coco, voc))
        assert Path(one['img_path']).is_file() and Path(two['img_path']).is_file()
        labels = [[item['bbox_label'] for item in info['instances']] for info in (one, two)]
        boxes = [np.array([item['bbox'] for item in info['instances']]) for info in (one, two)]
        assert labels[0] == labels[1]
        assert np.abs(boxes[0] - boxes[1]).max() <= 1


def test_box_is_the_extent_of_the_ink():
    """Nothing outside the box is visible ink, every side of the box touches some."""
    samples, pools, _ = tool.load_sources(0)['train']
    rng = np.random.default_rng(0)
    for i in range(200):
        side = rng.uniform(18, 60)
        alpha = tool.draw_digit(samples[pools[i % 10][i // 10]], side, rng)
        layer = tool.place_digit(alpha, [], 192, rng)
        assert layer.min() >= 0 and layer.max() <= 1
        assert layer.sum() == pytest.approx(alpha.sum(), rel=1e-4)
        x, y, w, h = tool.tight_box(layer)
        ink = layer >= tool.EDGE
        inside = ink[y:y + h, x:x + w]
        assert inside.sum() == ink.sum()
        assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
        assert abs(max(w, h) - side) <= 2


def test_mask_is_the_stroke_and_ink_stands_out():
    """The mask is the stroke, not its square, and the ink stands out from the ground."""
    image = np.full((64, 64, 3), 120, np.float32)
    samples, pools, _ = tool.load_sources(0)['val']
    rng = np.random.default_rng(1)
    layer = tool.place_digit(tool.draw_digit(samples[pools[0][0]], 40, rng), [], 64, rng)
    ink = tool.draw_ink(image, layer, rng)
    assert ((ink >= 0) & (ink <= 255)).all()
    assert np.abs(ink - 120).mean() >= 20
    x, y, w, h = tool.tight_box(layer)
    assert (layer[y:y + h, x:x + w] == 0).mean() > 0.2


def test_every_digit_stays_visible_enough_and_some_overlap(made):
    parts = [a['visible'] for split in tool.SPLITS for a in read_coco(made, split)['annotations']]
    assert min(parts) >= tool.MIN_VISIBLE - 1e-3
    assert 0.03 < np.mean(np.array(parts) < 0.98) < 0.6


def test_visible_part_of_a_half_covered_layer():
    lower, upper = np.zeros((4, 4), np.float32), np.zeros((4, 4), np.float32)
    lower[:2], upper[:, :2] = 1, 0.5
    assert tool.visible_parts([lower, upper]) == pytest.approx([0.75, 1])


def test_splits_share_neither_digits_nor_photograph_pixels(made):
    sources = tool.load_sources(COUNTS['seed'])
    train, val = (set(np.concatenate(sources[split][1])) for split in tool.SPLITS)
    assert not train & val and len(train | val) == 1797
    used = [{a['sample'] for a in read_coco(made, split)['annotations']} for split in tool.SPLITS]
    assert used[0] <= train and used[1] <= val
    for left, right in zip(sources['train'][2], sources['val'][2], strict=True):
        assert left.shape[1] + right.shape[1] == 640
        assert not np.shares_memory(left, right)
        assert min(*left.shape[:2], *right.shape[:2]) >= tool.PHOTO_SIDE[1]


def test_labels_match_the_digit_samples_and_are_balanced(made):
    from sklearn.datasets import load_digits
    targets, counts = load_digits().target, Counter()
    for split in tool.SPLITS:
        for annotation in read_coco(made, split)['annotations']:
            label = annotation['category_id'] - 1
            assert targets[annotation['sample']] == label
            counts[label] += 1
    mean = sum(counts.values()) / 10
    assert all(0.5 * mean < counts[label] < 1.6 * mean for label in range(10))


def test_second_run_does_nothing(small):
    before = {path: path.stat().st_mtime_ns for path in small.rglob('*')}
    assert not tool.make_digits(small, train=2, val=1, size=64)
    assert {path: path.stat().st_mtime_ns for path in small.rglob('*')} == before


def test_other_parameters_need_force(small):
    before = contents(small)
    with pytest.raises(FileExistsError, match='--force'):
        tool.make_digits(small, train=3, val=1, size=64)
    assert contents(small) == before
    assert tool.make_digits(small, train=3, val=1, size=64, force=True)
    assert set(contents(small)) == tool.expected_files(tool.Params(3, 1, 64, 0))
    assert [path.name for path in small.parent.iterdir()] == [small.name]


def test_incomplete_data_set_is_noticed_and_repaired_with_force(small):
    before = contents(small)
    (small / 'images/train/000001.jpg').unlink()
    with pytest.raises(FileExistsError, match='--force'):
        tool.make_digits(small, train=2, val=1, size=64)
    assert tool.make_digits(small, train=2, val=1, size=64, force=True)
    assert contents(small) == before


@pytest.mark.parametrize('force', [False, True])
def test_foreign_files_are_never_replaced(small, tmp_path, force):
    (small / 'notes.txt').write_text('mine')
    with pytest.raises(FileExistsError, match='notes.txt'):
        tool.make_digits(small, train=3, val=1, size=64, force=force)
    assert (small / 'notes.txt').read_text() == 'mine'
    other = tmp_path / 'other'
    other.mkdir()
    (other / 'mine.txt').write_text('mine')
    with pytest.raises(FileExistsError, match='made by this tool'):
        tool.make_digits(other, train=1, val=1, size=64, force=force)
    assert contents(other) == {'mine.txt': b'mine'}


def test_empty_folder_is_accepted(tmp_path):
    assert tool.make_digits(tmp_path / 'x' / 'y', train=1, val=1, size=64)
    (tmp_path / 'empty').mkdir()
    assert tool.make_digits(tmp_path / 'empty', train=1, val=1, size=64)


def test_interrupted_run_leaves_nothing_half_made(small, monkeypatch):
    before = contents(small)

    def interrupt(folder, params):
        folder.mkdir()
        (folder / 'half').write_text('')
        raise KeyboardInterrupt

    monkeypatch.setattr(tool, 'write_data', interrupt)
    with pytest.raises(KeyboardInterrupt):
        tool.make_digits(small, train=3, val=1, size=64, force=True)
    with pytest.raises(KeyboardInterrupt):
        tool.make_digits(small.parent / 'new', train=3, val=1, size=64)
    assert contents(small) == before
    assert [path.name for path in small.parent.iterdir()] == [small.name]


def test_what_another_process_made_meanwhile_stays(tmp_path, monkeypatch):
    out, write, times = tmp_path / 'digits', tool.write_data, []

    def slow(folder, params):
        write(folder, params)
        write(out, params)  # the other one
        times.append({path: path.stat().st_mtime_ns for path in out.rglob('*')})

    monkeypatch.setattr(tool, 'write_data', slow)
    assert not tool.make_digits(out, train=2, val=1, size=64)
    assert {path: path.stat().st_mtime_ns for path in out.rglob('*')} == times[0]
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_failed_swap_puts_the_old_data_back(small, monkeypatch):
    before, rename = contents(small), Path.rename

    def fail(self, target):
        if self.name == 'new':
            raise OSError('disk trouble')
        return rename(self, target)

    monkeypatch.setattr(Path, 'rename', fail)
    with pytest.raises(OSError, match='disk trouble'):
        tool.make_digits(small, train=3, val=1, size=64, force=True)
    assert contents(small) == before


@pytest.mark.parametrize('name, value', [('train', -3), ('train', 0), ('val', -1), ('size', 63), ('seed', -1),
                                         ('train', 2.5), ('size', '192')])
def test_bad_numbers_are_named(tmp_path, name, value):
    with pytest.raises(ValueError, match=f'^{name}: expected .* got {value!r}$'):
        tool.make_digits(tmp_path / 'x', **{name: value})
    assert not (tmp_path / 'x').exists()


def test_bad_out_is_named(tmp_path):
    (tmp_path / 'file').write_text('mine')
    for out in (tmp_path / 'file', tmp_path / 'file' / 'below'):
        with pytest.raises(ValueError, match='^out: expected a folder.* got '):
            tool.make_digits(out, train=1, val=1, size=64, force=True)
    assert (tmp_path / 'file').read_text() == 'mine'


def test_command_line(tmp_path, monkeypatch, capsys):
    words = ['make_digits.py', '--out', str(tmp_path / 'd'), '--train', '1', '--val', '1', '--size', '64']
    monkeypatch.setattr(sys, 'argv', words)
    tool.main()
    assert 'made in' in capsys.readouterr().out
    tool.main()
    assert 'already made' in capsys.readouterr().out
    monkeypatch.setattr(sys, 'argv', [*words, '--seed', '-1'])
    with pytest.raises(SystemExit):
        tool.main()
    assert 'seed: expected' in capsys.readouterr().err
