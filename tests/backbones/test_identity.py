"""The hash of a backbone's weights: what enters it, what does not, and how it is remembered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pinikit.backbones import identity, sources, weight_files
from pinikit.backbones.identity import weights_hash
from pinikit.backbones.sources import WeightSource
from pinikit.backbones.spec import BackboneSpec
from pinikit.errors import ConfigError, WeightsError

CONFIG = {"model_cfg": {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PINIKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def folder_with(path: Path, content: bytes = b"weights", **config: object) -> BackboneSpec:
    path.mkdir()
    write_old(path / "open_clip_model.safetensors", content)
    write_old(path / "open_clip_config.json", json.dumps({**CONFIG, **config}).encode())
    return BackboneSpec(f"local-dir:{path}")


def write_old(path: Path, content: bytes, age: float = 100.0) -> None:
    """Write a file that is old enough to be remembered."""
    path.write_bytes(content)
    moment = path.stat().st_mtime - age
    os.utime(path, (moment, moment))


def test_content_counts_and_places_do_not(tmp_path: Path) -> None:
    first = weights_hash(folder_with(tmp_path / "a"))
    assert len(first) == 64
    assert weights_hash(folder_with(tmp_path / "b")) == first
    assert weights_hash(folder_with(tmp_path / "c", b"other")) != first
    assert weights_hash(folder_with(tmp_path / "d", preprocess_cfg={})) != first
    assert weights_hash(BackboneSpec(f"local-dir:{tmp_path / 'a'}", quick_gelu=True)) != first


def test_a_checkpoint_and_its_architecture(tmp_path: Path) -> None:
    write_old(tmp_path / "one.pt", b"weights")
    write_old(tmp_path / "two.pt", b"weights")
    first = weights_hash(BackboneSpec("ViT-B-16", str(tmp_path / "one.pt")))
    assert weights_hash(BackboneSpec("ViT-B-16", str(tmp_path / "two.pt"))) == first
    assert weights_hash(BackboneSpec("ViT-B-32", str(tmp_path / "two.pt"))) != first


def test_random_weights() -> None:
    hashes = {weights_hash(BackboneSpec(name, "random")) for name in ("RN50", "ViT-B-16")}
    assert len(hashes) == 2
    with pytest.raises(ConfigError, match=r"no backbone 'RN51'.*did you mean 'RN50'"):
        weights_hash(BackboneSpec("RN51", "random"))


def test_files_of_a_tokenizer_count_where_one_is_used(tmp_path: Path) -> None:
    text = {"model_cfg": {**CONFIG["model_cfg"], "text_cfg": {"hf_tokenizer_name": "bert"}}}
    plain, hub = folder_with(tmp_path / "a"), folder_with(tmp_path / "b", **text)
    before = weights_hash(plain), weights_hash(hub)
    for folder in ("a", "b"):
        write_old(tmp_path / folder / "vocab.txt", b"words")
    assert weights_hash(plain) == before[0]
    assert weights_hash(hub) != before[1]


def test_an_unchanged_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = folder_with(tmp_path / "a")
    first = weights_hash(spec)
    with monkeypatch.context() as patch:
        patch.setattr(weight_files.hashlib, "file_digest", None)
        assert weights_hash(spec) == first
    write_old(
        tmp_path / "a" / "open_clip_model.safetensors", b"WEIGHTS", age=50
    )  # the same size, another time
    assert weights_hash(spec) != first


def test_a_fresh_file_is_not_remembered(tmp_path: Path, own_cache: Path) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(b"weights")
    weight_files.file_hash(path)
    assert not own_cache.exists()


def test_a_broken_memo_is_made_anew(tmp_path: Path, own_cache: Path) -> None:
    spec = folder_with(tmp_path / "a")
    first = weights_hash(spec)
    memos = list((own_cache / "weights").iterdir())
    assert memos
    for memo in memos:
        memo.write_text('{"key": "something else"', encoding="utf-8")
    assert weights_hash(spec) == first
    assert all(json.loads(memo.read_text(encoding="utf-8"))["value"] for memo in memos)


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("PINIKIT_CACHE", str(tmp_path / "file"))
    assert weights_hash(folder_with(tmp_path / "a"))


def test_a_tag_is_resolved_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_old(tmp_path / "w.safetensors", b"weights")
    calls = []

    def find(spec: BackboneSpec) -> WeightSource:
        calls.append(spec)
        return WeightSource(tmp_path / "w.safetensors")

    monkeypatch.setattr(identity, "find_source", find)
    openai, metaclip = BackboneSpec("ViT-B-16", "openai"), BackboneSpec("ViT-B-16", "metaclip_400m")
    assert weights_hash(openai) == weights_hash(openai) != weights_hash(metaclip)
    assert weights_hash(BackboneSpec("ViT-B-16", "metaclip-400m")) == weights_hash(metaclip)
    assert len(calls) == 3
    (tmp_path / "w.safetensors").unlink()
    with pytest.raises(WeightsError):
        weights_hash(openai)
    assert len(calls) == 4


def test_a_known_hash_needs_no_torch(tmp_path: Path) -> None:
    folder_with(tmp_path / "a")
    code = (
        "import sys; from pinikit.backbones.identity import weights_hash; "
        "from pinikit.backbones.spec import BackboneSpec; "
        f"print(weights_hash(BackboneSpec('local-dir:{tmp_path / 'a'}'))); "
        "weights_hash(BackboneSpec('ViT-B-16', 'random')); "
        "print(sorted({'torch', 'open_clip', 'timm', 'huggingface_hub'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split() == [weights_hash(BackboneSpec(f"local-dir:{tmp_path / 'a'}")), "[]"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (BackboneSpec("local-dir:/no/such/folder"), "folder /no/such/folder does not exist"),
        (BackboneSpec("ViT-B-16", "/no/such/file.pt"), "checkpoint /no/such/file.pt does not exist"),
    ],
)
def test_missing_files(spec: BackboneSpec, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        weights_hash(spec)


def test_a_folder_without_weights_or_with_a_broken_configuration(tmp_path: Path) -> None:
    spec = folder_with(tmp_path / "a")
    (tmp_path / "a" / "open_clip_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(WeightsError, match="cannot be read"):
        weights_hash(spec)
    (tmp_path / "a" / "open_clip_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(WeightsError, match="lacks 'model_cfg'"):
        weights_hash(spec)
    (tmp_path / "a" / "open_clip_config.json").unlink()
    with pytest.raises(WeightsError, match=r"open_clip_config.json does not exist"):
        weights_hash(spec)
    (tmp_path / "a" / "open_clip_model.safetensors").unlink()
    with pytest.raises(WeightsError, match="holds no weights"):
        weights_hash(spec)


def test_the_preferred_weight_file(tmp_path: Path) -> None:
    for name in ("b.bin", "a.safetensors", "open_clip_pytorch_model.bin"):
        (tmp_path / name).write_bytes(b"")
    assert weight_files.find_weights(tmp_path).name == "open_clip_pytorch_model.bin"
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"")
    assert weight_files.find_weights(tmp_path).name == "open_clip_model.safetensors"


def test_architectures_are_known_without_open_clip() -> None:
    known = sources.architectures()
    assert {"ViT-B-16", "RN50", "ViT-L-14-quickgelu"} <= set(known)
