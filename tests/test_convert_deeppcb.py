"""The converter of DeepPCB, on a small folder of its layout."""
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / 'tools'))

import convert_deeppcb as tool  # noqa: E402


@pytest.fixture
def source(tmp_path):
    """Three boards for training and one for validation."""
    root = tmp_path / 'DeepPCB/PCBData'
    (root / 'group1/1').mkdir(parents=True)
    (root / 'group1/1_not').mkdir()
    (root.parent / 'LICENSE').write_text('MIT')
    for number in range(4):
        for kind in ('test', 'temp'):
            cv2.imwrite(str(root / f'group1/1/{number}_{kind}.jpg'), np.full((48, 64, 3), 50 * number, np.uint8))
        (root / f'group1/1_not/{number}.txt').write_text(f'10 5 30 15 6\n1 2 3 {5 + number} 1\n')
    lines = [f'group1/1/{number}.jpg group1/1_not/{number}.txt' for number in range(4)]
    (root / 'trainval.txt').write_text('\n'.join(lines[:3]))
    (root / 'test.txt').write_text(lines[3])
    return root.parent


def test_every_second_image_in_coco_layout(source, tmp_path):
    assert tool.convert_deeppcb(source, tmp_path / 'out')
    assert sorted(path.name for path in (tmp_path / 'out/images').iterdir()) == ['0.jpg', '2.jpg', '3.jpg']
    assert (tmp_path / 'out/images/2.jpg').read_bytes() == (source / 'PCBData/group1/1/2_test.jpg').read_bytes()
    data = json.loads((tmp_path / 'out/annotations/train.json').read_text())
    assert data['images'][1] == dict(id=2, file_name='2.jpg', width=64, height=48)
    assert [category['name'] for category in data['categories']][5] == 'pin-hole'
    assert data['annotations'][0] == dict(id=1, image_id=1, category_id=6, bbox=[10, 5, 20, 10], area=200, iscrowd=0)
    assert data['annotations'][3]['bbox'] == [1, 2, 2, 5] and data['annotations'][3]['image_id'] == 2
    made = {path.relative_to(tmp_path / 'out').as_posix() for path in (tmp_path / 'out').rglob('*') if path.is_file()}
    assert made == tool.expected_files(tool.Params(2), source)
    assert not tool.convert_deeppcb(source, tmp_path / 'out')  # nothing to do
    with pytest.raises(FileExistsError, match='--force replaces it'):
        tool.convert_deeppcb(source, tmp_path / 'out', every=1)
    assert tool.convert_deeppcb(source, tmp_path / 'out', every=1, force=True)
    assert len(list((tmp_path / 'out/images').iterdir())) == 4


def test_errors_name_the_file(source, tmp_path, capsys):
    with pytest.raises(SystemExit):
        tool.main([str(tmp_path), '--out', str(tmp_path / 'out')])
    assert 'expected a clone of DeepPCB' in capsys.readouterr().err
    (source / 'PCBData/group1/1/2_test.jpg').unlink()
    with pytest.raises(FileNotFoundError, match='2_test.jpg, which is not there'):
        tool.convert_deeppcb(source, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()
    with pytest.raises(ValueError, match='every: expected at least 1'):
        tool.Params(0)
