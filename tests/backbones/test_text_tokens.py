"""Prompts: tokens as the references have them, what they share, and what is refused."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import open_clip
import pytest
import torch
from golden_cases import GoldenCase, cases
from tiny_models import tiny_bert_folder

from pinikit.backbones.assembly import assemble_backbone
from pinikit.backbones.text_tokens import BpeTokenizer, HubTokenizer, tokenize_prompts
from pinikit.errors import ConfigError


@cache
def bpe(context_length: int = 77) -> BpeTokenizer:
    return BpeTokenizer(open_clip.SimpleTokenizer(), context_length)


@pytest.mark.parametrize("case", cases("pini_tokens"), ids=str)
def test_prompts_of_the_paper(case: GoldenCase) -> None:
    for row, words in enumerate(case.hyper["templates"]):
        prompts = tokenize_prompts(bpe(), f"{case.hyper['prefix']}{words} {{}}.", [case.hyper["classname"]])
        assert torch.equal(prompts.tokens[0], case.outputs["tokens"][row].long())
        assert prompts.template_length == int(case.outputs["template_lens"][row])
        assert prompts.context_length == 16


def test_tokens_are_open_clips() -> None:
    prompts = tokenize_prompts(bpe(), "a photo of a {}, 3 times!", ["Sea_Horse", "St.", "naïve café"])
    assert torch.equal(prompts.tokens, open_clip.tokenize(list(prompts.texts)))
    assert prompts.texts[0] == "a photo of a Sea Horse, 3 times!"
    assert prompts.lengths == tuple(int(row.argmax()) + 1 for row in prompts.tokens)


def test_parts_of_a_prompt() -> None:
    prompts = tokenize_prompts(bpe(), "x x a {} texture.", ["dog", "sea_horse"])
    assert (prompts.leading, prompts.template_length, prompts.context_length) == (1, 3, 2)
    assert prompts.prefix_length == 4
    assert prompts.classname_lengths == (1, 2)
    assert prompts.lengths == (8, 9)
    assert prompts.suffix_lengths == (4, 5)


def test_a_template_that_begins_with_the_class_name_shares_only_the_start_token() -> None:
    prompts = tokenize_prompts(bpe(), "{} texture.", ["banded", "polka-dotted"])
    assert prompts.template_length == 0
    assert prompts.prefix_length == 1
    assert prompts.classname_lengths[0] == 1


def test_a_class_name_that_merges_with_the_full_stop() -> None:
    prompts = tokenize_prompts(bpe(), "a photo of {}.", ["mt st.", "dog"])  # ".." is one token
    assert prompts.classname_lengths == (2, 1)


@pytest.mark.parametrize(
    ("template", "names", "message"),
    [
        ("a photo", ["dog"], r"exactly one \{\}.*it has 0"),
        ("{} and {}", ["dog"], r"exactly one \{\}.*it has 2"),
        ("a {}.", ["dog", "_ "], r"class name at index 1 is empty"),
        ("a {}.", [], "no class names"),
        ("x " * 70 + "{}.", ["dog", "one two three four five"], r"'one two three four five' has 78.*takes"),
        ("un{}", ["happy", "dog"], r"run into the class name in 'unhappy': put a space before \{\}"),
    ],
)  # fmt: skip
def test_mistakes_are_named(template: str, names: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tokenize_prompts(bpe(), template, names)


def test_the_longest_prompt_that_fits_is_not_cut() -> None:
    prompts = tokenize_prompts(bpe(), "x " * 73 + "{}.", ["dog"])
    assert prompts.lengths == (77,)
    assert prompts.context_length == 73
    assert torch.equal(prompts.tokens, open_clip.tokenize(list(prompts.texts)))


def test_tokens_that_training_never_saw(tmp_path: Path) -> None:
    from tiny_models import tiny_clip

    tokenizer = open_clip.SimpleTokenizer()
    known = frozenset(
        [tokenizer.sot_token_id, tokenizer.eot_token_id, *tokenizer.encode("a photo of a dog .")]
    )
    backbone = assemble_backbone(tiny_clip(), tokenizer, name="t", weights_hash="t", known_tokens=known)
    assert backbone.text.unknown_tokens(backbone.text.tokenize("a photo of a {}.", ["dog"])) == []
    prompts = backbone.text.tokenize("a photo of one {}.", ["dog", "zebra"])
    assert backbone.text.unknown_tokens(prompts) == ["one", "zebra"]
    plain = assemble_backbone(tiny_clip(), tokenizer, name="t", weights_hash="t")
    assert plain.text.unknown_tokens(prompts) == []


def test_a_tokenizer_of_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    tokenizer = open_clip.tokenizer.HFTokenizer(str(tiny_bert_folder(tmp_path / "bert")), context_length=12)
    adapted = HubTokenizer(tokenizer, 12)
    prompts = tokenize_prompts(adapted, "x x photo of {}.", ["dog", "b"])
    assert (prompts.leading, prompts.template_length, prompts.context_length) == (1, 4, 2)
    assert prompts.classname_lengths == (3, 1)  # d ##o ##g
    assert prompts.lengths == (10, 8)
    framed = tokenizer.tokenizer(list(prompts.texts), padding="max_length", max_length=12)["input_ids"]
    assert prompts.tokens.tolist() == framed
    assert adapted.decode(prompts.tokens[0, 3].item()) == "photo"
    with pytest.raises(ConfigError, match=r"'rhinoceros' has 17 tokens.*takes 12"):
        tokenize_prompts(adapted, "x x photo of {}.", ["dog", "rhinoceros"])
