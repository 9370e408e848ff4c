"""Arrays, torch Datasets, an int and a name, as a program has them at hand: which number comes out, what is refused."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import dd_core
from dd_core.datasets.plain import as_source
from dd_core.distilled import DistilledSet, Size, as_size
from dd_core.errors import UserError
from dd_core.images import InputForm, LabelledImages
from dd_core.methods import as_method, method
from dd_core.networks.own import require_network
from dd_core.recipe import Recipe
from dd_core.runner import RunOptions
from dd_core.testing import blobs
from dd_core.training.own_augmentation import check_augmentation

CPU = RunOptions(device="cpu")
SMALL = {"network": "convnet-1-w4", "epochs": 2, "batch_size": 4}
LEVELS = np.random.default_rng(0).integers(0, 256, (6, 3, 5, 7)).astype(np.uint8)
LEVELS[0, 0, 0, :2] = 0, 255
LABELS = np.array([0, 1, 2, 0, 1, 2])


def images(data, **options) -> np.ndarray:
    source = as_source(data, **options)
    assert isinstance(source, LabelledImages)
    assert source.images.dtype == torch.uint8
    return source.images.numpy()


# --- arrays ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        LEVELS,
        torch.from_numpy(LEVELS),
        LEVELS / 255,
        (LEVELS / 255).astype(np.float32),
        (LEVELS / 255).astype(np.float16),
        torch.from_numpy(LEVELS).double() / 255,
        (torch.from_numpy(LEVELS) / 255).requires_grad_(),
        LEVELS.astype(np.float32),
        LEVELS.astype(np.int64),
        np.asfortranarray(LEVELS),
        LEVELS.astype(np.float64).transpose(0, 2, 3, 1).transpose(0, 3, 1, 2),
    ],
    ids=lambda value: f"{type(value).__name__} {value.dtype}",
)
def test_arrays_of_any_kind_are_the_same_levels(given):
    assert (images((given, LABELS)) == LEVELS).all()


def test_floats_are_rounded_to_the_nearest_level():
    floats = np.full((1, 1, 5, 5), 0.5)
    floats[0, 0, 0] = [0.0, 1.0, 0.0019, 0.0021, 0.998]  # 0.0019 * 255 = 0.48, 0.0021 * 255 = 0.54
    found = images((floats, [0]))
    assert found[0, 0, 0].tolist() == [0, 255, 0, 1, 254]
    assert (found[0, 0, 1:] == 128).all()  # 127.5, to even


def test_arrays_larger_than_a_block_are_converted_to_the_last_image(monkeypatch):
    monkeypatch.setattr("dd_core.datasets.raw_pixels._BLOCK", 200)  # one image of 105 numbers at once
    assert (images((LEVELS / 255, LABELS)) == LEVELS).all()
    with_fraction = LEVELS.astype(np.float64)
    with_fraction[5, 2, 4, 6] = 3.5
    with pytest.raises(UserError, match="float64 from 0 to 255, with fractions"):
        as_source((with_fraction, LABELS))


def test_grey_images_need_no_channel():
    assert images((LEVELS[:, 0], LABELS)).shape == (6, 1, 5, 7)


@pytest.mark.parametrize(
    ("labels", "wanted", "names"),
    [
        (LABELS, [0, 1, 2, 0, 1, 2], ("0", "1", "2")),
        (LABELS.astype(np.uint8), [0, 1, 2, 0, 1, 2], ("0", "1", "2")),
        (torch.from_numpy(LABELS).int(), [0, 1, 2, 0, 1, 2], ("0", "1", "2")),
        (LABELS.tolist(), [0, 1, 2, 0, 1, 2], ("0", "1", "2")),
        (["fly", "ant", "bee"] * 2, [2, 0, 1] * 2, ("ant", "bee", "fly")),
        (np.array(["fly", "ant", "bee"] * 2, dtype=object).astype(str), [2, 0, 1] * 2, ("ant", "bee", "fly")),
    ],
)
def test_labels_of_any_kind_are_the_same_indices(labels, wanted, names):
    source = as_source((LEVELS, labels))
    assert source.labels.tolist() == wanted
    assert source.labels.dtype == torch.int64
    assert source.classes == names
    assert source.name == "array"


def test_classes_are_named_and_may_be_missing_then():
    source = as_source((LEVELS, LABELS), classes=("ant", "bee", "cat", "dog"), name="pets")
    assert (source.classes, source.name) == (("ant", "bee", "cat", "dog"), "pets")
    words = as_source((LEVELS, ["cat", "ant"] * 3), classes=("ant", "bee", "cat"))
    assert words.labels.tolist() == [2, 0] * 3


def test_a_source_is_what_it_was():
    source = blobs()
    assert as_source(source) is source
    with pytest.raises(UserError, match="has a name and classes already"):
        as_source(source, name="mine")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            LEVELS.transpose(0, 2, 3, 1),
            r"\(6, 5, 7, 3\); the 3 channels come last .* give images.transpose\(0, 3, 1, 2\)",
        ),
        (LEVELS[:, :, :4, :3], r"can be N x C x H x W as well as N x H x W x C; say which by LabelledImages"),
        (LEVELS[0].transpose(1, 2, 0), r"looks like one image with 3 channels; give N x C x H x W"),
        (np.zeros((6, 784), np.uint8), r"flat row; .* images.reshape\(-1, 1, 28, 28\)"),
        (np.zeros((6, 3072), np.uint8), r"flat row; .* images.reshape\(-1, 3, 32, 32\)"),
        (np.zeros((6, 7), np.uint8), r"shape \(6, 7\); give N x C x H x W"),
        (np.zeros((0, 1, 8, 8), np.uint8), "the data|data has no images"),
        ((LEVELS / 255 - 0.5) / 0.2, r"float64 from -2.5 to 2.5; that looks normalised by a mean and a std"),
        (LEVELS / 255 * 16, r"float64 from 0 to 16; .*images / 16 where 16 is white"),
        (np.minimum(LEVELS, 254).astype(np.int32), r"int32 from 0 to 254; .*images.astype\('uint8'\) where 255 is"),
        (np.where(LEVELS == 255, np.nan, LEVELS / 255), "from nan to nan; replace the values that are not finite"),
        (LEVELS > 9, r"array of bool; where True is white, give images.astype\('uint8'\) \* 255"),
        (LEVELS.astype(complex), "array of complex128"),
        ((LEVELS / 255).astype(np.uint8), "no level above 1 of 255, so all of them are black"),
        (LEVELS / 255 / 255, "no level above 1 of 255, so all of them are black; were they divided by 255 twice"),
    ],
)
def test_doubtful_images_are_refused_with_what_was_found(given, message):
    with pytest.raises(UserError, match=message) as caught:
        as_source((given, np.arange(len(given)) % 3))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:5], "has 6 images and 5 labels"),
        (LABELS[:, None], r"have shape \(6, 1\), not \(6,\), .*; give labels.reshape\(-1\)"),
        (np.eye(3)[LABELS], r"of one-hot labels give labels.argmax\(1\)"),
        (LABELS.astype(float), r"are float64, .* give labels.astype\(int\)"),
        (LABELS == 1, "are bool, not integers"),
        (LABELS - 1, "run from -1 to 1; they must run from 0"),
        (LABELS * 2, "run from 0 to 4, and none is 1; number them anew by numpy.unique"),
    ],
)
def test_labels_that_are_none_are_refused(labels, message):
    with pytest.raises(UserError, match=message):
        as_source((LEVELS, labels))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("ant", "ant", "bee"), "classes have the name 'ant' twice"),
        ("ant", "a list of words"),
        (("ant", "bee"), "run from 0 to 2; they must run from 0 to 1, for 2 classes"),
    ],
)
def test_class_names_are_looked_at(classes, message):
    with pytest.raises(UserError, match=message):
        as_source((LEVELS, LABELS), classes=classes)


# --- a torch Dataset ---------------------------------------------------------------------------------------------


class Pictures(Dataset):
    """Six images in one of the forms in which a Dataset gives them."""

    def __init__(self, form=lambda image: image, label=int, classes=None) -> None:
        self.form, self.label = form, label
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(LEVELS)

    def __getitem__(self, index):
        return self.form(LEVELS[index]), self.label(LABELS[index])


@pytest.mark.parametrize(
    "form",
    [
        torch.from_numpy,
        lambda image: torch.from_numpy(image) / 255,
        lambda image: image.transpose(1, 2, 0),
        lambda image: Image.fromarray(image.transpose(1, 2, 0).copy()),
    ],
    ids=["uint8", "float", "array", "PIL"],
)
@pytest.mark.parametrize("label", [int, np.int64, torch.tensor], ids=["int", "numpy", "tensor"])
def test_a_dataset_in_any_form_is_the_same_source(form, label):
    source = as_source(Pictures(form, label))
    assert (source.images.numpy() == LEVELS).all()
    assert source.labels.tolist() == LABELS.tolist()
    assert (source.classes, source.name) == (("0", "1", "2"), "pictures")
    assert source.fingerprint() == as_source((LEVELS, LABELS)).fingerprint()


def test_a_part_of_a_dataset_has_the_classes_of_the_whole():
    whole = Pictures(torch.from_numpy, classes=["ant", "bee", "cat"])
    source = as_source(Subset(Subset(whole, [5, 1, 4, 2]), [0, 2]))
    assert (source.images.numpy() == LEVELS[[5, 4]]).all()
    assert (source.labels.tolist(), source.classes) == ([2, 1], ("ant", "bee", "cat"))
    assert source.name == "pictures"


def test_words_are_labels_of_a_dataset_too():
    source = as_source(Pictures(torch.from_numpy, label=lambda label: ("fly", "ant", "bee")[label]))
    assert (source.labels.tolist(), source.classes) == ([2, 0, 1] * 2, ("ant", "bee", "fly"))


DRAWS = {
    "torch": lambda image: torch.from_numpy(image).flip(2) if torch.rand(()) < 0.5 else torch.from_numpy(image),
    "numpy": lambda image: torch.from_numpy(np.roll(image, np.random.randint(3), 2)),
    "python": lambda image: torch.from_numpy(np.roll(image, random.randrange(3), 2)),
}
OWN = np.random.default_rng(0)


@pytest.mark.parametrize("form", [*DRAWS.values(), lambda image: torch.from_numpy(np.roll(image, OWN.integers(5), 2))])
def test_a_random_transform_is_noticed(form):
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # beartype draws from Python's own
    with pytest.raises(UserError, match=r"gives another item \d when it is read again, so its transform is random"):
        as_source(Pictures(form))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


class Blinking(Dataset):
    """A thousand images; the one at `place` flickers where the generator is torch's."""

    def __init__(self, place: int, *, draws: bool) -> None:
        self.place, self.draws, self.reads = place, draws, 0

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index):
        self.reads += 1
        drawn = int(torch.randint(2, 200, ()) if self.draws else self.reads)
        level = 2 + drawn % 200 if index == self.place else 9
        return torch.full((1, 5, 5), level, dtype=torch.uint8), index % 2


def test_of_a_dataset_that_draws_every_item_is_read_again():
    with pytest.raises(UserError, match="gives another item 513"):
        as_source(Blinking(513, draws=True))
    quiet = Blinking(-1, draws=False)
    as_source(quiet)
    assert quiet.reads == 1000 + 2 * 8 + 32


def test_a_transform_that_is_always_random_is_noticed_before_all_items_are_read():
    restless = Blinking(0, draws=False)
    with pytest.raises(UserError, match="gives another item 0"):
        as_source(restless)
    assert restless.reads == 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Pictures(lambda image: torch.from_numpy(image).permute(1, 2, 0)), r"\(5, 7, 3\), which looks like H x W x C"),
        (Pictures(), r"arrays of shape \(3, 5, 7\), which looks like C x H x W"),
        (Pictures(lambda image: torch.from_numpy(image) / 127.5 - 1), "hold values from -1 to 1; give raw images"),
        (Pictures(lambda image: torch.from_numpy(image).float()), "hold values from 0 to 255; give raw images"),
        (Pictures(lambda image: torch.from_numpy(image // 255)), "no level above 1 of 255"),
        (Pictures(lambda image: "cat.png"), "are str; give raw images"),
        (Pictures(lambda image: torch.from_numpy(image[:, : 3 + image[0, 0, 0] % 2])), r"of 3 x \d x 7 \(item 0\)"),
        (Pictures(torch.from_numpy, label=float), "a float as the label of item 0; an integer or a word"),
        (Pictures(torch.from_numpy, label=bool), "a bool as the label of item 0"),
        (Pictures(torch.from_numpy, label=lambda label: 2 * int(label)), "none is 1; number them anew"),
        (Pictures(torch.from_numpy, classes=["ant", "bee"]), "run from 0 to 2; they must run from 0 to 1"),
        (TensorDataset(torch.from_numpy(LEVELS)), "gives 1 values for item 0; a pair"),
        (Subset(Pictures(), []), "has no items"),
    ],
)
def test_a_dataset_that_is_no_images_is_refused(data, message):
    with pytest.raises(UserError, match=message) as caught:
        as_source(data)
    assert "\n" not in str(caught.value)


def test_a_dataset_beyond_the_memory_is_refused_before_it_is_read():
    class Endless(Pictures):
        def __len__(self) -> int:
            return 10**9

    with pytest.raises(UserError, match=r"1000000000 images of 3 x 5 x 7, 97.8 GiB in memory, above the limit of 4.0"):
        as_source(Endless(torch.from_numpy))


class Stream(IterableDataset):
    def __iter__(self):
        yield from Pictures()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("digits", r"'digits'; give a pair .*; a data set by its name or folder is load_data\('digits'\)"),
        (5, "a int; give a pair"),
        ((LEVELS, LABELS, LABELS), "a tuple; give a pair"),
        ({"images": LEVELS}, "a dict; give a pair"),
        (DataLoader(Pictures()), "a DataLoader; give .* give the DataLoader's attribute `dataset`"),
        (Stream(), "a Stream; give .* read by index, which an IterableDataset does not allow"),
        (None, "a NoneType; give a pair"),
    ],
)
def test_anything_else_is_one_line_that_says_what_is_accepted(data, message):
    for call in (as_source, lambda data: dd_core.distill("random", data, 1, options=CPU)):
        with pytest.raises(UserError, match=message) as caught:
            call(data)
        assert "\n" not in str(caught.value)


# --- the functions -----------------------------------------------------------------------------------------------


def plain_blobs():
    source = blobs()
    return source.images.numpy(), source.labels.numpy()


def average(source, **options) -> DistilledSet:
    return dd_core.distill("average", source, 1, options=CPU, **options)


def test_distill_takes_an_array_a_dataset_a_name_and_a_number():
    source, (pixels, labels) = blobs(), plain_blobs()
    wanted = dd_core.distill(method("average"), source, Size(ipc=1), options=CPU)
    renamed = LabelledImages(source.images, source.labels, ("0", "1", "2"), "array")
    for data in ((pixels, labels), (pixels / 255, labels.tolist()), TensorDataset(source.images, source.labels)):
        ds = average(data)
        assert (ds.images == wanted.images).all()
        assert ds.classes == ("0", "1", "2")
        assert ds.manifest.provenance.fingerprint == renamed.fingerprint()
    table = dd_core.distill({"name": "average", "recipe": SMALL}, source, np.int64(1), options=CPU)
    assert table.manifest.recipe.network == "convnet-1-w4"
    assert average((pixels, labels)).manifest.provenance.source == "array"


def test_images_alone_are_for_methods_without_labels():
    with pytest.raises(UserError, match="array has no labels, and this needs labels"):
        average(plain_blobs()[0])


def test_evaluate_takes_what_distill_takes():
    source, held = blobs(), blobs(per_class=40)
    named = LabelledImages(source.images, source.labels, ("0", "1", "2"), "array")
    tested = LabelledImages(held.images, held.labels, ("0", "1", "2"), "array")
    ds = dd_core.distill(method("average", recipe=SMALL), named, 1, options=CPU)
    wanted = dd_core.evaluate(ds, train=named, test=tested, nets=1, device="cpu")
    pair = held.images.numpy() / 255, held.labels.numpy()
    found = dd_core.evaluate(ds, train=plain_blobs(), test=pair, nets=1, device="cpu")
    assert found == wanted


def test_test_images_may_lack_a_class_and_may_not_have_another():
    ds, (pixels, labels) = average(plain_blobs()), plain_blobs()
    few = labels < 2
    run = {"train": (pixels, labels), "nets": 1, "device": "cpu"}
    score = dd_core.evaluate(ds, test=(pixels[few], labels[few]), **run)
    assert score.data == f"array, {few.sum()} test images"
    with pytest.raises(UserError, match="the labels of test run from 1 to 3; they must run from 0 to 2, for 3 classes"):
        dd_core.evaluate(ds, test=(pixels, labels + 1), **run)
    named = as_source((pixels, labels), classes=("c", "b", "a"))
    with pytest.raises(UserError, match="the set has the classes 0, 1, 2, and array has c, b, a"):
        dd_core.evaluate(ds, test=named, **run)


def reference(inputs, labels, *, augmentation=lambda inputs, step: inputs):
    """Plain SGD on `inputs` in one batch a step, by hand."""
    model = network()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.0)
    for step in range(3):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(augmentation(inputs, step)), labels).backward()
        optimiser.step()
    return model


def network(outputs: int = 3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))


PLAIN = Recipe(
    learning_rate=0.1, momentum=0.0, weight_decay=0.0, epochs=3, batch_size=1000, schedule="constant", network="lenet"
)


def same(model, other) -> bool:
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)


def test_train_on_real_images_is_plain_sgd_on_their_normalised_pixels():
    source = blobs()
    pixels = source.images.numpy().astype(np.float64) / 255
    inputs = torch.from_numpy((pixels - pixels.mean()) / pixels.std()).float()
    trained = dd_core.train(plain_blobs(), network=network(), recipe=PLAIN, device="cpu")
    assert same(trained, reference(inputs, source.labels))
    assert torch.allclose(InputForm.of(as_source(plain_blobs()))(source.images), inputs, atol=1e-5)
    with pytest.raises(UserError, match="real images have no recipe of their own; give recipe=Recipe"):
        dd_core.train(plain_blobs())
    with pytest.raises(UserError, match=r"read by read_set\('a.safetensors'\)"):
        dd_core.train("a.safetensors")


def shifted(inputs):
    return inputs + torch.rand(()) + np.random.rand() + random.random()


def test_an_augmentation_of_ones_own_is_what_the_network_sees():
    ds = average(plain_blobs())
    inputs, labels = ds.inputs(), torch.tensor(ds.labels)
    trained = dd_core.train(ds, network=network(), recipe=PLAIN, device="cpu", augmentation=lambda x: 2 * x + 1)
    assert same(trained, reference(inputs, labels, augmentation=lambda x, step: 2 * x + 1))
    draws = []
    dd_core.train(
        ds,
        network=network(),
        recipe=PLAIN,
        device="cpu",
        augmentation=lambda x: draws.append(shifted(torch.zeros(()))) or x,
    )
    assert len({float(value) for value in draws}) == 3  # each step draws anew


def test_draws_of_an_augmentation_follow_from_the_seed():
    ds = average(plain_blobs())
    runs = []
    for place, seed in enumerate((0, 0, 1)):
        np.random.seed(place)  # where the global generators are changes nothing
        random.seed(place)
        before = torch.get_rng_state(), np.random.get_state()[1].tolist()
        runs.append(dd_core.train(ds, network=network(), recipe=PLAIN, device="cpu", augmentation=shifted, seed=seed))
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


def test_an_augmentation_is_for_the_set_and_for_the_twins_and_keeps_no_scores(tmp_path):
    ds = dd_core.distill(method("average", recipe=SMALL), plain_blobs(), 1, options=CPU)
    run = {"train": plain_blobs(), "test": plain_blobs(), "nets": 2, "device": "cpu", "keep": tmp_path}
    shapes = []

    def seen(inputs):
        shapes.append(len(inputs))
        return torch.zeros_like(inputs)

    blind = dd_core.evaluate(ds, augmentation=seen, **run)
    assert shapes == [3] * (4 * SMALL["epochs"])  # two networks on the set and two on twins, an epoch of 3 images
    assert blind.augmentation == "seen"
    assert list(tmp_path.iterdir()) == []
    plain = dd_core.evaluate(ds, **run)
    assert plain.augmentation is None
    assert "augmentation" not in plain.model_dump(mode="json")
    assert list(tmp_path.iterdir()) != []


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [
        (
            lambda x: x[:, :, 1:],
            r"'<lambda>' gives torch.float32 \(3, 1, 7, 8\) for inputs torch.float32 \(3, 1, 8, 8\)",
        ),
        (lambda x: x.double(), "gives torch.float64"),
        (lambda x: None, "gives NoneType for inputs"),
        (lambda x: x @ torch.zeros(3), "'<lambda>' fails for inputs .*: size mismatch|'<lambda>' fails for inputs"),
    ],
)
def test_an_augmentation_that_is_none_is_refused(augmentation, message):
    with pytest.raises(UserError, match=message):
        dd_core.train(average(plain_blobs()), recipe=PLAIN, device="cpu", augmentation=augmentation)


def test_an_augmentation_is_refused_where_it_would_do_nothing():
    ds, run = average(plain_blobs()), {"train": plain_blobs(), "test": plain_blobs(), "nets": 1, "device": "cpu"}
    steps = Recipe(steps=({"epoch": 0, "step": 0, "learning_rate": 0.1},))
    with pytest.raises(UserError, match="learned steps, which take images without augmentation"):
        dd_core.train(ds, recipe=steps, augmentation=lambda x: x)
    with pytest.raises(UserError, match="teacher labels the networks' inputs"):
        dd_core.train(ds, recipe=Recipe(teacher="eval"), augmentation=lambda x: x)
    with pytest.raises(UserError, match="protocol 'knn' trains no network, so it augments nothing"):
        dd_core.evaluate(ds, protocol="knn", augmentation=lambda x: x, **run)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: as_method(5), "the method is a int; give its name, such as 'dm'"),
        (lambda: as_method(type(method("dm"))), r"is the class DMConfig; give .* or method\('dm', steps=500\)"),
        (lambda: as_method("dn"), "unknown method 'dn'; did you mean"),
        (lambda: as_size(0), "the size is 0 images a class; at least 1 is needed"),
        (lambda: as_size(1.0), r"is '1.0' \(a float\); give a whole number of images a class, Size\(images=100\)"),
        (lambda: as_size(True), r"the size is 'True' \(a bool\)"),
        (lambda: as_size("1"), r"the size is '1' \(a str\)"),
        (lambda: require_network(5), "network is a int; give a name such as 'convnet', a torch.nn.Module"),
        (lambda: check_augmentation("color", PLAIN), r"is 'color'; give a .* Recipe\(augmentation='color_crop'\)"),
        (lambda: check_augmentation(nn.Identity, PLAIN), "augmentation is the class Identity"),
    ],
)
def test_wrong_types_are_one_line(call, message):
    with pytest.raises(UserError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


WRONG = """
import dd_core
from dd_core.errors import UserError
from dd_core.testing import blobs
from dd_core.training.own_augmentation import check_augmentation
data = blobs()
ds = dd_core.distill("average", data, 1)
for call in (
    lambda: dd_core.distill(5, data, 1),
    lambda: dd_core.distill("average", data, 1.5),
    lambda: dd_core.distill("average", data, 1, options={"device": "cpu"}),
    lambda: dd_core.distill("average", data, 1, pretrain_on=5),
    lambda: dd_core.evaluate("a.st", train=data, test=data),
    lambda: dd_core.evaluate(ds, train=5, test=data),
    lambda: dd_core.evaluate(ds, train=data, test=5),
    lambda: dd_core.evaluate(ds, train=data, test=data, network=5),
    lambda: dd_core.evaluate(ds, train=data, test=data, augmentation=5),
    lambda: dd_core.train(ds, network=5),
    lambda: dd_core.train(ds, augmentation=5),
    lambda: dd_core.train(5),
):
    try:
        call()
    except UserError as error:
        print(str(error).split(";")[0])
"""


def test_each_argument_of_a_wrong_type_is_one_line():
    """In a process of its own, where no types are checked as in these tests."""
    printed = subprocess.run([sys.executable, "-c", WRONG], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == [
        "the method is a int",
        "the size is '1.5' (a float)",
        "options are a dict",
        "pretrain_on is a int",
        "evaluate scores a DistilledSet, and a str is given",
        "train is a int",
        "test is a int",
        "network is a int",
        "augmentation is 5",
        "network is a int",
        "augmentation is 5",
        "what is trained on is a int",
    ]


def test_an_own_network_starts_as_it_is_given():
    source = blobs()
    ds = dd_core.distill(method("average", recipe=PLAIN.model_dump(mode="json")), source, 1, options=CPU)
    score = dd_core.evaluate(ds, train=source, test=source, network=network(), nets=1, device="cpu")
    guesses = reference(ds.inputs(), torch.tensor(ds.labels))(ds.input_form()(source.images)).argmax(1)
    assert score.network == "Sequential"
    assert score.accuracy.mean == pytest.approx((guesses == source.labels).float().mean().item())
