"""Files of every kind become upright 8-bit pixels, or a DataError that names the reason."""

import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from cnn_sweeps.data.decode import decode_image
from cnn_sweeps.errors import DataError

WHITE, BLACK, RED, GREEN, BLUE = (255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)
CORNERS = [RED, GREEN, BLUE, WHITE]  # top left, top right, bottom left, bottom right
TO_STORED = {  # what a camera does to the picture before it writes this EXIF orientation
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def four_corners(width, height):
    image = Image.new("RGB", (width, height))
    for i, colour in enumerate(CORNERS):
        image.paste(colour, (i % 2 * width // 2, i // 2 * height // 2, width, height))
    return image


def exif_of(*entries):
    """Big-endian EXIF of (tag, type, count, four value bytes)."""
    packed = b"".join(struct.pack(">HHI4s", *entry) for entry in entries)
    return b"Exif\0\0MM\0*" + struct.pack(">IH", 8, len(entries)) + packed + bytes(4)


def assert_corners(pixels, tolerance=0):
    height, width, _ = pixels.shape
    found = [pixels[y, x] for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    np.testing.assert_allclose(np.array(found, float), np.array(CORNERS), atol=tolerance)


def assert_all(pixels, colour, tolerance=0):
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(
        pixels.astype(float), np.broadcast_to(colour, pixels.shape).astype(float), atol=tolerance
    )


def noise_bytes(format_name, side=64):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8))
    stream = io.BytesIO()
    image.save(stream, format_name)
    return stream.getvalue()


def reason_against(path):
    with pytest.raises(DataError) as caught:
        decode_image(path, 4, 4, 3)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("format_name", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_file_of_the_size_asked_for_keeps_every_pixel(tmp_path, format_name):
    expected = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)
    Image.fromarray(expected).save(tmp_path / "image", format_name)
    np.testing.assert_array_equal(decode_image(tmp_path / "image", 5, 7, 3), expected)


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", TO_STORED)
def test_picture_is_turned_upright_as_its_exif_orientation_says(tmp_path, orientation, format_name):
    upright = four_corners(64, 96)
    stored = upright if TO_STORED[orientation] is None else upright.transpose(TO_STORED[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "photo", format_name, exif=exif, quality=95)
    assert_corners(decode_image(tmp_path / "photo", 24, 16, 3), tolerance=12)


@pytest.mark.parametrize(
    ("exif", "turn"),
    [
        (exif_of((0x0100, 2, 4, b"abc\0"), (0x0112, 3, 1, b"\0\1\0\0")), None),
        (exif_of((0x0100, 2, 4, b"abc\0"), (0x0112, 3, 1, b"\0\3\0\0")), Image.Transpose.ROTATE_180),
        (exif_of((0x0112, 3, 1, b"\0\3\0\0"), (0x013F, 2, 4, b"abc\0")), Image.Transpose.ROTATE_180),
        (exif_of((0x0112, 2, 4, b"abc\0")), None),
        (exif_of((0x0112, 3, 1, b"\0\x63\0\0")), None),
        (b"Exif\0\0not a TIFF header", None),
        (b"Exif\0\0MM", None),
    ],
    ids=["text width", "text width, turned", "text fraction, turned", "text", "99", "no header", "cut"],
)
def test_odd_exif_does_not_keep_a_good_picture_from_being_read(tmp_path, exif, turn):
    upright = four_corners(64, 64)
    stored = upright if turn is None else upright.transpose(turn)
    stored.save(tmp_path / "photo.jpg", exif=exif, quality=95)
    assert_corners(decode_image(tmp_path / "photo.jpg", 16, 16, 3), tolerance=12)


def test_transparent_pixels_become_white(tmp_path):
    image = Image.new("RGBA", (4, 4), (*RED, 255))
    image.paste((*BLACK, 0), (0, 0, 2, 4))
    image.save(tmp_path / "rgba.png")
    pixels = decode_image(tmp_path / "rgba.png", 4, 4, 3)
    assert_all(pixels[:, :2], WHITE)
    assert_all(pixels[:, 2:], RED)


@pytest.mark.parametrize(("channels", "expected"), [(3, (255, 127, 127)), (1, 127 + 0.299 * 128)])
def test_half_transparent_colour_is_mixed_with_white(tmp_path, channels, expected):
    Image.new("RGBA", (4, 4), (*RED, 128)).save(tmp_path / "rgba.png")
    assert_all(decode_image(tmp_path / "rgba.png", 4, 4, channels), expected, tolerance=1)


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_with_alpha_is_mixed_with_white(tmp_path, channels):
    Image.new("LA", (4, 4), (0, 128)).save(tmp_path / "la.png")
    assert_all(decode_image(tmp_path / "la.png", 4, 4, channels), 127, tolerance=1)


@pytest.mark.parametrize(("mode", "colour"), [("1", 0), ("L", 7), ("RGB", (7, 8, 9))])
def test_colour_that_a_png_declares_transparent_becomes_white(tmp_path, mode, colour):
    Image.new(mode, (4, 4), colour).save(tmp_path / "keyed.png", transparency=colour)
    assert_all(decode_image(tmp_path / "keyed.png", 4, 4, 3), WHITE)


def test_transparent_palette_entry_becomes_white(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([*RED, *BLUE])
    image.paste(0, (0, 0, 2, 4))
    image.save(tmp_path / "p.png", transparency=0)
    pixels = decode_image(tmp_path / "p.png", 4, 4, 3)
    assert_all(pixels[:, :2], WHITE)
    assert_all(pixels[:, 2:], BLUE)


@pytest.mark.parametrize(("channels", "expected"), [(3, BLUE), (1, 29)])
def test_palette_gives_its_colours_not_its_indices(tmp_path, channels, expected):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([*RED, *BLUE])
    image.save(tmp_path / "p.png")
    assert_all(decode_image(tmp_path / "p.png", 4, 4, channels), expected)


@pytest.mark.parametrize(("ink", "expected"), [((0, 0, 0, 0), WHITE), ((0, 255, 255, 0), RED)])
def test_cmyk_jpeg_becomes_rgb(tmp_path, ink, expected):
    Image.new("CMYK", (16, 16), ink).save(tmp_path / "print.jpg", quality=95)
    assert_all(decode_image(tmp_path / "print.jpg", 4, 4, 3), expected, tolerance=4)


@pytest.mark.parametrize("format_name", ["PNG", "TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_grey_is_scaled_to_8_bits(tmp_path, format_name, channels):
    values = np.array([[0, 65535], [32768, 10000]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep", format_name)
    pixels = decode_image(tmp_path / "deep", 2, 2, channels)
    expected = np.repeat(values[..., np.newaxis] / 257, channels, axis=2)
    np.testing.assert_allclose(pixels.astype(float), expected, atol=1)


def test_dark_16_bit_grey_stays_dark(tmp_path):
    Image.fromarray(np.full((4, 4), 200, np.uint16)).save(tmp_path / "night.png")
    assert_all(decode_image(tmp_path / "night.png", 4, 4, 1), 0, tolerance=1)


def test_floating_point_grey_from_0_to_1_keeps_its_contrast(tmp_path):
    values = np.array([[0, 1], [0.5, 0.25]], np.float32)
    Image.fromarray(values).save(tmp_path / "float.tif")
    np.testing.assert_allclose(
        decode_image(tmp_path / "float.tif", 2, 2, 1)[..., 0].astype(float), 255 * values, atol=1
    )


def test_1_bit_picture_becomes_black_and_white(tmp_path):
    image = Image.new("1", (4, 4), 0)
    image.paste(1, (0, 0, 2, 4))
    image.save(tmp_path / "fax.png")
    pixels = decode_image(tmp_path / "fax.png", 4, 4, 3)
    assert_all(pixels[:, :2], WHITE)
    assert_all(pixels[:, 2:], BLACK)


def test_grey_fills_all_three_channels(tmp_path):
    Image.new("L", (4, 4), 77).save(tmp_path / "grey.png")
    pixels = decode_image(tmp_path / "grey.png", 4, 4, 3)
    assert pixels.shape == (4, 4, 3)
    assert_all(pixels, 77)


@pytest.mark.parametrize(("colour", "brightness"), [(RED, 76), (GREEN, 150), (BLUE, 29), (WHITE, 255)])
def test_colour_becomes_its_brightness_in_one_channel(tmp_path, colour, brightness):
    Image.new("RGB", (4, 4), colour).save(tmp_path / "colour.png")
    pixels = decode_image(tmp_path / "colour.png", 4, 4, 1)
    assert pixels.shape == (4, 4, 1)
    assert_all(pixels, brightness, tolerance=1)


@pytest.mark.parametrize("format_name", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation_is_taken(tmp_path, format_name):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    frames[0].save(tmp_path / "animation", format_name, save_all=True, append_images=frames[1:])
    assert_all(decode_image(tmp_path / "animation", 4, 4, 3), RED, tolerance=8)


def test_webp_is_read(tmp_path):
    expected = np.random.default_rng(2).integers(0, 256, (6, 6, 3), np.uint8)
    Image.fromarray(expected).save(tmp_path / "image.webp", lossless=True)
    np.testing.assert_array_equal(decode_image(tmp_path / "image.webp", 6, 6, 3), expected)


@pytest.mark.parametrize("name", ["photo.jpg", "photo.txt", "photo", "photo.PNG.exe"])
def test_content_not_the_ending_tells_the_format(tmp_path, name):
    four_corners(8, 8).save(tmp_path / name, "PNG")
    assert_corners(decode_image(tmp_path / name, 8, 8, 3))


def test_height_and_width_are_not_mixed_up(tmp_path):
    four_corners(8, 8).save(tmp_path / "square.png")
    pixels = decode_image(tmp_path / "square.png", 8, 24, 3)
    assert pixels.shape == (8, 24, 3)
    assert_corners(pixels)


def test_single_pixel_fills_the_picture(tmp_path):
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "dot.png")
    assert_all(decode_image(tmp_path / "dot.png", 8, 8, 3), (1, 2, 3))


@pytest.mark.parametrize("format_name", ["PNG", "JPEG"])
@pytest.mark.parametrize("lies", [True, False])
def test_very_long_picture_is_squeezed_to_the_size(tmp_path, format_name, lies):
    half_white = np.zeros((2, 4000), np.uint8)
    half_white[:, 2000:] = 255
    Image.fromarray(half_white if lies else half_white.T.copy()).save(tmp_path / "strip", format_name)
    pixels = decode_image(tmp_path / "strip", 8, 8, 1)[..., 0]
    along = pixels if lies else pixels.T
    assert_all(along[:, :3], 0, tolerance=4)
    assert_all(along[:, 5:], 255, tolerance=4)


def test_large_jpeg_looks_the_same_as_a_small_one(tmp_path):
    four_corners(1600, 1200).save(tmp_path / "large.jpg", quality=95)
    assert_corners(decode_image(tmp_path / "large.jpg", 12, 16, 3), tolerance=12)


def test_jpeg_decoded_at_a_fraction_keeps_the_detail_that_fits(tmp_path):
    stripes = (np.arange(256) // 8 % 2 * 255).astype(np.uint8)
    Image.fromarray(np.tile(stripes, (256, 1))).save(tmp_path / "stripes.jpg", quality=95)
    expected = np.array(Image.fromarray(stripes[np.newaxis]).resize((64, 1), Image.Resampling.BILINEAR))
    pixels = decode_image(tmp_path / "stripes.jpg", 64, 64, 1)[..., 0]
    np.testing.assert_allclose(pixels.astype(float), np.tile(expected, (64, 1)), atol=30)


def test_resizing_averages_rather_than_picks_pixels(tmp_path):
    checkerboard = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    Image.fromarray(checkerboard).save(tmp_path / "checkerboard.png")
    assert_all(decode_image(tmp_path / "checkerboard.png", 4, 4, 1), 127.5, tolerance=6)


def test_empty_file_is_refused(tmp_path):
    (tmp_path / "image.png").write_bytes(b"")
    assert "is empty" in reason_against(tmp_path / "image.png")


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_truncated_picture_is_refused(tmp_path, format_name, share):
    content = noise_bytes(format_name)
    (tmp_path / "image").write_bytes(content[: int(share * len(content))])
    assert reason_against(tmp_path / "image").startswith(("cannot be decoded (", "is no image"))


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_damaged_avif_is_refused(tmp_path):
    (tmp_path / "image.avif").write_bytes(noise_bytes("AVIF").replace(b"iloc", b"xxxx"))
    assert "cannot be decoded" in reason_against(tmp_path / "image.avif")


def test_truncated_jpeg_is_named_truncated(tmp_path):
    content = noise_bytes("JPEG")
    (tmp_path / "photo.jpg").write_bytes(content[: len(content) // 2])
    assert "truncated" in reason_against(tmp_path / "photo.jpg")


def test_format_that_is_not_among_those_documented_is_refused(tmp_path):
    header = b"DDS " + struct.pack("<7I", 124, 0x1007, 4, 4, 0, 0, 0) + bytes(44)
    unknown_pixel_format = struct.pack("<8I", 32, 0, 0, 0, 0, 0, 0, 0) + bytes(20)
    (tmp_path / "texture.dds").write_bytes(header + unknown_pixel_format + bytes(64))
    assert "is no image of a known format" in reason_against(tmp_path / "texture.dds")


def test_git_lfs_pointer_is_refused_with_the_command_that_fetches_the_image(tmp_path):
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n"
    (tmp_path / "photo.jpg").write_text(pointer)
    assert "git lfs pull" in reason_against(tmp_path / "photo.jpg")


@pytest.mark.parametrize("content", [b"labels: cat, dog\n", b"<html>404</html>", b"\0", b"\xff\xd8\xff"])
def test_file_that_is_no_image_is_refused(tmp_path, content):
    (tmp_path / "photo.jpg").write_bytes(content)
    assert "is no image of a known format" in reason_against(tmp_path / "photo.jpg")


def test_missing_file_is_refused(tmp_path):
    assert "cannot be read (No such file" in reason_against(tmp_path / "photo.jpg")


def peak_mb():
    """The most memory that this process has had since it wrote 5 to /proc/self/clear_refs."""
    return int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


@pytest.mark.parametrize(
    ("width", "height", "told"),
    [
        (100_000, 1, "(100,000 x 1 pixels; at most 65,535 a side)"),
        (1, 65_536, "(1 x 65,536 pixels; at most 65,535 a side)"),
        (9_500, 9_500, "(9,500 x 9,500 pixels; at most 89,478,485 in all)"),
        (100_000, 10_000, "(Image size (1000000000 pixels) exceeds limit"),  # as Pillow says it
    ],
)
def test_picture_that_would_take_too_much_memory_is_refused_before_it_does(width, height, told, tmp_path):
    content = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in [
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
            (b"IDAT", bomb(height * (1 + 3 * width))),
            (b"IEND", b""),
        ]
    )
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")
    before = peak_mb()
    assert f"is too large {told}" in reason_against(tmp_path / "bomb.png")
    assert peak_mb() - before < 20


def bomb(num_bytes):
    """Compress as many zeros, up to 300 MB."""
    compressor, block = zlib.compressobj(1), bytes(2**20)
    blocks = [compressor.compress(block) for _ in range(min(num_bytes // len(block) + 1, 300))]
    return b"".join(blocks) + compressor.flush()


def test_jpeg_of_which_only_a_fraction_is_decoded_may_be_larger(tmp_path, monkeypatch):
    Image.new("L", (64, 64), 7).save(tmp_path / "photo.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 - 1)
    assert_all(decode_image(tmp_path / "photo.jpg", 4, 4, 3), (7, 7, 7))


@pytest.mark.parametrize("start", [b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\xc5\xd0\xd3\xc6"])
def test_postscript_is_not_run(start, tmp_path):
    (tmp_path / "picture.png").write_bytes(start + b"%%BoundingBox: 0 0 8 8\n")
    assert "is PostScript, a program" in reason_against(tmp_path / "picture.png")
