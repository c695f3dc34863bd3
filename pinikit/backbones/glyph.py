"""The embedded backbone ``glyph``: a tiny CLIP that ships in the package.

``scripts/train_glyph_clip.py`` trains it; its model card is ``pinikit/assets/glyph/README.md``. The file of
weights holds half precision, and of the token embedding table only the rows of tokens that training saw.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

GLYPH_DIR = Path(str(files("pinikit") / "assets" / "glyph"))
CONFIG_NAME = "open_clip_config.json"
WEIGHTS_NAME = "weights.safetensors"
TABLE = "token_embedding.weight"
TOKEN_IDS = "token_ids"
TOKEN_ROWS = "token_rows"


def read_glyph_config(folder: Path = GLYPH_DIR) -> dict[str, Any]:
    """Read ``open_clip_config.json``: ``model_cfg`` and ``preprocess_cfg``."""
    path = folder / CONFIG_NAME
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"the glyph backbone's configuration {path} cannot be read: {error}") from error
    if not isinstance(config, dict) or "model_cfg" not in config or "preprocess_cfg" not in config:
        raise ValueError(f"the glyph backbone's configuration {path} lacks model_cfg or preprocess_cfg")
    return config


def load_glyph(folder: Path = GLYPH_DIR) -> tuple[open_clip.CLIP, Tensor]:
    """Load the glyph CLIP in single precision, in evaluation mode.

    Returns the model and the ids of the tokens it knows, ascending; every other token's embedding is zero.
    Raises ``ValueError`` where a file of the asset is missing or damaged.
    """
    model_config = read_glyph_config(folder)["model_cfg"]
    path = folder / WEIGHTS_NAME
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"the glyph backbone's weights {path} cannot be read: {error}") from error
    with torch.random.fork_rng(devices=[]):  # the initial weights are drawn, then overwritten
        model = open_clip.CLIP(**model_config)
    if TOKEN_IDS not in stored or TOKEN_ROWS not in stored:
        raise ValueError(f"the glyph backbone's weights {path} lack {TOKEN_IDS} or {TOKEN_ROWS}")
    token_ids = stored.pop(TOKEN_IDS)
    weights = {name: tensor.float() for name, tensor in stored.items()}
    weights[TABLE] = _scatter_rows(token_ids, stored.pop(TOKEN_ROWS), model.token_embedding.weight, path)
    weights.pop(TOKEN_ROWS)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
        raise ValueError(f"the glyph backbone's weights {path} hold values that are not finite")
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"the glyph backbone's weights {path} do not fit its configuration: {error}"
        ) from error
    return model.eval(), token_ids


def save_glyph(model: open_clip.CLIP, token_ids: Tensor, config: dict[str, Any], folder: Path) -> Path:
    """Write the asset: configuration and half-precision weights, with the rows of ``token_ids`` alone."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    state = {name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}
    state[TOKEN_ROWS] = state.pop(TABLE)[token_ids].contiguous()
    state[TOKEN_IDS] = token_ids
    path = folder / WEIGHTS_NAME
    save_file(state, path)
    path.chmod(0o644)  # safetensors writes for the owner alone
    return path


def _scatter_rows(token_ids: Tensor, rows: Tensor, table: Tensor, path: Path) -> Tensor:
    """Put the stored rows into a zero table of the tokenizer's size."""
    fits = (
        token_ids.ndim == 1
        and not token_ids.is_floating_point()
        and rows.shape == (len(token_ids), table.shape[1])
    )
    if not fits or len(token_ids) == 0 or int(token_ids.min()) < 0 or int(token_ids.max()) >= len(table):
        raise ValueError(
            f"the glyph backbone's weights {path} hold token rows that do not fit the vocabulary"
        )
    full = torch.zeros_like(table, requires_grad=False)
    full[token_ids] = rows.float()
    return full
