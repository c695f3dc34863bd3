"""Which backbone a study asks for. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pinikit.errors import ConfigError

GLYPH = "glyph"
RANDOM = "random"
LOCAL_DIR = "local-dir:"
HF_HUB = "hf-hub:"
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")

Kind = Literal["glyph", "local-dir", "hf-hub", "architecture"]


@dataclass(frozen=True)
class BackboneSpec:
    """A backbone's name and weights, as a study writes them.

    * ``glyph``: the tiny CLIP inside the package;
    * ``local-dir:PATH``: a folder with ``open_clip_config.json`` and weights;
    * ``hf-hub:ORG/MODEL``: the same on the Hugging Face hub;
    * an architecture of open_clip, such as ``ViT-B-16``, with ``pretrained``: one of its tags
      (``openai``), the path of a checkpoint, or ``random`` (for tests).

    Raises:
        ConfigError: ``pretrained`` stands beside a name that brings its own weights, or a name is incomplete.
    """

    name: str = GLYPH
    pretrained: str | None = None
    quick_gelu: bool | None = None
    """The activation of the transformers; None takes the one that the weights were trained with."""

    def __post_init__(self) -> None:
        if self.kind == "architecture":
            return
        if self.pretrained is not None:
            raise ConfigError(f"The backbone {self.name!r} brings its own weights: leave 'pretrained' out.")
        if self.kind != "glyph" and not self.location:
            raise ConfigError(f"The backbone {self.name!r} lacks what comes behind the colon.")

    @property
    def kind(self) -> Kind:
        """Where configuration and weights come from."""
        if self.name == GLYPH:
            return "glyph"
        if self.name.startswith(LOCAL_DIR):
            return "local-dir"
        return "hf-hub" if self.name.startswith(HF_HUB) else "architecture"

    @property
    def location(self) -> str:
        """What comes behind ``local-dir:`` or ``hf-hub:``; empty for other names."""
        return self.name.partition(":")[2] if self.kind in ("local-dir", "hf-hub") else ""

    @property
    def folder(self) -> Path:
        """The folder of a ``local-dir:`` name."""
        return Path(self.location).expanduser()

    @property
    def checkpoint(self) -> Path | None:
        """The weight file that ``pretrained`` names, or None where it is a tag, ``random`` or nothing."""
        value = self.pretrained
        if value is None or value == RANDOM:
            return None
        path = Path(value).expanduser()
        looks_like_path = value.endswith(WEIGHT_SUFFIXES) or len(path.parts) > 1 or path.is_file()
        return path if looks_like_path else None
