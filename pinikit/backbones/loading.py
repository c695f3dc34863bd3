"""Loading a backbone: the model, its weights with the activation they were trained with, its tokenizer."""

from __future__ import annotations

import copy
import importlib.util
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.factory import load_checkpoint, load_state_dict
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer, SimpleTokenizer
from safetensors import SafetensorError

from pinikit.backbones.assembly import assemble_backbone, seeded_model
from pinikit.backbones.base import Backbone
from pinikit.backbones.identity import RANDOM_SEED, source_hash, weights_hash
from pinikit.backbones.sources import (
    WeightSource,
    check_architecture,
    fetch_by_name,
    find_source,
    read_config,
)
from pinikit.backbones.spec import RANDOM, BackboneSpec
from pinikit.errors import WeightsError

PREPROCESS_KEYS = ("mean", "std", "interpolation", "resize_mode")
OPENAI_FACTS = ("input_resolution", "context_length", "vocab_size")
"""Entries of OpenAI's archives that are no weights."""

DAMAGED = (SafetensorError, pickle.UnpicklingError, EOFError, OSError)
MISFITS = (RuntimeError, KeyError, AttributeError, StopIteration, ValueError, TypeError, AssertionError)
"""What open_clip raises for a configuration or a state dict that is not what it expects."""


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
    if spec.checkpoint is not None:
        if spec.quick_gelu is None:
            return built_in, _checkpoint_notes(spec, built_in)
        return spec.quick_gelu, ()
    trained = bool(source.tag.get("quick_gelu", False)) if source.tag else built_in
    if spec.quick_gelu not in (None, trained):
        return not trained, (
            f"'quick_gelu: {str(spec.quick_gelu).lower()}' is used as written, but the weights of "
            f"{spec.name} were trained with {_activation(trained)}.",
        )
    if spec.quick_gelu is None and trained != built_in:
        return trained, (
            f"The weights {spec.pretrained!r} were trained with {_activation(trained)}, which replaces "
            f"the {_activation(built_in)} of {spec.name}.",
        )
    return trained, ()


def _checkpoint_notes(spec: BackboneSpec, built_in: bool) -> tuple[str, ...]:
    """A warning where the architecture's known weights differ in their activation."""
    tags = open_clip.list_pretrained_tags_by_model(spec.name)
    known = {bool(open_clip.get_pretrained_cfg(spec.name, tag).get("quick_gelu", False)) for tag in tags}
    if known <= {built_in}:
        return ()
    return (
        f"A checkpoint does not say which activation it was trained with: {_activation(built_in)} of "
        f"{spec.name} is used; set 'quick_gelu: {str(not built_in).lower()}' if that is wrong "
        "(OpenAI's weights need true).",
    )


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
        SimpleTokenizer(context_length=model.context_length),
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
    settings = copy.deepcopy(dict(config))
    hub_text = settings["text_cfg"].get("hf_model_name")
    is_custom = bool(settings.pop("custom_text", False)) or bool(hub_text)
    if settings["vision_cfg"].get("timm_model_name"):
        settings["vision_cfg"]["timm_model_pretrained"] = False
    if "multimodal_cfg" in settings:
        model_class = open_clip.CoCa
    else:
        model_class = open_clip.CustomTextCLIP if is_custom else open_clip.CLIP
    if not hub_text:
        return _construct(spec, model_class, settings)
    _require_transformers(spec)
    settings["text_cfg"]["hf_model_pretrained"] = False
    return fetch_by_name(hub_text, lambda: _construct(spec, model_class, settings))


def _construct(spec: BackboneSpec, model_class: Any, config: Mapping[str, Any]) -> Any:
    try:
        return seeded_model(model_class, config, RANDOM_SEED)
    except MISFITS as error:
        problem = f"The configuration of {spec.name} does not describe an open_clip model"
        raise WeightsError(f"{problem}: {_first_line(error)}") from error


def _load_weights(model: Any, path: Path) -> None:
    """Load a weight file into ``model``. Of a TorchScript archive only the tensors are taken."""
    is_torchscript = _is_torchscript(path)
    try:
        if is_torchscript:
            state = torch.jit.load(str(path), map_location="cpu").state_dict()
        else:
            load_checkpoint(model, str(path), strict=True, weights_only=True)
    except DAMAGED as error:
        raise WeightsError(f"The weight file {path} is damaged or none: {_first_line(error)}") from error
    except MISFITS as error:
        raise _diagnose(path, error) from error
    if is_torchscript:
        weights = {name: tensor.float() for name, tensor in state.items() if name not in OPENAI_FACTS}
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise _misfit(path, error) from error


def _diagnose(path: Path, error: Exception) -> WeightsError:
    """Whether reading the file fails already, or only loading it; both raise the same kinds of errors."""
    try:
        load_state_dict(str(path), weights_only=True)
    except Exception as damage:
        return WeightsError(f"The weight file {path} is damaged or none: {_first_line(damage)}")
    return _misfit(path, error)


def _misfit(path: Path, error: Exception) -> WeightsError:
    return WeightsError(f"The weights in {path} do not fit the architecture: {_first_line(error)}")


def _is_torchscript(path: Path) -> bool:
    """Whether the file is a TorchScript archive, the form in which OpenAI published its weights."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    shown = " ".join(lines[:2]) or type(error).__name__
    return shown if len(shown) <= 300 else shown[:300] + " ..."


def _tokenizer(spec: BackboneSpec, config: Mapping[str, Any]) -> Any:
    text = config["text_cfg"]
    options = dict(text.get("tokenizer_kwargs") or {})
    context_length = text.get("context_length", DEFAULT_CONTEXT_LENGTH)
    source = text.get("hf_tokenizer_name")
    if not source:
        return SimpleTokenizer(context_length=context_length, **options)
    if spec.kind == "local-dir":
        source = str(spec.folder)  # open_clip's rule: the tokenizer's files lie beside the weights
    _require_transformers(spec)
    if text.get("tokenizer_mode"):
        options["tokenizer_mode"] = text["tokenizer_mode"]
    return fetch_by_name(source, lambda: HFTokenizer(source, context_length=context_length, **options))


def _require_transformers(spec: BackboneSpec) -> None:
    if importlib.util.find_spec("transformers") is None:
        raise WeightsError(f"{spec.name} needs the package 'transformers': install pinikit[hf].")


def _preprocess(source: WeightSource) -> dict[str, Any]:
    if source.config is None:
        return _known_keys(source.tag)
    return _known_keys(read_config(source.config).get("preprocess_cfg", {}))


def _known_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: config[key] for key in PREPROCESS_KEYS if config.get(key) is not None}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}
