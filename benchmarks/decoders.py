"""Time that libraries take to decode a JPEG, and whether they give Pillow's bits: processor milliseconds a picture.

    python -m pip install simplejpeg PyTurboJPEG imagecodecs kornia-rs      # those that are not there are left out
    python benchmarks/decoders.py --picture 500 375
    python benchmarks/decoders.py --picture 1600 1200

The pictures are the textures of files.py. The libraries take turns; a figure is the median over rounds. "half" is a
decoding to half of both sides, where a library can do that in the domain of the cosine transform. What remains of the
time at half the sides is mostly the entropy decoding, which no choice of a part or a scale avoids.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from files import QUALITY, textures
from PIL import Image

RESULTS = Path(__file__).resolve().parent / "results" / "decoders.jsonl"
Decode = Callable[[bytes], np.ndarray]


def libraries(width: int, height: int) -> dict[str, tuple[Decode, Decode | None]]:
    """Name -> how it decodes a JPEG of that size to RGB, whole and to half of both sides."""
    half = {"min_height": -(-height // 2), "min_width": -(-width // 2)}

    def drafted(encoded: bytes) -> np.ndarray:
        image = Image.open(io.BytesIO(encoded))
        image.draft("RGB", (width // 2, height // 2))
        return np.asarray(image)

    def opened(encoded: bytes, flags: int) -> np.ndarray:
        return cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)

    ways: dict[str, tuple[Decode, Decode | None]] = {
        "Pillow": (lambda encoded: np.asarray(Image.open(io.BytesIO(encoded))), drafted),
        "OpenCV": (
            lambda encoded: opened(encoded, cv2.IMREAD_COLOR_RGB),
            lambda encoded: opened(encoded, cv2.IMREAD_REDUCED_COLOR_2)[..., ::-1],
        ),
    }
    try:
        import simplejpeg

        ways["simplejpeg"] = (
            lambda encoded: simplejpeg.decode_jpeg(encoded, "RGB"),
            lambda encoded: simplejpeg.decode_jpeg(encoded, "RGB", min_factor=2, **half),
        )
    except ImportError:
        pass
    try:
        from torchvision.io import ImageReadMode, decode_jpeg

        ways["torchvision.io"] = (
            lambda encoded: (
                decode_jpeg(torch.frombuffer(bytearray(encoded), dtype=torch.uint8), mode=ImageReadMode.RGB)
                .permute(1, 2, 0)
                .numpy()
            ),
            None,
        )
    except ImportError:
        pass
    try:
        from turbojpeg import TJPF_RGB, TurboJPEG

        turbo = TurboJPEG()
        ways["PyTurboJPEG"] = (
            lambda encoded: turbo.decode(encoded, pixel_format=TJPF_RGB),
            lambda encoded: turbo.decode(encoded, pixel_format=TJPF_RGB, scaling_factor=(1, 2)),
        )
    except (ImportError, RuntimeError):  # the latter without libturbojpeg
        pass
    try:
        import imagecodecs

        ways["imagecodecs"] = (imagecodecs.jpeg8_decode, None)
    except ImportError:
        pass
    try:
        from kornia_rs.io import ImageDecoder

        decoder = ImageDecoder()
        ways["kornia-rs"] = (lambda encoded: np.asarray(decoder.decode(encoded)), None)
    except ImportError:
        pass
    return ways


def measure(encoded: list[bytes], width: int, height: int, rounds: int) -> list[dict]:
    ways = libraries(width, height)
    expected = [np.asarray(Image.open(io.BytesIO(picture))) for picture in encoded]
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for name, pair in ways.items():
            for kind, decode in zip(("whole", "half"), pair, strict=True):
                if decode is None:
                    continue
                began = time.process_time()
                for picture in encoded:
                    decode(picture)
                times.setdefault((name, kind), []).append(1000 * (time.process_time() - began) / len(encoded))
    return [
        {
            "picture": f"{width}×{height}",
            "mean_bytes": round(statistics.mean(map(len, encoded))),
            "library": name,
            "equal_to_pillow": all(
                np.array_equal(whole(picture), pixels) for picture, pixels in zip(encoded, expected, strict=True)
            ),
            "whole_ms": round(statistics.median(times[name, "whole"]), 3),
            "half_ms": round(statistics.median(times[name, "half"]), 3) if (name, "half") in times else None,
            "rounds": rounds,
        }
        for name, (whole, _) in ways.items()
    ]


def main() -> None:
    known = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known.add_argument("--picture", type=int, nargs=2, default=(500, 375), metavar=("W", "H"))
    known.add_argument("--pictures", type=int, default=60, help="how many")
    known.add_argument("--rounds", type=int, default=7)
    arguments = known.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    warnings.simplefilter("ignore", DeprecationWarning)
    encoded = []
    for picture in textures(arguments.pictures, *arguments.picture):
        picture.save(buffer := io.BytesIO(), "JPEG", quality=QUALITY)
        encoded.append(buffer.getvalue())
    rows = measure(encoded, *arguments.picture, arguments.rounds)
    with RESULTS.open("a", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
            print(row)


if __name__ == "__main__":
    main()
