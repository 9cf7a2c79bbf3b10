# CIFAR-100 as MHGD trains on it: batches of 128, images mirrored at their border before they are cropped.
_base_ = './cifar100.py'

train_dataloader = dict(
    batch_size=128,
    dataset=dict(pipeline=[
        dict(type='mmgkd.PadRandomCrop', padding=4, pad_mode='reflect'),
        dict(type='RandomFlip', prob=0.5),
        dict(type='mmgkd.PackClsInputs'),
    ]))
