import hashlib
from collections import Counter

import numpy as np
import pytest

from pinikit.components.datasets.digits import Digits, _ask_sklearn, _read_file
from pinikit.data.catalogue import Item
from pinikit.data.files import canonical_json
from pinikit.data.manifest import make_manifest
from pinikit.errors import DataError


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits()


def test_the_splits_are_fixed_and_stratified(digits: Digits) -> None:
    catalogue = digits.catalogue()
    assert catalogue is digits.catalogue()
    assert catalogue == Digits().catalogue()
    assert catalogue.class_names[:3] == ("zero", "one", "two")
    assert len(catalogue.items) == 1797
    assert (len(catalogue.train), len(catalogue.val), len(catalogue.test)) == (681, 220, 896)
    train, val, test = (
        Counter(item.label for item in split) for split in (catalogue.train, catalogue.val, catalogue.test)
    )
    for label in range(10):
        rest = train[label] + val[label]
        assert 0 <= rest - test[label] <= 1
        assert val[label] == rest // 4


def test_the_test_set_is_pinned(digits: Digits) -> None:
    ids = canonical_json([item.id for item in digits.catalogue().test])
    assert hashlib.sha256(ids.encode()).hexdigest() == TEST_SET


TEST_SET = "e7f3b17f42759e24aeb6ea4e6e8463c90da143463f187da6accbec21faeb48c2"


def test_the_short_way_to_the_file_gives_what_sklearn_gives() -> None:
    assert _read_file() == _ask_sklearn()


def test_the_test_set_does_not_depend_on_the_seed(digits: Digits) -> None:
    first, second = (make_manifest(digits, 4, seed) for seed in (1, 2))
    assert first.test == second.test
    assert first.train != second.train


def test_labels_are_those_of_the_pictures(digits: Digits) -> None:
    from sklearn.datasets import load_digits

    data = load_digits()
    for item in digits.catalogue().items[::97]:
        number = int(item.id.removeprefix("digits/"))
        assert data.target[number] == item.label
        picture = digits.open(item)
        assert (picture.mode, picture.size) == ("RGB", (8, 8))
        assert np.array_equal(np.asarray(picture)[..., 2], np.rint(data.images[number] * 255 / 16))


def test_pixels_use_the_whole_range(digits: Digits) -> None:
    pixels = np.stack([np.asarray(digits.open(item)) for item in digits.catalogue().test[:50]])
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_unknown_digits_are_refused(digits: Digits) -> None:
    digits.check(digits.catalogue().items)
    bad = [Item(name, 0) for name in ("digits/1797", "digits/12", "digits/-001", "other/0001", "digits/٠٠٠١")]
    with pytest.raises(
        DataError, match=r"5 of 6 pictures are missing .*digits/1797, digits/12, digits/-001, …"
    ):
        digits.check([Item("digits/0000", 0), *bad])
    for item in bad:
        with pytest.raises(DataError, match="has no picture"):
            digits.open(item)


def test_digits_are_augmented_gently() -> None:
    assert not Digits.flip
    assert Digits.crop_scale == (0.7, 1.0)
