"""Loading: the right weights with the right activation, and mistakes as one clear sentence."""

from __future__ import annotations

import json
import logging
from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from safetensors.torch import save_file
from shared_material import SHARED
from tiny_models import EMBED, TEXT, VIT, tiny_bert_folder, tiny_clip

from pinikit.backbones import sources
from pinikit.backbones.base import Backbone
from pinikit.backbones.identity import weights_hash
from pinikit.backbones.loading import load_backbone
from pinikit.backbones.spec import BackboneSpec
from pinikit.errors import ConfigError, WeightsError

MODEL_CONFIG = {"embed_dim": EMBED, "vision_cfg": VIT, "text_cfg": TEXT}
REAL_MODEL = SHARED / "models" / "effl0-causal"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PINIKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return tiny_clip(seed=4).state_dict()


def write_folder(folder: Path, weights: dict[str, torch.Tensor], **more: Any) -> BackboneSpec:
    folder.mkdir()
    save_file(weights, folder / "open_clip_model.safetensors")
    preprocess = {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "interpolation": "bilinear"}
    config = {"model_cfg": {**MODEL_CONFIG, **more}, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    return BackboneSpec(f"local-dir:{folder}")


def activations(backbone: Backbone) -> set[type]:
    """Types of the activations in both transformers."""
    model = backbone.model
    blocks = [*model.visual.transformer.resblocks, *model.transformer.resblocks]
    return {type(block.mlp.gelu) for block in blocks}


@pytest.fixture
def tiny_architecture(
    tmp_path: Path, weights: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Teach open_clip ``Tiny`` (GELU) and ``Tiny-quickgelu``, each with two tags; returns the weight file."""
    path = tmp_path / "tiny.safetensors"
    save_file(weights, path)
    tags = {
        "openai": {"hf_hub": "org/tiny/", "quick_gelu": True, "mean": (0.5, 0.5, 0.5)},
        "laion": {"hf_hub": "org/tiny/other.bin"},
    }
    configs = {"Tiny": MODEL_CONFIG, "Tiny-quickgelu": {**MODEL_CONFIG, "quick_gelu": True}}
    monkeypatch.setattr(sources, "architectures", lambda: list(configs))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", deepcopy(configs))
    monkeypatch.setattr(open_clip.pretrained, "_PRETRAINED", dict.fromkeys(configs, tags))
    monkeypatch.setattr(sources, "_from_hub", lambda _repository, _names: path)
    return path


def test_a_local_folder(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    spec = write_folder(tmp_path / "model", weights)
    backbone = load_backbone(spec)
    model = backbone.model
    assert {name: t for name, t in model.state_dict().items() if not torch.equal(t, weights[name])} == {}
    assert not model.training
    assert not any(p.requires_grad or p.dtype != torch.float32 for p in model.parameters())
    assert backbone.weights_hash == weights_hash(spec)
    assert backbone.notes == ()
    assert backbone.preprocess == {
        "image_size": (32, 32),
        "mean": (0.1, 0.2, 0.3),
        "std": (1, 1, 1),
        "interpolation": "bilinear",
        "resize_mode": "shortest",
    }
    assert backbone.logit_scale.shape == ()
    assert float(backbone.logit_scale) == pytest.approx(1 / 0.07)
    assert backbone.logit_bias is None
    assert backbone.feature_width == EMBED
    stages = list(backbone.stages)
    assert stages[:2] == ["prompt_embedding", "text_block.0"]
    assert stages[stages.index("text_feature") + 1] == "pixels"


def test_half_precision_weights_are_loaded_as_single(
    tmp_path: Path, weights: dict[str, torch.Tensor]
) -> None:
    half = {name: tensor.half() for name, tensor in weights.items()}
    backbone = load_backbone(write_folder(tmp_path / "model", half))
    assert {p.dtype for p in backbone.model.parameters()} == {torch.float32}


def test_loading_leaves_the_global_generator_and_the_loggers_alone(
    tmp_path: Path, weights: dict[str, torch.Tensor]
) -> None:
    state, handlers = torch.get_rng_state(), list(logging.getLogger().handlers)
    load_backbone(write_folder(tmp_path / "model", weights))
    assert torch.equal(torch.get_rng_state(), state)
    assert logging.getLogger().handlers == handlers


@pytest.mark.parametrize("flag", [True, False])
def test_a_folder_says_which_activation_it_wants(
    tmp_path: Path, weights: dict[str, torch.Tensor], flag: bool
) -> None:
    spec = write_folder(tmp_path / "model", weights, quick_gelu=flag)
    kinds = {True: QuickGELU, False: torch.nn.GELU}
    assert activations(load_backbone(spec)) == {kinds[flag]}
    forced = load_backbone(BackboneSpec(spec.name, quick_gelu=not flag))
    assert activations(forced) == {kinds[not flag]}
    assert len(forced.notes) == 1
    assert "used as written" in forced.notes[0]
    assert load_backbone(BackboneSpec(spec.name, quick_gelu=flag)).notes == ()


@pytest.mark.parametrize(
    ("name", "tag", "quick_gelu", "expected", "note"),
    [
        ("Tiny", "openai", None, QuickGELU, "trained with QuickGELU, which replaces the GELU of Tiny"),
        ("Tiny", "laion", None, torch.nn.GELU, None),
        ("Tiny-quickgelu", "openai", None, QuickGELU, None),
        ("Tiny-quickgelu", "laion", None, torch.nn.GELU, "trained with GELU, which replaces the QuickGELU"),
        ("Tiny", "openai", True, QuickGELU, None),
        ("Tiny", "openai", False, torch.nn.GELU, "'quick_gelu: false' is used as written"),
        ("Tiny", "laion", True, QuickGELU, "'quick_gelu: true' is used as written"),
    ],
)
def test_a_tag_decides_on_the_activation(
    tiny_architecture: Path, name: str, tag: str, quick_gelu: bool | None, expected: type, note: str | None
) -> None:
    spec = BackboneSpec(name, tag, quick_gelu)
    backbone = load_backbone(spec)
    assert activations(backbone) == {expected}
    assert len(backbone.notes) == (note is not None)
    assert note is None or note in backbone.notes[0]
    assert backbone.weights_hash == weights_hash(spec)
    assert backbone.preprocess["mean"] == (
        (0.5, 0.5, 0.5) if tag == "openai" else (0.48145466, 0.4578275, 0.40821073)
    )


def test_a_checkpoint_cannot_say_its_activation(tiny_architecture: Path) -> None:
    silent = load_backbone(BackboneSpec("Tiny", str(tiny_architecture)))
    assert activations(silent) == {torch.nn.GELU}
    assert "does not say which activation" in silent.notes[0]
    told = load_backbone(BackboneSpec("Tiny", str(tiny_architecture), quick_gelu=True))
    assert activations(told) == {QuickGELU}
    assert told.notes == ()


def test_checkpoints_of_every_form(
    tmp_path: Path, tiny_architecture: Path, weights: dict[str, torch.Tensor]
) -> None:
    torch.save(weights, tmp_path / "plain.pt")
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in weights.items()}}, tmp_path / "train.pt"
    )
    holder = torch.jit.script(Holder(weights))
    holder.save(str(tmp_path / "script.pt"))
    for name in ("plain.pt", "train.pt", "script.pt"):
        model = load_backbone(BackboneSpec("Tiny", str(tmp_path / name))).model
        assert all(torch.equal(tensor, weights[key]) for key, tensor in model.state_dict().items()), name


class Holder(torch.nn.Module):
    """Carries tensors under a model's names, as OpenAI's archives do."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name, tensor in weights.items():
            owner: torch.nn.Module = self
            *path, leaf = name.split(".")
            for part in path:
                if part not in dict(owner.named_children()):
                    owner.add_module(part, torch.nn.Module())
                owner = getattr(owner, part)
            owner.register_buffer(leaf, tensor)
        self.register_buffer("vocab_size", torch.tensor(49408))


def test_random_weights_are_the_same_every_time(tiny_architecture: Path) -> None:
    spec = BackboneSpec("Tiny", "random")
    first = load_backbone(spec)
    torch.manual_seed(99)
    second = load_backbone(spec)
    pairs = zip(first.model.parameters(), second.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert first.weights_hash == weights_hash(spec)
    assert "random weights" in first.notes[0]


def test_a_folder_with_a_text_model_of_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    folder = tiny_bert_folder(tmp_path / "model")
    text = {
        "hf_model_name": ".",
        "hf_tokenizer_name": "tiny-bert",
        "hf_pooler_type": "mean_pooler",
        "context_length": 24,
    }
    config = {"embed_dim": EMBED, "vision_cfg": VIT, "text_cfg": text}
    built = {**config, "text_cfg": {**text, "hf_model_name": str(folder), "hf_model_pretrained": False}}
    save_file(open_clip.CustomTextCLIP(**built).state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}), encoding="utf-8")
    backbone = load_backbone(BackboneSpec(f"local-dir:{folder}"))
    prompts = backbone.text.tokenize("photo of {}.", ["dog", "cat"])
    assert prompts.tokens.shape == (2, 24)
    expected = backbone.model.encode_text(prompts.tokens)
    found = backbone.text.encode(prompts, backbone.text.embed(prompts))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "pretrained", "error", "message"),
    [
        ("ViT-B16", None, ConfigError, r"no backbone 'ViT-B16' \(did you mean 'ViT-B-16'\?\)"),
        ("glyphs", None, ConfigError, r"did you mean 'glyph'"),
        ("ViT-B-16", None, ConfigError, r"needs 'pretrained': one of openai, laion400m_e31, .*'random'"),
        ("ViT-B-16", "opnai", ConfigError, r"weights 'opnai' \(did you mean 'openai'\?\); there"),
        ("glyph", "openai", ConfigError, "brings its own weights"),
        ("local-dir:", None, ConfigError, "lacks what comes behind the colon"),
        ("local-dir:/no/folder", None, WeightsError, "folder /no/folder does not exist"),
        ("ViT-B-16", "/no/file.pt", WeightsError, "checkpoint /no/file.pt does not exist"),
    ],
)  # fmt: skip
def test_mistakes_in_names(name: str, pretrained: str | None, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_backbone(BackboneSpec(name, pretrained))


@pytest.mark.parametrize("spec", [BackboneSpec("ViT-B-16", "openai"), BackboneSpec("hf-hub:org/some-model")])
@pytest.mark.parametrize("offline", ["by setting", "by accident"])
def test_without_a_network_one_sentence_comes_at_once(
    spec: BackboneSpec, offline: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    class NoNetwork:
        def head(self, *_args: object, **_options: object) -> None:
            raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline == "by setting")
    monkeypatch.setattr(huggingface_hub.utils._http, "get_session", NoNetwork)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", None)
    with pytest.raises(WeightsError, match=r"could not be downloaded \(offline\?\)") as caught:
        load_backbone(spec)
    assert "\n" not in str(caught.value)


def test_cached_files_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    commit = "a" * 40
    repository = tmp_path / "hub" / "models--org--model"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    (snapshot / "open_clip_model.safetensors").write_bytes(b"x")
    (snapshot / "open_clip_config.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(sources, "hub_is_reachable", None)
    found = sources.find_source(BackboneSpec("hf-hub:org/model"))
    assert found.weights == snapshot / "open_clip_model.safetensors"
    assert found.config == snapshot / "open_clip_config.json"


def test_damaged_and_foreign_weights(
    tmp_path: Path, tiny_architecture: Path, weights: dict[str, torch.Tensor]
) -> None:
    def load(name: str) -> None:
        load_backbone(BackboneSpec("Tiny", str(tmp_path / name)))

    (tmp_path / "cut.safetensors").write_bytes(tiny_architecture.read_bytes()[:1000])
    (tmp_path / "text.pt").write_text("no weights at all", encoding="utf-8")
    torch.save({"weights": print}, tmp_path / "code.pt")
    torch.save(weights, tmp_path / "bits.pt")
    content = bytearray((tmp_path / "bits.pt").read_bytes())
    content[-300:-100] = bytes(200)
    (tmp_path / "bits.pt").write_bytes(content)
    save_file({}, tmp_path / "none.safetensors")
    for name in ("cut.safetensors", "text.pt", "code.pt", "bits.pt", "none.safetensors"):
        with pytest.raises(WeightsError, match=f"{name} is damaged or none: .") as caught:
            load(name)
        assert "\n" not in str(caught.value)
    wide = {**weights, "text_projection": torch.zeros(32, 99)}
    fewer = {name: tensor for name, tensor in weights.items() if name != "ln_final.weight"}
    for name, content in {"wide.safetensors": wide, "fewer.safetensors": fewer}.items():
        save_file(content, tmp_path / name)
        with pytest.raises(WeightsError, match=f"{name} do not fit the architecture: .") as caught:
            load(name)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500


def test_a_configuration_that_is_no_model(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    unknown_trunk = {"timm_model_name": "no_such_model"}
    for index, wrong in enumerate([{**VIT, "wdith": 3}, {**VIT, "width": "3"}, unknown_trunk, None]):
        spec = write_folder(tmp_path / str(index), weights, vision_cfg=wrong)
        message = "does not describe an open_clip model: ." if wrong else "lacks 'vision_cfg' in 'model_cfg'"
        with pytest.raises(WeightsError, match=message):
            load_backbone(spec)


def test_the_glyph_backbone() -> None:
    glyph = pytest.importorskip("pinikit.backbones.glyph")
    if not (glyph.GLYPH_DIR / glyph.WEIGHTS_NAME).is_file():
        pytest.skip("the glyph weights are not built")
    backbone = load_backbone(BackboneSpec())
    assert backbone.weights_hash == weights_hash(BackboneSpec())
    prompts = backbone.text.tokenize("a photo of a {}.", ["qwertyuiop"])
    assert backbone.text.unknown_tokens(prompts)
    assert "no effect" in load_backbone(BackboneSpec(quick_gelu=True)).notes[0]


@pytest.mark.real
@pytest.mark.skipif(not REAL_MODEL.is_dir(), reason="the shared models are not here")
def test_a_real_model() -> None:
    spec = BackboneSpec(f"local-dir:{REAL_MODEL}")
    backbone = load_backbone(spec)
    assert backbone.weights_hash == weights_hash(spec)
    assert backbone.preprocess["mean"] == (0.5, 0.5, 0.5)
    assert float(backbone.logit_scale) == pytest.approx(30, abs=0.1)
    pixels = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        image = backbone.model.encode_image(pixels)
        prompts = backbone.text.tokenize("x " * 16 + "a photo of a {}.", ["dog", "sea_horse", "revolver"])
        text = backbone.model.encode_text(prompts.tokens)
    torch.testing.assert_close(backbone.image.run(pixels), image, rtol=1e-5, atol=1e-5)
    fast = backbone.text.encode(prompts, backbone.text.embed(prompts))
    torch.testing.assert_close(fast, text, rtol=1e-4, atol=1e-5)
    assert prompts.prefix_length == 21
    assert [name for name in backbone.image.stages if "block" in name] == [
        f"image_block.{k}" for k in range(7)
    ]
