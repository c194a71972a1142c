"""Names of NYU-Depth V2's label maps, and the mappings 894 → 40 → 13 classes; numbers as published, from 1, 0 for
unlabelled.
"""

from __future__ import annotations

import numpy as np

RAW_LABELS = 894
"""Highest label in the official file."""

# fmt: off
CLASSES_40 = [
    "unlabelled", "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture",
    "counter", "blinds", "desk",
    "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat", "clothes", "ceiling", "books", "refrigerator",
    "television", "paper", "towel",
    "shower curtain", "box", "whiteboard", "person", "night stand", "toilet", "sink", "lamp", "bathtub", "bag",
    "other structure", "other furniture",
    "other prop",
]
"""Gupta et al., CVPR 2013."""

CLASSES_13 = [
    "unlabelled", "bed", "books", "ceiling", "chair", "floor", "furniture", "objects", "picture", "sofa", "table", "tv",
    "wall", "window",
]
"""Couprie et al., ICLR 2013, in the alphabetical order of the names."""

# Class of the 13, for each of the 40.
_FROM_40 = [
    12, 5, 6, 1, 4, 9, 10, 12, 13, 6, 8, 6, 13, 10, 6, 13, 6, 7, 7, 5, 7, 3, 2, 6, 11, 7, 7, 7, 7, 7, 7, 6, 7, 7, 7, 7,
    7, 7, 6, 7
]

# The 894 → 40 of Gupta et al. (mapClass in their classMapping40.mat): each of the classes 1 to 37 is one label of the
# 894,
_OWN = [
    21, 11, 3, 157, 5, 83, 19, 28, 59, 88, 64, 7, 80, 36, 42, 89, 169, 119, 122, 143, 141, 4, 85, 17, 172, 15, 135, 123,
    26, 45, 331, 158, 124, 24, 144,
    136, 55
]
# structures and furniture are these, and every other label is a prop.
_STRUCTURES = [
    8, 25, 33, 38, 51, 53, 57, 58, 62, 65, 79, 94, 104, 112, 134, 153, 215, 216, 223, 225, 238, 241, 242, 256, 295, 301,
    339, 342, 354, 363, 372, 380, 392,
    408, 412, 453, 456, 463, 477, 497, 541, 550, 553, 567, 573, 582, 591, 609, 612, 615, 642, 645, 657, 658, 659, 663,
    667, 668, 686, 700, 702, 777, 778,
    782, 850, 861, 868, 874
]
_FURNITURE = [
    12, 43, 48, 50, 87, 106, 111, 161, 163, 174, 183, 204, 214, 219, 221, 224, 236, 262, 278, 291, 298, 313, 343, 344,
    356, 359, 373, 393, 401, 414, 418,
    419, 430, 443, 444, 447, 448, 457, 458, 460, 462, 475, 479, 485, 486, 493, 494, 498, 499, 509, 510, 515, 521, 524,
    540, 549, 551, 554, 556, 558, 576,
    580, 608, 625, 703, 734, 770, 772, 797, 800, 803, 804, 813, 814, 815, 820, 829, 835, 858, 863, 882, 892
]
# fmt: on


def lookup(classes: int) -> np.ndarray:
    """Class of every label of the official file: uint8 (895,), in 0..classes.

    Args:
        classes: 40 or 13.

    Example:
        >>> CLASSES_40[lookup(40)[21]], CLASSES_13[lookup(13)[21]], lookup(40)[0]
        ('wall', 'wall', np.uint8(0))
    """
    to_40 = np.full(RAW_LABELS + 1, 40, np.uint8)
    to_40[0] = 0
    to_40[_OWN] = np.arange(1, 38)
    to_40[_STRUCTURES], to_40[_FURNITURE] = 38, 39
    return to_40 if classes == 40 else np.array([0, *_FROM_40], np.uint8)[to_40]


def names(classes: int) -> list[str]:
    """Names of the values of a label map of 40 or 13 classes."""
    return list(CLASSES_40 if classes == 40 else CLASSES_13)
