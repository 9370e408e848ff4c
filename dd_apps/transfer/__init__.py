"""Transfer: backbones that are pre-trained on a distilled set, and scored on other images.

    from dd_apps.transfer import linear_probe, pretrain

    backbone = pretrain("timm:resnet10t", ds)
    print(linear_probe(backbone, train, test, fraction=0.01, form=ds.input_form()).accuracy)

`pretraining` trains a backbone on a set, and `embedding` computes the backbone's features of real images. `probes` and
`fine_tuning` score a backbone, `labelled` draws the labels that both learn from, and `weights` writes and reads the
backbone's file. `data_free` teaches a student without the teacher's data. `settings` are the ways of scoring, `config`
has the scenario of the task `transfer`, `task` runs it, and `reporting` makes its tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dd_core.lazy import names_of

if TYPE_CHECKING:
    from dd_apps.transfer.data_free import DataFree, teach_student
    from dd_apps.transfer.embedding import features
    from dd_apps.transfer.fine_tuning import FineTuned, fine_tune
    from dd_apps.transfer.pretraining import pretrain
    from dd_apps.transfer.probes import knn, linear_probe
    from dd_apps.transfer.scores import TransferScore
    from dd_apps.transfer.weights import LoadedBackbone, load_backbone, save_backbone

__all__ = [
    "DataFree",
    "FineTuned",
    "LoadedBackbone",
    "TransferScore",
    "features",
    "fine_tune",
    "knn",
    "linear_probe",
    "load_backbone",
    "pretrain",
    "save_backbone",
    "teach_student",
]
__getattr__ = names_of(
    __name__,
    {
        "DataFree": "data_free",
        "FineTuned": "fine_tuning",
        "LoadedBackbone": "weights",
        "TransferScore": "scores",
        "features": "embedding",
        "fine_tune": "fine_tuning",
        "knn": "probes",
        "linear_probe": "probes",
        "load_backbone": "weights",
        "pretrain": "pretraining",
        "save_backbone": "weights",
        "teach_student": "data_free",
    },
)
