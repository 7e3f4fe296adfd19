"""A picture is data: it starts no program, takes no more memory than one may, and a bad one is named and left out."""

import base64
import errno
import io
import os
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from cnn_sweeps.data import decode, load_folder
from cnn_sweeps.data.decode import decode_image, decode_stream
from cnn_sweeps.data.listing import list_image_files
from cnn_sweeps.errors import DataError

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
NO_FORMAT = "is no image of a known format"


def iptc(content, width=8, height=8):
    """Give an IPTC file around another picture, which Pillow takes for one."""
    fields = [((3, 60), b"\1\0"), ((3, 20), bytes([width])), ((3, 30), bytes([height])), ((3, 120), b"\5")]
    fields += [((8, 10), content)]
    return b"".join(b"\x1c" + bytes(tag) + struct.pack(">H", len(data)) + data for tag, data in fields)


def saved(form, size=(8, 8), mode="RGB", **options):
    stream = io.BytesIO()
    Image.new(mode, size, 7 if mode == "L" else (7, 7, 7)).save(stream, form, **options)
    return stream.getvalue()


def reason_against(content):
    with pytest.raises(DataError) as caught:
        decode_stream(io.BytesIO(content), 4, 4, 3)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write_pets(root):
    for i, name in enumerate(("cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i, i, i)).save(root / name)


def load_pets(root, on_bad_image="skip"):
    return load_folder(str(root), 4, 3, on_bad_image, str(root.parent / "cache"))


# Formats.


@pytest.fixture
def ghostscript(monkeypatch):
    """What Pillow would have Ghostscript run."""
    run = []
    monkeypatch.setattr(
        EpsImagePlugin, "Ghostscript", lambda *given, **_: run.append(given) or Image.core.new("L", (8, 8))
    )
    return run


def test_program_in_a_picture_is_not_run(ghostscript):
    wrapped = iptc(EPS)
    with Image.open(io.BytesIO(wrapped)) as opened:
        assert opened.format == "IPTC"  # so that without a list of formats it would be
        opened.load()
    assert len(ghostscript) == 1
    assert reason_against(wrapped) == NO_FORMAT
    assert "is PostScript, a program" in reason_against(EPS)
    assert reason_against(b" \n" + EPS) == NO_FORMAT
    assert len(ghostscript) == 1


def test_program_in_a_picture_is_not_run_where_a_model_is_served(ghostscript):
    from mlflow.exceptions import MlflowException  # imports TensorFlow, as the next does

    from cnn_sweeps.tracking.served_model import ServedModel

    served = ServedModel()
    served._image_shape = (4, 4, 3)
    with pytest.raises(MlflowException, match=f"image 1 of 1 {NO_FORMAT}"):
        served._decode(np.array([base64.b64encode(iptc(EPS)).decode()]))
    assert not ghostscript


@pytest.mark.parametrize("form", ["ICO", "TGA", "PCX", "SGI", "DDS", "SPIDER", "ICNS", "MSP", "XBM", "FITS"])
def test_format_that_is_not_documented_is_not_read(form):
    Image.init()
    if form == "FITS":
        content = b"SIMPLE  =                    T".ljust(80) + b"END".ljust(80) + bytes(2720)
    else:
        modes = {"SPIDER": "F", "MSP": "1", "XBM": "1"}
        stream = io.BytesIO()
        Image.new(modes.get(form, "RGB"), (16, 16)).save(stream, form)
        content = stream.getvalue()
    assert reason_against(content) == NO_FORMAT


@pytest.mark.parametrize("form", ["JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_documented_formats_are_read(form):
    np.testing.assert_allclose(decode_stream(io.BytesIO(saved(form)), 4, 4, 3), 7, atol=2)


# Size.


def in_three_scans(side):
    """Give a JPEG that is not progressive, and whose colours come one after another all the same."""
    grey = saved("JPEG", (side, side), "L")
    at_frame, at_scan = grey.index(b"\xff\xc0"), grey.index(b"\xff\xda")
    frame = struct.pack(">HHBHHB", 0xFFC0, 17, 8, side, side, 3) + b"".join(bytes([i, 0x11, 0]) for i in (1, 2, 3))
    scans = [b"\xff\xda\0\x08\1" + bytes([i]) + grey[at_scan + 6 : -2] for i in (1, 2, 3)]
    return grey[:at_frame] + frame + grey[at_frame + 13 : at_scan] + b"".join(scans) + b"\xff\xd9"


@pytest.mark.parametrize(
    "content", [saved("JPEG", (64, 64), progressive=True), in_three_scans(64)], ids=["progressive", "scans"]
)
def test_jpeg_of_which_all_is_in_memory_at_a_time_is_refused_beyond_the_limit(content, monkeypatch):
    np.testing.assert_array_equal(decode_stream(io.BytesIO(content), 4, 4, 3).shape, (4, 4, 3))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 - 1)
    assert reason_against(content) == "is too large (64 x 64 pixels; at most 4,095 in all)"
    decode_stream(io.BytesIO(saved("JPEG", (64, 64))), 4, 4, 3)  # of which a fraction is


@pytest.mark.parametrize("form", ["PNG", "progressive JPEG"])
@pytest.mark.parametrize(("num_pictures", "may_be_three"), [(2.5, False), (3.5, True)])
def test_all_threads_together_decode_no_more_pixels_at_once_than_one_picture_may_have(
    form, num_pictures, may_be_three, monkeypatch
):
    content = saved("PNG", (300, 300)) if form == "PNG" else saved("JPEG", (300, 300), progressive=True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(num_pictures * 300 * 300))
    met, convert = [], decode._convert
    meeting = threading.Barrier(3, lambda: met.append(True), timeout=1)  # once three are decoded at a time

    def convert_together(image, mode):
        with suppress(threading.BrokenBarrierError):
            meeting.wait()
        return convert(image, mode)

    monkeypatch.setattr(decode, "_convert", convert_together)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: decode_stream(io.BytesIO(content), 4, 4, 3), range(6)))
    assert bool(met) == may_be_three


def test_picture_that_failed_keeps_no_other_waiting(monkeypatch):
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(stream, "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 32 * 32)
    assert "cannot be decoded" in reason_against(stream.getvalue()[:1000])
    decode_stream(io.BytesIO(stream.getvalue()), 4, 4, 3)


# Whatever goes wrong is the picture's.


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "cannot be read (Too many open files)"),
        (OSError(errno.EIO, os.strerror(errno.EIO)), "cannot be read (Input/output error)"),
        (MemoryError(), "needs more memory than there is"),
        (RecursionError("too deep"), "cannot be decoded (too deep)"),
        (SystemError("a\nb\x1b[31m"), r"cannot be decoded ('a b\x1b[31m')"),
    ],
)
def test_reading_that_fails_in_any_way_is_a_bad_picture_with_its_name(error, told, tmp_path, monkeypatch):
    write_pets(tmp_path / "pets")
    monkeypatch.setattr(decode, "_convert", failing_for_one(error))
    assert load_pets(tmp_path / "pets").skipped_files == {"dog/1.png": told}
    with pytest.raises(DataError, match=r"1 of 4 files cannot be used: dog/1.png "):
        load_pets(tmp_path / "pets", "error")


def test_picture_that_the_machine_could_not_read_is_read_another_time(tmp_path, monkeypatch):
    write_pets(tmp_path / "pets")
    with monkeypatch.context() as patch:
        patch.setattr(decode, "_convert", failing_for_one(OSError(errno.EMFILE, "Too many open files")))
        assert len(load_pets(tmp_path / "pets").labels) == 3
    assert len(load_pets(tmp_path / "pets").labels) == 4


def failing_for_one(error, convert=decode._convert):
    def fail(image, mode):
        if image.getpixel((0, 0))[0] == 3:
            raise error
        return convert(image, mode)

    return fail


# What is no file.


@pytest.mark.parametrize(("kind", "told"), [("pipe", "a named pipe"), ("socket", "a socket"), ("device", "a device")])
def test_what_is_no_file_is_named_and_not_waited_for(kind, told, tmp_path):
    place = tmp_path / "picture.png"
    with socket.socket(socket.AF_UNIX) as bound:
        if kind == "pipe":
            os.mkfifo(place)
        elif kind == "socket":
            bound.bind(str(place))
        else:
            place.symlink_to("/dev/zero")
        with pytest.raises(DataError, match=f"is {told}, not a file"):
            decode_image(place, 4, 4, 3)


@pytest.fixture
def nested(tmp_path):
    """A folder with a file 1,501 levels down, which is taken away again: pytest's own cleaning could not."""
    top, before, levels = tmp_path / "top", Path.cwd(), 1500
    top.mkdir()
    os.chdir(top)
    for _ in range(levels):
        Path("d").mkdir()
        os.chdir("d")
    Path("picture.png").write_bytes(b"")
    os.chdir(before)
    yield top
    os.chdir(top / Path(*["d"] * levels))
    Path("picture.png").unlink()
    for _ in range(levels):
        os.chdir("..")
        Path("d").rmdir()
    os.chdir(before)


def test_folders_nested_deeper_than_python_recurses_are_searched(nested):
    (found,) = list_image_files(nested).files
    assert found.name == "picture.png"
    assert len(found.relative_to(nested).parts) == 1501
