"""Parts of a distilled set, and several sets as one: which number lies where afterwards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import dd_core
from dd_core.distilled import DistilledSet, Manifest, Pixels, Provenance, Size
from dd_core.errors import UserError
from dd_core.recipe import Recipe, ScheduledStep
from dd_core.selection import join
from dd_core.system.device import environment
from dd_core.whitening import Whitening

RAW = Pixels(space="raw", mean=(0.5,), std=(0.25,))
STEPS = (ScheduledStep(epoch=0, step=0, learning_rate=0.1),)


def a_set(classes: tuple[str, ...], labels: list[int] | None, soft=None, *, first: int = 0, **fields) -> DistilledSet:
    """Grey images of 1 x 1 pixels, whose values count from `first`."""
    count = len(labels) if labels is not None else len(soft)
    images = np.arange(first, first + count, dtype=np.uint8).reshape(-1, 1, 1, 1)
    manifest = Manifest(**({"classes": classes, "pixels": RAW, "recipe": Recipe()} | fields))
    targets = None if soft is None else np.array(soft, dtype=np.float32)
    return DistilledSet(images, None if labels is None else np.array(labels), manifest, targets)


def changed(ds: DistilledSet, **fields) -> DistilledSet:
    return replace(ds, manifest=ds.manifest.model_copy(update=fields))


def provenance() -> Provenance:
    return Provenance(
        source="x",
        fingerprint="y",
        source_images=9,
        method="dm",
        config={},
        size=Size(ipc=2),
        seed=0,
        environments=(environment(torch.device("cpu")),),
    )


# --- take ----------------------------------------------------------------------------------------------------------


def test_rows_come_with_their_labels_and_targets_in_the_order_asked_for():
    soft = [[0.1, 0.9], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4]]
    ds = a_set(("a", "b"), [1, 1, 0, 0], soft, targets="probabilities")
    part = ds.take([3, 0, 0])
    assert part.images.ravel().tolist() == [3, 0, 0]
    assert part.labels.tolist() == [0, 1, 1]
    assert part.targets.tolist() == ds.targets[[3, 0, 0]].tolist()
    assert part.nbytes == 3 * (1 + 2 * 4)
    assert (part.classes, part.manifest.pixels) == (ds.classes, ds.manifest.pixels)


def test_a_part_has_neither_a_provenance_nor_learned_steps_and_all_rows_are_the_set_itself():
    ds = a_set(("a", "b"), [0, 1], provenance=provenance(), recipe=Recipe(steps=STEPS, epochs=7))
    part = ds.take(np.array([1, 0]))
    assert part.manifest.provenance is None
    assert part.manifest.recipe == Recipe(epochs=7)
    assert ds.take(range(2)) is ds


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "rows of a set are indices, at least one; got float64 of shape (0,)"),
        ([True, False], "rows of a set are indices, at least one; got bool of shape (2,)"),
        (np.array([[0]]), "rows of a set are indices, at least one; got int64 of shape (1, 1)"),
        ([-1], "rows run from -1 to -1, and the set has 2 images"),
        ([0, 2], "rows run from 0 to 2, and the set has 2 images"),
    ],
)
def test_what_is_no_row_is_refused(rows, message: str):
    with pytest.raises(UserError) as caught:
        a_set(("a", "b"), [0, 1]).take(rows)
    assert caught.value.text == message


# --- join ----------------------------------------------------------------------------------------------------------


def test_labels_and_columns_go_to_the_class_of_their_name_and_unknown_probabilities_are_0():
    one = a_set(("b", "a"), [0, 1], [[0.75, 0.25], [0.5, 0.5]], targets="probabilities")
    two = a_set(("a", "c"), [1, 0], [[0.125, 0.875], [1, 0]], targets="probabilities", first=10)
    both = join([one, two])
    assert both.classes == ("b", "a", "c")
    assert both.images.ravel().tolist() == [0, 1, 10, 11]
    assert both.labels.tolist() == [0, 1, 2, 1]
    assert both.targets.tolist() == [[0.75, 0.25, 0], [0.5, 0.5, 0], [0, 0.125, 0.875], [0, 1, 0]]
    assert both.targets.dtype == np.float32
    assert both.nbytes == one.nbytes + two.nbytes + 4 * 4  # a column more of each
    assert both.manifest.pixels == RAW
    assert dd_core.join is join


def test_logits_of_the_same_classes_are_put_in_one_order():
    one = a_set(("a", "b"), [0], [[3, -1]], targets="logits")
    two = a_set(("b", "a"), [0], [[7, 2]], targets="logits")
    assert join([one, two]).targets.tolist() == [[3, -1], [2, 7]]
    assert join([one, two]).labels.tolist() == [0, 1]


def test_features_stay_as_they_are_and_sets_without_labels_have_none():
    fields = {"task": "self-supervised", "targets": "features"}
    one, two = (a_set((), None, [[value, value]], first=value, **fields) for value in (1, 2))
    both = join([one, two])
    assert both.targets.tolist() == [[1, 1], [2, 2]]
    assert both.labels is None


def test_a_joined_set_has_the_common_recipe_without_learned_steps_and_no_provenance():
    recipe = Recipe(epochs=3, steps=STEPS)
    one, two = (a_set((name,), [0], recipe=recipe, provenance=provenance()) for name in "ab")
    assert join([one, two]).manifest.recipe == Recipe(epochs=3)
    assert join([one, two]).manifest.provenance is None
    assert join([one]) is one
    other = changed(two, recipe=Recipe(epochs=4))
    assert join([one, other], recipe=recipe).manifest.recipe == Recipe(epochs=3)


def test_another_normalisation_is_chosen_for_raw_pixels_only():
    one, two = a_set(("a",), [0]), a_set(("b",), [0], pixels=Pixels(space="raw", mean=(0.1,), std=(1.0,)))
    wanted = Pixels(space="raw", mean=(0.2,), std=(0.5,))
    both = join([one, two], pixels=wanted)
    assert both.manifest.pixels == wanted
    assert both.inputs().flatten().tolist() == pytest.approx([-0.4, -0.4])
    assert join([one], pixels=wanted).manifest.pixels == wanted
    fed = DistilledSet(
        np.zeros((1, 1, 1, 1), np.float32),
        np.array([0]),
        changed(one).manifest.model_copy(update={"pixels": Pixels(space="normalised", mean=(0.5,), std=(0.25,))}),
    )
    with pytest.raises(UserError, match=r"^set 2 has normalised pixels, and the joined set raw ones; only raw pixels"):
        join([one, fed], pixels=wanted)


def whitened(scale: float) -> DistilledSet:
    ds = a_set(("a",), [0], pixels=Pixels(space="raw", mean=(0.0,), std=(1.0,)))
    return replace(ds, whitening=Whitening(np.zeros(1, np.float32), np.full((1, 1), scale, np.float32)))


PROBABLE = a_set(("a",), [0], [[1.0]], targets="probabilities")
HALF = replace(PROBABLE, targets=PROBABLE.targets.astype(np.float16))
LOGITS = a_set(("a",), [0], [[1.0]], targets="logits")
FEATURES = [a_set(("a",), [0], [row], targets="features") for row in ([1.0], [1.0, 2.0])]
PLAIN = a_set(("a",), [0])
TWO, THREE = (f"set 1 and set {number} differ in their " for number in (2, 3))


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ([], "join needs at least one distilled set, and got none"),
        (
            [PLAIN, changed(PLAIN, pixels=Pixels(space="raw", mean=(0.5,), std=(0.5,)))],
            TWO + "normalisation (space raw, mean 0.5, std 0.25, and space raw, mean 0.5, std 0.5); "
            "choose by join(sets, pixels=...) if both are raw",
        ),
        (
            [PLAIN, PLAIN, changed(PLAIN, recipe=Recipe(learning_rate=0.5))],
            THREE + "recipe's learning_rate (0.01, and 0.5); choose one recipe by join(sets, recipe=...)",
        ),
        ([PLAIN, PROBABLE], TWO + "targets (none, and probabilities); distil both alike"),
        ([PROBABLE, LOGITS], TWO + "targets (probabilities, and logits); distil both alike"),
        ([PROBABLE, HALF], TWO + "dtype of the targets (float32, and float16); distil both alike"),
        (
            FEATURES,
            TWO + "features (1 numbers an image, and 2 numbers an image); use one teacher for both",
        ),
        (
            [LOGITS, a_set(("a", "b"), [0], [[1.0, 2.0]], targets="logits")],
            "set 1 has logits of 1 classes (a) and set 2 of 2 (a, b): a class without a logit has no value that could "
            "be filled in; join sets with logits of the same classes, or with probabilities",
        ),
        (
            [PLAIN, replace(PLAIN, images=np.zeros((1, 1, 2, 1), np.uint8))],
            TWO + "shape of the images (1x1x1, and 1x2x1); distil both alike",
        ),
        (
            [PLAIN, replace(PLAIN, images=np.zeros((1, 1, 1, 1), np.float32))],
            TWO + "dtype of the images (uint8, and float32); distil both alike",
        ),
        (
            [whitened(1), whitened(2)],
            TWO + "whitening (one of its own, and one of its own); distil both with one whitening, or none",
        ),
        (
            [PLAIN, a_set(("b", "b"), [0])],
            "set 2 has two classes called 'b', and sets are joined by class names; rename one",
        ),
        ([PLAIN, changed(PLAIN, attack=("a", "b"))], TWO + "attack (None, and ('a', 'b')); distil both alike"),
    ],
)  # fmt: skip
def test_sets_that_do_not_go_together_are_refused_in_one_line(sets, message: str):
    with pytest.raises(UserError) as caught:
        join(sets)
    assert caught.value.text == message


def test_sets_with_one_whitening_keep_it():
    both = join([whitened(3), whitened(3)])
    assert both.whitening is not None
    assert both.inputs().flatten().tolist() == [0, 0]
    assert len(both) == 2


def test_every_field_of_a_manifest_is_compared_or_known_to_differ():
    """A field that joins the manifest, such as one that changes the pixels' meaning, is compared from then on."""
    for field in set(Manifest.model_fields) - {"classes", "recipe", "provenance"}:
        odd = PLAIN.manifest.model_construct(**{**dict(PLAIN.manifest), field: object()})
        other = object.__new__(DistilledSet)
        for name, value in {**vars(PLAIN), "manifest": odd}.items():
            object.__setattr__(other, name, value)
        with pytest.raises(UserError, match=r"^set 1 and set 2 differ in their"):
            join([PLAIN, other])
