"""Files of pre-trained backbones: what loads them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from dd_apps.transfer import load_backbone, save_backbone
from dd_core.distilled import DistilledSet, Manifest, Pixels
from dd_core.errors import UserError
from dd_core.networks import own
from dd_core.recipe import Recipe


def features_set(side: int, channels: int = 3) -> DistilledSet:
    pixels = Pixels(space="raw", mean=(0.5, 0.4, 0.3)[:channels], std=(0.2, 0.25, 0.3)[:channels])
    manifest = Manifest(
        task="self-supervised", classes=(), targets="features", recipe=Recipe(loss="mse"), pixels=pixels
    )
    images = np.zeros((2, channels, side, side), np.uint8)
    return DistilledSet(images, None, manifest, targets=np.zeros((2, 5), np.float32))


def saved(path: Path, name: str, side: int, channels: int = 3) -> tuple[nn.Module, str]:
    model = own.built(name, (channels, side, side), outputs=5, seed=1)
    return model, save_backbone(model, path, backbone=name, ds=features_set(side, channels))


def said_by(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


@pytest.mark.parametrize(("name", "side", "channels"), [("resnet10t", 96, 1), ("vit_tiny_patch16_224", 224, 3)])
def test_weights_of_timms_own_architecture_load_with_timm(name: str, side: int, channels: int, tmp_path: Path):
    file = tmp_path / "mine.safetensors"
    model, words = saved(file, f"timm:{name}", side, channels)
    call = f"timm.create_model('{name}', num_classes=5, in_chans={channels}, checkpoint_path=FILE)"
    assert words == call == said_by(file)["loads_with"]
    theirs = timm.create_model(name, num_classes=5, in_chans=channels, checkpoint_path=str(file)).eval()
    images = torch.rand(2, channels, side, side)
    with torch.no_grad():
        assert torch.equal(theirs(images), model.eval()(images))
        assert torch.equal(load_backbone(file).model(images), theirs(images))


@pytest.mark.parametrize("name", ["timm:mobilenetv3_small_050", "timm:vit_tiny_patch16_224", "convnet-2-w8-batchnorm"])
def test_a_network_for_small_images_says_so_and_loads_with_us(name: str, tmp_path: Path):
    file = tmp_path / "mine.safetensors"
    model, words = saved(file, name, 32)
    assert words.startswith("dd_apps.transfer.load_backbone(FILE)")
    assert ("begins otherwise than timm's own, for images of 32 x 32 pixels" in words) == name.startswith("timm")
    loaded = load_backbone(file)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded.model(images), model.eval()(images))
    assert not loaded.model.training
    assert loaded.form is not None
    assert (loaded.form.mean, loaded.form.std) == ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


def test_a_file_imports_no_code_of_its_own_accord(tmp_path: Path):
    file, model = tmp_path / "mine.safetensors", nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    save_backbone(model, file, backbone="surely_no_module:Net", ds=features_set(2))
    with pytest.raises(UserError, match="its network 'surely_no_module:Net' is not imported on a file's word"):
        load_backbone(file)
    loaded = load_backbone(file, backbone=lambda *_: nn.Sequential(nn.Flatten(), nn.Linear(12, 5)))
    assert torch.equal(loaded.model[1].weight, model[1].weight)


def test_other_files_are_refused_in_one_line(tmp_path: Path):
    file, other = tmp_path / "mine.safetensors", tmp_path / "other.safetensors"
    saved(file, "convnet-2-w8", 8)
    weights, about = load_file(file), json.loads(said_by(file)["dd_apps"])
    torch.save(weights, tmp_path / "weights.pt")
    for match, metadata in {
        "expected a file of save_backbone": None,
        "its metadata 'dd_apps' is no JSON": {"dd_apps": "{"},
        "more: unknown key": {"dd_apps": json.dumps({**about, "more": 1})},
        "not the weights of this network": {"dd_apps": json.dumps({**about, "backbone": "convnet-2-w9"})},
        "image_shape.1: input should be less": {"dd_apps": json.dumps({**about, "image_shape": [3, 10**6, 10**6]})},
        "unknown network": {"dd_apps": json.dumps({**about, "backbone": "nonsense"})},
    }.items():
        save_file(weights, other, metadata)
        with pytest.raises(UserError, match=match) as error:
            load_backbone(other)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"no \.safetensors file, as save_backbone writes"):
        load_backbone(tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"No such file"):
        load_backbone(tmp_path / "absent.safetensors")
    with pytest.raises(UserError, match=r"expected a name that ends in \.safetensors"):
        save_backbone(nn.Linear(1, 1), tmp_path / "mine.pt", backbone="lenet", ds=features_set(8))
