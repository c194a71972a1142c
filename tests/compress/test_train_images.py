"""The number of training images of a benchmark's row is that of what is trained on."""

import pytest

from contrastill.compress.grid_data import num_train_images
from contrastill.core.config.loading import load_config
from contrastill.training.assemble import assemble


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], 48),
        (["train.validation=0.25"], 36),
        (["train.validation=0.25", "seed=3"], 36),
        (["train.validation=0.5"], 24),
    ],
)
def test_images_for_validation_are_no_training_images(four_classes, tmp_path, options, expected):
    command = [f"data.path={four_classes}", "student.model=resnet8", f"out={tmp_path}", *options]
    config = load_config("teachers/cifar100", command)
    assert num_train_images(config) == expected == assemble(config).splits["train"].num_samples
