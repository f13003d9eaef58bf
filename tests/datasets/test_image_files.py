import io
import struct
import time
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from ray_lidarseg.datasets.image_files import MAX_PIXELS, read_ids, read_rgb, size_px
from ray_lidarseg.errors import DataError

RGB = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[10, 20, 30], [0, 0, 0], [255, 255, 255]]], np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned(orientation: int, kind: str = "PNG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.fromarray(RGB), kind, exif=exif)


def bomb(width: int, height: int) -> bytes:
    """A small PNG that promises, and holds, very many black pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + 3 * width)) for _ in range(min(height, 64))) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_every_mode_gives_the_same_rgb() -> None:
    palette = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3)).convert("P")
    palette.putpalette(RGB.reshape(-1).tolist())
    for image in (Image.fromarray(RGB), Image.fromarray(RGB).convert("RGBA"), palette):
        np.testing.assert_array_equal(read_rgb(encoded(image), "a.png"), RGB)
    alpha = np.dstack([RGB, np.zeros(RGB.shape[:2], np.uint8)])  # invisible, but there
    np.testing.assert_array_equal(read_rgb(encoded(Image.fromarray(alpha)), "a.png"), RGB)


def test_grey_is_three_equal_channels_at_8_and_at_16_bits() -> None:
    grey = np.array([[0, 100, 255]], np.uint8)
    expected = np.repeat(grey[..., None], 3, axis=2)
    for image in (Image.fromarray(grey), Image.fromarray(grey).convert("LA")):
        np.testing.assert_array_equal(read_rgb(encoded(image), "a.png"), expected)
    deep = (grey.astype(np.uint16) << 8) + 77  # the low byte does not brighten and does not clip
    np.testing.assert_array_equal(read_rgb(encoded(Image.fromarray(deep)), "a.png"), expected)


def test_cmyk_is_converted_as_opencv_does() -> None:
    content = encoded(Image.fromarray(np.full((8, 8, 3), (200, 60, 30), np.uint8)).convert("CMYK"), "JPEG", quality=100)
    theirs = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(read_rgb(content, "a.jpg").astype(int) - theirs).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_stated_orientation_is_obeyed_by_pixels_ids_and_size(orientation: int) -> None:
    content = turned(orientation, "JPEG")
    theirs = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(read_rgb(content, "a.jpg"), theirs)
    assert size_px(content, "a.jpg") == theirs.shape[1::-1]


def test_ids_come_as_they_are() -> None:
    ids = np.array([[0, 7, 255]], np.uint8)
    np.testing.assert_array_equal(read_ids(encoded(Image.fromarray(ids)), "a.png"), ids)
    deep = ids.astype(np.uint16) * 257
    np.testing.assert_array_equal(read_ids(encoded(Image.fromarray(deep)), "a.png"), deep)
    palette = Image.fromarray(ids, "L").convert("P")
    palette.putdata(ids.ravel().tolist())
    np.testing.assert_array_equal(read_ids(encoded(palette), "a.png"), ids)
    with pytest.raises(DataError, match=r"a.png: expected one channel of ids .*, got mode RGB"):
        read_ids(encoded(Image.fromarray(RGB)), "a.png")


def test_pixels_are_those_of_opencv() -> None:
    rng = np.random.default_rng(0)
    pixels = cv2.GaussianBlur(rng.integers(0, 255, (64, 96, 3), np.uint8), (7, 7), 2)
    for ending in (".png", ".jpg"):
        content = cv2.imencode(ending, pixels)[1]
        theirs = cv2.imdecode(content, cv2.IMREAD_COLOR)[..., ::-1]
        np.testing.assert_array_equal(read_rgb(content.tobytes(), "a"), theirs)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.png is empty or no image: expected a whole PNG or JPEG file"),
        (b"GIF89a", "is empty or no image"),
        (encoded(Image.fromarray(np.tile(RGB[0, :, :1].T, (50, 50))))[:-40], "a.png is not a whole image"),
        (encoded(Image.fromarray(np.tile(RGB[0, :, :1].T, (50, 50))), "JPEG")[:400], "a.png is not a whole image"),
        (bomb(1 << 15, 1 << 11), f"a.png has 32768 x 2048 pixels, more than the {MAX_PIXELS} we decode"),
        (bomb(1 << 15, 1 << 15), f"a.png has (32768 x 32768|far more) pixels, more than the {MAX_PIXELS} we decode"),
    ],
)
def test_what_is_no_image_or_too_large_is_refused_before_it_is_decoded(content: bytes, message: str) -> None:
    for read in (read_rgb, read_ids):
        start = time.monotonic()
        tracemalloc.start()
        with pytest.raises(DataError, match=message):
            read(content, "a.png")
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
        tracemalloc.stop()
        assert time.monotonic() - start < 5
