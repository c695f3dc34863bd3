"""Where a backbone's configuration and weights lie, downloaded if need be.

Imports open_clip only where it has to ask it for a tag.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pinikit.backbones.spec import RANDOM, BackboneSpec
from pinikit.backbones.weight_files import CONFIG_NAME, find_weights
from pinikit.errors import ConfigError, WeightsError, listing, nearest

HUB_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
REACH_SECONDS = 5.0
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "config.json",
)


@dataclass(frozen=True)
class WeightSource:
    """The files of a backbone that is not random."""

    weights: Path
    config: Path | None = None
    """``open_clip_config.json``; None for an architecture of open_clip."""
    extra: tuple[Path, ...] = ()
    """Other files that its results depend on: those of a tokenizer."""
    tag: dict[str, Any] = field(default_factory=dict)
    """open_clip's facts about a pretrained tag: ``quick_gelu``, ``mean``, ``std``, ..."""


def find_source(spec: BackboneSpec) -> WeightSource:
    """Find the files, downloading them where they are not cached.

    Raises:
        ConfigError: there is no such architecture or tag, or an architecture comes without weights.
        WeightsError: a file is missing and cannot be downloaded.
    """
    if spec.kind == "glyph":
        return _glyph_source()
    if spec.kind == "local-dir":
        return _folder_source(spec.folder)
    if spec.kind == "hf-hub":
        return _hub_source(spec.location)
    check_architecture(spec.name)
    checkpoint = spec.checkpoint
    if checkpoint is None:
        return _tag_source(spec)
    if not checkpoint.is_file():
        raise WeightsError(f"The checkpoint {checkpoint} does not exist.")
    return WeightSource(checkpoint)


def architectures() -> list[str]:
    """Names of open_clip's architectures, without importing it."""
    found = importlib.util.find_spec("open_clip")
    folders = [] if found is None else found.submodule_search_locations or []
    return sorted(path.stem for folder in folders for path in (Path(folder) / "model_configs").glob("*.json"))


def check_architecture(name: str) -> None:
    """Refuse a name that is neither an architecture of open_clip nor one of the other kinds.

    Raises:
        ConfigError: with the nearest names.
    """
    known = architectures()
    if name not in known:
        hint = nearest(name, ["glyph", *known])
        raise ConfigError(
            f"There is no backbone {name!r}{hint}; allowed are glyph, local-dir:PATH, hf-hub:ORG/MODEL "
            "and the architectures of open_clip (such as ViT-B-16, RN50)."
        )


def read_config(path: Path) -> dict[str, Any]:
    """Read ``open_clip_config.json``: ``model_cfg`` and, where it is there, ``preprocess_cfg``.

    Raises:
        WeightsError: the file is missing, not JSON, or lacks ``model_cfg`` with its two towers.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsError(f"The backbone's configuration {path} does not exist.") from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"The backbone's configuration {path} cannot be read: {error}.") from error
    model = config.get("model_cfg") if isinstance(config, dict) else None
    if not isinstance(model, dict):
        raise WeightsError(f"The backbone's configuration {path} lacks 'model_cfg'.")
    for tower in ("vision_cfg", "text_cfg"):
        if not isinstance(model.get(tower), dict):
            raise WeightsError(f"The backbone's configuration {path} lacks '{tower}' in 'model_cfg'.")
    return dict(config)


def _glyph_source() -> WeightSource:
    folder = Path(__file__).parent.parent / "assets" / "glyph"
    return WeightSource(find_weights(folder), folder / CONFIG_NAME)


def _folder_source(folder: Path) -> WeightSource:
    weights = find_weights(folder)
    text = read_config(folder / CONFIG_NAME)["model_cfg"]["text_cfg"]
    uses_hub_text = bool(text.get("hf_tokenizer_name") or text.get("hf_model_name"))
    extra = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()] if uses_hub_text else []
    return WeightSource(weights, folder / CONFIG_NAME, tuple(extra))


def _hub_source(repository: str) -> WeightSource:
    config = _from_hub(repository, [CONFIG_NAME])
    return WeightSource(_from_hub(repository, HUB_WEIGHTS), config)


def _tag_source(spec: BackboneSpec) -> WeightSource:
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    tags = list_pretrained_tags_by_model(spec.name)
    if spec.pretrained is None:
        raise ConfigError(
            f"The architecture {spec.name!r} needs 'pretrained': one of {listing(tags)}, "
            f"the path of a checkpoint, or {RANDOM!r} (untrained, for tests)."
        )
    tag = dict(get_pretrained_cfg(spec.name, spec.pretrained))
    if not tag:
        hint = nearest(spec.pretrained, [*tags, RANDOM])
        raise ConfigError(
            f"The architecture {spec.name!r} has no pretrained weights {spec.pretrained!r}{hint}; "
            f"there are {listing(tags)}."
        )
    return WeightSource(_download_tag(spec, tag), tag=tag)


def _download_tag(spec: BackboneSpec, tag: dict[str, Any]) -> Path:
    hub = tag.get("hf_hub", "")
    if not hub:
        return _from_url(f"{spec.name}/{spec.pretrained}", tag["url"])
    repository, _, filename = hub.rpartition("/")
    safe = Path(filename).with_suffix(".safetensors").name if filename else ""
    return _from_hub(repository, [safe, filename] if filename else HUB_WEIGHTS)


def _from_hub(repository: str, filenames: Iterable[str]) -> Path:
    """The first of the files that the repository has: from the cache if it lies there, else downloaded."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    names = list(dict.fromkeys(filenames))
    for name in names:
        cached = try_to_load_from_cache(repository, name)
        if isinstance(cached, str):
            return Path(cached)
    if not hub_is_reachable():
        raise not_downloaded(repository)
    for name in names:
        try:
            return Path(hf_hub_download(repository, name))
        except LocalEntryNotFoundError as error:  # a kind of EntryNotFoundError, but it means: no connection
            raise not_downloaded(repository, error) from error
        except EntryNotFoundError:
            continue
        except Exception as error:  # connection, permission, unknown name: there are many kinds
            raise not_downloaded(repository, error) from error
    raise WeightsError(f"The repository {repository!r} on the Hugging Face hub has none of {listing(names)}.")


def _from_url(name: str, url: str) -> Path:
    from open_clip.pretrained import download_pretrained_from_url

    try:
        return Path(download_pretrained_from_url(url))
    except Exception as error:  # urllib's errors, sockets, checksums
        raise not_downloaded(name, error) from error


def hub_is_reachable() -> bool:
    """Whether the hub answers, found out in seconds: its own library tries for half a minute."""
    from huggingface_hub import constants
    from huggingface_hub.utils._http import get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=REACH_SECONDS)
    except Exception:  # the kinds differ between its two HTTP libraries
        return False
    return True


def fetch_by_name(what: str, action: Callable[[], Any]) -> Any:
    """Run ``action``, which may fetch ``what`` from the hub, from the cache alone where the hub is away.

    Raises:
        WeightsError: whatever ``action`` raises of what a missing file or connection can cause.
    """
    try:
        with nullcontext() if hub_is_reachable() else _hub_offline():
            return action()
    except (OSError, RuntimeError, ValueError) as error:
        raise not_downloaded(what, error) from error


@contextmanager
def _hub_offline() -> Iterator[None]:
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def not_downloaded(what: str, error: Exception | None = None) -> WeightsError:
    """One sentence that names what is missing and, where it says more than that, the reason."""
    sentence = f"The files of {what!r} are not cached and could not be downloaded (offline?)"
    reason = "" if error is None else str(error).strip().partition("\n")[0]
    return WeightsError(f"{sentence}: {reason}" if reason else f"{sentence}.")
