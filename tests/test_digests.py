"""Tests of experiments.files.digests."""

import numpy as np
import pytest

from experiments.files.digests import array_digest, arrays_digest

ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize(
    "other",
    [
        ARRAY + np.float32(1e-6),
        ARRAY.reshape(3, 2),
        ARRAY.astype(np.float64),
        ARRAY.view(np.int32),
        np.where(ARRAY == 0, np.float32(-0.0), ARRAY),
        ARRAY[:, ::-1],
        ARRAY[:0],
    ],
    ids=["value", "shape", "type", "view", "sign of zero", "order", "empty"],
)
def test_other_arrays_have_other_digests(other):
    assert array_digest(other) != array_digest(ARRAY)


def test_empty_arrays_differ_by_shape():
    shapes = [(0,), (0, 3), (3, 0)]
    assert len({array_digest(np.zeros(shape)) for shape in shapes}) == len(shapes)


def test_where_an_array_lies_does_not_matter():
    assert array_digest(np.asfortranarray(ARRAY)) == array_digest(ARRAY)
    assert array_digest(np.stack([ARRAY, ARRAY])[1]) == array_digest(ARRAY)


def test_every_bit_matters():
    digests = set()
    for byte in range(ARRAY.nbytes):
        content = bytearray(ARRAY.tobytes())
        content[byte] ^= 1 << (byte % 8)
        digests.add(array_digest(np.frombuffer(content, np.float32).reshape(2, 3)))
    assert len(digests | {array_digest(ARRAY)}) == ARRAY.nbytes + 1


def test_names_matter_and_their_order_does_not():
    one, other = np.zeros(2), np.ones(2)
    digest = arrays_digest({"a": one, "b": other})
    assert arrays_digest({"b": other, "a": one}) == digest
    assert arrays_digest({"a": other, "b": one}) != digest
    assert arrays_digest({"a": one, "c": other}) != digest
    assert arrays_digest({"a": one}) != digest
    assert arrays_digest({}) != arrays_digest({"a": one})


def test_digests_are_those_of_earlier_versions():
    """Files on disk stay readable."""
    assert array_digest(ARRAY) == (
        "3378efc20f15f0e870a04920ebd06243767f44dd6de3dfc84997ea2f41bc964c"
    )
    assert arrays_digest({"kernel": ARRAY, "count": np.int32(3)}) == (
        "e94a35eb3b78a11bd7df942aa075b0434bf6b88ca2bff97ba5444c9f99110fb0"
    )
