"""Each format comes out as it was stored, at values that scaling would change; what would not is refused. Files are
written by hand, OpenCV, OpenEXR and NumPy.
"""

import logging
import re
import struct
import zlib

import cv2
import h5py
import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin

from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.registry import DATASETS
from contrastill.datasets.io.array_files import read_array, read_file, read_pair
from contrastill.datasets.io.images import Picture, warn_of_scaling
from contrastill.datasets.io.user_samples import UserSamples

DEEP = np.array([[0, 1, 257, 1000], [4095, 10000, 40000, 65535]], np.uint16)
COLOUR = np.stack([DEEP, DEEP[::-1], DEEP[:, ::-1]], 2)


def _pnm(path, values, highest, *, text=False, comment=b""):
    """PGM or PPM by the book: big-endian, two bytes where the maximum is above 255."""
    colour = values.ndim == 3
    magic = {(False, False): b"P5", (True, False): b"P6", (False, True): b"P2", (True, True): b"P3"}[colour, text]
    body = (
        " ".join(map(str, values.ravel().tolist())).encode()
        if text
        else values.astype(">u2" if highest > 255 else "u1").tobytes()
    )
    path.write_bytes(magic + b"\n" + comment + b"%d %d\n%d\n" % (values.shape[1], values.shape[0], highest) + body)


def _png(path, rows, width, bits, colour, *chunks, height=None):
    """A PNG of rows of packed bytes; with a height they are those of the seven passes of an interlaced one."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height or len(rows), bits, colour, 0, 0, height is not None))
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + head + b"".join(chunk(*fields) for fields in chunks) + body + chunk(b"IEND", b"")
    )


def _tiff(path, data, width, height, bits, photometric=1, channels=1, **tags):
    """An uncompressed little-endian TIFF of one strip, or of several given as a list."""
    strips = data if isinstance(data, list) else [data]
    entries = {
        256: [width],
        257: [height],
        258: [bits] * channels,
        259: [1],
        262: [photometric],
        277: [channels],
        278: [height],
    }
    entries |= {int(name[1:]): value for name, value in tags.items()} | {
        273: [0] * len(strips),
        279: [len(strip) for strip in strips],
    }
    longs = (273, 279)
    extra = 10 + 12 * len(entries) + 4
    at = extra + sum(
        len(value) * (4 if tag in longs else 2)
        for tag, value in entries.items()
        if len(value) * (4 if tag in longs else 2) > 4
    )
    for place, strip in enumerate(strips):
        entries[273][place] = at
        at += len(strip)
    table, beyond = b"", b""
    for tag, value in sorted(entries.items()):
        packed = struct.pack(f"<{len(value)}{'I' if tag in longs else 'H'}", *value)
        if len(packed) > 4:
            packed, beyond = struct.pack("<I", extra + len(beyond)), beyond + packed
        table += struct.pack("<HHI", tag, 4 if tag in longs else 3, len(value)) + packed.ljust(4, b"\0")
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + b"\0\0\0\0" + beyond + b"".join(strips))


def _same(read, values):
    assert read.dtype == values.dtype and np.array_equal(read, values, equal_nan=values.dtype.kind == "f"), (
        read.dtype,
        read,
    )


# Modalities: as stored


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("highest", [10000, 65535, 256])
def test_pgm_of_16_bits_is_not_scaled_by_its_maximum(tmp_path, highest, text):
    values = np.minimum(DEEP, highest)
    _pnm(tmp_path / "d.pgm", values, highest, text=text, comment=b"# a depth camera\n")
    _same(read_array(tmp_path / "d.pgm", "depth"), values)
    if highest > 256:
        _pnm(tmp_path / "c.ppm", np.minimum(COLOUR, highest), highest, text=text)
        _same(read_array(tmp_path / "c.ppm", "normals"), np.minimum(COLOUR, highest))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_label_map_of_values_that_are_not_finite_is_refused(tmp_path, value):
    np.save(tmp_path / "l.npy", np.array([[0, 1], [2, value]], np.float32))
    with pytest.raises(ContrastillError, match="l.npy holds labels that are NaN or infinite: labels are whole numbers"):
        read_array(tmp_path / "l.npy", "semantics")


@pytest.mark.parametrize("text", [False, True])
def test_labels_in_a_pgm_are_not_scaled_by_its_maximum(tmp_path, text):
    labels = np.array([[0, 1], [20, 40]], np.uint8)
    _pnm(tmp_path / "l.pgm", labels, 40, text=text)
    _same(read_array(tmp_path / "l.pgm", "semantics"), labels)
    _same(read_array(tmp_path / "l.pgm", "depth"), labels)


@pytest.mark.parametrize(
    "bits,row,values", [(1, b"\x50", [0, 1, 0, 1]), (2, b"\x1b", [0, 1, 2, 3]), (4, b"\x01\xef", [0, 1, 14, 15])]
)
def test_greys_of_few_bits_are_their_numbers(tmp_path, bits, row, values):
    _png(tmp_path / "g.png", [row], 4, bits, 0)
    _png(tmp_path / "clear.png", [row], 4, bits, 0, (b"tRNS", b"\0\1"), (b"gAMA", struct.pack(">I", 100_000)))
    _png(tmp_path / "palette.png", [row], 4, bits, 3, (b"PLTE", bytes(range(100, 100 + 3 * 2**bits))))
    _tiff(tmp_path / "g.tif", row, 4, 1, bits)
    for name in ("g.png", "clear.png", "palette.png", "g.tif"):
        _same(read_array(tmp_path / name, "semantics"), np.array([values], np.uint8))
    assert read_array(tmp_path / "g.png", "thermal").astype(int).tolist() == [values]
    # Looked at as a picture, the greatest is white.
    assert Picture(tmp_path / "g.png").pixels()[0, :, 0].tolist() == [value * 255 // (2**bits - 1) for value in values]
    assert read_array(tmp_path / "palette.png", "thermal")[0, 1].tolist() == [100 + 3 * values[1] + k for k in range(3)]


def test_png_of_16_bits(tmp_path):
    rows = [row.astype(">u2").tobytes() for row in DEEP]
    _png(tmp_path / "d.png", rows, 4, 16, 0, (b"sBIT", b"\x0c"), (b"tRNS", b"\0\1"))
    _same(read_array(tmp_path / "d.png", "depth"), DEEP)
    rows = [row.astype(">u2").tobytes() for row in COLOUR]
    for name, chunks in (
        ("c.png", ()),
        ("s.png", [(b"sBIT", b"\x0c\x0c\x0c")]),
        ("t.png", [(b"tRNS", b"\0\1\0\1\0\1")]),
    ):
        _png(tmp_path / name, rows, 4, 16, 2, *chunks)
        _same(read_array(tmp_path / name, "normals"), COLOUR)
        assert Picture(tmp_path / name).pixels().tolist() == np.round(COLOUR / 257).tolist()
    alpha = np.concatenate([COLOUR, DEEP[:, :, None]], 2)
    _png(tmp_path / "a.png", [row.astype(">u2").tobytes() for row in alpha], 4, 16, 6)
    _same(read_array(tmp_path / "a.png", "fluxes"), alpha)
    _png(tmp_path / "la.png", [row.astype(">u2").tobytes() for row in alpha[:, :, :2]], 4, 16, 4)
    _same(read_array(tmp_path / "la.png", "fluxes"), alpha[:, :, :2].copy())
    (tmp_path / "c.png").write_bytes((tmp_path / "c.png").read_bytes()[:-30])
    with pytest.raises(ContrastillError, match="c.png cannot be read as an image"):
        read_array(tmp_path / "c.png", "normals")


def test_interlaced_png(tmp_path):
    values = np.array([[1, 257], [4095, 65535]], np.uint16)
    colour = np.stack([values, values.T, values[::-1]], 2)
    for name, stored, kind in (("g.png", values, 0), ("c.png", colour, 2)):
        # Of 2×2 pixels the first pass has one, the sixth one, the seventh the second row.
        _png(
            tmp_path / name,
            [part.astype(">u2").tobytes() for part in (stored[:1, 0], stored[:1, 1], stored[1])],
            2,
            16,
            kind,
            height=2,
        )
        _same(read_array(tmp_path / name, "heat"), stored)
    _png(tmp_path / "l.png", [b"\x10", b"\x20", b"\x3f"], 2, 4, 0, height=2)
    _same(read_array(tmp_path / "l.png", "semantics"), np.array([[1, 2], [3, 15]], np.uint8))


def test_tiff_of_many_kinds(tmp_path):
    cv2.imwrite(str(tmp_path / "c.tif"), COLOUR[:, :, ::-1])
    _same(read_array(tmp_path / "c.tif", "normals"), COLOUR)
    for dtype in (np.int8, np.int16, np.int32, np.uint8, np.uint16, np.float32):
        values = np.array([[1, -2 if np.dtype(dtype).kind != "u" else 200, 100]]).astype(dtype)
        cv2.imwrite(str(tmp_path / "v.tif"), values)
        _same(read_array(tmp_path / "v.tif", "thermal"), values)
    holes = np.array([[0.25, np.nan, -3]], np.float32)
    cv2.imwrite(str(tmp_path / "f.tif"), holes)
    _same(read_array(tmp_path / "f.tif", "depth"), holes)
    _tiff(tmp_path / "u.tif", struct.pack("<3I", 1, 2**24 + 2, 2**31), 3, 1, 32)
    _same(read_array(tmp_path / "u.tif", "depth"), np.array([[1, 2**24 + 2, 2**31]], np.uint32))
    _tiff(tmp_path / "planes.tif", [b"\1\2", b"\3\4", b"\5\6"], 2, 1, 8, 2, 3, t284=[2])
    _same(read_array(tmp_path / "planes.tif", "normals"), np.array([[[1, 3, 5], [2, 4, 6]]], np.uint8))
    _tiff(tmp_path / "twelve.tif", b"\xab\xc1\x23", 2, 1, 12)
    _same(read_array(tmp_path / "twelve.tif", "depth"), np.array([[0xABC, 0x123]], np.uint16))
    assert Picture(tmp_path / "twelve.tif").pixels()[0, :, 0].tolist() == [
        round(0xABC * 255 / 4095),
        round(0x123 * 255 / 4095),
    ]
    # 0 is white: as a picture it is turned over, whatever its bits.
    _tiff(tmp_path / "w8.tif", b"\0\1\xff", 3, 1, 8, 0)
    _tiff(tmp_path / "w16.tif", struct.pack("<3H", 0, 257, 65535), 3, 1, 16, 0)
    for name in ("w8.tif", "w16.tif"):
        assert Picture(tmp_path / name).pixels()[0, :, 1].tolist() == [255, 254, 0]


@pytest.mark.parametrize(
    "values",
    [
        DEEP.astype(">u2"),
        np.asfortranarray(DEEP),
        np.array([[0.5, np.nan, -1, 65504]], np.float16),
        np.array([[0.1, np.nan, -1e-3]], ">f4"),
        np.array([[0.1, np.inf]], np.float64),
        np.array([[True, False]]),
        np.array([[-1, 2**24, 2**30]], np.int64),
    ],
    ids=lambda values: values.dtype.str,
)
def test_arrays(tmp_path, values):
    np.save(tmp_path / "a.npy", values)
    np.testing.assert_array_equal(read_array(tmp_path / "a.npy", "depth"), values)
    for k in range(2):
        (tmp_path / "rgb").mkdir(exist_ok=True)
        (tmp_path / "heat").mkdir(exist_ok=True)
        Image.fromarray(np.zeros((*values.shape, 3), np.uint8)).save(tmp_path / "rgb" / f"{k}.png")
        np.save(tmp_path / "heat" / f"{k}.npy", values)
    split = _paired(tmp_path).open("train")
    batch = next(split.loader(batch_size=1, device="cpu", train=False).epoch(0))
    np.testing.assert_array_equal(batch["heat"][0, 0].numpy(), values.astype(np.float32))


def _paired(path, **options):
    dataset = DATASETS["paired_folder"]
    return dataset(dataset.Options(path=str(path), workers=0, test_fraction=1e-9, crop="none", flip=False, **options))


# EXR


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_exr_fills_its_display_window(tmp_path, dtype):
    exr = pytest.importorskip("OpenEXR")
    depth = np.arange(24).reshape(4, 6).astype(dtype)

    def write(data, display, values, modality="depth", **header):
        header = {
            "compression": exr.ZIP_COMPRESSION,
            "type": exr.scanlineimage,
            "dataWindow": data,
            "displayWindow": display,
            **header,
        }
        exr.File(header, {"Z": values}).write(str(tmp_path / "z.exr"))
        return read_array(tmp_path / "z.exr", modality)

    expected = np.full((8, 10), np.nan, dtype)
    expected[1:5, 2:8] = depth
    _same(write(((2, 1), (7, 4)), ((0, 0), (9, 7)), depth), expected)
    _same(write(((2, 1), (7, 4)), ((0, 0), (9, 7)), depth, lineOrder=exr.DECREASING_Y), expected)
    # A border around what is shown, and a window beside it.
    _same(write(((-1, -1), (4, 2)), ((0, 0), (3, 1)), depth), depth[1:3, 1:5])
    _same(write(((2, 1), (7, 4)), ((5, 0), (9, 1)), depth), np.array([[np.nan] * 5, [3, 4, 5, np.nan, np.nan]], dtype))
    assert np.isnan(write(((20, 30), (25, 33)), ((0, 0), (3, 1)), depth)).all()
    _same(write(((3, 3), (8, 6)), ((3, 3), (8, 6)), depth), depth)
    with pytest.raises(ContrastillError, match="z.exr stores a part of its frame .*: save the whole .*, or floats"):
        write(((2, 1), (7, 4)), ((0, 0), (9, 7)), depth.astype(np.uint32))
    # A label map is of whole numbers, so that floats are no way out of it.
    for labels in (depth, depth.astype(np.uint32)):
        with pytest.raises(ContrastillError, match=r"data window does not cover .*: save the whole as whole numbers$"):
            write(((2, 1), (7, 4)), ((0, 0), (9, 7)), labels, "semantics")
    whole = write(((0, 0), (5, 3)), ((0, 0), (5, 3)), depth.astype(np.uint32), "semantics")
    _same(whole, depth.astype(np.uint8))
    _same(write(((0, 0), (5, 3)), ((0, 0), (5, 3)), depth.astype(np.uint32)), depth.astype(np.uint32))


def test_exr_of_several_parts_or_sparse_channels(tmp_path):
    exr = pytest.importorskip("OpenEXR")
    depth = np.ones((4, 6), np.float32)
    exr.File([exr.Part({"type": exr.scanlineimage}, {"Z": depth}, name=name) for name in ("left", "right")]).write(
        str(tmp_path / "parts.exr")
    )
    with pytest.raises(ContrastillError, match="parts.exr has 2 parts: save the one that is meant"):
        read_array(tmp_path / "parts.exr", "depth")
    # OpenEXR says nothing of it but on stdout, and hands out no channel or a smaller one.
    header = {"type": exr.scanlineimage, "dataWindow": ((0, 0), (5, 3)), "displayWindow": ((0, 0), (5, 3))}
    exr.File(header, {"Z": exr.Channel("Z", np.ones((2, 3), np.float32), 2, 2)}).write(str(tmp_path / "sparse.exr"))
    with pytest.raises(ContrastillError, match="sparse.exr (cannot be read as an image|does not store every pixel)"):
        read_array(tmp_path / "sparse.exr", "depth")


# Refusals


def _webp(path, **options):
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(path, **options)


def _pages(path, **options):
    first, *others = [Image.new("L", (4, 4), value) for value in (7, 9, 11)]
    first.save(path, save_all=True, append_images=others, **options)


def _extra(photometric, channels, *extra, **tags):
    return (12 // channels, 1, 8, photometric, channels, {**({"t338": [*extra]} if extra else {}), **tags})


# Channels that Pillow leaves out or changes: 12 bytes.
EXTRA_CHANNELS = [
    ("x.tif", "bands", _extra(2, 4, 0), "is a TIFF with 4 channels, of which Pillow reads 3: save it without"),
    ("x.tif", "bands", _extra(2, 6, 0, 0, 0), "is a TIFF with 6 channels, of which Pillow reads 3"),
    ("x.tif", "bands", _extra(2, 6, 2, 0, 0), "is a TIFF with 6 channels, of which Pillow reads 4"),
    ("x.tif", "bands", _extra(5, 6, 0, 0), "is a TIFF with 6 channels, of which Pillow reads 4"),
    ("x.tif", "depth", _extra(1, 2, 0), "is a TIFF with 2 channels, of which Pillow reads 1"),
    ("x.tif", "semantics", _extra(1, 2, 0), "is a TIFF with 2 channels, of which Pillow reads 1"),
    ("x.tif", "bands", _extra(2, 4, 1), "is a TIFF whose colours were multiplied by their alpha"),
    ("x.tif", "bands", _extra(1, 4, 0, 0, 0), "TIFF with 4 channels of 8-bit unsigned integers is not read: save .npy"),
    (
        "x.tif",
        "bands",
        (1, 1, 64, 1, 1, {"t339": [3]}),
        "1 channel of 64-bit floats is not read: save float32",
    ),
]


@pytest.mark.parametrize(
    "name,modality,write,message",
    [
        ("l.webp", "semantics", lambda path: _webp(path, quality=90),
            "is a WEBP with lossy compression, which blends the labels"),
        ("l.png", "semantics", lambda path: Image.new("L", (4, 4)).save(path, format="JPEG"),
            "l.png is a JPEG, which blends the labels"),
        ("l.tif", "semantics", lambda path: Image.new("L", (16, 16)).save(path, compression="jpeg"),
            "is a TIFF with lossy compression"),
        ("l.png", "depth", lambda path: Image.new("L", (4, 4)).save(path, format="GIF"),
            "l.png is a GIF, whatever its name says"),
        ("d.tif", "depth", _pages, "d.tif holds 3 images: save each in a file of its own"),
        ("d.png", "depth", _pages, "d.png holds 3 images"),
        ("d.webp", "heat", lambda path: _pages(path, lossless=True), "d.webp holds 3 images"),
        ("d.pgm", "depth", lambda path: path.write_bytes(b"P5\n1 1\n255\n\7" + b"P5\n1 1\n255\n\x09"),
            "holds several images"),
        ("d.pgm", "depth", lambda path: path.write_bytes(b"P5\n1 1\n40\n\x29"),
            r"cannot be read as an image \(it holds values from 41 to 41, and its header says 40 at most"),
        ("d.pgm", "depth", lambda path: path.write_bytes(b"P5\n2 1\n1000\n\0\1\0"), "truncated"),
        ("d.pgm", "depth", lambda path: path.write_bytes(b"P2\n2 1\n1000\n1"),
            "it has 1 values, and its header asks for 2"),
        ("l.pgm", "semantics", lambda path: path.write_bytes(b"P4\n8 1\n\x50"),
            "is a PNM of the kind P4, which is not read"),
        ("d.pgm", "depth", lambda path: path.write_bytes(b"Pf\n1 1\n-1.0\n" + struct.pack("<f", 0.5)),
            "is a PNM of the kind Pf"),
        ("l.tif", "semantics", lambda path: _tiff(path, b"\0\1\2", 3, 1, 8, 0), "is a TIFF in which 0 is white"),
        ("c.tif", "normals", lambda path: _tiff(path, [COLOUR[:, :, k].tobytes() for k in range(3)], 4, 2, 16, 2, 3,
            t284=[2]), "3 channels of 16 bits that is not read"),
        ("c.tif", "normals", lambda path: _tiff(path, COLOUR.tobytes(), 4, 2, 16, 2, 3, t274=[3]),
            "3 channels of 16 bits that is not read"),
        ("c.tif", "rgb", lambda path: _tiff(path, [COLOUR[:, :, k].tobytes() for k in range(3)], 4, 2, 16, 2, 3,
            t284=[2]), "3 channels of 16 bits that is not read"),
        ("c.tif", "rgb", lambda path: cv2.imwrite(str(path), np.ones((2, 2), np.float32)),
            "holds floats, whose range as rgb is not known"),
        ("c.tif", "rgb", lambda path: cv2.imwrite(str(path), np.ones((2, 2), np.int16)),
            "holds signed or 32-bit integers, whose range as rgb"),
        ("c.tif", "rgb", lambda path: cv2.imwrite(str(path), np.ones((2, 2), np.int8)),
            "holds signed or 32-bit integers, whose range as rgb"),
        ("c.pgm", "rgb", lambda path: path.write_bytes(b"Pf\n1 1\n-1.0\n" + struct.pack("<f", 0.5)),
            "holds floats or 32-bit integers"),
        ("d.npy", "depth", lambda path: np.save(path, np.array([[2**24 + 1]])),
            "whole numbers up to 16777217, and modalities are float32"),
        ("d.npy", "depth", lambda path: np.save(path, np.zeros((2, 2), [("z", "f4")])), "it should hold numbers"),
        ("d.png", "depth", lambda path: _png(path, [b"\1\2"], 1, 8, 4),
            "d.png has 2 channels: depth has one; save it as greys"),
        ("l.png", "semantics", lambda path: _png(path, [b"\1\2\3"], 1, 8, 2),
            "l.png has 3 channels: a label map has one; save the numbers of its classes, as greys or with a palette"),
        ("d.npy", "depth", lambda path: np.save(path, np.zeros((1, 6, 8), np.float32)),
            r"d.npy is float32 \(1, 6, 8\), and depth is \(height, width\), .*: save its entry \[0\]"),
        ("d.npy", "semantics", lambda path: np.save(path, np.zeros((6, 8, 2), np.uint8)),
            r"has 2 channels: a label map has one; it is \(6, 8, 2\) \(height, width, channels\), so save the channel"),
        *((name, modality, lambda path, data=data: _tiff(path, bytes(range(12)), *data[:5], **data[5]), message)
            for name, modality, data, message in EXTRA_CHANNELS),
    ],
)  # fmt: skip
def test_what_would_not_come_out_as_stored_is_refused(tmp_path, name, modality, write, message):
    write(tmp_path / name)
    with pytest.raises(ContrastillError, match=message) as caught:
        read_array(tmp_path / name, modality)
    assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


def test_lossless_labels_and_smaller_copies_of_a_page_are_read(tmp_path):
    labels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    Image.fromarray(labels).save(tmp_path / "l.tif", compression="tiff_lzw")
    _same(read_array(tmp_path / "l.tif", "semantics"), labels)
    grey = np.repeat(labels[:, :, None], 3, 2)
    Image.fromarray(grey).save(tmp_path / "l.webp", lossless=True)
    _same(read_array(tmp_path / "l.webp", "heat"), grey)
    with TiffImagePlugin.AppendingTiffWriter(str(tmp_path / "pyramid.tif"), True) as pages:
        for values, tags in ((labels, {}), (labels[::2, ::2], {254: 1})):
            Image.fromarray(values.copy()).save(pages, format="TIFF", tiffinfo=tags)
            pages.newFrame()
    _same(read_array(tmp_path / "pyramid.tif", "semantics"), labels)


def test_colours_beside_other_channels_are_read_as_rgb(tmp_path):
    values = np.arange(10, 34, dtype=np.uint8).reshape(2, 3, 4)
    _tiff(tmp_path / "x.tif", values.tobytes(), 3, 2, 8, 2, 4, t338=[0])
    _same(read_array(tmp_path / "x.tif", "rgb"), values[:, :, :3])
    _tiff(tmp_path / "a.tif", values.tobytes(), 3, 2, 8, 2, 4, t338=[2])
    _same(read_array(tmp_path / "a.tif", "bands"), values)
    deep = (values * 200.0).astype(np.uint16)
    _tiff(tmp_path / "deep.tif", deep.tobytes(), 3, 2, 16, 2, 4, t338=[1])
    _same(read_array(tmp_path / "deep.tif", "bands"), deep)
    with pytest.raises(ContrastillError, match="more than 8 bits whose colours were multiplied by their alpha"):
        read_array(tmp_path / "deep.tif", "rgb")
    with pytest.raises(UsageError, match="bands is a TIFF with 4 channels, of which Pillow reads 3"):
        _read("bands", Image.open(tmp_path / "x.tif"))


def _pages_of(path, *pages):
    """A TIFF of (values, tags)."""
    with TiffImagePlugin.AppendingTiffWriter(str(path), True) as file:
        for values, tags in pages:
            Image.fromarray(values).save(file, format="TIFF", tiffinfo=tags)
            file.newFrame()


@pytest.mark.parametrize("reduced", [{254: 1}, {255: 2}])
def test_a_thumbnail_that_comes_first_is_not_the_picture(tmp_path, reduced):
    labels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    _pages_of(tmp_path / "l.tif", (labels[::2, ::2].copy(), reduced), (labels, {}))
    for modality in ("semantics", "depth", "heat"):
        _same(read_array(tmp_path / "l.tif", modality), labels)
    picture = Picture(tmp_path / "l.tif")
    assert (picture.height, picture.width, picture.count()) == (4, 4, 1)
    assert np.array_equal(picture.pixels()[:, :, 0], labels)
    # Of several pictures that of full size which comes first is rgb, and no other modality.
    _pages_of(tmp_path / "s.tif", (labels[::2, ::2].copy(), reduced), (labels, {}), (labels + 1, {}))
    assert np.array_equal(Picture(tmp_path / "s.tif").pixels()[:, :, 0], labels)
    with pytest.raises(ContrastillError, match="s.tif holds 2 images"):
        read_array(tmp_path / "s.tif", "depth")
    # Where all are thumbnails, they are what the file holds.
    _pages_of(tmp_path / "t.tif", (labels, reduced))
    _same(read_array(tmp_path / "t.tif", "depth"), labels)


def test_a_picture_within_its_thumbnail_is_refused(tmp_path):
    _tiff(tmp_path / "d.tif", b"\1\2", 2, 1, 8, t254=[1], t330=[8])
    for modality in ("rgb", "heat"):
        with pytest.raises(ContrastillError, match="d.tif is a TIFF whose first page is a thumbnail, and its picture"):
            read_array(tmp_path / "d.tif", modality)


def _bmp(path, indices, bits, palette):
    """BMP of whole bytes of indices, with a palette of greys."""
    packed = np.packbits(
        np.unpackbits(indices[::-1, :, None], axis=2)[:, :, 8 - bits :].reshape(len(indices), -1), axis=1
    )
    rows = b"".join(row.tobytes().ljust(-(-len(row.tobytes()) // 4) * 4, b"\0") for row in packed)
    colours = b"".join(bytes([grey] * 3 + [0]) for grey in palette)
    height, width = indices.shape
    begin = 54 + len(colours)
    path.write_bytes(
        b"BM" + struct.pack("<IHHI", begin + len(rows), 0, 0, begin)
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, len(rows), 0, 0, len(palette), 0) + colours + rows
    )  # fmt: skip


@pytest.mark.parametrize(
    "bits,palette",
    [(1, [0, 255]), (4, [0, 255]), (8, [0, 255]), (8, [255, 0]), (4, [0, 1, 2, 3]), (4, [9, 90]), (8, [0, 1, 2])],
)
def test_bmp_of_a_palette_of_few_greys(tmp_path, bits, palette):
    indices = np.random.default_rng(0).integers(0, len(palette), (8, 12)).astype(np.uint8)
    _bmp(tmp_path / "m.bmp", indices, bits, palette)
    assert np.array_equal(read_array(tmp_path / "m.bmp", "semantics"), indices)
    assert np.array_equal(Picture(tmp_path / "m.bmp").pixels()[:, :, 0], np.array(palette)[indices])
    image = Image.open(tmp_path / "m.bmp")
    if image.mode in ("1", "L") and (bits, image.mode) not in ((1, "1"), (8, "L")):
        for name in ("rgb", "semantics"):
            with pytest.raises(UsageError, match=f"{name} is a BMP of greys in a palette, which Pillow takes for one"):
                _read(name, image)
    else:
        assert np.array_equal(_read("semantics", image), indices)


@pytest.mark.parametrize("suffix", ["bmp", "png", "tif"])
@pytest.mark.parametrize("palette", [[0, 0, 0, 255, 255, 255], [255, 255, 255, 0, 0, 0], [0, 0, 0, 1, 1, 1]])
def test_two_colours_as_pillow_writes_them(tmp_path, suffix, palette):
    mask = (np.arange(88).reshape(8, 11) % 3 == 0).astype(np.uint8)
    image = Image.new("P", (11, 8))
    image.putpalette(palette)
    image.putdata(mask.ravel().tolist())
    image.save(tmp_path / f"m.{suffix}")
    assert np.array_equal(read_array(tmp_path / f"m.{suffix}", "semantics"), mask)
    colours = np.array(palette).reshape(2, 3)[mask]
    assert np.array_equal(Picture(tmp_path / f"m.{suffix}").pixels(), colours)


# Pairs


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_to_all_of_a_pair_or_refused(tmp_path, orientation):
    colour = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    turn = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1), 7: lambda a: a[::-1, ::-1].swapaxes(0, 1), 8: lambda a: np.rot90(a),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[274] = orientation
    files = {name: tmp_path / f"{name}.png" for name in ("rgb", "depth", "semantics")}
    stored = {"rgb": colour, "depth": colour[:, :, 0].astype(np.uint16) * 300, "semantics": colour[:, :, 1]}
    for name, path in files.items():
        Image.fromarray(stored[name]).save(path, exif=exif)
    for name, values in read_pair(files, read_file).items():
        _same(values, np.ascontiguousarray(turn(stored[name])))
    files["depth"] = tmp_path / "depth.tif"
    Image.fromarray(stored["depth"]).save(files["depth"], exif=exif)
    _same(read_pair(files, read_file)["depth"], np.ascontiguousarray(turn(stored["depth"])))
    for suffix, write in (
        ("png", lambda path: Image.fromarray(stored["depth"]).save(path)),
        ("npy", lambda path: np.save(path, stored["depth"])),
    ):
        files["depth"] = tmp_path / f"plain.{suffix}"
        write(files["depth"])
        if orientation == 1:
            read_pair(files, read_file)
        else:
            with pytest.raises(
                ContrastillError,
                match=rf"rgb.png has the EXIF orientation {orientation}, its partner \S+plain.{suffix} none, and which",
            ):
                read_pair(files, read_file)


def _pairs(root, depths, rgb=lambda path: Image.new("RGB", (4, 2), (9, 9, 9)).save(path), rgb_suffix="png"):
    for place, write in enumerate(depths):
        for name in ("rgb", "depth"):
            (root / name).mkdir(parents=True, exist_ok=True)
        rgb(root / "rgb" / f"{place}.{rgb_suffix}")
        write(root / "depth")


def test_depth_as_pgm_is_in_millimetres(tmp_path):
    for highest in (10000, 65535):
        root = tmp_path / str(highest)
        _pairs(
            root,
            [
                lambda path, k=k, highest=highest: _pnm(path / f"{k}.pgm", np.full((2, 4), 5000 + k), highest)
                for k in range(2)
            ],
        )
        split = _paired(root).open("train")
        assert split.camera.unit == "mm"
        assert [
            int(batch["depth"].max()) for batch in split.loader(batch_size=1, device="cpu", train=False).epoch(0)
        ] == [5000, 5001]


def test_files_of_another_kind_would_have_another_unit(tmp_path):
    _pairs(
        tmp_path,
        [
            lambda path: Image.fromarray(DEEP).save(path / "0.png"),
            lambda path: np.save(path / "1.npy", DEEP / np.float32(1000)),
        ],
    )
    with pytest.raises(
        ContrastillError,
        match="1.npy holds floats, other files of depth unsigned 16-bit integers: their units would differ",
    ):
        _paired(tmp_path).open("train")


def test_what_is_lost_is_logged_once_a_data_set(tmp_path, caplog):
    _pairs(
        tmp_path,
        [lambda path, k=k: Image.new("L", (4, 2), 9).save(path / f"{k}.jpg") for k in range(3)],
        lambda path: _png(path, [row.astype(">u2").tobytes() for row in np.minimum(COLOUR, 4095)], 4, 16, 2),
    )
    with caplog.at_level(logging.WARNING):
        split = _paired(tmp_path, depth_unit="relative").open("train")
        next(split.loader(batch_size=3, device="cpu", train=False).epoch(0))
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2 and re.search(
        r"rgb/0.png has more than 8 bits, .* 65535 becomes 255, .*the brightest value is 4095 and becomes 16$",
        messages[0],
    )
    assert "depth/0.jpg is stored with lossy compression, which blends the values of neighbours" in messages[1]


def test_what_is_refused_as_rgb_is_not_called_scaled_before(tmp_path, caplog):
    cv2.imwrite(str(tmp_path / "c.tif"), np.ones((2, 2), np.float32))
    warn_of_scaling([Picture(tmp_path / "c.tif")])
    assert not caplog.text


# Pictures


def test_a_dark_picture_stays_darker_than_a_bright_one(tmp_path):
    for name, highest in (("dark.png", 200), ("bright.png", 300)):
        cv2.imwrite(str(tmp_path / name), np.full((2, 2), highest, np.uint16))
        assert Picture(tmp_path / name).pixels().unique().tolist() == [1]
    for highest, expected in ((10000, [0, 128, 255]), (1000, [0, 128, 255]), (255, [0, 5, 10])):
        values = np.array([[0, highest // 2 if highest > 255 else 5, highest if highest > 255 else 10]])
        for suffix, written in (("pgm", values), ("ppm", np.repeat(values[:, :, None], 3, 2))):
            _pnm(tmp_path / f"p.{suffix}", written, highest)
            assert Picture(tmp_path / f"p.{suffix}").pixels()[0, :, 2].tolist() == expected
    cv2.imwrite(str(tmp_path / "c.tif"), COLOUR)
    _pnm(tmp_path / "c.ppm", COLOUR, 65535)
    assert (
        Picture(tmp_path / "c.tif").pixels().flip(2).tolist()
        == Picture(tmp_path / "c.ppm").pixels().tolist()
        == np.round(COLOUR / 257).tolist()
    )


def test_folders_log_what_they_scale_and_pass_over(tmp_path, caplog):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            cv2.imwrite(str(tmp_path / split / name / "0.png"), np.full((4, 4), 4000, np.uint16))
            Image.new("L", (4, 4)).save(tmp_path / split / name / "1.gif")
    dataset = DATASETS["image_folder"]
    with caplog.at_level(logging.WARNING):
        for split in ("train", "test"):
            opened = dataset(dataset.Options(path=str(tmp_path), size=4, workers=0, crop="none", flip=False)).open(
                split
            )
            batch = next(opened.loader(batch_size=2, device="cpu", train=False).epoch(0))
            assert batch["rgb"].unique().tolist() == [16]
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 3 and all(
        "files that are no images to be read are passed over: 2 .gif" in messages[place] for place in (0, 2)
    )
    assert "the brightest value is 4000 and becomes 16" in messages[1]


@pytest.mark.parametrize(
    ("dtype", "message"),
    [("uint16", "uint16/rgb is uint16: rgb is uint8"), ("float32", "float32 goes from 0 to 2: rgb is uint8")],
)
def test_rgb_of_a_packed_file_is_uint8_or_parts_of_1(tmp_path, dtype, message):
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file.create_group(dtype)["rgb"] = np.arange(3, dtype=dtype).reshape(1, 1, 3)
    dataset = DATASETS["packed"]
    with pytest.raises(UsageError, match=message.replace("float32 ", "float32/rgb ")):
        dataset(dataset.Options(path=str(tmp_path / "d.h5"), splits={"train": dtype})).open("train")


# A user's own dataset


class _Own:
    def __init__(self, *samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, row):
        return self.samples[row]


def _read(name, value):
    return UserSamples(_Own({name: value})).read(0)[0][name].squeeze().numpy()


def test_rgb_of_16_bits_of_a_user_dataset_is_scaled_by_its_range(tmp_path):
    expected = np.round(DEEP / 257)
    assert np.array_equal(_read("rgb", Image.fromarray(DEEP))[:, :, 0], expected)
    assert np.array_equal(_read("rgb", COLOUR), np.round(COLOUR / 257))
    for value in (Image.fromarray(DEEP), COLOUR):
        notes = UserSamples(_Own({"rgb": value})).notes
        assert notes == ["_Own returns rgb of 16 bits, which is scaled so that 65535 becomes 255"]
    assert np.array_equal(_read("rgb", torch.from_numpy(DEEP)), expected)
    _pnm(tmp_path / "p.pgm", DEEP // 7, 10000)
    assert np.array_equal(_read("rgb", Image.open(tmp_path / "p.pgm"))[:, :, 0], np.round(DEEP // 7 * 0.0255))
    assert np.array_equal(_read("rgb", torch.full((3, 2, 2), 0.7)), np.full((2, 2, 3), 0.7, np.float32))
    assert np.array_equal(_read("thermal", COLOUR), COLOUR)
    for values in (DEEP.astype(">u2"), DEEP[:, ::-1], DEEP.astype(">f4"), np.asfortranarray(DEEP)):
        assert np.array_equal(_read("thermal", values), values)
    with pytest.raises(UsageError, match="thermal holds whole numbers up to 16777217, and modalities are float32"):
        _read("thermal", np.array([[2**24 + 1]]))
    for value, message in (
        (
            Image.fromarray(np.full((2, 2), 0.7, np.float32)),
            "rgb is a picture of Pillow of mode F, whose range is not known",
        ),
        (
            Image.fromarray(np.full((2, 2), 1000, np.int32)),
            "rgb is a picture of Pillow of mode I, whose range is not known",
        ),
        (torch.full((3, 2, 2), 200), "rgb is of int64, whose range is not known: return uint8, uint16 or floats"),
    ):
        with pytest.raises(UsageError, match=message):
            _read("rgb", value)


def test_user_pictures_that_pillow_scales_are_refused(tmp_path):
    _pnm(tmp_path / "a.pgm", DEEP // 7, 10000)
    _pnm(tmp_path / "b.pgm", np.array([[0, 1, 40]]), 40)
    _pnm(tmp_path / "c.ppm", COLOUR, 65535)
    _png(tmp_path / "d.png", [b"\x01\xef"], 4, 4, 0)
    _png(tmp_path / "e.png", [row.astype(">u2").tobytes() for row in COLOUR], 4, 16, 2)
    cv2.imwrite(str(tmp_path / "f.tif"), COLOUR)
    _tiff(tmp_path / "g.tif", b"\0\1\2", 3, 1, 8, 0)
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(
            UsageError,
            match="depth is a picture of Pillow, which scales the values of this .* when it loads it: read it with cv2",
        ):
            _read("depth", Image.open(path))
    Image.new("L", (4, 4)).save(tmp_path / "l.jpg")
    with pytest.raises(UsageError, match="semantics is a JPEG, which blends the labels"):
        _read("semantics", Image.open(tmp_path / "l.jpg"))
    cv2.imwrite(str(tmp_path / "plain.png"), DEEP)
    _pnm(tmp_path / "plain.pgm", DEEP, 65535)
    for name in ("plain.png", "plain.pgm"):
        assert np.array_equal(_read("depth", Image.open(tmp_path / name)), DEEP)
    assert np.array_equal(_read("depth", Image.fromarray(DEEP)), DEEP)


@pytest.mark.parametrize("reduce", [1, 2, 4, 8])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}])
@pytest.mark.parametrize("size", [(1, 1), (37, 53), (40, 24)])
def test_a_jpeg_has_the_bits_of_pillow_at_every_reduction(tmp_path, reduce, mode, options, size):
    values = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(values).resize(size, Image.Resampling.BICUBIC).convert(mode).save(tmp_path / "it.jpg", **options)
    with Image.open(tmp_path / "it.jpg") as image:
        if reduce > 1:
            image.draft(mode, (max(1, size[0] // reduce), max(1, size[1] // reduce)))
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(Picture(tmp_path / "it.jpg").pixels(reduce).numpy(), expected)
