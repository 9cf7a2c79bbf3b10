"""Make data/deeppcb, in COCO layout, of a clone of the DeepPCB repository: every second image of its two lists.

    git clone https://github.com/tangsanli5201/DeepPCB
    python tools/convert_deeppcb.py DeepPCB
"""
from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2
from whole_folder import make_whole

CLASSES = ('open', 'short', 'mousebite', 'spur', 'copper', 'pin-hole')  # the text files count them from 1
LISTS = dict(train='trainval.txt', val='test.txt')
STAMP = 'deeppcb.json'


@dataclass(frozen=True)
class Params:
    """Everything that the data set depends on beside the repository: of its lists every so-manieth line is taken."""
    every: int

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f'every: expected at least 1, got {self.every}')


def listed(source: Path, split: str, every: int) -> list[tuple[Path, Path]]:
    """The photograph of the board with defects, and the text file of its boxes, of every so-manieth line.

    Raises:
        FileNotFoundError: This is no clone of DeepPCB, or a part of one; the text names the file.
    """
    root = source / 'PCBData'
    path = root / LISTS[split]
    if not path.is_file():
        raise FileNotFoundError(f'source: expected a clone of DeepPCB, got {source}, where there is no {path}')
    pairs = []
    for line in path.read_text().splitlines()[::every]:
        image, boxes = (root / name for name in line.split())
        pairs.append((image.with_name(f'{image.stem}_test.jpg'), boxes))
        for file in pairs[-1]:
            if not file.is_file():
                raise FileNotFoundError(f'source: {path} names {file}, which is not there: clone the repository again')
    return pairs


def name_of(image: Path) -> str:
    """What a photograph is called in the data set: ``20085000.jpg`` for ``20085000_test.jpg``."""
    return image.name.replace('_test', '')


def expected_files(params: Params, source: Path) -> set[str]:
    """The relative path of every file of the data set."""
    return {STAMP, 'LICENSE'} | {f'annotations/{split}.json' for split in LISTS} | {
        f'images/{name_of(image)}' for split in LISTS for image, _ in listed(source, split, params.every)}


def describe(pairs: Sequence[tuple[Path, Path]]) -> dict:
    """The COCO description: bbox xywh in pixels, of corners x1 y1 x2 y2 and a class in each line of a text file."""
    images, annotations = [], []
    for number, (image, boxes) in enumerate(pairs, 1):
        pixels = cv2.imread(str(image))
        if pixels is None:
            raise ValueError(f'source: {image} is no whole image: clone the repository again')
        height, width = pixels.shape[:2]
        images.append(dict(id=number, file_name=name_of(image), width=width, height=height))
        for line in boxes.read_text().splitlines():
            left, top, right, bottom, label = map(int, line.split())
            bbox = [left, top, right - left, bottom - top]
            annotations.append(dict(id=len(annotations) + 1, image_id=number, category_id=label, bbox=bbox,
                                    area=bbox[2] * bbox[3], iscrowd=0))
    return dict(images=images, annotations=annotations,
                categories=[dict(id=i, name=name) for i, name in enumerate(CLASSES, 1)])


def write_data(folder: Path, params: Params, source: Path) -> None:
    """Write the whole data set into a new folder."""
    for part in ('annotations', 'images'):
        (folder / part).mkdir(parents=True)
    shutil.copyfile(source / 'LICENSE', folder / 'LICENSE')
    for split in LISTS:
        pairs = listed(source, split, params.every)
        for image, _ in pairs:
            shutil.copyfile(image, folder / 'images' / name_of(image))
        (folder / f'annotations/{split}.json').write_text(json.dumps(describe(pairs)))
    (folder / STAMP).write_text(json.dumps(dict(parameters=asdict(params)), indent=1))


def convert_deeppcb(source: str | Path, out: str | Path = 'data/deeppcb', every: int = 2, force: bool = False) -> bool:
    """Make the data set in folder out, whole or not at all; return False if it was there already."""
    source, params = Path(source).resolve(), Params(every)
    expected_files(params, source)  # what is missing is said before anything is made
    return make_whole(Path(out).resolve(), STAMP, params, partial(expected_files, source=source),
                      partial(write_data, source=source), force)


def main(argv: Sequence[str] | None = None) -> None:
    """Make the data set that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', help='a clone of the repository')
    parser.add_argument('--out', default='data/deeppcb', help='folder to make (default: data/deeppcb)')
    parser.add_argument('--every', type=int, default=2, help='1 takes all images (default: every second, as measured)')
    parser.add_argument('--force', action='store_true', help='replace a data set made by this tool')
    options = vars(parser.parse_args(argv))
    try:
        made = convert_deeppcb(**options)
    except (ValueError, FileExistsError, FileNotFoundError) as error:
        parser.error(str(error))
    print(f'{options["out"]}: {"made" if made else "already made, nothing to do"}')


if __name__ == '__main__':
    main()
