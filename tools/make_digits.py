"""Make the demo detection data set: handwritten digits pasted onto photographs.

Both come with scikit-learn: digits of ``load_digits`` (UCI, CC BY 4.0), its sample photographs (CC BY 2.0).
Train and val share neither a digit sample nor a photograph pixel. The same images and boxes are written in
COCO layout (``images/``, ``annotations/``) and in VOC layout (``VOC2007/``).
"""
import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import sklearn
from sklearn.datasets import load_digits, load_sample_images
from whole_folder import make_whole

CLASSES = tuple('0123456789')
SPLITS = ('train', 'val')
TRAIN_PART = 0.7  # of the digit samples of each class, and of each photograph's width
DIGITS_PER_IMAGE = (3, 9)
DIGIT_SIDE = (18, 60)  # longer box side in pixels, of an image of 192 pixels
PHOTO_SIDE = (96, 190)  # side in photograph pixels of the square that becomes an image
MIN_VISIBLE = 0.6
EDGE = 0.3  # alpha from which a pixel counts as part of the digit's box
STAMP = 'digits.json'
FILES = ('annotations/{split}.json', 'images/{split}/{name}.jpg', 'VOC2007/ImageSets/Main/{split}.txt',
         'VOC2007/JPEGImages/{name}.jpg', 'VOC2007/Annotations/{name}.xml')


@dataclass(frozen=True)
class Params:
    """Everything the data set depends on: image counts, image side in pixels, random seed."""
    train: int
    val: int
    size: int
    seed: int

    def __post_init__(self) -> None:
        for name, least in (('train', 1), ('val', 1), ('size', 64), ('seed', 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f'{name}: expected a whole number of at least {least}, got {value!r}')


def load_sources(seed: int) -> dict[str, tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]]:
    """Return by split all digits (1797, 8, 8) in 0..16, its sample numbers by class, its BGR photographs."""
    data, rng = load_digits(), np.random.default_rng(seed)
    orders = [rng.permutation(np.flatnonzero(data.target == label)) for label in range(len(CLASSES))]
    pools = [np.split(order, [int(TRAIN_PART * len(order))]) for order in orders]
    photos = [np.split(photo[..., ::-1], [int(TRAIN_PART * photo.shape[1])], axis=1)
              for photo in load_sample_images().images]
    return {split: (data.images, [pool[i] for pool in pools], [photo[i] for photo in photos])
            for i, split in enumerate(SPLITS)}


def draw_background(photos: list[np.ndarray], size: int, rng: np.random.Generator) -> np.ndarray:
    """Return a random square of a photograph, (size, size, 3) float32 in 0..255."""
    photo = photos[rng.integers(len(photos))]
    side = int(rng.integers(*PHOTO_SIDE))
    top, left = (int(rng.integers(extent - side + 1)) for extent in photo.shape[:2])
    crop = photo[top:top + side, left:left + side][::rng.choice((-1, 1)), ::rng.choice((-1, 1))]
    crop = cv2.resize(crop.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    gains = rng.uniform(0.65, 1.15) * rng.uniform(0.85, 1.15, 3)
    return np.clip(crop * gains, 0, 255).astype(np.float32)


def tight_box(alpha: np.ndarray, edge: float = EDGE) -> tuple[int, int, int, int]:
    """Return (x, y, w, h) in pixels of the smallest box that holds every alpha (H, W) of at least edge."""
    return cv2.boundingRect((alpha >= edge).astype(np.uint8))


def draw_digit(digit: np.ndarray, side: float, rng: np.random.Generator) -> np.ndarray:
    """Return the alpha mask (h, w) float32 in 0..1 of a digit (8, 8) of longer side about side pixels."""
    grey = np.pad(digit.astype(np.float32) / 16, 3)
    grey += 0.7 * (grey - cv2.GaussianBlur(grey, (0, 0), 1.25))
    grey = cv2.resize(grey, None, fx=16, fy=16, interpolation=cv2.INTER_CUBIC)
    turn = cv2.getRotationMatrix2D((0, 0), rng.uniform(-25, 25), 1)[:, :2]
    linear = turn @ np.array([[rng.uniform(0.8, 1.15), rng.uniform(-0.25, 0.25)], [0, 1]])
    centre = np.full(2, (len(grey) - 1) / 2)
    affine = np.column_stack([linear, centre - linear @ centre])
    grey = cv2.warpAffine(grey, affine, grey.shape, flags=cv2.INTER_LINEAR)
    faintest = rng.uniform(0.3, 0.45)
    ramp = np.clip((grey - faintest) / 0.3, 0, 1)
    alpha = ramp * ramp * (3 - 2 * ramp)
    scale = side / max(tight_box(alpha)[2:])
    alpha = cv2.resize(alpha, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).clip(0, 1)
    x, y, w, h = tight_box(alpha, 1 / 255)
    return alpha[y:y + h, x:x + w]


def visible_parts(layers: list[np.ndarray]) -> list[float]:
    """Return for each alpha layer (H, W), in painting order, the part that later ones leave visible."""
    parts, uncovered = [], np.ones_like(layers[0])
    for layer in reversed(layers):
        parts.append(float((layer * uncovered).sum() / layer.sum()))
        uncovered = uncovered * (1 - layer)
    return parts[::-1]


def place_digit(alpha: np.ndarray, layers: list[np.ndarray], size: int,
                rng: np.random.Generator) -> np.ndarray:
    """Return a layer (size, size) with the mask (h, w), anywhere or beside another, hiding none too much."""
    h, w = alpha.shape
    for _ in range(50):
        left, top = rng.uniform(0, size - w), rng.uniform(0, size - h)
        if layers and rng.random() < 0.35:
            x, y, other_w, other_h = tight_box(layers[rng.integers(len(layers))])
            angle, reach = rng.uniform(0, 2 * math.pi), rng.uniform(0.35, 0.6)
            left = np.clip(x + (other_w - w) / 2 + math.cos(angle) * reach * (w + other_w), 0, size - w)
            top = np.clip(y + (other_h - h) / 2 + math.sin(angle) * reach * (h + other_h), 0, size - h)
        layer = np.zeros((size, size), np.float32)
        layer[int(top):int(top) + h, int(left):int(left) + w] = alpha
        if min(visible_parts([*layers, layer])) >= MIN_VISIBLE:
            return layer
    raise RuntimeError(f'no room for a digit of {w} x {h} pixels in an image of {size} x {size}')


def draw_ink(image: np.ndarray, layer: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a BGR colour (3,) of moderate to low contrast to image (H, W, 3) where layer (H, W) lies."""
    under = image[layer >= EDGE]
    ground, clutter = under.mean(axis=0), under.mean(axis=1).std()
    direction = rng.choice((-1, 1)) + rng.choice((0.15, 1.2)) * rng.standard_normal(3)
    contrast = rng.uniform(50, 110) + clutter
    step = contrast * direction / np.abs(direction).mean()
    ink, opposite = (np.clip(ground + sign * step, 0, 255) for sign in (1, -1))
    kept, kept_opposite = np.abs(ink - ground).mean(), np.abs(opposite - ground).mean()
    return ink if kept >= min(0.8 * contrast, kept_opposite) else opposite


def draw_scene(samples: np.ndarray, pools: list[np.ndarray], photos: list[np.ndarray], size: int,
               rng: np.random.Generator) -> tuple[np.ndarray, list[dict]]:
    """Return an image (size, size, 3) uint8 BGR and its digits: label, sample, bbox xywh, visible part."""
    image = draw_background(photos, size, rng)
    scale, layers, digits = size / 192, [], []
    low, high = max(10.0, DIGIT_SIDE[0] * scale), DIGIT_SIDE[1] * scale
    for _ in range(rng.integers(DIGITS_PER_IMAGE[0], DIGITS_PER_IMAGE[1] + 1)):
        label = int(rng.integers(len(CLASSES)))
        sample = int(rng.choice(pools[label]))
        side = math.exp(rng.uniform(math.log(low), math.log(high)))
        layer = place_digit(draw_digit(samples[sample], side, rng), layers, size, rng)
        weight = layer[..., None] * rng.uniform(0.8, 1)
        image = image * (1 - weight) + draw_ink(image, layer, rng) * weight
        layers.append(layer)
        digits.append(dict(label=label, sample=sample, bbox=tight_box(layer)))
    for digit, part in zip(digits, visible_parts(layers), strict=True):
        digit['visible'] = round(part, 4)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.25, 0.9) * max(1, scale))
    image += rng.normal(0, rng.uniform(2, 8), image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), digits


def image_names(params: Params) -> dict[str, list[str]]:
    """Return the image names of each split, numbered through: VOC keeps both splits in one folder."""
    names = [f'{number:06d}' for number in range(1, params.train + params.val + 1)]
    return {'train': names[:params.train], 'val': names[params.train:]}


def expected_files(params: Params) -> set[str]:
    """Return the relative path of every file of a data set with these parameters."""
    return {STAMP} | {pattern.format(split=split, name=name) for split, names in image_names(params).items()
                      for name in names for pattern in FILES}


def voc_xml(name: str, size: int, digits: list[dict]) -> str:
    """Return the VOC annotation of an image: boxes are whole pixels, counted from 1, both ends inside."""
    lines = [f'<annotation><folder>VOC2007</folder><filename>{name}.jpg</filename><segmented>0</segmented>',
             f'<size><width>{size}</width><height>{size}</height><depth>3</depth></size>']
    for digit in digits:
        x, y, w, h = digit['bbox']
        lines += [f'<object><name>{CLASSES[digit["label"]]}</name><pose>Unspecified</pose>',
                  f'<truncated>0</truncated><difficult>0</difficult><bndbox><xmin>{x + 1}</xmin>',
                  f'<ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>']
    return '\n'.join([*lines, '</annotation>\n'])


def coco_json(params: Params, scenes: dict[str, list[dict]]) -> dict:
    """Return the COCO description of a split from the digits of each image name; bbox xywh in pixels."""
    size, annotations = dict(width=params.size, height=params.size), []
    for name, digit in ((name, digit) for name, digits in scenes.items() for digit in digits):
        bbox = [float(value) for value in digit['bbox']]
        annotations.append(dict(
            id=len(annotations) + 1, image_id=int(name), category_id=digit['label'] + 1, bbox=bbox,
            area=bbox[2] * bbox[3], iscrowd=0, sample=digit['sample'], visible=digit['visible']))
    return dict(info=dict(description='handwritten digits on photographs', **asdict(params)),
                images=[dict(id=int(name), file_name=f'{name}.jpg', **size) for name in scenes],
                categories=[dict(id=i, name=name) for i, name in enumerate(CLASSES, 1)],
                annotations=annotations)


def write_data(folder: Path, params: Params) -> None:
    """Write the whole data set into a new folder."""
    for name in expected_files(params):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    for number, (split, source) in enumerate(load_sources(params.seed).items()):
        scenes, names = {}, image_names(params)[split]
        for i, name in enumerate(names):
            rng = np.random.default_rng([params.seed, number, i])
            image, scenes[name] = draw_scene(*source, params.size, rng)
            jpeg = cv2.imencode('.jpg', image, (cv2.IMWRITE_JPEG_QUALITY, 95))[1].tobytes()
            (folder / f'images/{split}/{name}.jpg').write_bytes(jpeg)
            (folder / f'VOC2007/JPEGImages/{name}.jpg').write_bytes(jpeg)
            (folder / f'VOC2007/Annotations/{name}.xml').write_text(voc_xml(name, params.size, scenes[name]))
        (folder / f'annotations/{split}.json').write_text(json.dumps(coco_json(params, scenes)))
        (folder / f'VOC2007/ImageSets/Main/{split}.txt').write_text('\n'.join([*names, '']))
    versions = dict(numpy=np.__version__, opencv=cv2.__version__, sklearn=sklearn.__version__)
    (folder / STAMP).write_text(json.dumps(dict(parameters=asdict(params), versions=versions), indent=1))


def make_digits(out: str | Path = 'data/digits', train: int = 400, val: int = 150, size: int = 160,
                seed: int = 0, force: bool = False) -> bool:
    """Make the data set in folder out, whole or not at all; return False if it was there already."""
    params = Params(train, val, size, seed)
    return make_whole(Path(out).resolve(), STAMP, params, expected_files, write_data, force)


def main() -> None:
    """Make the data set that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--out', default='data/digits', help='folder to make')
    parser.add_argument('--train', type=int, default=400, help='number of training images')
    parser.add_argument('--val', type=int, default=150, help='number of validation images')
    parser.add_argument('--size', type=int, default=160, help='image width and height in pixels')
    parser.add_argument('--seed', type=int, default=0, help='random seed')
    parser.add_argument('--force', action='store_true', help='replace a data set made by this tool')
    options, start = vars(parser.parse_args()), time.perf_counter()
    try:
        made = make_digits(**options)
    except (ValueError, FileExistsError) as error:
        parser.error(str(error))
    done = f'made in {time.perf_counter() - start:.1f} s' if made else 'already made, nothing to do'
    print(f'{options["out"]}: {done}')


if __name__ == '__main__':
    main()
