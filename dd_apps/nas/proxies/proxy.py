"""The base class of proxies, in dd-apps and in NNI."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from dd_apps.nas.proxies.scored import Scored
from dd_core import streams
from dd_core.lazy import require
from dd_core.system import memory, surroundings

with warnings.catch_warnings():  # nni 3.0 warns of each module of torch that is newer than it
    warnings.simplefilter("ignore", RuntimeWarning)
    require("nni", called="NNI", use="architecture search", extra="nas")
    import nni
    from nni.nas.evaluator import Evaluator


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Proxy(Evaluator):
    """Scores one untrained network. Equal arguments give equal values on one machine with one number of threads.

    As an evaluator of NNI it scores the network of each sample, whose initial weights come from `seed`, and reports the
    value. A subclass implements `_outcome`.

    name: name of the proxy in tables. seed: of the trials that NNI starts. device: where networks are computed.
    """

    name: str
    seed: int = 0
    device: str = "auto"

    @surroundings.own()
    def score(self, network: nn.Module, *, seed: int) -> Scored:
        """The score of `network`, which may be trained in place and moved to the proxy's device.

        Torch's global generator keeps its state. Raises `UserError` for a network that this proxy cannot score, and
        `Diverged` where training or outputs are not finite.
        """
        self._prepare(seed)
        begun, used = time.perf_counter(), time.process_time()
        with memory.kept(), streams.seeded(seed, "proxy"):  # a network may draw at any time
            outcome = self._outcome(network, seed=seed)
        seconds, core_seconds = time.perf_counter() - begun, time.process_time() - used
        return Scored(**outcome, seconds=seconds, core_seconds=core_seconds)

    def _prepare(self, seed: int) -> None:
        """Compute what all networks share, once, so that it does not count in a network's seconds."""
        del seed

    def _outcome(self, network: nn.Module, *, seed: int) -> dict[str, Any]:
        """The fields of `Scored`, but for the seconds."""
        raise NotImplementedError

    # --- NNI --------------------------------------------------------------------------------------------------------

    def evaluate(self, model: nn.Module) -> float:
        """The value of `model`, reported to NNI as the final result of the trial."""
        value = self.score(model, seed=self.seed).value
        nni.report_final_result(value)
        return value

    def _execute(self, model: Any) -> float:
        """NNI's call for a frozen sample: initial weights come from the seed, not from the global generator."""
        return self.evaluate(self._network_of(model))

    @surroundings.own()
    def _network_of(self, model: Any) -> nn.Module:
        with streams.seeded(self.seed, "network"):
            return model.executable_model()

    def extra_repr(self) -> str:
        """The name alone: NNI logs it with each model."""
        return repr(self.name)

    def __getstate__(self) -> dict[str, Any]:
        """The fields without what is computed from them once, such as normalised images."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
