"""One tar: which bytes are stored, in which format, and which files are left out."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moco.config import Shard
from moco.errors import MocoError
from moco.images.decode import decode
from moco.shards import tars
from moco.shards.tars import Origin, Segment, write_tar
from moco.sources.listing import Row

SETTINGS = Shard(
    samples_per_shard=8,
    merge_below=None,
    megabytes_per_shard=256,
    max_side=None,
    jpeg_quality=92,
    max_bad_fraction=0.05,
)
CLASSES = {"cat": 0, "dog": 1}


def picture(seed: int, size: tuple[int, int] = (20, 16)) -> Image.Image:
    """Smooth noise, so that every format keeps it small."""
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)


def row(path: Path, label: str = "") -> Row:
    data = path.read_bytes() if path.exists() else b""
    return Row(path.name, None, label, "train", hashlib.sha256(data).hexdigest() if path.exists() else "", len(data))


def written(folder: Path, rows: list[Row], arrays: np.ndarray | None = None, **changes: object):
    """The note of a tar, and what is in it: path -> (extension, label, class, bytes)."""
    origin = Origin(folder, arrays, CLASSES, SETTINGS.model_copy(update=changes))
    sizes: list[int] = []
    note, found = write_tar(folder / "out.tar", [Segment(rows, [origin] * len(rows))], sizes.append), {}
    assert sizes == [each.bytes for each in rows]
    assert (note["bytes"], note["samples"]) == ((folder / "out.tar").stat().st_size, len(note["index"]))
    assert note["sha256"] == hashlib.sha256((folder / "out.tar").read_bytes()).hexdigest()
    with tarfile.open(folder / "out.tar") as archive:
        for image, about, (offset, size, label, number) in zip(
            archive.getmembers()[::2], archive.getmembers()[1::2], note["index"], strict=True
        ):
            assert (offset, size) == (image.offset_data, image.size)
            key, extension = image.name.split(".")
            assert (key, about.name) == (f"{number:016x}", f"{key}.json")
            says = json.load(archive.extractfile(about))
            assert says["label"] == label
            found[says["path"]] = (extension, label, says["class"], archive.extractfile(image).read())
    return note, found


@pytest.fixture
def photos(tmp_path: Path) -> list[Row]:
    """Nine images of two classes or none, as JPEG, PNG and WebP."""
    files = [tmp_path / f"{i}.{('jpg', 'png', 'webp')[i % 3]}" for i in range(9)]
    for i, file in enumerate(files):
        picture(i).save(file)
    return [row(file, ("cat", "dog", "")[i // 3]) for i, file in enumerate(files)]


@pytest.mark.parametrize("max_side", [None, 20, 24])
def test_jpeg_png_and_webp_bytes_are_copied_as_they_are(max_side, photos, tmp_path):
    note, found = written(tmp_path, photos, max_side=max_side)
    assert [key for *_, key in note["index"]] == [int(each.sha256[:16], 16) for each in photos]
    assert found == {
        each.path: (each.path.split(".")[1], CLASSES.get(each.label, -1), each.label or None, data)
        for each in photos
        for data in [(tmp_path / each.path).read_bytes()]
    }


def test_headers_are_those_of_any_ustar_file_of_owner_0_at_time_0(photos, tmp_path):
    written(tmp_path, photos)
    expected = io.BytesIO()
    with (
        tarfile.open(tmp_path / "out.tar") as archive,
        tarfile.open(fileobj=expected, mode="w", format=tarfile.USTAR_FORMAT) as copy,
    ):
        for item in archive:
            plain = tarfile.TarInfo(item.name)
            plain.size = item.size
            copy.addfile(plain, archive.extractfile(item))
    assert (tmp_path / "out.tar").read_bytes() == expected.getvalue()


def test_a_sound_jpeg_is_not_decoded_in_full(photos, tmp_path, monkeypatch):
    monkeypatch.delattr(tars, "decode")
    assert written(tmp_path, photos[:1])[0]["samples"] == 1


def test_a_large_tar_is_written_in_blocks_of_4_mebibytes_and_more(tmp_path, monkeypatch):
    flushes, flush = [], tars._Tar._flush
    monkeypatch.setattr(tars._Tar, "_flush", lambda tar: (flushes.append(tar.offset), flush(tar)))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8)).save(tmp_path / "noise.png")
    _, found = written(tmp_path, [row(tmp_path / "noise.png")] * 5)
    assert found["noise.png"][3] == (tmp_path / "noise.png").read_bytes()
    assert [offset // 10**6 for offset in flushes] == [4, 9, 12]  # images of 2.4 MB


@pytest.mark.parametrize("shape", [(10, 28, 28), (10, 32, 32, 3)])
def test_images_from_arrays_are_stored_as_png_without_loss(shape, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    rows = [
        Row("images.npy", i, "dog" if i else "", "train", hashlib.sha256(images[i].tobytes()).hexdigest(), 1)
        for i in range(10)
    ]
    _, found = written(tmp_path, rows, arrays=images)
    for i in range(10):
        extension, label, name, data = found[f"images.npy[{i}]"]
        assert (extension, label, name) == (("png", 1, "dog") if i else ("png", -1, None))
        assert np.array_equal(np.array(Image.open(io.BytesIO(data))), images[i])


@pytest.mark.parametrize(("suffix", "mode"), [("gif", "P"), ("bmp", "RGB"), ("tiff", "RGB"), ("ppm", "RGB")])
def test_other_formats_are_stored_as_png(suffix, mode, tmp_path):
    file = tmp_path / f"a.{suffix}"
    picture(0).convert(mode).save(file)
    extension, _, _, data = written(tmp_path, [row(file)])[1][file.name]
    assert (extension, data[:4]) == ("png", b"\x89PNG")
    assert np.array_equal(decode(data), decode(file.read_bytes()))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
@pytest.mark.parametrize(
    ("size", "expected"), [((64, 32), (24, 12)), ((32, 64), (12, 24)), ((1000, 2), (24, 1)), ((2, 1000), (1, 24))]
)
def test_a_maximum_side_shrinks_larger_images(size, expected, suffix, tmp_path):
    file = tmp_path / f"large.{suffix}"
    picture(0, size).save(file)
    stored = {}
    for quality in (50, 92):
        extension, _, _, data = written(tmp_path, [row(file)], max_side=24, jpeg_quality=quality)[1][file.name]
        assert (extension, data[:2]) == ("jpg", b"\xff\xd8")
        stored[quality] = data
    theirs = picture(0, size).resize(expected, Image.Resampling.BOX)
    assert decode(stored[92]).shape == (*expected[::-1], 3)
    assert np.abs(decode(stored[92]).mean(axis=(0, 1)) - np.asarray(theirs).mean(axis=(0, 1))).max() < 4
    assert len(stored[50]) < len(stored[92])


def test_unreadable_files_are_listed_with_their_reasons(photos, tmp_path):
    good = (tmp_path / photos[0].path).read_bytes()
    png = bytearray((tmp_path / photos[1].path).read_bytes())
    png[16:24] = (10**6).to_bytes(4) * 2
    bad = {"cut.jpg": good[: len(good) // 2], "empty.png": b"", "words.jpg": b"not an image", "absurd.png": bytes(png)}
    bad["hollow.jpg"] = good[:20] + good[-2:]
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
    rows = [photos[0], *(row(tmp_path / name) for name in bad), row(tmp_path / "lost.jpg")]
    rows += [photos[1]._replace(path="film.png", bytes=256 * 10**6 + 1), photos[1]._replace(bytes=256 * 10**6)]
    note, found = written(tmp_path, rows)
    assert list(found) == [photos[0].path, photos[1].path]
    reasons = {each["path"]: each["reason"] for each in note["quarantine"]}
    assert list(reasons) == [*bad, "lost.jpg", "film.png"]
    assert reasons["cut.jpg"].startswith("not a readable image")
    assert reasons["empty.png"] == "empty file"
    assert reasons["lost.jpg"] == "cannot be read (No such file or directory)"
    assert reasons["film.png"] == "larger than 256 MB"
    assert not any("\n" in reason or "0x" in reason for reason in reasons.values())


def test_a_jpeg_that_claims_pixels_it_cannot_hold_is_left_out_before_training_meets_it(photos, tmp_path):
    for name, side in (("absurd.jpg", 65_000), ("large.jpg", 9000)):
        data = bytearray((tmp_path / photos[0].path).read_bytes())
        at = data.find(b"\xff\xc0")
        data[at + 5 : at + 9] = side.to_bytes(2) * 2
        (tmp_path / name).write_bytes(data)
    note, found = written(tmp_path, [photos[0], row(tmp_path / "absurd.jpg"), row(tmp_path / "large.jpg")])
    assert list(found) == [photos[0].path]
    assert [each["reason"].split(",")[0].split(" in ")[0] for each in note["quarantine"]] == [
        "65000 x 65000 pixels",
        "claims 9000 x 9000 pixels",
    ]


def test_a_jpeg_that_is_decoded_at_half_its_sides_keeps_to_max_side_too(tmp_path, monkeypatch):
    picture(0, (200, 100)).save(tmp_path / "large.jpg")
    monkeypatch.setattr("moco.images.decode.KEPT", 10_000)
    for side, width in ((150, 100), (80, 80)):
        _, found = written(tmp_path, [row(tmp_path / "large.jpg")], max_side=side)
        assert Image.open(io.BytesIO(found["large.jpg"][3])).width == width


def test_images_of_several_frames_are_counted_and_stored_once(photos, tmp_path):
    rows = photos[:2]
    for kind in ("gif", "webp", "png", "tiff"):
        for frames in (1, 2):
            file = tmp_path / f"{kind}{frames}.{kind}"
            picture(0).save(file, save_all=True, append_images=[picture(n) for n in range(1, frames)])
            rows.append(row(file))
    note, found = written(tmp_path, rows)
    assert note["of_frames"] == 4 and len(found) == 10


@pytest.mark.parametrize("max_side", [None, 16])
def test_a_photo_with_an_orientation_is_upright_whether_its_bytes_are_copied_or_shrunk(max_side, tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    picture(0, (32, 24)).save(tmp_path / "phone.jpg", exif=exif)
    _, found = written(tmp_path, [row(tmp_path / "phone.jpg")], max_side=max_side)
    assert decode(found["phone.jpg"][3]).shape == ((32, 24, 3) if max_side is None else (16, 12, 3))


def test_a_file_that_changed_or_vanished_since_fetch_is_an_error_because_its_split_may_differ(photos, tmp_path):
    picture(99).save(tmp_path / photos[0].path)
    with pytest.raises(MocoError, match=r"0\.jpg: has changed since fetch; put it back, or run"):
        written(tmp_path, photos)
    (tmp_path / photos[0].path).unlink()
    with pytest.raises(MocoError, match=r"0\.jpg: fetch read it, but it cannot be read now"):
        written(tmp_path, photos)
    other = Row("images.npy", 0, "", "train", photos[0].sha256, 1)
    with pytest.raises(MocoError, match=r"images\.npy\[0\]: has changed since fetch"):
        written(tmp_path, [other], arrays=np.zeros((1, 8, 8), np.uint8))
