from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_relay.reports.files import opened, safe, write
from tests.support.limits import files_of_at_most

if TYPE_CHECKING:
    from pathlib import Path

ARRAYS = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(True), "c": np.zeros((0, 2), np.int64)}


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write(tmp_path / "report.npz", {"format": 3, "name": "\0ä\ud800"}, ARRAYS)
    with opened(tmp_path / "report.npz", "relay", 3) as (header, arrays):
        assert header == {"name": "\0ä\ud800"}
        assert list(arrays) == list(ARRAYS)
        for name, array in ARRAYS.items():
            found = arrays.pop(name)
            assert (found.dtype, found.shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(found, array)
            assert found.flags.writeable
    assert names_in(tmp_path) == ["report.npz"]


def test_order_in_memory_does_not_matter() -> None:
    file = io.BytesIO()
    transposed = np.arange(6.0).reshape(2, 3).T
    write(file, {"format": 3}, {"a": transposed})
    with opened(file, "relay", 3) as (_, arrays):
        np.testing.assert_array_equal(arrays.pop("a"), transposed)


def test_a_file_that_cannot_be_written_is_not_there(tmp_path: Path) -> None:
    big = {"a": np.random.default_rng(0).random(1000)}
    with files_of_at_most(1000), pytest.raises(OSError, match="File too large"):
        write(tmp_path / "report.npz", {"format": 3}, big)
    assert names_in(tmp_path) == []
    write(tmp_path / "report.npz", {"format": 3}, ARRAYS)
    before = (tmp_path / "report.npz").read_bytes()
    with files_of_at_most(1000), pytest.raises(OSError, match="File too large"):
        write(tmp_path / "report.npz", {"format": 3}, big)
    assert names_in(tmp_path) == ["report.npz"]
    assert (tmp_path / "report.npz").read_bytes() == before


def test_a_file_replaces_an_older_one_behind_a_link_and_no_device(tmp_path: Path) -> None:
    (tmp_path / "link.npz").symlink_to(tmp_path / "report.npz")
    for _ in range(2):
        write(tmp_path / "link.npz", {"format": 3}, ARRAYS)
    assert (tmp_path / "link.npz").is_symlink()
    assert names_in(tmp_path) == ["link.npz", "report.npz"]
    (tmp_path / "null").symlink_to("/dev/null")
    write(tmp_path / "null", {"format": 3}, ARRAYS)
    assert (tmp_path / "null").is_char_device()
    with pytest.raises(IsADirectoryError):
        write(tmp_path, {"format": 3}, ARRAYS)


TEXTS = st.text(st.characters(exclude_categories=()), min_size=1)


@given(TEXTS, TEXTS)
def test_safe_names_are_different_and_parts_of_a_name(first: str, second: str) -> None:
    assert (safe(first) == safe(second)) == (first == second)
    assert not set("/\0\\~") & set(safe(first))
    safe(first).encode()


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("bit_0", "bit_0"),
        ("größer als 2", "größer als 2"),
        ("a/b\0", "a%2Fb%00"),
        ("%2F", "%252F"),
        ("latent", "%6Catent"),
        ("\ud800", "%D800"),
    ],
)
def test_names_stay_as_readable_as_can_be(name: str, plain: str) -> None:
    assert safe(name) == plain


def test_long_names_are_cut_and_stay_different() -> None:
    first, second = safe("a" * 70_000), safe("a" * 70_001)
    assert first != second
    assert len(first) == len(second) < 100
    assert first.startswith("a" * 60 + "~")
