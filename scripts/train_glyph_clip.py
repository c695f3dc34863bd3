"""Train the embedded backbone ``glyph``: a tiny CLIP on captioned pictures that this script renders itself.

The pictures show digits, letters, short words and symbols from the fonts bundled inside matplotlib and
Pillow; no network and no data set is read. scikit-learn's digits, the test domain, are touched by
``--evaluate`` alone.

    python scripts/train_glyph_clip.py               # trains and writes the shipped asset
    python scripts/train_glyph_clip.py --evaluate    # the figures of the model card, from the shipped asset
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import open_clip
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.nn import functional as F

from pinikit.backbones.glyph import GLYPH_DIR, WEIGHTS_NAME, load_glyph, save_glyph

IMAGE_SIZE = 32
MODEL_CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "quick_gelu": False,
    "vision_cfg": {
        "image_size": IMAGE_SIZE,
        "patch_size": 8,
        "width": 192,
        "layers": 4,
        "head_width": 48,
        "mlp_ratio": 2.0,
    },
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 128,
        "heads": 4,
        "layers": 4,
        "mlp_ratio": 2.0,
    },
}
PREPROCESS_CONFIG: dict[str, Any] = {
    "size": IMAGE_SIZE,
    "mode": "RGB",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}

# ---------------------------------------------------------------------------------------------- what is drawn

FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSans-Oblique.ttf",
    "DejaVuSans-BoldOblique.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSansMono-Bold.ttf",
    "DejaVuSansMono-Oblique.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Bold.ttf",
    "DejaVuSerif-Italic.ttf",
    "STIXGeneral.ttf",
    "STIXGeneralBol.ttf",
    "STIXGeneralBolIta.ttf",
    "cmb10.ttf",
    "cmmi10.ttf",
    "cmr10.ttf",
    "cmti10.ttf",
    "cmtt10.ttf",
    "pillow",
)
HELD_OUT_FONTS = ("STIXGeneralItalic.ttf", "cmss10.ttf", "DejaVuSerif-BoldItalic.ttf")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SAME_IN_BOTH_CASES = frozenset("coskpuvwxz")  # once the size is normalised
WORDS = (
    *("cat", "dog", "sun", "sky", "car", "bus", "cup", "hat", "key", "map", "red", "blue"),
    *("go", "no", "yes", "up", "on", "we", "tea", "ice", "fish", "book", "tree", "milk"),
)
SYMBOLS = {
    "star": "★",
    "heart": "♥",
    "club": "♣",
    "spade": "♠",
    "diamond": "♦",
    "square": "■",
    "triangle": "▲",
    "circle": "●",
    "ring": "○",
    "frame": "□",
    "sun": "☀",
    "cloud": "☁",
    "note": "♪",
    "plus sign": "+",
    "equals sign": "=",
    "question mark": "?",
    "exclamation mark": "!",
    "hash sign": "#",
    "percent sign": "%",
    "dollar sign": "$",
    "at sign": "@",
    "arrow": "→",
}
KINDS = ("digit", "letter", "word", "symbol")
KIND_SHARES = (0.5, 0.27, 0.1, 0.13)
CONCEPTS = (
    *(f"digit {name}" for name in DIGITS),
    *(f"letter {name}" for name in LETTERS),
    *(f"word {name}" for name in WORDS),
    *(f"symbol {name}" for name in SYMBOLS),
)
COLOURS = {
    "black": (0.0, 0.0, 0.0),
    "white": (1.0, 1.0, 1.0),
    "grey": (0.5, 0.5, 0.5),
    "red": (0.85, 0.1, 0.1),
    "green": (0.1, 0.6, 0.15),
    "blue": (0.1, 0.2, 0.85),
    "yellow": (0.95, 0.9, 0.1),
    "orange": (1.0, 0.55, 0.05),
    "purple": (0.5, 0.1, 0.6),
}
COLOUR_NAMES = tuple(COLOURS)

# Columns of a picture's attributes. A caption is a row over the same columns: the values that it mentions.
KIND, CONCEPT, CASE, INK, PAPER, SIZE, PLACE, TILT, STYLE, HAND = range(10)
COLUMNS = 10
UNMENTIONED = -1
NEITHER = -2  # an attribute that no caption's words describe
CASES = (("capital", "uppercase"), ("lowercase",))
SIZES = (("small", "little"), ("large", "big"))
PLACES = ("on the left", "on the right", "at the top", "at the bottom")
TILTS = ("tilted", "upright")
STYLES = (("blurry", "blurred"), ("low resolution", "pixelated"))
HANDS = (("handwritten", "hand-drawn", "wobbly"), ("printed", "typed"))

MASK_SIZE = 48
MASK_BOX = 40
STROKES = (0, 1, 2, 3)
CANVAS = 64  # pictures are sampled at twice the model's size, then averaged down


@dataclass(frozen=True)
class GlyphPool:
    """Coverage masks of drawn strings, with what each of them shows."""

    masks: Tensor  # uint8 [N, MASK_SIZE, MASK_SIZE]
    labels: Tensor  # int64 [N, 3]: kind, concept, case

    def weights(self) -> Tensor:
        """Sampling weights: kinds by ``KIND_SHARES``, uniform over the concepts of a kind."""
        counts = torch.bincount(self.labels[:, CONCEPT], minlength=len(CONCEPTS)).float()
        drawn = torch.zeros(len(KINDS))
        for kind in range(len(KINDS)):
            drawn[kind] = len(set(self.labels[self.labels[:, KIND] == kind, CONCEPT].tolist()))
        shares = torch.tensor(KIND_SHARES) / drawn.clamp(min=1)
        return shares[self.labels[:, KIND]] / counts[self.labels[:, CONCEPT]]


def drawables() -> Iterable[tuple[str, int, int, int]]:
    """Yield every string to draw with its kind, concept and case."""
    index = {name: number for number, name in enumerate(CONCEPTS)}
    for value, name in enumerate(DIGITS):
        yield str(value), 0, index[f"digit {name}"], NEITHER
    for letter in LETTERS:
        for case, text in enumerate((letter.upper(), letter)):
            known = NEITHER if letter in SAME_IN_BOTH_CASES else case
            yield text, 1, index[f"letter {letter}"], known
    for word in WORDS:
        yield word, 2, index[f"word {word}"], NEITHER
    for name, text in SYMBOLS.items():
        yield text, 3, index[f"symbol {name}"], NEITHER


def open_font(name: str) -> tuple[Callable[[str], bool], ImageFont.FreeTypeFont]:
    """Open a font and a test of whether it can draw a string."""
    if name == "pillow":
        font = ImageFont.load_default(MASK_BOX)
        if not isinstance(font, ImageFont.FreeTypeFont):
            raise RuntimeError("Pillow was built without FreeType, so its bundled font cannot be drawn")
        return str.isalnum, font
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    charmap = matplotlib.ft2font.FT2Font(str(path)).get_charmap()
    is_text = name.startswith("cm")  # the Computer Modern fonts place other signs at the symbols' codes

    def can_draw(text: str) -> bool:
        return text.isalnum() if is_text else all(ord(character) in charmap for character in text)

    return can_draw, ImageFont.truetype(str(path), MASK_BOX)


def draw_mask(text: str, font: ImageFont.FreeTypeFont, stroke: int) -> Tensor:
    """Draw a string, crop it, and fit it into the centre of a square mask."""
    left, top, right, bottom = font.getbbox(text, stroke_width=stroke)
    picture = Image.new("L", (math.ceil(right - left) + 2, math.ceil(bottom - top) + 2))
    ImageDraw.Draw(picture).text((1 - left, 1 - top), text, fill=255, font=font, stroke_width=stroke)
    picture = picture.crop(picture.getbbox())
    scale = MASK_BOX / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    mask = Image.new("L", (MASK_SIZE, MASK_SIZE))
    fitted = picture.resize((width, height), Image.Resampling.BICUBIC)
    mask.paste(fitted, ((MASK_SIZE - width) // 2, (MASK_SIZE - height) // 2))
    return torch.frombuffer(bytearray(mask.tobytes()), dtype=torch.uint8).view(MASK_SIZE, MASK_SIZE)


def render_pool(fonts: Sequence[str]) -> GlyphPool:
    """Draw every string in every font that has it, in every stroke thickness."""
    masks, labels = [], []
    for name in fonts:
        can_draw, font = open_font(name)
        for text, *label in drawables():
            if can_draw(text):
                masks += [draw_mask(text, font, stroke) for stroke in STROKES]
                labels += [label] * len(STROKES)
    return GlyphPool(torch.stack(masks), torch.tensor(labels))


# --------------------------------------------------------------------------------------------------- pictures


@dataclass(frozen=True)
class Pictures:
    """A batch of rendered pictures with their attributes."""

    pixels: Tensor  # float32 [N, 3, IMAGE_SIZE, IMAGE_SIZE] in [0, 1]
    attributes: Tensor  # int64 [N, COLUMNS]


# Each picture of a batch falls into a group by its place in it: (share, resolution reduced to, blurred).
GROUPS = (
    (0.40, None, False),
    (0.12, None, True),
    (0.18, 8, False),
    (0.10, 10, False),
    (0.10, 12, False),
    (0.10, 16, False),
)


class PictureMaker:
    """Turns masks into pictures: geometry, stroke, colour, resolution and noise are drawn anew each time."""

    def __init__(self, pool: GlyphPool, seed: int) -> None:
        self.pool = pool
        self.weights = pool.weights()
        self.generator = torch.Generator().manual_seed(seed)
        self.palette = torch.tensor(list(COLOURS.values()))
        difference = (self.palette[:, None] - self.palette[None]).abs().sum(-1)
        self.pairs = (difference > 0.8).nonzero()

    def make(self, count: int, groups: Sequence[tuple[float, int | None, bool]] = GROUPS) -> Pictures:
        """Make a batch; ``groups`` fixes which part of it is blurred or of low resolution."""
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=self.generator)
        attributes = torch.full((count, COLUMNS), NEITHER)
        attributes[:, [KIND, CONCEPT, CASE]] = self.pool.labels[chosen]
        reduced = torch.zeros(count, dtype=torch.bool)
        spans = _spans(count, groups)
        for span, size, _ in spans:
            reduced[span] = size is not None
        canvas = self._place(self.pool.masks[chosen].float().div(255)[:, None], reduced, attributes)
        coverage = self._thickness(canvas)
        coverage = torch.cat([_degrade(coverage[span], size, blurred) for span, size, blurred in spans])
        for span, size, blurred in spans:
            if blurred or size is not None:
                attributes[span, STYLE] = NEITHER if size == 16 else int(not blurred)
        return Pictures(self._colour(coverage.clamp(0, 1), attributes), attributes)

    def _uniform(self, shape: Sequence[int], low: float, high: float) -> Tensor:
        return torch.rand(tuple(shape), generator=self.generator) * (high - low) + low

    def _place(self, masks: Tensor, reduced: Tensor, attributes: Tensor) -> Tensor:
        """Scale, rotate, shear, move and distort; note size, tilt, place and hand."""
        count = len(masks)
        scale = torch.where(reduced, self._uniform([count], 0.8, 1.1), self._uniform([count], 0.45, 1.1))
        aspect = self._uniform([count], 0.65, 1.15)
        tilted = self._uniform([count], 0, 1) < 0.15
        sign = self._uniform([count], -1, 1).sign()
        angle = torch.where(
            tilted, sign * self._uniform([count], 0.4, 0.8), self._uniform([count], -0.22, 0.22)
        )
        shear = self._uniform([count], -0.35, 0.35)
        shift = self._uniform([count, 2], -1, 1) * (1.05 - scale).clamp(min=0.06)[:, None]
        attributes[:, SIZE] = _bands(scale, 0.62, 0.9)
        attributes[:, TILT] = torch.where(tilted, 0, torch.where(angle.abs() < 0.12, 1, NEITHER))
        attributes[:, PLACE] = _places(shift)
        zero, one = torch.zeros(count), torch.ones(count)
        size = torch.stack([1 / (scale * aspect), zero, zero, 1 / scale], -1).view(-1, 2, 2)
        slant = torch.stack([one, shear, zero, one], -1).view(-1, 2, 2)
        turn = torch.stack([angle.cos(), angle.sin(), -angle.sin(), angle.cos()], -1).view(-1, 2, 2)
        inverse = slant @ size @ turn * (MASK_BOX / MASK_SIZE)
        affine = torch.cat([inverse, -inverse @ shift[:, :, None]], -1)
        grid = F.affine_grid(affine, [count, 1, CANVAS, CANVAS], align_corners=False)
        strength = self._uniform([count], 0, 1).square() * 0.15
        attributes[:, HAND] = torch.where(strength > 0.06, 0, torch.where(strength < 0.02, 1, NEITHER))
        knots = torch.randn((count, 2, 4, 4), generator=self.generator) * strength.view(-1, 1, 1, 1)
        wobble = F.interpolate(knots, size=(CANVAS, CANVAS), mode="bicubic", align_corners=True)
        return F.grid_sample(masks, grid + wobble.permute(0, 2, 3, 1), align_corners=False)

    def _thickness(self, canvas: Tensor) -> Tensor:
        """Thin or thicken part of the strokes."""
        choice = self._uniform([len(canvas)], 0, 1).view(-1, 1, 1, 1)
        thick = F.max_pool2d(canvas, 3, 1, 1)
        thin = -F.max_pool2d(-canvas, 3, 1, 1)
        return torch.where(choice < 0.15, thin, torch.where(choice > 0.75, thick, canvas))

    def _colour(self, coverage: Tensor, attributes: Tensor) -> Tensor:
        """Blend ink over paper, with contrast of both polarities, and add noise."""
        count = len(coverage)
        pair = self.pairs[torch.randint(len(self.pairs), (count,), generator=self.generator)]
        black, white = COLOUR_NAMES.index("black"), COLOUR_NAMES.index("white")
        choice = self._uniform([count], 0, 1)[:, None]
        pair = torch.where(choice < 0.35, torch.tensor([white, black]), pair)
        pair = torch.where(choice > 0.8, torch.tensor([black, white]), pair)
        attributes[:, [INK, PAPER]] = pair
        ink = self.palette[pair[:, 0]] + self._uniform([count, 3], -0.1, 0.1)
        paper = self.palette[pair[:, 1]] + self._uniform([count, 3], -0.06, 0.06)
        pixels = paper[:, :, None, None] + coverage * (ink - paper)[:, :, None, None]
        noise = torch.randn(pixels.shape, generator=self.generator)
        return (pixels + noise * self._uniform([count, 1, 1, 1], 0, 0.06)).clamp(0, 1)


def _spans(
    count: int, groups: Sequence[tuple[float, int | None, bool]]
) -> list[tuple[slice, int | None, bool]]:
    """Cut a batch into the groups' shares; the last group takes what rounding leaves."""
    spans, start = [], 0
    for number, (share, size, blurred) in enumerate(groups):
        stop = count if number == len(groups) - 1 else start + round(share * count)
        spans.append((slice(start, stop), size, blurred))
        start = stop
    return spans


def _degrade(canvas: Tensor, size: int | None, blurred: bool) -> Tensor:
    """Bring a canvas to the model's size, on the way blurred or reduced to ``size`` and enlarged again."""
    if size is not None:
        small = F.adaptive_avg_pool2d(canvas, size)
        return F.interpolate(small, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", align_corners=False)
    if blurred:
        for _ in range(2):
            canvas = F.avg_pool2d(canvas, 5, 1, 2)
    return F.avg_pool2d(canvas, CANVAS // IMAGE_SIZE)


def _bands(values: Tensor, low: float, high: float) -> Tensor:
    """0 below ``low``, 1 above ``high``, else neither."""
    return torch.where(values < low, 0, torch.where(values > high, 1, NEITHER))


def _places(shift: Tensor) -> Tensor:
    """Index into ``PLACES`` where a picture's content clearly lies to one side."""
    x, y = shift.unbind(-1)
    sideways = x.abs() > y.abs()
    place = torch.where(sideways, (x > 0).long(), 2 + (y > 0).long())
    return torch.where(shift.abs().amax(-1) > 0.2, place, NEITHER)


def normalise(pixels: Tensor) -> Tensor:
    """Apply the mean and standard deviation of ``PREPROCESS_CONFIG``."""
    return (pixels - 0.5) / 0.5


# --------------------------------------------------------------------------------------------------- captions

FRAMES = (
    *("a photo of {}",) * 6,
    *("a picture of {}",) * 2,
    *(
        "an image of {}",
        "a rendering of {}",
        "a drawing of {}",
        "a close-up photo of {}",
        "a photo of one {bare}",
    ),
    *("a bad photo of {}", "a good photo of {}", "this is {}", "this is a photo of {}", "itap of {}", "{}"),
    *(
        "a photo showing {}",
        "a black and white photo of {}",
        "a centered image of {}",
        "a photo of my {bare}",
    ),
)
NOUNS = {
    "digit": (
        "digit {}",
        "digit {}",
        "number {}",
        "number {}",
        "{}",
        "{}",
        'number: "{}"',
        "figure {}",
        "numeral {}",
    ),
    "letter": ("letter {}", "letter {}", "{}", "character {}"),
    "word": ("word {}", "word {}", "{}", 'word "{}"'),
    "symbol": ("{}", "{}", "{}", "symbol {}", "{} symbol"),
}
KIND_NOUNS = {
    "digit": ("digit", "number", "figure"),
    "letter": ("letter", "character"),
    "word": ("word",),
    "symbol": ("symbol",),
}
MAX_PREFIX = 16


@dataclass(frozen=True)
class Caption:
    """A caption, and which attribute values a picture must have for it to be true."""

    text: str
    mentions: tuple[int, ...]


class CaptionWriter:
    """Writes varied true captions of pictures."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def write(self, attributes: Sequence[int]) -> Caption:
        """Write a caption for a picture with these attributes."""
        mentions = [UNMENTIONED] * COLUMNS
        noun = self._noun(attributes, mentions)
        words = [*self._adjectives(attributes, mentions), noun]
        phrase = " ".join(words) + self._suffix(attributes, mentions)
        article = self.random.choice(("a", "the", "the"))
        bare = phrase.startswith("a ") or self._often(0.1)
        text = phrase if bare else f"{article} {phrase}"
        frame = self._frame(attributes, mentions)
        text = frame.replace("{bare}", phrase).replace("{}", text)
        return Caption(text + ("." if self._often(0.85) else ""), tuple(mentions))

    def prefix(self) -> int:
        """Draw how many ``x`` words stand before a caption."""
        return MAX_PREFIX if self._often(0.4) else self.random.randint(0, MAX_PREFIX)

    def _often(self, share: float) -> bool:
        return self.random.random() < share

    def _noun(self, attributes: Sequence[int], mentions: list[int]) -> str:
        kind = KINDS[attributes[KIND]]
        mentions[KIND] = attributes[KIND]
        if self._often(0.04):
            return self.random.choice(KIND_NOUNS[kind])
        mentions[CONCEPT] = attributes[CONCEPT]
        name = CONCEPTS[attributes[CONCEPT]].split(" ", 1)[1]
        if kind == "digit" and self._often(0.3):
            name = str(DIGITS.index(name))
        noun = self.random.choice(NOUNS[kind]).format(name)
        if attributes[CASE] >= 0 and self._often(0.4):
            mentions[CASE] = attributes[CASE]
            noun = f"{self.random.choice(CASES[attributes[CASE]])} {noun}"
        return noun

    def _adjectives(self, attributes: Sequence[int], mentions: list[int]) -> list[str]:
        words = []
        for column, names, share in ((SIZE, SIZES, 0.12), (HAND, HANDS, 0.12)):
            if attributes[column] >= 0 and self._often(share):
                mentions[column] = attributes[column]
                words.append(self.random.choice(names[attributes[column]]))
        if attributes[TILT] >= 0 and self._often(0.08):
            mentions[TILT] = attributes[TILT]
            words.append(TILTS[attributes[TILT]])
        if self._often(0.15):
            mentions[INK] = attributes[INK]
            words.append(COLOUR_NAMES[attributes[INK]])
        return words

    def _suffix(self, attributes: Sequence[int], mentions: list[int]) -> str:
        suffix = ""
        if attributes[PLACE] >= 0 and self._often(0.08):
            mentions[PLACE] = attributes[PLACE]
            suffix += f" {PLACES[attributes[PLACE]]}"
        if self._often(0.1):
            mentions[PAPER] = attributes[PAPER]
            suffix += f" on a {COLOUR_NAMES[attributes[PAPER]]} background"
        return suffix

    def _frame(self, attributes: Sequence[int], mentions: list[int]) -> str:
        if attributes[STYLE] >= 0 and self._often(0.1):
            mentions[STYLE] = attributes[STYLE]
            return f"a {self.random.choice(STYLES[attributes[STYLE]])} photo of {{}}"
        frame = self.random.choice(FRAMES)
        grey = {COLOUR_NAMES.index(name) for name in ("black", "white", "grey")}
        if "black and white" in frame and not {attributes[INK], attributes[PAPER]} <= grey:
            return "a photo of {}"
        return frame


def matches(attributes: Tensor, captions: Sequence[Caption]) -> Tensor:
    """Which picture (row) makes which caption (column) true."""
    wanted = torch.tensor([caption.mentions for caption in captions])
    return ((wanted == UNMENTIONED) | (wanted == attributes[:, None])).all(-1)


# ------------------------------------------------------------------------------------------------------- text


class Vocabulary:
    """Maps captions to rows of a compact embedding table that holds the captions' own tokens alone."""

    def __init__(self, capacity: int = 512) -> None:
        tokenizer = open_clip.SimpleTokenizer()
        self.encode: Callable[[str], list[int]] = tokenizer.encode
        self.capacity = capacity
        self.rows: dict[int, int] = {}
        self.start, self.end = self._row(tokenizer.sot_token_id), self._row(tokenizer.eot_token_id)
        self.x = self._row(self.encode("x")[0])
        self.cache: dict[str, list[int]] = {}

    def _row(self, token: int) -> int:
        row = self.rows.setdefault(token, len(self.rows))
        if row >= self.capacity:
            raise RuntimeError(
                f"the captions use more than {self.capacity} tokens; raise Vocabulary's capacity"
            )
        return row

    def batch(self, texts: Sequence[str], prefixes: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Rows [M, L] of the captions with their ``x`` words in front, and the place of each last token."""
        lines = []
        for text, prefix in zip(texts, prefixes, strict=True):
            if text not in self.cache:
                self.cache[text] = [self._row(token) for token in self.encode(text)]
            lines.append([self.start, *[self.x] * prefix, *self.cache[text], self.end])
        ends = torch.tensor([len(line) - 1 for line in lines])
        length = int(ends.max()) + 1
        return torch.tensor([line + [self.end] * (length - len(line)) for line in lines]), ends

    def token_ids(self) -> Tensor:
        """The tokens met, ascending."""
        return torch.tensor(sorted(self.rows))


def encode_rows(model: open_clip.CLIP, table: Tensor, rows: Tensor, ends: Tensor) -> Tensor:
    """Text features from rows of a compact table; no padding beyond the batch's longest caption."""
    length = rows.shape[1]
    hidden = F.embedding(rows, table) + model.positional_embedding[:length]
    hidden = model.transformer(hidden, attn_mask=model.attn_mask[:length, :length])
    last = model.ln_final(hidden[torch.arange(len(rows)), ends])
    return F.normalize(last @ model.text_projection, dim=-1)


# --------------------------------------------------------------------------------------------------- training


@dataclass(frozen=True)
class Recipe:
    """Everything that shapes a training run."""

    steps: int
    seed: int = 1
    batch: int = 128
    captions: int = 64
    prefix_share: float = 0.35
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warm_up: int = 100
    anchor_scale: float = 20.0
    anchor_end: float = 0.7  # the part of the run after which the anchors weigh nothing


def multi_positive_loss(logits: Tensor, positive: Tensor) -> Tensor:
    """Cross-entropy to the uniform distribution over each row's positives; rows without one are left out."""
    rows = positive.any(-1)
    target = positive[rows].float()
    target = target / target.sum(-1, keepdim=True)
    return -(target * F.log_softmax(logits[rows], dim=-1)).sum(-1).mean()


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, positive: Tensor) -> Tensor:
    """The symmetric contrastive loss where a caption may be true of several pictures."""
    logits = scale * images @ texts.T
    return (multi_positive_loss(logits, positive) + multi_positive_loss(logits.T, positive.T)) / 2


def anchor_loss(features: Tensor, concepts: Tensor, anchors: Tensor, scale: float) -> Tensor:
    """Cross-entropy of the features over one learned anchor a concept; those of no concept are left out."""
    known = concepts >= 0
    logits = scale * features[known] @ F.normalize(anchors, dim=-1).T
    return F.cross_entropy(logits, concepts[known])


def anchor_weight(recipe: Recipe, step: int) -> float:
    """The anchors pull both towers together early on, and fade out linearly."""
    return max(0.0, 1 - step / (recipe.anchor_end * recipe.steps))


def write_captions(writer: CaptionWriter, attributes: Tensor, count: int) -> list[Caption]:
    """Caption evenly spread pictures of the batch, without repeats."""
    step = max(1, len(attributes) // count)
    captions = (writer.write(row) for row in attributes[::step].tolist())
    return list({caption.text: caption for caption in captions}.values())


def build_optimizer(parameters: Iterable[nn.Parameter], recipe: Recipe) -> torch.optim.AdamW:
    """AdamW without decay on vectors and scalars."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < recipe.warm_up:
        return recipe.learning_rate * (step + 1) / recipe.warm_up
    progress = (step - recipe.warm_up) / max(1, recipe.steps - recipe.warm_up)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def seeded_model(seed: int) -> open_clip.CLIP:
    """A fresh model whose initial weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return open_clip.CLIP(**MODEL_CONFIG)


def train(recipe: Recipe) -> tuple[open_clip.CLIP, Vocabulary]:
    """Train the glyph CLIP; prints progress."""
    began = time.perf_counter()
    maker = PictureMaker(render_pool(FONTS), recipe.seed)
    print(f"{len(maker.pool.masks):,} masks drawn in {time.perf_counter() - began:.1f} s", flush=True)
    writer, vocabulary = CaptionWriter(recipe.seed), Vocabulary()
    model = seeded_model(recipe.seed)
    table = nn.Parameter(model.token_embedding.weight.detach()[: vocabulary.capacity].clone())
    generator = torch.Generator().manual_seed(recipe.seed)
    anchors = nn.Parameter(torch.randn((len(CONCEPTS), MODEL_CONFIG["embed_dim"]), generator=generator))
    towers = [p for name, p in model.named_parameters() if not name.startswith("token_embedding")]
    trained = [*towers, table, anchors]
    optimizer = build_optimizer(trained, recipe)
    model.train()
    began, losses = time.perf_counter(), []
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        pictures = maker.make(recipe.batch)
        captions = write_captions(writer, pictures.attributes, recipe.captions)
        padded = writer.random.random() < recipe.prefix_share
        prefixes = [writer.prefix() if padded else 0 for _ in captions]
        rows, ends = vocabulary.batch([caption.text for caption in captions], prefixes)
        texts = encode_rows(model, table, rows, ends)
        images = model.encode_image(normalise(pictures.pixels), normalize=True)
        positive = matches(pictures.attributes, captions)
        loss = contrastive_loss(images, texts, model.logit_scale.exp(), positive)
        losses.append(loss.item())
        mentioned = torch.tensor([caption.mentions[CONCEPT] for caption in captions])
        aid = anchor_loss(images, pictures.attributes[:, CONCEPT], anchors, recipe.anchor_scale)
        aid = aid + anchor_loss(texts, mentioned, anchors, recipe.anchor_scale)
        loss = loss + anchor_weight(recipe, step) * aid
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        if (step + 1) % 50 == 0 or step + 1 == recipe.steps:
            report_progress(step + 1, recipe.steps, time.perf_counter() - began, losses[-50:])
    with torch.no_grad():
        model.token_embedding.weight.zero_()
        for token, row in vocabulary.rows.items():
            model.token_embedding.weight[token] = table[row]
    return model.eval(), vocabulary


def report_progress(done: int, steps: int, seconds: float, losses: Sequence[float]) -> None:
    """Print one progress line with rate and estimated time to the end."""
    rate = done / seconds
    mean = sum(losses) / len(losses)
    print(
        f"step {done:5d}/{steps}  loss {mean:.3f}  {rate:.2f} steps/s  ETA {(steps - done) / rate:.0f} s",
        flush=True,
    )


# ------------------------------------------------------------------------------------------------- evaluation

PLAIN_TEMPLATE = "a photo of the digit {}."
PADDED_TEMPLATE = "x " * MAX_PREFIX + PLAIN_TEMPLATE


@torch.no_grad()
def class_features(model: open_clip.CLIP, template: str, names: Sequence[str]) -> Tensor:
    """Normalised text features of a template with each name in it."""
    tokens = open_clip.SimpleTokenizer()([template.format(name) for name in names])
    features: Tensor = model.encode_text(tokens, normalize=True)
    return features


@torch.no_grad()
def zero_shot(
    model: open_clip.CLIP, images: Tensor, labels: Tensor, template: str, names: Sequence[str]
) -> float:
    """Share of images whose nearest class prompt is their own."""
    predicted = (images @ class_features(model, template, names).T).argmax(-1)
    return (predicted == labels).float().mean().item()


@torch.no_grad()
def held_out_figures(model: open_clip.CLIP, seed: int = 1234) -> dict[str, float]:
    """Zero-shot accuracy on rendered digits of fonts that training never saw."""
    pool = render_pool(HELD_OUT_FONTS)
    digits = pool.labels[:, KIND] == 0
    maker = PictureMaker(GlyphPool(pool.masks[digits], pool.labels[digits]), seed)
    figures = {}
    for name, size in (("full resolution", None), ("8x8", 8)):
        pictures = maker.make(2000, ((1.0, size, False),))
        images = model.encode_image(normalise(pictures.pixels), normalize=True)
        for kind, template in (("plain", PLAIN_TEMPLATE), ("16 x", PADDED_TEMPLATE)):
            accuracy = zero_shot(model, images, pictures.attributes[:, CONCEPT], template, DIGITS)
            figures[f"held-out fonts, {name}, {kind}"] = accuracy
    return figures


def load_test_digits() -> tuple[Tensor, Tensor]:
    """All 1,797 scikit-learn digits, enlarged bicubically: the test domain, for figures alone."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pictures = []
    for grey in (data.images * (255 / 16)).round().astype("uint8"):
        enlarged = Image.fromarray(grey).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
        pictures.append(torch.frombuffer(bytearray(enlarged.tobytes()), dtype=torch.uint8))
    pixels = torch.stack(pictures).float().div(255).view(-1, 1, IMAGE_SIZE, IMAGE_SIZE).expand(-1, 3, -1, -1)
    return pixels, torch.tensor(data.target, dtype=torch.int64)


def prototype_accuracy(features: Tensor, labels: Tensor, shots: int, draws: int = 20) -> float:
    """Accuracy on the rest of the nearest class mean of ``shots`` images a class; mean over random draws."""
    generator = torch.Generator().manual_seed(shots)
    scores = []
    for _ in range(draws):
        order = torch.randperm(len(labels), generator=generator)
        support = torch.cat([order[labels[order] == label][:shots] for label in range(10)])
        means = torch.stack([features[support[labels[support] == label]].mean(0) for label in range(10)])
        rest = torch.ones(len(labels), dtype=torch.bool)
        rest[support] = False
        predicted = (features[rest] @ F.normalize(means, dim=-1).T).argmax(-1)
        scores.append((predicted == labels[rest]).float().mean().item())
    return sum(scores) / len(scores)


@torch.no_grad()
def test_figures(model: open_clip.CLIP) -> dict[str, float]:
    """The model card's figures on scikit-learn's digits."""
    pixels, labels = load_test_digits()
    images = model.encode_image(normalise(pixels), normalize=True)
    figures = {
        f"digits, zero-shot, {kind}": zero_shot(model, images, labels, template, DIGITS)
        for kind, template in (("plain", PLAIN_TEMPLATE), ("16 x", PADDED_TEMPLATE))
    }
    for shots in (1, 4, 16):
        figures[f"digits, class means of {shots} shots"] = prototype_accuracy(images, labels, shots)
    return figures


def median_seconds(action: Callable[[], Tensor], repeats: int = 30) -> float:
    """Median time of a forward and a backward pass."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        torch.autograd.backward(action().square().sum())
        times.append(time.perf_counter() - began)
    return sorted(times)[repeats // 2]


def step_times(model: open_clip.CLIP) -> dict[str, float]:
    """Milliseconds of forward and backward through each tower."""
    rows, ends = torch.zeros((10, 28), dtype=torch.int64), torch.full((10,), 27)
    pixels = torch.zeros((32, 3, IMAGE_SIZE, IMAGE_SIZE))
    table = model.token_embedding.weight.detach()[:1].clone().requires_grad_()
    return {
        "text tower, 10 prompts x 28 tokens": 1e3
        * median_seconds(lambda: encode_rows(model, table, rows, ends)),
        "image tower, 32 pictures": 1e3 * median_seconds(lambda: model.encode_image(pixels)),
    }


def evaluate(folder: Path) -> None:
    """Print every figure of the model card for the asset in ``folder``."""
    model, token_ids = load_glyph(folder)
    size = (folder / WEIGHTS_NAME).stat().st_size / 1e6
    scale = model.logit_scale.exp().item()
    print(f"weights {size:.2f} MB, {len(token_ids)} known tokens, logit scale {scale:.1f}")
    for name, value in {**held_out_figures(model), **test_figures(model)}.items():
        print(f"{name}: {100 * value:.1f} %")
    for name, value in step_times(model).items():
        print(f"{name}: {value:.1f} ms forward and backward")


# ----------------------------------------------------------------------------------------------- command line


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=GLYPH_DIR, help="folder of the asset (default: the shipped one)"
    )
    parser.add_argument("--steps", type=int, default=2400, help="optimiser steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of weights, pictures and captions")
    parser.add_argument(
        "--threads", type=int, default=1, help="torch threads (default: %(default)s; a second gains a third)"
    )
    parser.add_argument(
        "--evaluate", action="store_true", help="do not train: print the figures of the asset in --out"
    )
    return parser.parse_args()


def main() -> None:
    """Train and write the asset, or evaluate it."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.evaluate:
        evaluate(arguments.out)
        return
    began = time.perf_counter()
    model, vocabulary = train(Recipe(steps=arguments.steps, seed=arguments.seed))
    config = {"model_cfg": MODEL_CONFIG, "preprocess_cfg": PREPROCESS_CONFIG}
    path = save_glyph(model, vocabulary.token_ids(), config, arguments.out)
    print(f"{path} written after {(time.perf_counter() - began) / 60:.1f} minutes")
    print(json.dumps({name: round(value, 4) for name, value in held_out_figures(model).items()}, indent=2))


if __name__ == "__main__":
    main()
