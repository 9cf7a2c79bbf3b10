"""The digits under the class names and in the folders of COCO 2017 and of Pascal VOC, for the public configs."""
import json
import shutil

from mmdet.datasets import CocoDataset, VOCDataset


def coco_layout(digits, out):
    """``annotations/instances_{train,val}2017.json`` with all 80 categories, ``train2017`` and ``val2017``."""
    (out / 'annotations').mkdir(parents=True)
    names = CocoDataset.METAINFO['classes']
    for split in ('train', 'val'):
        shutil.copytree(digits / 'images' / split, out / f'{split}2017')
        boxes = json.loads((digits / 'annotations' / f'{split}.json').read_text())
        boxes['categories'] = [dict(id=i + 1, name=name) for i, name in enumerate(names)]
        (out / 'annotations' / f'instances_{split}2017.json').write_text(json.dumps(boxes))
    return out


def voc_layout(digits, out):
    """``VOC2007`` and ``VOC2012`` with VOC's class names, ``trainval`` and ``test`` lists."""
    for year in ('VOC2007', 'VOC2012'):
        shutil.copytree(digits / 'VOC2007', out / year)
        lists = out / year / 'ImageSets' / 'Main'
        for old, new in (('train', 'trainval'), ('val', 'test')):
            (lists / f'{old}.txt').rename(lists / f'{new}.txt')
        for file in (out / year / 'Annotations').glob('*.xml'):
            text = file.read_text()
            for digit in range(10):
                text = text.replace(f'<name>{digit}</name>', f'<name>{VOCDataset.METAINFO["classes"][digit]}</name>')
            file.write_text(text)
    return out
