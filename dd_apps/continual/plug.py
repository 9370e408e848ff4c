"""`use_buffer`: put a `DistilledBuffer` where Avalanche hard-codes its own memory.

`ReplayPlugin` and the like take a storage policy as an argument; GDumb, ER_ACE, DER, MIR, CoPE and SCR make a memory of
their own, which `use_buffer` replaces. The docstring of `dd_apps.continual` has a table of what works.
"""

from __future__ import annotations

from typing import Any

from dd_apps.continual.adapter import BiCPlugin, GDumbPlugin, mend_bic
from dd_apps.continual.buffer import DistilledBuffer
from dd_core.errors import UserError

# strategies whose memory holds more than images and labels, or that would hang with a small one
REFUSED = {
    "FeatureReplay": "replays features, and a DistilledBuffer holds images",
    "ER_AML": "draws a whole mini-batch of each class and never ends where a class holds less",
}
# strategies that hand an experience to their memory before they learn it: their network cannot label it yet
BEFORE_TRAINING = ("ER_ACE", "GDumbPlugin")
PARTICULAR = (*REFUSED, *BEFORE_TRAINING, "DER", "MIRPlugin", "SoftLabelReplay")  # others are used as ReplayPlugin is


def use_buffer(target: Any, buffer: DistilledBuffer, *, benchmark: Any = None) -> None:
    """Make a strategy or plugin keep its memory in `buffer`; call it before training begins.

    `target` may have the buffer already; BiC needs the call even then, see `mend_bic`. MIR replays nothing while the
    classes before the current experience hold no more images than its `batch_size_mem`.

    benchmark: the Avalanche benchmark (or its training stream) that will be trained on; if given, the buffer's room for
    all of its classes is checked now. Raises `UserError` where `target` cannot work with the buffer.
    """
    holder = _holder(target)
    name, policy = _name(holder), holder.storage_policy
    if (reason := REFUSED.get(name)) is not None:
        raise UserError(f"{name} {reason}; use ER_ACE or a ReplayPlugin")
    if len(policy.items if isinstance(policy, DistilledBuffer) else policy.buffer) > 0:
        raise UserError(f"{name} has images in its memory already; call use_buffer before training")
    _check_labels(name, buffer)
    _check_sizes(holder, buffer)
    if benchmark is not None:
        buffer.check_benchmark(benchmark)
    buffer.for_der = name == "DER"
    if isinstance(holder, BiCPlugin):
        mend_bic()
    holder.storage_policy = buffer


def _holder(target: Any) -> Any:
    """The strategy or plugin that owns a storage policy."""
    for candidate in (target, *getattr(target, "plugins", ())):
        if getattr(candidate, "storage_policy", None) is not None:
            return candidate
    raise UserError(
        f"{type(target).__name__} has no storage policy to replace; give it a ReplayPlugin(storage_policy=buffer)"
    )


def _name(holder: Any) -> str:
    """The class of `PARTICULAR` that a holder is or is derived from; for any other holder the name of its class."""
    kinds = (kind.__name__ for kind in type(holder).__mro__)
    return next((kind for kind in kinds if kind in PARTICULAR), type(holder).__name__)


def _check_sizes(holder: Any, buffer: DistilledBuffer) -> None:
    name = _name(holder)
    mem_size = getattr(holder, "mem_size", buffer.max_size)
    if mem_size != buffer.max_size:
        raise UserError(f"{name} has mem_size={mem_size} and the buffer max_size={buffer.max_size}; make them equal")
    if isinstance(holder, GDumbPlugin) and buffer.fill is not None:
        raise UserError("GDumbPlugin trains on the memory alone: there is nothing to fill, so leave fill out")
    batch = getattr(holder, "batch_size_mem", 0)
    if name in ("DER", "ER_ACE") and batch > max(buffer.max_size, buffer.fill or 0):
        raise UserError(f"{name} replays nothing before its memory fills a batch of {batch}; use fill={batch}")
    if name == "MIRPlugin" and batch >= buffer.max_size:
        raise UserError(f"MIR chooses {batch} of more images; use a batch_size_mem below max_size={buffer.max_size}")


def _check_labels(name: str, buffer: DistilledBuffer) -> None:
    if name == "SoftLabelReplay":
        return
    if name == "DER" and buffer.labels != "logits":
        raise UserError(f"DER replays outputs of its network: give it labels='logits', not '{buffer.labels}'")
    if name != "DER" and buffer.labels != "hard":
        raise UserError(
            f"{name} learns classes, and the buffer has labels='{buffer.labels}'; use labels='hard', or SoftLabelReplay"
        )
    if name in BEFORE_TRAINING and buffer.asks_network:
        raise UserError(
            f"{name} hands an experience to its memory before it learns it, so its network has no features of it yet; "
            "use features='pixels'"
        )
