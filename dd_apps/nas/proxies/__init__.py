"""Proxies: scores of one untrained network that predict the accuracy of its architecture after full training.

    proxy = DistilledProxy(ds, validation)
    proxy.score(network, seed=0).value  # higher predicts a better architecture

Every proxy is an evaluator of NNI too; see `Proxy`. `Scored` has a score and its cost. `validation` are images held out
of the *training* images (`dd_core.evaluation.tuning.validation_split`), and never test images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dd_core.lazy import names_of

if TYPE_CHECKING:
    from dd_apps.nas.proxies.budget import epochs_within
    from dd_apps.nas.proxies.building import Images, built
    from dd_apps.nas.proxies.config import ProxyConfig
    from dd_apps.nas.proxies.proxy import Proxy
    from dd_apps.nas.proxies.scored import By, Scored
    from dd_apps.nas.proxies.subsets import random_part, real_subset
    from dd_apps.nas.proxies.trained import DistilledProxy, EarlyStoppingProxy, RealProxy, TrainedProxy
    from dd_apps.nas.proxies.zero_cost import ZeroCostProxy

_HOME = {
    "By": "scored",
    "DistilledProxy": "trained",
    "EarlyStoppingProxy": "trained",
    "Images": "building",
    "Proxy": "proxy",
    "ProxyConfig": "config",
    "RealProxy": "trained",
    "Scored": "scored",
    "TrainedProxy": "trained",
    "ZeroCostProxy": "zero_cost",
    "built": "building",
    "epochs_within": "budget",
    "random_part": "subsets",
    "real_subset": "subsets",
}
__all__ = [
    "By",
    "DistilledProxy",
    "EarlyStoppingProxy",
    "Images",
    "Proxy",
    "ProxyConfig",
    "RealProxy",
    "Scored",
    "TrainedProxy",
    "ZeroCostProxy",
    "built",
    "epochs_within",
    "random_part",
    "real_subset",
]
__getattr__ = names_of(__name__, _HOME)
