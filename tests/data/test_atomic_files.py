import errno
import hashlib
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pinikit.data import files
from pinikit.data.files import canonical_json, read_json, read_text, sha256_file, write_atomic, write_json
from pinikit.errors import DataError, PinikitError


def test_writes_text_and_bytes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    write_atomic(path, "früh")
    assert path.read_bytes() == "früh".encode()
    write_atomic(str(path), b"later")
    assert path.read_bytes() == b"later"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


def test_a_name_of_the_longest_length_works(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    write_atomic(path, "text")
    assert path.read_text() == "text"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_half_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "result.json"
    write_atomic(path, "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if step == "fsync":
        monkeypatch.setattr(files.os, "fsync", full)
    else:
        monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(PinikitError, match=r"result\.json: the disk is full"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]


def test_an_interrupt_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "file", "text")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(PinikitError, match="Cannot write"):
        write_atomic(tmp_path / "file", "text")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_json_round_trip(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None, "ü"], "a": {}}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    assert list(read_json(tmp_path / "x.json")) == ["b", "a"]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_json_cannot_say_is_refused(tmp_path: Path, bad: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", [bad])
    with pytest.raises(ValueError, match="JSON"):
        canonical_json([bad])
    assert list(tmp_path.iterdir()) == []


def test_canonical_json_does_not_depend_on_the_order_of_keys() -> None:
    assert canonical_json({"b": 1, "a": "ü"}) == canonical_json({"a": "ü", "b": 1}) == '{"a":"\\u00fc","b":1}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1,\n  "b" 2}', "line 2, column 7"),
        (b"", "line 1, column 1"),
        (b'"\xff"', "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_bad_json_says_where(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_json(path, "split file")
    assert str(caught.value).startswith(f"The split file {path}")


def test_missing_files_are_named(tmp_path: Path) -> None:
    for reader in (read_json, read_text, sha256_file):
        with pytest.raises(DataError, match=r"gone: it does not exist"):
            reader(tmp_path / "gone")


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(tmp_path / "x") == [1]


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert sha256_file(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_manifests_need_neither_torch_nor_pandas(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    for number in range(4):
        (tmp_path / "cat" / f"{number}.png").touch()
    script = f"""
import sys
from pinikit.components.datasets import caltech101, dtd
from pinikit.components.datasets.digits import Digits
from pinikit.components.datasets.image_folder import ImageFolder
from pinikit.data.manifest import make_manifest

own = ImageFolder({str(tmp_path)!r})
assert "sklearn" not in sys.modules and "PIL" not in sys.modules
assert len(make_manifest(own, 1, 1).hash) == 64
assert "sklearn" not in sys.modules and "numpy" not in sys.modules
manifest = make_manifest(Digits(), 4, 1)
Digits().check(manifest.items)
own.check(own.catalogue().items)
print(sorted({{"torch", "torchvision", "pandas", "sklearn", "open_clip"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
