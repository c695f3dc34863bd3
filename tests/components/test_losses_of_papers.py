"""Losses of several noise samples, and losses that look at the frozen model: reference numbers, limiting cases."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from components.loss_batches import batch, cosines, like, of_features, paired, value
from golden_cases import GoldenCase, cases
from torch import Tensor
from torch.nn import functional

from pinikit.components.contracts import Loss
from pinikit.components.losses.beclr import Beclr
from pinikit.components.losses.coconut_nspt import CoconutNspt
from pinikit.components.losses.contrastive_gap import Alignment
from pinikit.components.losses.cross_entropy import CrossEntropy
from pinikit.components.losses.cwcl import Cwcl
from pinikit.components.losses.distillation import DistillClip, Kgcoop, LogitMseDistill, PromptsrcScl
from pinikit.components.losses.frozen_keys import TclCma, TclImc
from pinikit.components.losses.logit_adjusted_ce import LogitAdjustedCe
from pinikit.components.losses.mochi import Mochi
from pinikit.components.losses.multi_view import ClusterWeightedInfonce, MvDhel, MvInfonce, Ntxent, PolyView
from pinikit.components.losses.order import Pearson, Pro, RankKl
from pinikit.components.losses.rdpo import Rdpo
from pinikit.components.losses.residuals import ResidualGuidance, TripletMse
from pinikit.components.losses.several_draws import Iwae, NoiseConsistency
from pinikit.components.losses.simctg_tokens import SimctgTokens
from pinikit.components.losses.supcon import Supcon
from pinikit.components.losses.swapped_codes import Swalip, Swav, codes
from pinikit.components.losses.two_way import ClipInfonce


def by_picture(rows: Tensor, views: int) -> Tensor:
    """The references' rows, view by view, as [B, S, D]."""
    return rows.unflatten(0, (views, -1)).transpose(0, 1)


# --- reference numbers --------------------------------------------------------------------------------

MULTI_VIEW: dict[str, Callable[[dict[str, Any]], Loss]] = {
    "ntxent": lambda hyper: Ntxent(hyper["tau"], "all" if hyper["mode"] == "all_positives" else "pairwise"),
    "mv_infonce": lambda hyper: MvInfonce(hyper["tau"]),
    "mv_dhel": lambda hyper: MvDhel(hyper["tau"]),
    "poly_view": lambda hyper: PolyView(hyper["tau"]),
}


@pytest.mark.parametrize("case", [case for name in MULTI_VIEW for case in cases(name)], ids=str)
def test_multi_view_losses_equal_the_reference(case: GoldenCase) -> None:
    loss = MULTI_VIEW[case.component](case.hyper)
    case.check("loss", loss({"sample_features": by_picture(case.inputs["z"], case.hyper["views"])}))


@pytest.mark.parametrize("case", cases("pingda_grace"), ids=str)
def test_grace_is_nt_xent(case: GoldenCase) -> None:
    features = torch.stack([case.inputs["z1"], case.inputs["z2"]], 1)
    case.check("loss", Ntxent(case.hyper["tau"])({"sample_features": features}))


@pytest.mark.parametrize("case", cases("meow"), ids=str)
def test_cluster_weighted_infonce_equals_the_reference(case: GoldenCase) -> None:
    """A negative weighs as many times as there are clusterings in which it lies elsewhere."""
    assigned = [case.inputs[f"assign{index}"] for index in range(len(case.hyper["num_clusters"]))]
    weights = sum((each.unsqueeze(1) != each.unsqueeze(0)).double() for each in assigned)
    loss = ClusterWeightedInfonce(case.hyper["tau"])
    case.check("info", loss.of_similarities(case.inputs["z_anchor"] @ case.inputs["z"].mT, weights))


@pytest.mark.parametrize("case", cases("simctg"), ids=str)
def test_simctg_equals_the_reference(case: GoldenCase) -> None:
    valid = case.inputs["ids"] != case.hyper["pad_id"]
    case.check("loss", SimctgTokens(case.hyper["margin"]).of_tokens(case.inputs["hidden"], valid))


@pytest.mark.parametrize("case", cases("beclr"), ids=str)
def test_beclr_equals_the_reference(case: GoldenCase) -> None:
    """Without its memory, as there is none here."""
    hyper = case.hyper
    teacher, predicted, student = (
        by_picture(case.inputs[name], 2) for name in ("z_teacher", "p_student", "z_student")
    )
    loss = Beclr(hyper["lamb_neg"], hyper["temp"])
    agreement = loss.agreement(predicted, teacher)
    case.check("pos", agreement)
    if not hyper["memory"]:
        spread = loss.spread(student if hyper["uniformity"] == "SS" else teacher)
        case.check("neg", spread)
        case.check("loss", agreement + hyper["lamb_neg"] * spread)


@pytest.mark.parametrize("case", cases("swav"), ids=str)
def test_swav_equals_the_reference(case: GoldenCase) -> None:
    hyper = case.hyper
    loss = Swav(hyper["temperature"], hyper["epsilon"], hyper["iters"])
    similarity = (case.inputs["z"] @ case.inputs["prototypes"].mT).unflatten(0, (hyper["views"], -1))
    giving = hyper["crops_for_assign"]
    case.check("loss", loss.of_similarities(similarity, giving))
    found = [codes(similarity[view], hyper["epsilon"], hyper["iters"]) for view in giving]
    case.check("q", torch.cat(found))


@pytest.mark.parametrize("case", cases("swalip"), ids=str)
def test_swalip_equals_the_reference(case: GoldenCase) -> None:
    hyper = case.hyper
    loss = Swalip(hyper["temperature"], hyper["epsilon"], hyper["iters"])
    case.check("swalip", loss.of_similarities(case.inputs["p_image"], case.inputs["p_text"]))


@pytest.mark.parametrize("case", cases("logit_adjusted_ce"), ids=str)
def test_logit_adjusted_ce_equals_the_reference(case: GoldenCase) -> None:
    given = {"logits": case.inputs["logits"], "labels": case.inputs["y"], "class_prior": case.inputs["prior"]}
    case.check("loss", LogitAdjustedCe(case.hyper["tau"])(given))


@pytest.mark.parametrize("case", cases("cwcl"), ids=str)
def test_cwcl_equals_the_reference(case: GoldenCase) -> None:
    loss, given = Cwcl(case.hyper["tau"]), paired(case, "u", "v")
    weights = case.inputs.get("weights")
    if weights is None:
        weights = (1 + cosines(case.inputs["reference"], case.inputs["reference"])) / 2
        found = loss({**given, "clean_text_features": case.inputs["reference"]})
    else:
        found = torch.stack(loss.directions(given, weights)).sum()
    weighted, plain = loss.directions(given, weights)
    case.check("weighted_u_to_v", weighted)
    case.check("plain_v_to_u", plain)
    case.check("total", found)


@pytest.mark.parametrize("case", cases("codiemb_pearson"), ids=str)
def test_pearson_equals_the_reference(case: GoldenCase) -> None:
    given = {"logits": case.inputs["x"].unsqueeze(0), "clean_logits": case.inputs["y"].unsqueeze(0)}
    case.check("loss", Pearson()(given))


@pytest.mark.parametrize("case", [*cases("codiemb_rankkl"), *cases("codiemb_pro")], ids=str)
def test_losses_of_order_equal_the_reference(case: GoldenCase) -> None:
    loss = {"codiemb_rankkl": RankKl, "codiemb_pro": Pro}[case.component](case.hyper["temperature"])
    found, wanted = case.inputs["pred"].unsqueeze(0), case.inputs["true"].unsqueeze(0)
    case.check("loss", loss.of_similarities(found, wanted))


@pytest.mark.parametrize("case", cases("coconut_nspt"), ids=str)
def test_coconut_equals_the_reference(case: GoldenCase) -> None:
    given = case.inputs
    terms = CoconutNspt(case.hyper["tau"]).of_rows(given["student"], given["teacher"], given["y"])
    case.check("loss", terms[given["rehearsal"].bool()].mean())


@pytest.mark.parametrize("case", cases("mochi"), ids=str)
def test_mochi_equals_the_reference(case: GoldenCase) -> None:
    """Its queue are further texts that are the class of no image."""
    given = case.inputs
    hard, queue = given["hard"].long(), given["queue"]
    texts = queue[torch.topk(given["q"] @ queue.mT, case.hyper["n_hard"]).indices]
    assert torch.equal(texts, queue[hard])
    count, (one, two) = case.hyper["n_hard"], given["idx_pair"]
    chosen = [(index + 0.5) / count for index in (one, two, given["idx_single"])]
    alpha, beta = given["alpha"].squeeze(2), given["u"].squeeze(2)
    loss = Mochi(pairs=one.shape[1], queries=beta.shape[1])
    uniform = torch.cat([*chosen[:2], alpha, chosen[2], beta], 1)
    mixed = loss._mixtures(given["q"], texts, uniform)
    positive = (given["q"] * given["k"]).sum(1, keepdim=True)
    synthetic = (mixed @ given["q"].unsqueeze(2)).squeeze(2)
    logits = torch.cat([positive, given["q"] @ queue.mT, synthetic], 1) / case.hyper["tau"]
    case.check("logits", logits)
    case.check("loss", functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long)))


@pytest.mark.parametrize("case", cases("rdpo"), ids=str)
def test_rdpo_equals_the_reference(case: GoldenCase) -> None:
    gain = {
        name: case.inputs[f"policy_{name}"] - case.inputs[f"ref_{name}"]
        for name in ("chosen", "rejected", "imageless")
    }
    loss = Rdpo(case.hyper["beta"])
    found = [loss.preference(gain["chosen"], gain[name]) for name in ("rejected", "imageless")]
    case.check("losses", found[0] + found[1])
    case.check("mean", (found[0] + found[1]).mean())


@pytest.mark.parametrize("case", cases("residual_vector"), ids=str)
def test_residual_guidance_equals_the_reference(case: GoldenCase) -> None:
    sets = case.inputs["pos"], case.inputs["neg"]
    case.check("loss", ResidualGuidance.of_sets(case.inputs["x"], *sets))
    residual, threshold = ResidualGuidance.direction(*sets)
    case.check("residual", residual)
    case.check("threshold", threshold)


@pytest.mark.parametrize("case", cases("triplet_mse"), ids=str)
def test_triplet_mse_equals_the_reference(case: GoldenCase) -> None:
    rows = (case.inputs[name] for name in ("anchor", "positive", "negative"))
    case.check("loss", TripletMse(case.hyper["margin"], case.hyper["swap"]).of_triplets(*rows))


@pytest.mark.parametrize("case", cases("tcl_cma_imc"), ids=str)
def test_tcl_equals_the_reference(case: GoldenCase) -> None:
    """The queue's entries are further frozen images and texts without a noisy counterpart."""
    given, hyper = case.inputs, case.hyper
    across, within = TclCma(hyper["temp"], hyper["alpha"]), TclImc(hyper["temp"])
    images, texts = (torch.cat([given[f"{side}_m"], given[f"{side}_queue"].mT]) for side in ("image", "text"))
    own = torch.eye(len(given["image"]), len(images), dtype=torch.bool)
    for name, query, keys in (("i2t", "image", texts), ("t2i", "text", images)):
        teacher = given[f"{query}_m"] @ keys.mT
        case.check(name, across.terms(given[query] @ keys.mT, teacher, own).mean())
    case.check("i2i", within.among(given["image"], images))
    case.check("t2t", within.among(given["text"], texts))


@pytest.mark.parametrize("case", cases("dse_distill"), ids=str)
def test_logit_distillation_equals_the_reference(case: GoldenCase) -> None:
    logits, labels = case.inputs["logits"], case.inputs["y"].long()
    distill = LogitMseDistill()({"logits": logits, "clean_logits": case.inputs["teacher"]})
    case.check("distill", distill)
    classify, coefficient = functional.cross_entropy(logits, labels), case.hyper["coeff"]
    case.check("total", (1 - coefficient) * classify + coefficient * distill)


@pytest.mark.parametrize("case", cases("distill_clip"), ids=str)
def test_distill_clip_equals_the_reference(case: GoldenCase) -> None:
    given = case.inputs
    logits = given["logit_scale"] * given["image"] @ given["text"].mT
    teacher = given["t_logit_scale"] * given["t_image"] @ given["t_text"].mT
    case.check("distill", DistillClip()({"logits": logits, "clean_logits": teacher}))
    case.check("contrastive", ClipInfonce()({"logits": logits, "labels": torch.arange(len(logits))}))


@pytest.mark.parametrize("case", cases("promptsrc_scl"), ids=str)
def test_promptsrc_equals_the_reference(case: GoldenCase) -> None:
    """As published; corrected, the term of the predictions is as many times larger as there are classes."""
    given = case.inputs
    weights = case.hyper["text_weight"], case.hyper["image_weight"]
    published = PromptsrcScl(*weights, per_sample=False)
    features = published.of_units(*(given[name] for name in ("text", "zs_text", "image", "zs_image")))
    predictions = published.of_logits(given["logits"], given["zs_logits"])
    case.check("logit_term", predictions)
    case.check("total", features + predictions)
    classes = given["logits"].shape[1]
    corrected = PromptsrcScl(*weights).of_logits(given["logits"], given["zs_logits"])
    torch.testing.assert_close(corrected, classes * predictions)


# --- limiting cases: several samples ------------------------------------------------------------------


def views(rows: int = 6, samples: int = 2) -> dict[str, Tensor]:
    return batch(rows, samples=samples)


def test_two_samples_of_the_multi_view_losses() -> None:
    """By definition, with pictures as classes; and where all samples of a picture coincide."""
    given = views()
    first, second = given["sample_features"].unbind(1)
    scores = 2 * cosines(torch.cat([first, second]), torch.cat([first, second]))
    scores.fill_diagonal_(-math.inf)
    positives = scores[torch.arange(12), (torch.arange(12) + 6) % 12]
    torch.testing.assert_close(value(Ntxent(), given), (scores.logsumexp(1) - positives).mean())
    torch.testing.assert_close(value(Ntxent(positives="all"), given), value(Ntxent(), given))
    both = torch.cat([scores[:6], scores[6:]], 1).logsumexp(1)
    torch.testing.assert_close(value(MvInfonce(), given), (both - math.log(2) - positives[:6]).mean())
    within = scores[:6, :6].logsumexp(1) + scores[6:, 6:].logsumexp(1)
    torch.testing.assert_close(value(MvDhel(), given), (within - positives[:6]).mean())
    same = {"sample_features": given["sample_features"][:, :1].expand(-1, 3, -1)}
    one = 2 * cosines(first, first)
    uniform = one.fill_diagonal_(-math.inf).logsumexp(1).mean()
    aligned = 2.0 + math.log(3)  # three unordered pairs with cosine 1
    torch.testing.assert_close(MvDhel()(same), 3 * uniform - aligned)


def test_all_positives_are_those_of_supcon_over_pictures() -> None:
    given = views(samples=3)
    pictures = torch.arange(6).repeat_interleave(3)
    expected = Supcon(0.2)({"image_features": given["image_features"], "labels": pictures})
    torch.testing.assert_close(value(Ntxent(0.2, "all"), given), expected)


@pytest.mark.parametrize("loss", [PolyView(), MvInfonce(), MvDhel()], ids=lambda loss: loss.name)
def test_a_single_picture_has_nothing_to_be_told_from(loss: Loss) -> None:
    assert value(loss, views(rows=1)).item() == pytest.approx(0, abs=1e-12)


def test_only_other_classes_are_negatives_by_clusters() -> None:
    """Every picture a class of its own: all others are negatives, and the positive is in no denominator."""
    given = views()
    apart = {"sample_features": given["sample_features"], "labels": torch.arange(6).repeat_interleave(2)}
    scores = cosines(*given["sample_features"].unbind(1)) / 0.4
    others = scores.masked_fill(torch.eye(6, dtype=torch.bool), -math.inf)
    expected = (others.logsumexp(1).mean() + others.logsumexp(0).mean()) / 2 - scores.diagonal().mean()
    torch.testing.assert_close(ClusterWeightedInfonce()(apart), expected)
    assert ClusterWeightedInfonce()({**apart, "labels": torch.zeros(12, dtype=torch.long)}) == 0


def test_orthogonal_tokens_are_unlike_enough() -> None:
    assert SimctgTokens(1.0)({"prompt_tokens": torch.eye(4).unsqueeze(0)}) == 0
    assert SimctgTokens(0.5)({"prompt_tokens": torch.ones(1, 4, 3)}).item() == pytest.approx(0.5)
    assert SimctgTokens()({"prompt_tokens": torch.ones(1, 1, 3)}) == 0


def test_mv_dhel_survives_small_temperatures() -> None:
    given = {"sample_features": views(samples=4)["sample_features"].float()}
    assert MvDhel(1e-3)(given).isfinite()


def test_iwae_and_the_cross_entropy() -> None:
    """One sample: equal. Several: never above (Jensen)."""
    torch.testing.assert_close(value(Iwae(), batch()), value(CrossEntropy(), batch()))
    given = views(samples=4)
    probability = given["sample_logits"].softmax(2).mean(1)
    expected = functional.nll_loss(probability.log(), given["labels"][::4])
    torch.testing.assert_close(value(Iwae(), given), expected)
    assert value(Iwae(), given) < value(CrossEntropy(), given)


@pytest.mark.parametrize("divergence", ["kl", "jensen_shannon"])
def test_consistency_of_samples(divergence: Any) -> None:
    """0 where all say the same; Jensen–Shannon at most log S, where each is sure of another class."""
    loss, same = NoiseConsistency(divergence), batch()["logits"].unsqueeze(1).expand(-1, 3, -1)
    assert loss({"sample_logits": same}).item() == pytest.approx(0, abs=1e-12)
    sure = 50 * torch.eye(3, dtype=torch.float64).expand(4, 3, 3)
    found = loss({"sample_logits": sure})
    mean = sure.softmax(2).mean(1, keepdim=True)
    pairs = (mean, sure.softmax(2)) if divergence == "kl" else (sure.softmax(2), mean)
    expected = (pairs[0] * (pairs[0].log() - pairs[1].log())).sum(2).mean()
    torch.testing.assert_close(found, expected)
    if divergence == "jensen_shannon":
        assert found.item() == pytest.approx(math.log(3))


def test_balanced_codes() -> None:
    """Equal features give uniform codes; after many rounds columns hold B/K each."""
    similarity = cosines(batch()["image_features"], batch()["text_features"])  # [8, 5]
    same = similarity[:1].expand(8, 5)
    torch.testing.assert_close(codes(same, 0.05, 3), torch.full((8, 5), 0.2, dtype=torch.float64))
    balanced = codes(similarity, 0.5, 200)
    torch.testing.assert_close(balanced.sum(1), torch.ones(8, dtype=torch.float64))
    torch.testing.assert_close(balanced.sum(0), torch.full((5,), 1.6, dtype=torch.float64))
    assert codes(similarity.half() / 0.001, 0.05, 3).isfinite().all()


# --- limiting cases: the frozen model -----------------------------------------------------------------


def unchanged(rows: int = 8) -> dict[str, Tensor]:
    """A batch in which noise changes nothing."""
    given = batch(rows)
    return of_features(given["image_features"], given["text_features"], given["labels"])


@pytest.mark.parametrize(
    "loss", [LogitMseDistill(), PromptsrcScl(), Kgcoop(), Pearson()], ids=lambda loss: loss.name
)
def test_nothing_is_lost_where_noise_changes_nothing(loss: Loss) -> None:
    assert value(loss, unchanged()).item() == pytest.approx(0, abs=1e-12)
    assert value(loss, batch()).item() > 0.1


def test_rdpo_of_an_unchanged_model() -> None:
    """2 log 2, as for β → 0; log 2 without a picture of another class."""
    assert value(Rdpo(), unchanged()).item() == pytest.approx(2 * math.log(2))
    assert value(Rdpo(beta=1e-12), batch()).item() == pytest.approx(2 * math.log(2))
    assert value(Rdpo(), unchanged(rows=1)).item() == pytest.approx(math.log(2))
    assert value(Rdpo(reference_free=True), unchanged()) != value(Rdpo(), unchanged())


def test_rdpo_prefers_the_true_class_over_the_strongest_wrong_one_and_the_nearest_picture() -> None:
    given = {
        "logits": torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.0, 0.0]]),
        "labels": torch.tensor([0, 1, 2]),
        "clean_logits": torch.zeros(3, 3),
        "clean_image_features": torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]),
    }
    logp = given["logits"].log_softmax(1)
    wrong, nearest = torch.tensor([1, 2, 0]), torch.tensor([1, 0, 1])
    rows = torch.arange(3)
    chosen = logp[rows, rows]
    expected = functional.softplus(-0.3 * (chosen - logp[rows, wrong]))
    expected = expected + functional.softplus(-0.3 * (chosen - logp[nearest, rows]))
    torch.testing.assert_close(Rdpo(beta=0.3)(given), expected.mean())


def test_logit_adjustment() -> None:
    """τ = 0 and equal shares: the cross-entropy. A class without pictures takes no part."""
    given = batch()
    plain = value(CrossEntropy(), given)
    even = {**given, "class_prior": torch.full((5,), 0.2)}
    torch.testing.assert_close(value(LogitAdjustedCe(), even), plain)
    torch.testing.assert_close(value(LogitAdjustedCe(tau=0.0), given), plain)
    rest = functional.cross_entropy(given["logits"][:, :4], given["labels"])
    torch.testing.assert_close(value(LogitAdjustedCe(), given), rest, rtol=1e-6, atol=0)


def test_cwcl_between_one_and_all_classes() -> None:
    """A sharp weight leaves the true class; equal frozen texts have a uniform target."""
    given = batch()
    logits = cosines(given["image_features"], given["text_features"]) / 0.07
    columns = Cwcl().directions(given, torch.eye(5, dtype=torch.float64))[1]
    rows = functional.cross_entropy(logits, given["labels"])
    torch.testing.assert_close(value(Cwcl(weight_temperature=1e-3), given), rows + columns)
    same = {**given, "clean_text_features": torch.ones(5, 6, dtype=torch.float64)}
    torch.testing.assert_close(value(Cwcl(), same), columns - logits.log_softmax(1).mean())


def test_order_of_classes() -> None:
    """Correlation does not see scale and shift; equal frozen similarities say nothing, or the same of all classes."""
    given = batch()
    moved = {"logits": 3 * given["logits"] + 7, "clean_logits": given["clean_logits"]}
    torch.testing.assert_close(Pearson()(moved), value(Pearson(), given))
    flat = torch.zeros_like(given["logits"])
    assert Pearson()({"logits": given["logits"], "clean_logits": flat}) == 0
    assert Pro().of_similarities(given["logits"], flat) == 0
    uniform = -(given["logits"] / 0.05).log_softmax(1).mean() - math.log(5)
    torch.testing.assert_close(RankKl().of_similarities(given["logits"], flat), uniform / 5)


def test_coconut_with_itself_as_teacher() -> None:
    """Without its own row among the positives it is supcon."""
    given, temperature = unchanged(), 0.1
    counts = torch.full((8,), 2.0)  # the row itself, and one more of its class
    own = 1 / temperature
    found = CoconutNspt(temperature).of_rows(
        given["image_features"], given["image_features"], given["labels"]
    )
    others = (found.sum() + (own / counts).sum()) * 1.0  # takes the own row's share out
    scores = cosines(given["image_features"], given["image_features"]) / temperature
    positive = (given["labels"].unsqueeze(0) == given["labels"].unsqueeze(1)).fill_diagonal_(False)
    lse = scores.masked_fill(torch.eye(8, dtype=torch.bool), -math.inf).logsumexp(1)
    half = scores.masked_fill(~positive, 0.0).sum(1) / counts
    torch.testing.assert_close(others, (lse - half).sum())
    assert value(CoconutNspt(), unchanged(rows=1)) == 0


def test_tcl_between_truth_and_the_frozen_model() -> None:
    """α = 0 is the contrastive loss with frozen keys; α = 1 of an unchanged model is the teacher's entropy."""
    given = unchanged()
    logits = cosines(given["image_features"], given["text_features"]) / 0.07
    hard = value(TclCma(alpha=0.0), given)
    torch.testing.assert_close(hard, ClipInfonce()({"logits": logits, "labels": given["labels"]}))
    rows, _ = TclCma(alpha=1.0).directions(given)
    entropy = -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(rows, entropy)


def test_every_sample_finds_its_own_frozen_picture() -> None:
    """A picture's frozen feature is one key, however many samples there are."""
    given = views(samples=3)
    images, texts = TclImc().modalities(given)
    keys = given["clean_image_features"][::3]
    logits = cosines(given["image_features"], keys) / 0.07
    torch.testing.assert_close(images, functional.cross_entropy(logits, torch.arange(6).repeat_interleave(3)))
    logits = cosines(given["text_features"], given["clean_text_features"]) / 0.07
    torch.testing.assert_close(texts, functional.cross_entropy(logits, torch.arange(5)))


def test_guidance_ends_at_the_texts() -> None:
    given = batch()
    towards = functional.normalize(given["clean_text_features"], dim=1).mean(0)
    there = {**given, "image_features": towards.expand(8, 6)}
    assert value(ResidualGuidance(), there).item() == pytest.approx(0, abs=1e-12)
    assert value(ResidualGuidance(), given).item() > 0.01


def test_triplets_of_noise() -> None:
    """Equal noise on all pictures gives the margin; one's own that leads to the text, nothing."""
    given = batch()
    clean = given["clean_image_features"]
    equal = like(given, clean + 0.3, given["text_features"])
    assert value(TripletMse(), equal).item() == pytest.approx(0.1)
    texts = given["text_features"][given["labels"]]
    assert value(TripletMse(), like(given, texts.clone(), given["text_features"])) == 0


def test_mixtures_of_hard_negatives() -> None:
    """None: the cross-entropy. More of them never lower the loss, and a pair of one text is that text again."""
    given = batch()
    logits = cosines(given["image_features"], given["text_features"]) / 0.07
    plain = functional.cross_entropy(logits, given["labels"])
    torch.testing.assert_close(value(Mochi(pairs=0, queries=0), given), plain)
    assert plain < value(Mochi(pairs=4, queries=0), given)
    assert plain < value(Mochi(pairs=0, queries=4), given)
    wrong = logits.masked_fill(functional.one_hot(given["labels"], 5).bool(), -math.inf).amax(1, keepdim=True)
    twice = functional.cross_entropy(torch.cat([logits, wrong, wrong], 1), given["labels"])
    torch.testing.assert_close(value(Mochi(hardest=1, pairs=2, queries=0), given), twice)


def test_kgcoop_is_an_alignment_with_the_frozen_texts() -> None:
    given = batch()
    texts = Alignment(2.0).of_pairs(given["text_features"], given["clean_text_features"])
    torch.testing.assert_close(value(Kgcoop(), given), texts)


def test_distillation_of_an_indifferent_teacher() -> None:
    given = batch()
    flat = {"logits": given["logits"], "clean_logits": torch.zeros_like(given["logits"])}
    expected = -(given["logits"].log_softmax(1).mean() + given["logits"].log_softmax(0).mean()) / 2
    torch.testing.assert_close(DistillClip()(flat), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ntxent(0.0), "temperature: found"),
        (lambda: MvInfonce(-1.0), "temperature: found"),
        (lambda: MvDhel(math.inf), "temperature: found"),
        (lambda: PolyView(0.0), "temperature: found"),
        (lambda: Beclr(negative=-1.0), "negative: found"),
        (lambda: Beclr(temperature=0.0), "temperature: found"),
        (lambda: Swav(iterations=0), "iterations: found 0; allowed: above 0"),
        (lambda: Swalip(epsilon=0.0), "epsilon: found"),
        (lambda: ClusterWeightedInfonce(0.0), "temperature: found"),
        (lambda: SimctgTokens(3.0), r"margin: found 3\.0; allowed: 0 to 2"),
        (lambda: Mochi(hardest=0), "hardest: found 0; allowed: above 0"),
        (lambda: Mochi(pairs=-1), "pairs: found -1; allowed: 0 or more"),
        (lambda: LogitAdjustedCe(-1.0), r"tau: found -1\.0; allowed: 0 or more"),
        (lambda: Cwcl(weight_temperature=0.0), "weight_temperature: found"),
        (lambda: RankKl(0.0), "temperature: found"),
        (lambda: Pro(0.0), "temperature: found"),
        (lambda: CoconutNspt(0.0), "temperature: found"),
        (lambda: Rdpo(0.0), "beta: found"),
        (lambda: TripletMse(margin=-1.0), "margin: found"),
        (lambda: TclCma(alpha=1.5), r"alpha: found 1\.5; allowed: 0 to 1"),
        (lambda: TclImc(0.0), "temperature: found"),
        (lambda: PromptsrcScl(text=-1.0), "text: found"),
    ],
)
def test_impossible_arguments_are_refused(make: Callable[[], Loss], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
