"""An archive of compiled code holds code and nothing else, in a zip that has one reading."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from testbed.code_archives import ENTRIES, FOLDER, write
from whimbrel.core import code_archive
from whimbrel.core.errors import PackageRefused


def test_what_torch_writes_is_taken(tmp_path: Path) -> None:
    code_archive.check(write(tmp_path / "code.pt2"))


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"data/weights/weight_0.pt": b"pickle"}, "weight_0.pt"),
        ({"data/sample_inputs/model.pt": b"pickle"}, "sample_inputs"),
        ({f"{FOLDER}/data.pkl": b"pickle"}, "data.pkl"),
        ({f"{FOLDER}/../../../escape.so": b"code"}, "escape.so"),
        ({f"{FOLDER}/sub/c.wrapper.so": b"code"}, "sub"),
        ({f"{FOLDER}/other.wrapper.so": b"code"}, "2 shared objects"),
        ({f"{FOLDER}/other.so": b"code"}, "2 shared objects"),
        ({f"{FOLDER}/CABC.wrapper.so": b"code"}, "twice"),
        ({"archive_format": b"pt3"}, "format"),
    ],
)
def test_what_is_more_than_code_is_refused(more: dict[str, bytes], named: str, tmp_path: Path) -> None:
    with pytest.raises(PackageRefused, match=named):
        code_archive.check(write(tmp_path / "code.pt2", ENTRIES | more))


def test_an_archive_without_code_or_with_another_reading_is_refused(tmp_path: Path) -> None:
    without = {name: content for name, content in ENTRIES.items() if not name.endswith(".so")}
    with pytest.raises(PackageRefused, match="0 shared objects"):
        code_archive.check(write(tmp_path / "code.pt2", without))
    with pytest.raises(PackageRefused, match="compressed"):
        code_archive.check(write(tmp_path / "code.pt2", ENTRIES, compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(PackageRefused, match="root folder"):
        code_archive.check(write(tmp_path / "code.pt2", ENTRIES, root="../code"))
    path = write(tmp_path / "code.pt2")
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(PackageRefused, match="expected compiled code"):
        code_archive.check(path)
    path.write_bytes(b"")
    with pytest.raises(PackageRefused, match="no readable archive"):
        code_archive.check(path)
    with pytest.raises(PackageRefused, match="no readable archive"):
        code_archive.check(tmp_path / "absent.pt2")
