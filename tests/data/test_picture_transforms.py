import threading
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import image_transform
from PIL import Image
from torchvision import transforms as tv

from pinikit.data.catalogue import Catalogue, DataSet, Item
from pinikit.data.transforms import (
    EvalTransform,
    TrainTransform,
    load_pictures,
    stream_pixels,
    transform_for,
    view_seed,
)
from pinikit.errors import ConfigError, DataError
from pinikit.seeding import derive_seed

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def preprocess(**change: Any) -> dict[str, Any]:
    clip = {
        "image_size": (24, 24),
        "mean": MEAN,
        "std": STD,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    return {**clip, **change}


def picture(height: int = 40, width: int = 56, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


class Noise(DataSet):
    """Pictures of random pixels, made from the number in their name."""

    name = "noise"
    plain_template = "a {}."
    pini_words = "a"
    crop_scale = (0.5, 1.0)

    def read(self) -> Catalogue:
        raise NotImplementedError

    def open(self, item: Item) -> Image.Image:
        if item.id == "bad":
            raise DataError("The picture bad cannot be read.")
        return picture(40, 30 + int(item.id), int(item.id))

    def check(self, items: Iterable[Item]) -> None:
        raise NotImplementedError


ITEMS = [Item(str(number), 0) for number in range(7)]


@pytest.mark.parametrize("size", [(40, 56), (56, 40), (24, 24), (9, 11), (200, 24)])
@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("image_size", [(24, 24), (20, 32)])
def test_the_clean_view_is_that_of_open_clip(
    size: tuple[int, int], resize_mode: str, interpolation: str, image_size: tuple[int, int]
) -> None:
    settings_ = {"resize_mode": resize_mode, "interpolation": interpolation, "mean": MEAN, "std": STD}
    expected = image_transform(image_size, is_train=False, **settings_)(picture(*size))
    found = EvalTransform(preprocess(image_size=image_size, **settings_))(picture(*size))
    assert found.dtype == torch.float32
    assert found.shape == (3, *image_size)
    assert torch.equal(found, expected)


def test_one_number_is_a_square() -> None:
    assert EvalTransform(preprocess(image_size=24)).identity == EvalTransform(preprocess()).identity


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**63 - 1),
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    low=st.floats(0.05, 1.0),
    ratio=st.sampled_from([(3 / 4, 4 / 3), (1.0, 1.0), (0.5, 0.6), (2.0, 3.0)]),
    flip=st.booleans(),
)
def test_an_augmented_view_is_that_of_torchvision(
    seed: int, height: int, width: int, low: float, ratio: tuple[float, float], flip: bool
) -> None:
    image = picture(height, width)
    reference = tv.Compose(
        [
            tv.RandomResizedCrop(
                (24, 24), scale=(low, 1.0), ratio=ratio, interpolation=tv.InterpolationMode.BICUBIC
            ),
            tv.RandomHorizontalFlip(0.5 if flip else 0.0),
            tv.ToTensor(),
            tv.Normalize(MEAN, STD),
        ]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        expected = reference(image)
    transform = TrainTransform(preprocess(), (low, 1.0), ratio, flip)
    assert torch.equal(transform(image, seed), expected)


def test_a_view_is_a_function_of_picture_and_seed_and_leaves_the_global_generators_alone() -> None:
    transform = TrainTransform(preprocess())
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = transform(picture(), 3)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    torch.rand(5)
    assert torch.equal(transform(picture(), 3), first)
    assert not torch.equal(transform(picture(), 4), first)


def test_flips_happen_half_of_the_time_and_never_when_forbidden() -> None:
    image = picture(24, 24)
    whole = ((1.0, 1.0), (1.0, 1.0))
    clean = EvalTransform(preprocess())(image)
    mirrored = sum(
        torch.equal(TrainTransform(preprocess(), *whole)(image, seed), clean.flip(2)) for seed in range(200)
    )
    assert 70 < mirrored < 130
    unflipped = TrainTransform(preprocess(), *whole, flip=False)
    assert all(torch.equal(unflipped(image, seed), clean) for seed in range(20))


def test_identities_tell_all_parameters_apart() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"image_size": (24, 32)},
        {"mean": (0.5, 0.5, 0.5)},
        {"std": (0.5, 0.5, 0.5)},
        {"interpolation": "bilinear"},
        {"resize_mode": "squash"},
        {"fill_color": 255},
    ]
    clean = [EvalTransform(preprocess(**change)).identity for change in changes]
    train = [TrainTransform(preprocess(**change)).identity for change in changes[:5]]
    train += [
        TrainTransform(preprocess(), (0.1, 1.0)).identity,
        TrainTransform(preprocess(), (0.08, 1.0), (0.9, 1.1)).identity,
        TrainTransform(preprocess(), flip=False).identity,
    ]
    assert len(set(clean + train)) == len(clean) + len(train)
    assert TrainTransform(preprocess(resize_mode="squash")).identity == train[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"interpolation": "bicubics"}, r"'bicubics' is not known; .*did you mean 'bicubic'"),
        ({"resize_mode": "shortes"}, r"'shortes' is not known; .*did you mean 'shortest'"),
    ],
)
def test_unknown_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EvalTransform(preprocess(**change))


@pytest.mark.parametrize("scale", [(0.0, 1.0), (0.5, 0.4), (0.5, 1.1), (0.5,)])
def test_impossible_crops_are_refused(scale: Any) -> None:
    with pytest.raises(ConfigError, match="crop scale"):
        TrainTransform(preprocess(), scale)


def test_transforms_come_from_the_data_set() -> None:
    assert isinstance(transform_for(Noise(), preprocess()), EvalTransform)
    train = transform_for(Noise(), preprocess(), 1)
    assert isinstance(train, TrainTransform)
    assert (train.crop_scale, train.crop_ratio, train.flip) == ((0.5, 1.0), (3 / 4, 4 / 3), True)


@pytest.mark.parametrize("view", [0, 1, 2])
def test_pictures_are_loaded_in_order_whatever_the_threads(view: int) -> None:
    dataset = Noise()
    transform = transform_for(dataset, preprocess(), view)
    state = torch.get_rng_state()
    one = load_pictures(dataset, ITEMS, transform, view, workers=1)
    for workers in (None, 2, 8):
        assert torch.equal(load_pictures(dataset, ITEMS, transform, view, workers), one)
    assert torch.equal(torch.get_rng_state(), state)
    assert one.shape == (len(ITEMS), 3, 24, 24)
    assert one.dtype == torch.float32
    assert one.is_contiguous()
    for row, item in enumerate(ITEMS):
        if isinstance(transform, EvalTransform):
            alone = transform(dataset.open(item))
        else:
            alone = transform(dataset.open(item), derive_seed(0, "view", item.id, view))
        assert torch.equal(one[row], alone)


def test_views_of_a_picture_differ() -> None:
    assert view_seed(ITEMS[0], 1) != view_seed(ITEMS[0], 2) != view_seed(ITEMS[1], 2)
    transform = transform_for(Noise(), preprocess(), 1)
    first, second = (load_pictures(Noise(), ITEMS[:2], transform, view) for view in (1, 2))
    assert not torch.equal(first, second)


def test_no_pictures_are_an_empty_tensor() -> None:
    assert load_pictures(Noise(), [], EvalTransform(preprocess())).shape == (0, 3, 24, 24)


def test_a_bad_picture_stops_the_loading() -> None:
    with pytest.raises(DataError, match="bad cannot be read"):
        load_pictures(Noise(), [*ITEMS, Item("bad", 0), *ITEMS], EvalTransform(preprocess()))


def test_transform_and_view_must_belong_together() -> None:
    with pytest.raises(ValueError, match="View 1 needs a training transform"):
        load_pictures(Noise(), ITEMS, EvalTransform(preprocess()), 1)
    with pytest.raises(ValueError, match="View 0 needs an evaluation transform"):
        load_pictures(Noise(), ITEMS, TrainTransform(preprocess()), 0)


# --- batches, decoded ahead ---------------------------------------------------------------------------


class Slow(Noise):
    """Pictures that become ready in an order of their own; knows which ones were begun."""

    def __init__(self) -> None:
        self.begun: set[str] = set()

    def open(self, item: Item) -> Image.Image:
        self.begun.add(item.id)
        time.sleep(0.002 * (hash(item.id) % 5))
        return super().open(item)


@pytest.mark.parametrize("workers", [1, 3, None])
def test_batches_come_in_order_whatever_the_threads_do(workers: int | None) -> None:
    wanted = [(item, view) for view in (3, 1) for item in ITEMS]
    batches = [wanted[:5], wanted[5:6], wanted[6:]]
    transform = transform_for(Slow(), preprocess(), 1)
    found = [*stream_pixels(Slow(), batches, transform, workers)]
    assert [pixels.dtype for pixels in found] == [torch.uint8] * 3
    for pixels, batch in zip(found, batches, strict=True):
        for row, (item, view) in zip(transform.preprocess.normalise(pixels), batch, strict=True):
            assert torch.equal(row, load_pictures(Noise(), [item], transform, view)[0])


def test_the_next_batch_is_decoded_while_one_is_used() -> None:
    dataset = Slow()
    batches = [[(item, 0)] for item in ITEMS]
    stream = stream_pixels(dataset, batches, EvalTransform(preprocess()))
    for number in range(1, len(ITEMS) + 1):
        next(stream)
        deadline = time.monotonic() + 30
        ahead = {item.id for item in ITEMS[: number + 1]}
        while dataset.begun != ahead and time.monotonic() < deadline:
            time.sleep(0.001)
        assert dataset.begun == ahead, "the next one, and no more: memory is bounded"


def test_a_stream_that_is_left_ends_its_threads() -> None:
    before = threading.active_count()
    stream = stream_pixels(Slow(), [[(item, 0)] for item in ITEMS], EvalTransform(preprocess()))
    next(stream)
    assert threading.active_count() > before
    stream.close()
    assert threading.active_count() == before


def test_a_bad_picture_stops_the_stream_at_its_batch() -> None:
    batches = [[(ITEMS[0], 0)], [(ITEMS[1], 0), (Item("bad", 0), 0)], [(ITEMS[2], 0)]]
    stream = stream_pixels(Noise(), batches, EvalTransform(preprocess()))
    assert next(stream).shape == (1, 24, 24, 3)
    with pytest.raises(DataError, match="bad"):
        next(stream)
