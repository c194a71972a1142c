#!/usr/bin/env bash
# torchvision 0.29.1 with torch 2.14.1, tv_tensors.KeyPoints: the flips take the number 0 for the middle of the first
# pixel (x becomes width - 1 - x), while rotate, affine, perspective and resize take it for the pixel's outer edge. So
# whichever of the two one's own annotations mean, either the flips or the others move them away from what they mark.
# A horizontal and a vertical flip are a rotation by 180 degrees for images and for BoundingBoxes, but one pixel apart
# in both directions for KeyPoints; and a flip before and after enlarging four times differ by three pixels.
# Seen, 8 x 10 image with a bright pixel at x 2, y 1: it is at 7, 6 after both flips and after the rotation; its point
# (2, 1) is at (7, 6) after both flips and at (8, 7) after the rotation.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet torch==2.14.1 torchvision==0.29.1 numpy==2.4.6
"$folder/env/bin/python" - <<'PY'
import torch
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

SIZE = (8, 10)
image = torch.zeros(1, *SIZE)
image[0, 1, 2] = 1


def points(*values):
    return tv_tensors.KeyPoints(torch.tensor(values), canvas_size=SIZE)


def flipped(value):
    return functional.vertical_flip(functional.horizontal_flip(value))


def rotated(value):
    return functional.rotate(value, 180.0)


def bright(value):
    return value[0].nonzero().flip(-1).tolist()


box = tv_tensors.BoundingBoxes(torch.tensor([[2.0, 1.0, 3.0, 2.0]]), format="XYXY", canvas_size=SIZE)
print("pixel:", bright(flipped(image)), bright(rotated(image)))
print("box:", flipped(box).tolist(), rotated(box).tolist())
assert bright(flipped(image)) == bright(rotated(image)) == [[7, 6]]
torch.testing.assert_close(flipped(box).as_subclass(torch.Tensor), torch.tensor([[7.0, 6.0, 8.0, 7.0]]))
torch.testing.assert_close(rotated(box).as_subclass(torch.Tensor), torch.tensor([[7.0, 6.0, 8.0, 7.0]]))

# The pixel's index, then its middle in coordinates whose origin is the corner of the image.
for value, after_flips, after_rotation in (
    ((2.0, 1.0), (7.0, 6.0), (8.0, 7.0)),
    ((2.5, 1.5), (6.5, 5.5), (7.5, 6.5)),
):
    flips, rotation = (f(points(value)).as_subclass(torch.Tensor) for f in (flipped, rotated))
    print("point", value, "flips:", flips.tolist(), "rotation:", rotation.tolist())
    torch.testing.assert_close(flips, torch.tensor([after_flips]))
    torch.testing.assert_close(rotation, torch.tensor([after_rotation]))

LARGE = [32, 40]
first = functional.resize(functional.horizontal_flip(points((2.0, 1.0))), LARGE)
last = functional.horizontal_flip(functional.resize(points((2.0, 1.0)), LARGE))
print("flip, then enlarge:", first.tolist(), "- enlarge, then flip:", last.tolist())
assert first.tolist() == [[28.0, 4.0]] and last.tolist() == [[31.0, 4.0]]
nearest = InterpolationMode.NEAREST
one = functional.resize(functional.horizontal_flip(image), LARGE, interpolation=nearest)
other = functional.horizontal_flip(functional.resize(image, LARGE, interpolation=nearest))
assert torch.equal(one, other), "the image itself does not mind the order"

square = tv_tensors.KeyPoints(torch.tensor([[2.0, 1.0]]), canvas_size=(8, 8))
corners, mirrored = [[0, 0], [8, 0], [8, 8], [0, 8]], [[8, 0], [0, 0], [0, 8], [8, 8]]
perspective = functional.perspective(square, corners, mirrored).as_subclass(torch.Tensor)
doubled = functional.affine(square, angle=0.0, translate=[0, 0], scale=2.0, shear=[0.0, 0.0])
torch.testing.assert_close(perspective, torch.tensor([[6.0, 1.0]]))  # horizontal_flip: 5
torch.testing.assert_close(doubled.as_subclass(torch.Tensor), torch.tensor([[0.0, -2.0]]))
assert functional.horizontal_flip(square).tolist() == [[5.0, 1.0]]
PY
echo confirmed
