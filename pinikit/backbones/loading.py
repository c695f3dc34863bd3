"""Loading a backbone: the model, its weights with the activation they were trained with, its tokenizer."""

from __future__ import annotations

import copy
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.factory import load_checkpoint

from pinikit.backbones.assembly import assemble_backbone, seeded_model
from pinikit.backbones.base import Backbone
from pinikit.backbones.identity import RANDOM_SEED, source_hash, weights_hash
from pinikit.backbones.sources import WeightSource, check_architecture, find_source, fetch_by_name, read_config
from pinikit.backbones.spec import RANDOM, BackboneSpec
from pinikit.errors import WeightsError

PREPROCESS_KEYS = ("mean", "std", "interpolation", "resize_mode")


def load_backbone(spec: BackboneSpec) -> Backbone:
    """Load a frozen dual encoder in single precision and evaluation mode, on the CPU.

    Raises:
        ConfigError: no such architecture or tag, or an architecture without ``pretrained``.
        WeightsError: files are missing, damaged, do not fit the architecture, or cannot be downloaded.
    """
    if spec.kind == "glyph":
        return _load_glyph(spec)
    if spec.pretrained == RANDOM:
        return _load_random(spec)
    source = find_source(spec)
    config = _model_config(spec, source)
    quick_gelu, notes = choose_activation(spec, config, source)
    model = _build(spec, {**config, "quick_gelu": quick_gelu})
    _load_weights(model, source.weights)
    return assemble_backbone(
        model,
        _tokenizer(spec, config),
        name=spec.name,
        weights_hash=source_hash(spec, source),
        preprocess=_preprocess(source),
        notes=notes,
    )


def choose_activation(
    spec: BackboneSpec, config: Mapping[str, Any], source: WeightSource
) -> tuple[bool, tuple[str, ...]]:
    """Whether the transformers use QuickGELU, and what the user should know about it.

    OpenAI's weights and some others were trained with QuickGELU; run with GELU they give poorer
    features without any error. The weights decide, unless the study says otherwise.
    """
    built_in = bool(config.get("quick_gelu", False))
    trained = bool(source.tag.get("quick_gelu", False)) if source.tag else built_in
    if spec.quick_gelu is None:
        if spec.checkpoint is not None:
            return built_in, _checkpoint_notes(spec, built_in)
        if trained != built_in:
            return trained, (
                f"The weights {spec.pretrained!r} were trained with {_activation(trained)}, which replaces "
                f"the {_activation(built_in)} of {spec.name}.",
            )
        return trained, ()
    if spec.quick_gelu != trained and spec.checkpoint is None:
        return spec.quick_gelu, (
            f"'quick_gelu: {str(spec.quick_gelu).lower()}' is used as written, but the weights of {spec.name} "
            f"were trained with {_activation(trained)}.",
        )
    return spec.quick_gelu, ()


def _checkpoint_notes(spec: BackboneSpec, built_in: bool) -> tuple[str, ...]:
    tags = [open_clip.pretrained.get_pretrained_cfg(spec.name, tag) for tag in _tags(spec.name)]
    if not any(bool(tag.get("quick_gelu", False)) != built_in for tag in tags):
        return ()
    return (
        f"A checkpoint does not say which activation it was trained with: {_activation(built_in)} of {spec.name} "
        f"is used; set 'quick_gelu: {str(not built_in).lower()}' if that is wrong (OpenAI's weights need true).",
    )


def _tags(name: str) -> list[str]:
    return list(open_clip.list_pretrained_tags_by_model(name))


def _activation(quick_gelu: bool) -> str:
    return "QuickGELU" if quick_gelu else "GELU"


def _load_glyph(spec: BackboneSpec) -> Backbone:
    from pinikit.backbones.glyph import load_glyph, read_glyph_config

    try:
        model, known_tokens = load_glyph()
        config = read_glyph_config()
    except ValueError as error:
        raise WeightsError(f"{error}.") from error
    notes: tuple[str, ...] = ()
    if spec.quick_gelu is not None:
        notes = ("'quick_gelu' has no effect on the glyph backbone.",)
    return assemble_backbone(
        model,
        open_clip.SimpleTokenizer(context_length=model.context_length),
        name=spec.name,
        weights_hash=weights_hash(spec),
        preprocess=_known_keys(config["preprocess_cfg"]),
        notes=notes,
        known_tokens=frozenset(int(token) for token in known_tokens),
    )


def _load_random(spec: BackboneSpec) -> Backbone:
    check_architecture(spec.name)
    config = open_clip.get_model_config(spec.name)
    quick_gelu = bool(config.get("quick_gelu", False)) if spec.quick_gelu is None else spec.quick_gelu
    return assemble_backbone(
        _build(spec, {**config, "quick_gelu": quick_gelu}),
        _tokenizer(spec, config),
        name=spec.name,
        weights_hash=weights_hash(spec),
        notes=(f"{spec.name} has random weights: its features mean nothing.",),
    )


def _model_config(spec: BackboneSpec, source: WeightSource) -> dict[str, Any]:
    if source.config is None:
        return dict(open_clip.get_model_config(spec.name))
    config: dict[str, Any] = read_config(source.config)["model_cfg"]
    if spec.kind == "local-dir":
        _point_into_folder(config, spec.folder)
    return config


def _point_into_folder(config: dict[str, Any], folder: Path) -> None:
    """A text model that the configuration names relative to its folder is found there."""
    text = config.get("text_cfg", {})
    name = text.get("hf_model_name")
    if name and (folder / name).is_dir():
        text["hf_model_name"] = str(folder / name)


def _build(spec: BackboneSpec, config: Mapping[str, Any]) -> Any:
    """The architecture of ``config`` with seeded random weights, in single precision."""
    config = copy.deepcopy(dict(config))
    uses_hub_text = bool(config["text_cfg"].get("hf_model_name"))
    is_custom = bool(config.pop("custom_text", False)) or uses_hub_text
    if config["vision_cfg"].get("timm_model_name"):
        config["vision_cfg"]["timm_model_pretrained"] = False
    if uses_hub_text:
        config["text_cfg"]["hf_model_pretrained"] = False
    if "multimodal_cfg" in config:
        model_class = open_clip.CoCa
    else:
        model_class = open_clip.CustomTextCLIP if is_custom else open_clip.CLIP
    if uses_hub_text:
        return fetch_by_name(config["text_cfg"]["hf_model_name"], lambda: _construct(spec, model_class, config))
    return _construct(spec, model_class, config)


def _construct(spec: BackboneSpec, model_class: Any, config: Mapping[str, Any]) -> Any:
    try:
        return seeded_model(model_class, config, RANDOM_SEED)
    except (TypeError, KeyError, AssertionError) as error:
        raise WeightsError(f"The configuration of {spec.name} does not describe an open_clip model: {error}.") from error


def _load_weights(model: Any, path: Path) -> None:
    from safetensors import SafetensorError

    if _is_torchscript(path):
        _load_torchscript(model, path)
        return
    try:
        load_checkpoint(model, str(path), strict=True, weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise WeightsError(f"The weight file {path} is damaged or is no weight file: {_first_line(error)}") from error
    except (RuntimeError, KeyError, AttributeError, StopIteration, ValueError, TypeError, AssertionError) as error:
        raise WeightsError(f"The weights in {path} do not fit the architecture: {_first_line(error)}") from error


def _is_torchscript(path: Path) -> bool:
    """Whether the file is a TorchScript archive, the form in which OpenAI published its weights."""
    if path.suffix == ".safetensors" or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _load_torchscript(model: Any, path: Path) -> None:
    """Take the tensors of a TorchScript archive; nothing of its code is run."""
    try:
        state = torch.jit.load(str(path), map_location="cpu").state_dict()
    except RuntimeError as error:
        raise WeightsError(f"The weight file {path} is damaged: {_first_line(error)}") from error
    weights = {k: v.float() for k, v in state.items() if k not in ("input_resolution", "context_length", "vocab_size")}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise WeightsError(f"The weights in {path} do not fit the architecture: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    shown = " ".join(lines[:2]) or type(error).__name__
    return shown if len(shown) <= 300 else shown[:300] + " ..."


def _tokenizer(spec: BackboneSpec, config: Mapping[str, Any]) -> Any:
    text = config["text_cfg"]
    options = dict(text.get("tokenizer_kwargs") or {})
    context_length = text.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH)
    source = text.get("hf_tokenizer_name")
    if not source:
        return open_clip.SimpleTokenizer(context_length=context_length, **options)
    if spec.kind == "local-dir":
        source = str(spec.folder)  # open_clip's rule: the tokenizer's files lie beside the weights
    if text.get("tokenizer_mode"):
        options["tokenizer_mode"] = text["tokenizer_mode"]
    return fetch_by_name(source, lambda: open_clip.HFTokenizer(source, context_length=context_length, **options))


def _preprocess(source: WeightSource) -> dict[str, Any]:
    if source.config is None:
        return _known_keys(source.tag)
    return _known_keys(read_config(source.config).get("preprocess_cfg", {}))


def _known_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: config[key] for key in PREPROCESS_KEYS if config.get(key) is not None}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}


