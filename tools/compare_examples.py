"""The same test images as several detectors see them, side by side, as pictures for a web page."""
from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from boxes import MIN_IOU, MIN_SCORE, RIGHT, TRUTH, WRONG, Boxes, draw_boxes, hits, read_predictions, shown
from mmengine.config import Config
from plots import plt

COUNT = 4
OBJECTS = (2, 12)  # in an example: enough to compare, few enough to see
SIDE = 3.2  # inches


class Panel(NamedTuple):
    """One picture: whose boxes it shows, what is to be said of them, and a JPEG as a data URL."""
    title: str
    caption: str
    image: str


def panels(cfg: Config, predictions: Mapping[str, str]) -> list[list[Panel]]:
    """A row for each image: the truth, and what each detector finds.

    Args:
        cfg (Config): With the test data.
        predictions (Mapping[str, str]): Files of ``tools/test.py --out`` by the detectors' names.
    """
    from mmdet.registry import DATASETS
    from mmengine.registry import init_default_scope
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
    found = {name: read_predictions(path) for name, path in predictions.items()}
    names = short_names(dataset.metainfo['classes'])
    rows = []
    for info in chosen([dataset.get_data_info(i) for i in range(len(dataset))]):
        truth = true_boxes(info)
        rows.append([picture('truth', info['img_path'], truth, [TRUTH] * len(truth.labels), names,
                             f'{len(truth.labels)} objects')])
        for name, boxes in found.items():
            sure = shown(boxes[info['img_id']])
            right = hits(sure, truth)
            rows[-1].append(picture(name, info['img_path'], sure, [RIGHT if hit else WRONG for hit in right], names,
                                    f'{sum(right)} of {len(truth.labels)} found, {len(right) - sum(right)} wrong'))
    return rows


def legend() -> str:
    return f'Boxes with a score of at least {MIN_SCORE}. Green: the right class, IoU of at least {MIN_IOU} with an ' \
           'object that no surer box has; red, dashed: anything else.'


def chosen(infos: Sequence[dict]) -> list[dict]:
    """Some images, spread evenly over those with a fair number of objects."""
    some = [info for info in infos if len(true_boxes(info).labels)]  # none, if nobody tells what is on them
    fair = [info for info in some if OBJECTS[0] <= len(info['instances']) <= OBJECTS[1]] or some
    return [fair[i * len(fair) // COUNT] for i in range(COUNT)] if len(fair) > COUNT else fair


def true_boxes(info: dict) -> Boxes:
    real = [instance for instance in info.get('instances', ()) if not instance.get('ignore_flag')]
    return Boxes(np.array([instance['bbox'] for instance in real], float).reshape(-1, 4),
                 np.array([instance['bbox_label'] for instance in real], int), np.ones(len(real)))


def short_names(classes: Sequence[str]) -> list[str]:
    """As few first letters of each class as tell it from all others, up to four."""
    for length in range(1, 4):
        cut = [name[:length] for name in classes]
        if len(set(cut)) == len(cut):
            return cut
    return [name[:4] for name in classes]


def picture(title: str, path: str, boxes: Boxes, colours: list[str], names: Sequence[str], caption: str) -> Panel:
    image = plt.imread(path)
    height, width = image.shape[:2]
    figure = plt.figure(figsize=(SIDE, SIDE * height / width), facecolor='white')
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(image, cmap='gray', interpolation='lanczos')
    axes.axis('off')
    scale = width / 256  # what the tags' places are made for
    axes.set(xlim=(0, width / scale), ylim=(height / scale, 0))
    axes.images[0].set_extent((0, width / scale, height / scale, 0))
    draw_boxes(axes, Boxes(boxes.boxes / scale, [names[label] for label in boxes.labels], boxes.scores), colours)
    buffer = io.BytesIO()
    figure.savefig(buffer, format='jpeg', dpi=100, pil_kwargs=dict(quality=85))
    plt.close(figure)
    return Panel(title, caption, 'data:image/jpeg;base64,' + base64.b64encode(buffer.getvalue()).decode())
