"""Raw images of any form to uint8 and back: the same object that the experience's transforms expect."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from dd_core.datasets.raw_pixels import from_uint8, to_uint8
from dd_core.errors import UserError

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8)
COLOUR = np.arange(144, dtype=np.uint8).reshape(6, 8, 3)
RAW = {
    "PIL L": Image.fromarray(GREY),
    "PIL RGB": Image.fromarray(COLOUR),
    "array H W": GREY,
    "array H W C": COLOUR,
    "uint8 H W": torch.from_numpy(GREY),
    "uint8 C H W": torch.from_numpy(COLOUR).permute(2, 0, 1),
    "float C H W": torch.from_numpy(COLOUR).permute(2, 0, 1) / 255,
    "double H W": torch.from_numpy(GREY).double() / 255,
}


@pytest.mark.parametrize("name", RAW)
def test_an_image_comes_back_in_its_own_form_with_its_own_values(name):
    raw = RAW[name]
    stored, form = to_uint8(raw)
    assert stored.dtype == torch.uint8
    assert stored.shape == ((1, 6, 8) if "H W C" not in name and name not in COLOURED else (3, 6, 8))
    back = from_uint8(stored, form)
    assert type(back) is type(raw)
    assert np.array_equal(np.asarray(back), np.asarray(raw))
    if isinstance(raw, torch.Tensor):
        assert isinstance(back, torch.Tensor)
        assert back.dtype == raw.dtype
    if isinstance(raw, Image.Image):
        assert isinstance(back, Image.Image)
        assert back.mode == raw.mode


COLOURED = ("PIL RGB", "uint8 C H W", "float C H W")


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (torch.tensor([[[-1.0, 0.5]]]), "values from -1 to 0.5"),
        (torch.tensor([[[0.0, 16.0]]]), "values from 0 to 16"),
        (torch.tensor([[[float("nan"), 0.5]]]), "values from nan to nan"),
        (torch.zeros(1, 2, 2, dtype=torch.int64), "torch.int64"),
        (torch.zeros(4), r"\(4,\) tensors"),
        (np.zeros((2, 2), dtype=np.float32), "float32"),
        (Image.new("P", (2, 2)), "PIL images of mode P"),
        ("cat.png", "str"),
    ],
)
def test_what_is_not_raw_is_refused_with_what_to_do(image, found):
    with pytest.raises(UserError, match=found) as caught:
        to_uint8(image, of="items of the benchmark", advice="put Normalize into its train_transform")
    assert str(caught.value).startswith("items of the benchmark ")
    assert str(caught.value).endswith("; put Normalize into its train_transform")
    assert "\n" not in str(caught.value)


def test_a_handed_out_image_is_a_copy():
    stored, form = to_uint8(torch.zeros(1, 2, 2, dtype=torch.uint8))
    from_uint8(stored, form).fill_(9)
    assert stored.max() == 0
