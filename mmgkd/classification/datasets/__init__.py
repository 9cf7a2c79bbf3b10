"""Data sets of images of one class each."""
from .base import LabelledImages
from .cifar import CIFAR10, CIFAR100
from .digits import DigitsImages

__all__ = ['CIFAR10', 'CIFAR100', 'DigitsImages', 'LabelledImages']
