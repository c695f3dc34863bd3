"""What ``auto`` stands for."""

from __future__ import annotations

from pathlib import Path

import pytest

from pinikit.config import hardware
from pinikit.config.hardware import cpu_multiplies_bf16, resolve_precision

SAPPHIRE = "processor\t: 0\nflags\t\t: fpu avx512_bf16 amx_bf16 amx_tile amx_int8\n\nflags\t\t: fpu\n"


@pytest.fixture
def cpu_info(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cpu_multiplies_bf16.cache_clear()
    monkeypatch.setattr(hardware, "_CPU_INFO", tmp_path / "cpuinfo")
    return tmp_path / "cpuinfo"


@pytest.fixture(autouse=True)
def _forget() -> object:
    yield
    cpu_multiplies_bf16.cache_clear()


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        (SAPPHIRE, "bf16"),
        ("flags : fpu avx512_bf16 amx_int8 amx_tile\n", "fp32"),  # bf16 without matrix units
        ("flags : fpu xamx_bf16 amx_tile_x\n", "fp32"),
        ("Features : fp asimd bf16\n", "fp32"),
        ("", "fp32"),
        (None, "fp32"),  # not Linux
    ],
)
def test_processors(cpu_info: Path, text: str | None, precision: str) -> None:
    if text is not None:
        cpu_info.write_text(text)
    assert resolve_precision("auto", "cpu", "ViT-B-16") == precision
    assert resolve_precision("auto", "cpu", "glyph") == "fp32"


@pytest.mark.parametrize(("capability", "precision"), [(7, "fp32"), (8, "bf16"), (9, "bf16")])
def test_graphics_cards(
    monkeypatch: pytest.MonkeyPatch, cpu_info: Path, capability: int, precision: str
) -> None:
    cpu_info.write_text(SAPPHIRE)
    monkeypatch.setattr(hardware, "cuda_capability", lambda: capability)
    for device in ("cuda", "cuda:1"):
        assert resolve_precision("auto", device, "hf-hub:a/b") == precision
        assert resolve_precision("auto", device, "glyph") == "fp32"


@pytest.mark.parametrize("word", ["fp32", "bf16", "fp16"])
def test_a_word_stays(word: str) -> None:
    for backbone in ("glyph", "ViT-B-16"):
        assert resolve_precision(word, "cpu", backbone) == word
