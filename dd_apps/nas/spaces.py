"""Search spaces as NNI's `ModelSpace`: the literature's 720 ConvNets, the cells of NAS-Bench-201, and any user's own.

Every function here takes any `ModelSpace`. A sample is what NNI's strategies draw: a dictionary from the label of each
choice to the chosen value. The architecture of a sample is its short name, by which tables of accuracies list it: a
ConvNet's name, a cell's string, or `label=value` for each choice of another space. A user's space may give names of its
own by the methods `architecture_of` and `sample_of`.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import combinations, product
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from dd_apps.nas import cells
from dd_apps.nas.space_config import CellsConfig, ConvNetsConfig, OwnConfig
from dd_core import networks, streams
from dd_core.errors import Option, UserError
from dd_core.lazy import require
from dd_core.networks.names import TOKENS, largest_depth, parse_convnet
from dd_core.system import surroundings

with warnings.catch_warnings():  # nni 3.0 warns of each module of torch that is newer than it
    warnings.simplefilter("ignore", RuntimeWarning)
    require("nni", called="NNI", use="architecture search", extra="nas")
    import nni
    from nni.mutable import Categorical, CategoricalMultiple, LabeledMutable, SampleValidationError
    from nni.nas.hub.pytorch import NasBench201
    from nni.nas.nn.pytorch import ModelSpace
    from nni.nas.space import SimplifiedModelSpace, current_model

Sample = dict[str, Any]
DEPTHS, WIDTHS = (1, 2, 3, 4), (32, 64, 128, 256)
ACTIVATIONS, NORMS = ("sigmoid", "relu", "leakyrelu"), ("none", "batch", "layer", "instance", "group")
POOLINGS = ("none", "max", "avg")

_WORDS = {meaning: token for token, meaning in TOKENS.items()}
_OPERATIONS = {operation: operation.removeprefix("nor_") for operation in cells.OPERATIONS}  # nni's names of them
_LABELS = tuple(f"cell/{source}_{node}" for source, node in cells.EDGES)


@runtime_checkable
class Named(Protocol):
    """A space with names of its own for its architectures."""

    def architecture_of(self, sample: Mapping[str, Any]) -> str:
        """The name of the architecture that a sample chooses."""
        ...

    def sample_of(self, architecture: str) -> Sample:
        """The sample that chooses the architecture; raises `UserError` for a name that the space lacks."""
        ...


class ConvNetSpace(ModelSpace):
    """The ConvNets of Zhao, Mopuri and Bilen 2021 by depth, width, activation, norm and pooling: 720 of them at 32 px.

    Depths are 1 to 4, as far as the image can be halved so often, and widths 32, 64, 128 and 256 up to `max_width`. A
    frozen sample is the network that `dd_core.networks.build` makes by the sample's name. image_size: (height, width)
    in pixels. Raises `UserError` for images of a single row or column and for a `max_width` below 32.
    """

    def __init__(
        self, *, in_channels: int, classes: int, image_size: tuple[int, int], max_width: int = WIDTHS[-1]
    ) -> None:
        super().__init__()
        depths = [depth for depth in DEPTHS if depth <= largest_depth(in_channels, image_size)]
        widths = [width for width in WIDTHS if width <= max_width]
        if not depths:
            raise UserError(f"images of {image_size[0]} x {image_size[1]} pixels cannot be pooled, as ConvNets do")
        if not widths:
            raise UserError(f"{Option('max_width', max_width)}: expected at least {WIDTHS[0]}, the smallest width")
        axes = {"depth": depths, "width": widths, "activation": ACTIVATIONS, "norm": NORMS, "pooling": POOLINGS}
        for label, values in axes.items():
            self.add_mutable(nni.choice(label, [*values]))

    @classmethod
    def create_fixed_module(cls, sample: Mapping[str, Any], **options: Any) -> nn.Module:
        """The network of a sample, with weights drawn by torch's global generator, as in NNI's other spaces."""
        options.pop("max_width", None)
        return networks.build(_convnet(sample), seed=int(torch.randint(2**62, ()).item()), **options)

    def freeze(self, sample: Mapping[str, Any]) -> nn.Module:
        """The network of a sample; see `create_fixed_module`."""
        self.validate(dict(sample))
        return self.create_fixed_module(sample, **self.trace_kwargs)

    def architecture_of(self, sample: Mapping[str, Any]) -> str:
        """The name of the network, such as `convnet-3-w128-instancenorm-relu-avgpool`."""
        return _convnet(_valid(self, sample))

    def sample_of(self, architecture: str) -> Sample:
        """The sample of a ConvNet's name; raises `UserError` for a name that the space lacks."""
        if architecture.partition("-")[0] != "convnet":
            raise UserError(f"no ConvNet of {type(self).__name__}: '{architecture}'")
        spec = parse_convnet(architecture)
        sample = {"depth": spec.depth, "width": spec.width, "activation": spec.activation, "norm": spec.norm}
        return _valid(self, {**sample, "pooling": spec.pool})


class CellSpace(NasBench201):
    """The 15,625 networks of NAS-Bench-201 (Dong and Yang 2020) from NNI's hub, for images with any number of channels.

    NAS-Bench-201 has 16 `channels` and 5 `modules` (cells a stack); with fewer, a network is smaller and cheaper, and
    its correlation with the full network has to be shown. image_size: (height, width) in pixels, which are halved
    twice. Raises `UserError` where a side is no multiple of 4 pixels, and for no channels or modules.
    """

    def __init__(
        self, *, in_channels: int, classes: int, image_size: tuple[int, int], channels: int = 16, modules: int = 5
    ) -> None:
        if any(side < 4 or side % 4 for side in image_size):
            raise UserError(
                f"the cells take images of 4, 8, 12, ... pixels a side, not {image_size[0]} x {image_size[1]}"
            )
        for option, number in (("channels", channels), ("modules", modules)):
            if number < 1:
                raise UserError(f"{Option(option, number)}: expected at least 1")
        # a space has weights that are never used; a frozen network's weights are drawn by torch's global generator
        with streams.seeded(0, "space") if current_model() is None else nullcontext():
            super().__init__(stem_out_channels=channels, num_modules_per_stack=modules, num_labels=classes)
            if in_channels != 3:
                self.stem[0] = nn.Conv2d(in_channels, channels, kernel_size=3, padding=1, bias=False)

    def architecture_of(self, sample: Mapping[str, Any]) -> str:
        """The string of the cell; see `cells`."""
        spelled = {operation: name for name, operation in _OPERATIONS.items()}
        for label in _LABELS:
            if sample.get(label) not in [*spelled]:
                raise UserError(f"no sample of {type(self).__name__}: {label} is {sample.get(label)!r}")
        return cells.architecture([spelled[sample[label]] for label in _LABELS])

    def sample_of(self, architecture: str) -> Sample:
        """The sample of a cell's string; raises `UserError` for text that is no cell's."""
        chosen = cells.operations(architecture)
        return {label: _OPERATIONS[operation] for label, operation in zip(_LABELS, chosen, strict=True)}


def of(
    config: ConvNetsConfig | CellsConfig | OwnConfig, *, in_channels: int, classes: int, image_size: tuple[int, int]
) -> ModelSpace:
    """The space of a config, for images of (height, width) pixels; a user's own space gets its `arguments` alone.

    Raises `UserError` as the spaces do, and for a class that cannot be imported or is no `ModelSpace`.
    """
    images: dict[str, Any] = {"in_channels": in_channels, "classes": classes, "image_size": image_size}
    if isinstance(config, ConvNetsConfig):
        return _space(ConvNetSpace, **images, max_width=config.max_width)
    if isinstance(config, CellsConfig):
        return _space(CellSpace, **images, channels=config.channels, modules=config.modules)
    module, _, name = config.model.partition(":")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{Option('space')}: {config.model} cannot be imported: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, ModelSpace)):
        raise UserError(f"{Option('space')}: {config.model} is no ModelSpace of NNI")
    return _space(kind, **config.arguments)


def _space(kind: type[ModelSpace], **arguments: Any) -> ModelSpace:
    space = kind(**arguments)  # within a frozen space, nni would return a network
    assert isinstance(space, ModelSpace)
    return space


def count(space: ModelSpace) -> int:
    """The number of samples of a space; raises `UserError` for a space with a choice that is not from a list."""
    return math.prod(len(values) for values in _choices(space).values())


def samples(space: ModelSpace) -> Iterator[Sample]:
    """Every sample of a space, the last choice changing first; raises `UserError` as `count` does."""
    choices = _choices(space)
    return (dict(zip(choices, values, strict=True)) for values in product(*choices.values()))


@surroundings.own()
def build(
    space: ModelSpace, sample: Mapping[str, Any], *, seed: int, stream: str = "network", step: int = 0
) -> nn.Module:
    """The network of a sample on the CPU, in training mode; equal arguments give equal weights.

    The weights come from the modules' own initialisation under (seed, stream, step); torch's global generator keeps its
    state. A ConvNet has the weights that `dd_core.networks.build` gives it. Raises `UserError` for a sample that the
    space lacks, and whatever a user's space raises.
    """
    valid = _valid(space, sample)
    if isinstance(space, ConvNetSpace):
        return networks.build(_convnet(valid), seed=seed, stream=stream, step=step, **_options(space))
    frozen = SimplifiedModelSpace.from_model(space).freeze(valid)
    with streams.seeded(seed, stream, step):
        return frozen.executable_model()


def architecture_of(space: ModelSpace, sample: Mapping[str, Any]) -> str:
    """The short name of a sample; raises `UserError` for a sample that the space lacks."""
    if isinstance(space, Named):
        return space.architecture_of(sample)
    return _spelled(_valid(space, sample))


def sample_of(space: ModelSpace, architecture: str) -> Sample:
    """The sample of a short name, the inverse of `architecture_of`; raises `UserError` if the space has none.

    In a space without names of its own, all samples are tried one after the other.
    """
    if isinstance(space, Named):
        return space.sample_of(architecture)
    for sample in samples(space):
        if _spelled(sample) == architecture:
            return sample
    raise UserError(f"'{architecture}' is none of the {count(space)} architectures of {type(space).__name__}")


def code_of(space: ModelSpace, sample: Mapping[str, Any], *, seed: int = 0) -> str:
    """Lines of Python that set `network` to the network of `build`, for use in a user's program.

    Raises `UserError` where the space cannot be written as code: a class that cannot be imported by its name, or an
    argument that is no plain value.
    """
    valid, kind = _valid(space, sample), type(space)
    if isinstance(space, ConvNetSpace):
        options = _arguments({**_options(space), "seed": seed})
        return f'from dd_core import networks\n\nnetwork = networks.build("{_convnet(valid)}", {options})\n'
    if kind.__module__ == "__main__" or not kind.__qualname__.isidentifier():
        raise UserError(f"{kind.__qualname__} cannot be imported by code; define it at the top of a module")
    given = ", ".join([*map(_literal, space.trace_args), *filter(None, [_arguments(space.trace_kwargs)])])
    imports = ["from dd_apps.nas import spaces", f"from {kind.__module__} import {kind.__name__}"]
    lines = [*sorted(imports), "", f"space = {kind.__name__}({given})"]
    chosen = _literal({str(label): choice for label, choice in valid.items()})  # nni's labels are a kind of str
    return "\n".join([*lines, f"network = spaces.build(space, {chosen}, seed={seed})", ""])


def _convnet(sample: Mapping[str, Any]) -> str:
    fields = [("norm", sample["norm"]), ("activation", sample["activation"]), ("pool", sample["pooling"])]
    return "-".join(["convnet", str(sample["depth"]), f"w{sample['width']}", *(_WORDS[field] for field in fields)])


def _options(space: ConvNetSpace) -> dict[str, Any]:
    """Channels, classes and image size that a ConvNet is built for."""
    return {name: space.trace_kwargs[name] for name in ("in_channels", "classes", "image_size")}


def _valid(space: ModelSpace, sample: Mapping[str, Any]) -> Sample:
    """The sample as a dictionary, checked by NNI."""
    try:
        SimplifiedModelSpace.from_model(space).validate(dict(sample))
    except SampleValidationError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"no sample of {type(space).__name__}: {reason}") from None
    return dict(sample)


def _choices(space: ModelSpace) -> dict[str, Sequence[Any]]:
    """The values of each choice of a space, by the label of the choice."""
    return {label: _values(space, leaf) for label, leaf in space.simplify().items()}


def _values(space: ModelSpace, leaf: LabeledMutable) -> Sequence[Any]:
    if isinstance(leaf, Categorical):
        return leaf.values
    if isinstance(leaf, CategoricalMultiple):
        sizes = range(len(leaf.values) + 1) if leaf.n_chosen is None else [leaf.n_chosen]
        return [list(chosen) for size in sizes for chosen in combinations(leaf.values, size)]
    kind = type(leaf).__name__
    raise UserError(f"the architectures of {type(space).__name__} cannot be counted: '{leaf.label}' is a {kind}")


def _spelled(sample: Mapping[str, Any]) -> str:
    return ",".join(f"{label}={sample[label]}" for label in sorted(sample))


def _arguments(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_literal(value)}" for name, value in options.items())


def _literal(value: object) -> str:
    if not _is_plain(value):
        text = repr(value)[:60]
        raise UserError(f"{text} cannot be written as code; expected numbers, strings, lists, tuples or dictionaries")
    return repr(value)


def _is_plain(value: Any) -> bool:
    """Whether the `repr` of a value is Python that makes the value again."""
    kind = type(value)  # exactly: numpy's float64 is a float, and is written as np.float64(...)
    if kind in (list, tuple):
        return all(map(_is_plain, value))
    if kind is dict:
        return all(map(_is_plain, [*value.keys(), *value.values()]))
    if kind is float:
        return math.isfinite(value)  # the reprs inf and nan are no Python names
    return value is None or kind in (bool, int, str)
