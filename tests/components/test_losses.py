"""Losses: reference numbers and limiting cases. What holds of every one: ``tests/testing``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from components.loss_batches import SCALE, batch, paired, value
from golden_cases import GoldenCase, cases
from torch.nn import functional

from pinikit.components.contracts import Loss
from pinikit.components.losses.contrastive_gap import Alignment, CrossUniformity, Cyclic, Uniformity
from pinikit.components.losses.cross_entropy import CrossEntropy
from pinikit.components.losses.focal import FocalCe, SigmoidFocal
from pinikit.components.losses.generalised_ce import GeneralisedCe
from pinikit.components.losses.label_smoothing_ce import LabelSmoothingCe
from pinikit.components.losses.margin_ce import MarginCe
from pinikit.components.losses.non_contrastive import Barlip, Siamlip, Vicreg
from pinikit.components.losses.siglip import Siglip
from pinikit.components.losses.supcon import Supcon
from pinikit.components.losses.two_way import ClipInfonce, DecoupledClip, NormSoftmax

# --- reference numbers --------------------------------------------------------------------------------

OF_LOGITS: dict[str, Callable[[dict[str, Any]], Loss]] = {
    "label_smoothing_ce": lambda hyper: LabelSmoothingCe(hyper["smoothing"]),
    "focal_ce": lambda hyper: FocalCe(hyper["gamma"]),
}


@pytest.mark.parametrize("case", [case for name in OF_LOGITS for case in cases(name)], ids=str)
def test_losses_of_logits_equal_the_reference(case: GoldenCase) -> None:
    loss = OF_LOGITS[case.component](case.hyper)
    case.check("loss", loss({"logits": case.inputs["logits"], "labels": case.inputs["y"].long()}))


@pytest.mark.parametrize("case", cases("sigmoid_focal"), ids=str)
def test_sigmoid_focal_equals_the_reference(case: GoldenCase) -> None:
    alpha = case.hyper["alpha"]
    loss = SigmoidFocal(alpha=None if alpha < 0 else alpha, gamma=case.hyper["gamma"])
    case.check("loss", loss.of_logits(case.inputs["logits"], case.inputs["targets"]))


@pytest.mark.parametrize("case", cases("siglip"), ids=str)
def test_siglip_equals_the_reference(case: GoldenCase) -> None:
    given = case.inputs
    logits = given["logit_scale"] * given["image"] @ given["text"].mT + given["logit_bias"]
    case.check("loss", Siglip.of_logits(logits, torch.arange(len(logits))))
    hyper = given["logit_scale"].item(), given["logit_bias"].item()
    torch.testing.assert_close(value(Siglip(*hyper), paired(case)).detach(), case.outputs["loss"])


@pytest.mark.parametrize("case", [*cases("clip_infonce"), *cases("decoupled_clip")], ids=str)
def test_contrastive_losses_equal_the_reference(case: GoldenCase) -> None:
    loss = {"clip_infonce": ClipInfonce, "decoupled_clip": DecoupledClip}[case.component]()
    scale = case.inputs.get("logit_scale", case.hyper.get("scale"))
    logits = scale * case.inputs["image"] @ case.inputs["text"].mT
    case.check("loss", loss({"logits": logits, "labels": torch.arange(len(logits))}))


@pytest.mark.parametrize("case", cases("align_norm_softmax"), ids=str)
def test_norm_softmax_equals_the_reference(case: GoldenCase) -> None:
    loss = NormSoftmax(smoothing=case.hyper["label_smoothing"])
    loss._temperature = case.inputs["temperature"]  # type: ignore[assignment]  # the reference differentiates for it
    i2t, t2i = loss.directions(paired(case))
    case.check("i2t", i2t)
    case.check("t2i", t2i)
    case.check("total", loss(paired(case)))


@pytest.mark.parametrize("case", cases("supcon"), ids=str)
def test_supcon_equals_the_reference(case: GoldenCase) -> None:
    given = {"image_features": case.inputs["embeddings"], "labels": case.inputs["labels"]}
    case.check("loss", Supcon(case.hyper["temperature"])(given))


@pytest.mark.parametrize("case", cases("vicreg"), ids=str)
def test_vicreg_equals_the_reference(case: GoldenCase) -> None:
    weights = (case.hyper[name] for name in ("invariance", "variance", "covariance"))
    case.check("loss", value(Vicreg(*weights), paired(case, "x", "y")))


@pytest.mark.parametrize("case", cases("barlip"), ids=str)
def test_barlip_equals_the_reference(case: GoldenCase) -> None:
    loss = Barlip(case.hyper["scale"], case.hyper["lamb"], standardise=False)
    case.check("loss", value(loss, paired(case, "v_image", "v_text")))


@pytest.mark.parametrize("case", cases("siamlip"), ids=str)
def test_siamlip_equals_the_reference(case: GoldenCase) -> None:
    rows = (case.inputs[name] for name in ("p_image", "p_text", "v_image", "v_text"))
    case.check("loss", Siamlip.of_predictions(*rows))


@pytest.mark.parametrize("case", cases("contrastive_gap"), ids=str)
def test_terms_against_the_gap_equal_the_reference(case: GoldenCase) -> None:
    """Also their published sums with the contrastive loss: ``cua`` and ``cuaxu``."""
    given = paired(case, "e1", "e2")
    image, text = (functional.normalize(given[side], dim=-1) for side in ("image_features", "text_features"))
    logits = case.hyper["scale"] * image @ text.mT
    found = {
        "clip": ClipInfonce()({"logits": logits, "labels": given["labels"]}),
        "uniformity": value(Uniformity(), given),
        "cross_uniformity": value(CrossUniformity(), given),
        "alignment": value(Alignment(), given),
        "cyclic": value(Cyclic(), given),
    }
    found["cua"] = found["clip"] + found["uniformity"] + found["alignment"]
    found["cuaxu"] = found["cua"] + found["cross_uniformity"]
    for name, term in found.items():
        case.check(name, term)


@pytest.mark.parametrize("case", cases("alignment_uniformity"), ids=str)
def test_alignment_and_uniformity_equal_the_reference(case: GoldenCase) -> None:
    x, y = case.inputs["x"], case.inputs["y"]
    case.check("alignment", Alignment(float(case.hyper["alpha"])).of_pairs(x, y))
    case.check("uniformity", Uniformity(float(case.hyper["t"])).of_rows(x))


# --- limiting cases -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loss",
    [FocalCe(gamma=0.0), LabelSmoothingCe(0.0), GeneralisedCe(q=1e-9), MarginCe(margin=0.0)],
    ids=lambda loss: type(loss).__name__,
)
def test_cross_entropy_is_their_limit(loss: Loss) -> None:
    torch.testing.assert_close(value(loss, batch()), value(CrossEntropy(), batch()), rtol=1e-6, atol=0)


def test_generalised_cross_entropy_is_bounded() -> None:
    given = batch()
    given["logits"] = -1e4 * functional.one_hot(given["labels"], 5).double()
    assert value(GeneralisedCe(q=0.5), given).item() == pytest.approx(2.0)
    half_error = (1 - batch()["logits"].softmax(1).gather(1, given["labels"][:, None])).mean()
    torch.testing.assert_close(value(GeneralisedCe(q=1.0), batch()), half_error)


def test_a_margin_lowers_the_true_logit() -> None:
    given = batch()
    lowered = given["logits"] - 3 * functional.one_hot(given["labels"], 5)
    expected = functional.cross_entropy(lowered, given["labels"])
    torch.testing.assert_close(value(MarginCe(3.0), given), expected)


def test_yes_or_no_losses_are_the_binary_cross_entropy() -> None:
    given = batch()
    target = functional.one_hot(given["labels"], 5).double()
    logits = SCALE * given["logits"] / SCALE - 2
    plain = functional.binary_cross_entropy_with_logits(logits, target)
    torch.testing.assert_close(value(SigmoidFocal(None, 0.0, SCALE, -2.0), given), plain)
    torch.testing.assert_close(value(Siglip(SCALE, -2.0), given), 5 * plain)


def test_supcon_where_nothing_stands_out() -> None:
    """Equal similarities give log(N − 1); without positives it is 0, with a gradient of 0."""
    same = {"image_features": torch.ones(6, 4), "labels": torch.tensor([0, 0, 1, 1, 2, 2])}
    assert Supcon()(same).item() == pytest.approx(math.log(5))
    alone = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = Supcon()({"image_features": alone, "labels": torch.arange(4)})
    (gradient,) = torch.autograd.grad(loss, alone)
    assert loss == 0
    assert not gradient.any()


def test_several_images_of_a_class_are_no_negatives_of_each_other() -> None:
    """CLIP's loss over classes' own images by a loop; decoupled CLIP's denominators hold other classes only."""
    given = batch()
    logits, labels = given["logits"], given["labels"]
    terms, decoupled = [], []
    for name in labels.unique():
        own = labels == name
        terms.append(-logits.log_softmax(0)[own, name].mean())
        decoupled.append(logits[~own, name].logsumexp(0) - logits[own, name].mean())
    rows = functional.cross_entropy(logits, labels)
    torch.testing.assert_close(value(ClipInfonce(), given), (rows + torch.stack(terms).mean()) / 2)
    others = logits.masked_fill(functional.one_hot(labels, 5).bool(), -math.inf).logsumexp(1)
    rows = (others - logits.gather(1, labels[:, None]).squeeze(1)).mean()
    torch.testing.assert_close(value(DecoupledClip(), given), (rows + torch.stack(decoupled).mean()) / 2)


def test_uniformity_of_known_sets() -> None:
    """Two antipodes: −4t; an orthonormal set: −2t. Alignment of coincident pairs: 0, also where its slope is infinite."""
    east = torch.tensor([[1.0, 0.0], [-2.0, 0.0]])
    assert Uniformity(t=2.0).of_rows(east).item() == pytest.approx(-8)
    assert Uniformity(t=3.0).of_rows(torch.eye(5)).item() == pytest.approx(-6)
    rows = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = Alignment(alpha=1.0).of_pairs(rows, rows.detach())
    assert loss.item() < 1e-3
    assert torch.autograd.grad(loss, rows)[0].isfinite().all()


def test_barlip_is_zero_for_whitened_equal_features() -> None:
    orthogonal, _ = torch.linalg.qr(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))
    given = {
        "image_features": 6**0.5 * orthogonal,
        "text_features": 6**0.5 * orthogonal,
        "labels": torch.arange(6),
    }
    assert value(Barlip(standardise=False), given).item() == pytest.approx(0, abs=1e-6)
    stretched = {**given, "image_features": 3 * given["image_features"] + 7}
    torch.testing.assert_close(value(Barlip(), stretched), value(Barlip(), given), rtol=1e-3, atol=1e-4)


def test_siamlip_moves_each_side_towards_the_other() -> None:
    given = batch()
    image = given["image_features"].requires_grad_()
    text = given["text_features"].requires_grad_()
    to_image, to_text = torch.autograd.grad(value(Siamlip(), given), [image, text])
    assert to_image.any()
    assert to_text[:-1].any()
    assert not to_text[-1].any(), "no picture of the last class"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LabelSmoothingCe(1.5), r"smoothing: found 1\.5; allowed: 0 to 1"),
        (lambda: FocalCe(-1.0), "gamma: found"),
        (lambda: SigmoidFocal(gamma=0.5), r"gamma: found 0\.5; allowed: 0, or 1 and more"),
        (lambda: SigmoidFocal(alpha=2.0), "alpha: found"),
        (lambda: GeneralisedCe(0.0), "q: found"),
        (lambda: MarginCe(-1.0), "margin: found"),
        (lambda: NormSoftmax(temperature=0.0), "temperature: found"),
        (lambda: Supcon(0.0), "temperature: found"),
        (lambda: Alignment(0.0), "alpha: found"),
        (lambda: Uniformity(0.0), "t: found"),
        (lambda: CrossUniformity(-1.0), "t: found"),
        (lambda: Siglip(scale=0.0), r"scale: found 0\.0; allowed: above 0"),
        (lambda: Siglip(scale=math.nan), "scale: found nan; allowed: above 0"),
        (lambda: SigmoidFocal(scale=-1.0), r"scale: found -1\.0; allowed: above 0"),
        (lambda: Barlip(scale=0.0), "scale: found"),
        (lambda: Barlip(redundancy=-0.1), r"redundancy: found -0\.1; allowed: 0 or more"),
        (lambda: Vicreg(invariance=-1.0), "invariance: found"),
        (lambda: Vicreg(variance=-1.0), "variance: found"),
        (lambda: Vicreg(covariance=-1.0), "covariance: found"),
    ],
)
def test_impossible_arguments_are_refused(make: Callable[[], Loss], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
