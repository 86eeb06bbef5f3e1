"""Image files of all kinds give correct 8-bit RGB, or an error that names the file."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from frcnn.data import images, jpeg
from frcnn.data.images import decode_image, image_size, read_image
from frcnn.errors import DataError


@pytest.fixture
def rgb():
    """(32, 48, 3) uint8, smooth, so that JPEG changes it by a few levels only."""
    y, x = np.mgrid[:32, :48]
    return np.stack([x * 5, y * 7, 255 - x * 2 - y * 2], axis=2).astype(np.uint8)


def as_array(path):
    image = read_image(path)
    assert image.dtype == torch.uint8 and image.shape[0] == 3
    return image.permute(1, 2, 0).numpy().astype(int)


def test_png_is_read_exactly(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "a.png")
    assert (as_array(tmp_path / "a.png") == rgb).all()


def test_grey_is_repeated(tmp_path, rgb):
    Image.fromarray(rgb[..., 0]).save(tmp_path / "a.png")
    assert (as_array(tmp_path / "a.png") == rgb[..., :1]).all()


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    for name in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / name)
        read = as_array(tmp_path / name)[..., 0]
        assert np.abs(read - values / 257.0).max() <= 0.5, name


def test_thirty_two_bit_grey_within_sixteen_bits_is_scaled_and_beyond_is_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 65535, np.int32)).save(tmp_path / "a.tif")
    assert (as_array(tmp_path / "a.tif") == 255).all()
    Image.fromarray(np.full((4, 4), 65536, np.int32)).save(tmp_path / "b.tif")
    with pytest.raises(DataError, match=r"b\.tif.*16 bits"):
        read_image(tmp_path / "b.tif")


def test_float_pixels_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif.*floating-point"):
        read_image(tmp_path / "a.tif")


def test_palette_with_and_without_transparency(tmp_path, rgb, recwarn):
    blocks = (rgb // 128) * 255
    image = Image.fromarray(blocks).quantize(16)
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "clear.png", transparency=bytes([0, 128] + [255] * 14))
    image.save(tmp_path / "one.gif", transparency=0)
    for name in ("plain.png", "clear.png", "one.gif"):
        assert (as_array(tmp_path / name) == blocks).all(), name
    assert not recwarn.list


def test_alpha_is_dropped(tmp_path, rgb):
    alpha = np.full((32, 48, 1), 10, np.uint8)
    Image.fromarray(np.concatenate([rgb, alpha], axis=2)).save(tmp_path / "rgba.png")
    Image.fromarray(np.concatenate([rgb[..., :1], alpha], axis=2), "LA").save(tmp_path / "la.png")
    assert (as_array(tmp_path / "rgba.png") == rgb).all()
    assert (as_array(tmp_path / "la.png") == rgb[..., :1]).all()


def test_one_bit(tmp_path, rgb):
    bits = rgb[..., 0] > 100
    Image.fromarray(bits).save(tmp_path / "a.png")
    assert (as_array(tmp_path / "a.png") == bits[..., None] * 255).all()


def test_cmyk_jpeg_is_not_inverted(tmp_path, rgb):
    Image.fromarray(rgb).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert np.abs(as_array(tmp_path / "a.jpg") - rgb).mean() < 6


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (2, lambda upright: upright[:, ::-1]),
        (3, lambda upright: upright[::-1, ::-1]),
        (4, lambda upright: upright[::-1]),
        (5, lambda upright: upright.transpose(1, 0, 2)),
        (6, lambda upright: np.rot90(upright, 1)),
        (7, lambda upright: upright[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda upright: np.rot90(upright, -1)),
    ],
)
def test_exif_orientation(tmp_path, rgb, orientation, stored, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored(rgb))).save(
        path, exif=exif, **({"quality": 95} if suffix == "jpg" else {})
    )
    read = as_array(path)
    assert read.shape == rgb.shape
    assert np.abs(read - rgb).mean() < 6


def jpeg_bytes(rgb):
    buffer = io.BytesIO()
    Image.fromarray(rgb).resize((400, 300)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.97])
def test_truncated_jpeg_is_an_error(tmp_path, rgb, kept):
    whole = jpeg_bytes(rgb)
    path = tmp_path / "cut.jpg"
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(DataError, match=r"cut\.jpg: cannot read image"):
        read_image(path)


def test_truncated_png_is_an_error(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a\.png"):
        read_image(tmp_path / "a.png")


def test_missing_empty_and_foreign_files_and_folders_have_their_own_errors(tmp_path):
    with pytest.raises(DataError, match=r"gone\.jpg: image file not found"):
        read_image(tmp_path / "gone.jpg")
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(DataError, match=r"empty\.jpg.*is empty"):
        read_image(tmp_path / "empty.jpg")
    (tmp_path / "text.jpg").write_text("<html>not found</html>")
    with pytest.raises(DataError, match=r"text\.jpg.*not a supported image format"):
        read_image(tmp_path / "text.jpg")
    with pytest.raises(DataError, match="cannot read image"):
        read_image(tmp_path)


@pytest.fixture
def both(monkeypatch):
    """`both(path)`: the pixels, compared with those of Pillow alone, and whether torchvision decoded them."""

    def read(path):
        helped = []

        def spy(path, **size):
            helped.append(jpeg.decode_sequential(path, **size))
            return helped[-1]

        with monkeypatch.context() as patched:
            patched.setattr(images, "decode_sequential", spy)
            decoded = decode_image(path)
            patched.setattr(images, "decode_sequential", lambda path, **_: None)
            alone = decode_image(path)
        assert torch.equal(decoded.pixels, alone.pixels) and decoded[1:] == alone[1:]
        return bool(helped) and helped[0] is not None

    return read


def textured(height, width):
    """Edges and noise, which reveal each rounding of a decoder."""
    rng = np.random.default_rng(height * width)
    stripes = np.mgrid[:height, :width].sum(axis=0)[..., None] // 3 % 2 * [200, 120, 60]
    return (stripes + rng.integers(0, 56, (height, width, 3))).astype(np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (17, 33), (64, 47)])
def test_jpeg_has_the_pixels_of_pillow(tmp_path, both, mode, size):
    image = Image.fromarray(textured(*size)).convert(mode)
    path = tmp_path / "a.jpg"
    for subsampling in ("4:4:4", "4:2:2", "4:2:0") if mode == "RGB" else (None,):
        for quality in (5, 75, 98):
            for restart in (0, 1):
                image.save(path, quality=quality, subsampling=subsampling or -1, restart_marker_rows=restart)
                assert both(path)


def test_photographs_have_the_pixels_of_pillow(shared_path, both):
    paths = sorted(shared_path("datasets/coco200/val2017").glob("*.jpg"))[:10]
    assert len(paths) == 10
    assert all([both(path) for path in paths])


@pytest.mark.parametrize("orientation", range(10))
def test_jpeg_is_turned_as_pillow_turns_it(tmp_path, both, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(textured(9, 14)).save(tmp_path / "a.jpg", exif=exif)
    assert both(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("progressive.jpg", "RGB", {"progressive": True}),
        ("cmyk.jpg", "CMYK", {}),
        ("several.mpo", "RGB", {"save_all": True, "append_images": [Image.new("RGB", (14, 9))]}),
        ("a.png", "RGB", {}),
    ],
)
def test_pillow_decodes_the_other_kinds(tmp_path, both, name, mode, options):
    Image.fromarray(textured(9, 14)).convert(mode).save(tmp_path / name, **options)
    assert not both(tmp_path / name)


@pytest.mark.parametrize("error", [RuntimeError, AttributeError])
def test_jpeg_without_torchvisions_decoder(tmp_path, both, monkeypatch, error):
    """torchvision without libjpeg, or a version without decoders."""

    def fail(*_):
        raise error

    Image.fromarray(textured(9, 14)).save(tmp_path / "a.jpg")
    assert both(tmp_path / "a.jpg")
    monkeypatch.setattr(torch.ops.image, "decode_jpeg", fail)
    assert not both(tmp_path / "a.jpg")


def frame(height, width, *, kind=0xC0, bits=8, colours=3):
    content = (
        bytes([bits]) + height.to_bytes(2, "big") + width.to_bytes(2, "big") + bytes([colours]) + bytes(3 * colours)
    )
    return bytes([0xFF, kind]) + (len(content) + 2).to_bytes(2, "big") + content


SCAN = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
COMMENT = b"\xff\xfe\x00\x05abc"


@pytest.mark.parametrize(
    ("header", "size"),
    [
        (COMMENT + frame(3, 4) + COMMENT + SCAN, (3, 4)),
        (frame(3, 4, kind=0xC1, colours=1) + SCAN, (3, 4)),
        (frame(3, 4, kind=0xC2) + SCAN, None),  # progressive
        (frame(3, 4, kind=0xC9) + SCAN, None),  # arithmetic coding
        (frame(3, 4, bits=12) + SCAN, None),
        (frame(3, 4, colours=4) + SCAN, None),
        (frame(3, 4) + frame(60000, 60000) + SCAN, None),  # decoders differ in which of them they accept
        (COMMENT + b"\0" + frame(3, 4) + SCAN, None),  # between segments
        (COMMENT + b"\xff" + frame(3, 4) + SCAN, None),
        (b"\xff\xd8" + frame(3, 4) + SCAN, None),
        (b"\xff\xe0\x00\x01" + frame(3, 4) + SCAN, None),  # no length
        (frame(3, 4), None),
        (frame(3, 4)[:6], None),
        (SCAN, None),
        (b"", None),
    ],
)
def test_only_a_header_that_is_read_in_one_way_is_decoded(header, size):
    assert jpeg.frame_size(memoryview(b"\xff\xd8" + header)) == size


def test_a_header_starts_with_the_mark_of_jpeg():
    assert jpeg.frame_size(memoryview(frame(3, 4) + SCAN)) is None


def test_a_size_that_pillow_did_not_see_is_not_decoded(tmp_path, monkeypatch):
    """The pixel limit is checked with the size from Pillow. A file that is too large for its pixels is not read."""
    Image.fromarray(textured(9, 14)).save(tmp_path / "a.jpg")
    assert jpeg.decode_sequential(tmp_path / "a.jpg", height=9, width=14) is not None
    monkeypatch.setattr(torch.ops.image, "decode_jpeg", lambda *_: pytest.fail("decoded"))
    assert jpeg.decode_sequential(tmp_path / "a.jpg", height=9, width=15) is None
    with (tmp_path / "a.jpg").open("ab") as file:
        file.write(bytes(2**20 + 9 * 14 * 4))
    assert jpeg.decode_sequential(tmp_path / "a.jpg", height=9, width=14) is None


@pytest.mark.parametrize("orientation", [None, 1, 3, 6, 8])
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "bmp", "gif"])
def test_the_size_of_a_file_is_that_of_its_upright_pixels(tmp_path, rgb, suffix, orientation):
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    options = {} if suffix in ("bmp", "gif") else {"exif": exif}
    Image.fromarray(rgb).save(tmp_path / f"a.{suffix}", **options)
    assert image_size(tmp_path / f"a.{suffix}") == read_image(tmp_path / f"a.{suffix}").shape[1:]


def test_the_size_of_a_png_file_is_read_from_its_header(tmp_path, rgb, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rgb).save(tmp_path / "a.png", exif=exif)
    content = (tmp_path / "a.png").read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    late = content.index(b"IEND") - 4
    (tmp_path / "late.png").write_bytes(content[:start] + content[end:late] + content[start:end] + content[late:])
    assert image_size(tmp_path / "late.png") == read_image(tmp_path / "late.png").shape[1:] == (48, 32)

    def decode(image):
        raise AssertionError("decoded")

    Image.fromarray(rgb).save(tmp_path / "plain.png")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", decode)
    assert image_size(tmp_path / "a.png") == (48, 32)
    assert image_size(tmp_path / "plain.png") == (32, 48)


def test_the_size_of_a_file_that_is_not_an_image(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a\.jpg: cannot read image: not a supported image format"):
        image_size(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"b\.jpg: image file not found"):
        image_size(tmp_path / "b.jpg")
