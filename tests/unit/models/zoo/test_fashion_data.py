import gzip
import hashlib

import numpy as np
import pytest

from models.zoo.errors import DatasetError
from models.zoo.fashion import data
from models.zoo.fashion.data import (
    DEBIAN_FOLDER,
    FILES,
    FOLDER_SETTING,
    LABELS,
    PIXEL_MEAN,
    PIXEL_STD,
    IdxFile,
    find_folder,
    load,
    parse_idx,
    read_checked,
)


def idx(*shape, values=None):
    count = int(np.prod(shape))
    header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    return header + (bytes(range(count)) if values is None else values)


def published(folder, name, content):
    """Write `content` as a file of a data set whose published sum it has."""
    (folder / name).write_bytes(gzip.compress(content))
    return IdxFile(name, hashlib.sha256(content).hexdigest(), len(content))


def test_folder_is_the_argument_then_the_setting_then_debians(monkeypatch, tmp_path):
    monkeypatch.delenv(FOLDER_SETTING, raising=False)
    assert find_folder() == DEBIAN_FOLDER
    monkeypatch.setenv(FOLDER_SETTING, str(tmp_path / "set"))
    assert find_folder() == tmp_path / "set"
    assert find_folder(tmp_path / "given") == tmp_path / "given"


def test_parses_images_and_labels():
    images = parse_idx(idx(2, 3, 4))
    assert images.dtype == np.uint8
    assert images.tolist() == np.arange(24).reshape(2, 3, 4).tolist()
    assert not images.flags.writeable
    assert parse_idx(idx(5)).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PNG!" + bytes(12),
        idx(2, 3, 4)[:-1],
        idx(2, 3, 4) + b"\0",
        idx(2, 3, 4)[:6],
        idx(2**16, 2**16, 2**32 - 1, values=b""),  # a product that wraps to a small one in 32 and 64 bits
    ],
)
def test_refuses_what_is_no_idx_file(content):
    with pytest.raises(DatasetError):
        parse_idx(content)


def test_reads_a_published_file_however_it_was_packed(tmp_path):
    content = idx(2, 3, 4)
    file = published(tmp_path, "some.gz", content)
    assert read_checked(tmp_path, file) == content
    (tmp_path / "some.gz").write_bytes(gzip.compress(content, compresslevel=1, mtime=1))
    assert read_checked(tmp_path, file) == content


@pytest.mark.parametrize("changed", [idx(2, 3, 4)[:-1] + b"!", idx(2, 3, 4) + b"more", b""])
def test_other_content_is_refused_with_sum_and_remedy(tmp_path, changed):
    file = published(tmp_path, "some.gz", idx(2, 3, 4))
    (tmp_path / "some.gz").write_bytes(gzip.compress(changed))
    with pytest.raises(DatasetError) as caught:
        read_checked(tmp_path, file)
    told = str(caught.value)
    assert "some.gz: is not the published file" in told
    assert file.sha256 in told
    assert "dataset-fashion-mnist" in told
    assert FOLDER_SETTING in told


@pytest.mark.parametrize("raw", [None, b"not gzip at all", gzip.compress(idx(2, 3, 4))[:-12]])
def test_unreadable_file_is_refused_with_sum_and_remedy(tmp_path, raw):
    file = IdxFile("some.gz", "0" * 64, 40)
    if raw is not None:
        (tmp_path / "some.gz").write_bytes(raw)
    with pytest.raises(DatasetError) as caught:
        read_checked(tmp_path, file)
    told = str(caught.value)
    assert "some.gz: cannot be read" in told
    assert file.sha256 in told
    assert "dataset-fashion-mnist" in told


def test_load_reads_both_files_of_the_half_it_is_asked_for(monkeypatch, tmp_path):
    files = {
        half: (
            published(tmp_path, f"{half}-images.gz", idx(count, 2, 2)),
            published(tmp_path, f"{half}-labels.gz", idx(count)),
        )
        for half, count in (("train", 4), ("test", 3))
    }
    monkeypatch.setattr(data, "FILES", files)
    assert load("train", tmp_path).pixels.shape == (4, 2, 2)
    test = load("test", tmp_path)
    assert test.pixels.shape == (3, 2, 2)
    assert test.labels.tolist() == [0, 1, 2]


def test_real_data_is_what_the_code_says_of_it():
    if not all((find_folder() / file.name).is_file() for pair in FILES.values() for file in pair):
        pytest.skip(f"Fashion-MNIST is not in {find_folder()} (Debian package dataset-fashion-mnist)")
    train, test = load("train"), load("test")
    assert train.pixels.shape == (60_000, 28, 28)
    assert test.pixels.shape == (10_000, 28, 28)
    assert np.bincount(train.labels).tolist() == [6_000] * len(LABELS)
    assert np.bincount(test.labels).tolist() == [1_000] * len(LABELS)
    assert train.pixels.mean() / 255 == pytest.approx(PIXEL_MEAN, abs=5e-5)
    assert train.pixels.std() / 255 == pytest.approx(PIXEL_STD, abs=5e-5)
