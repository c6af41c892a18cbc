"""See, while a recurrent network trains, which hidden units relay information.

The public names are loaded when they are first used: importing the package loads neither torch nor
lightning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_relay.lazy import loaded_when_used

if TYPE_CHECKING:
    from lightning_relay.ablation.asked import Computed as Computed
    from lightning_relay.ablation.asked import Logged as Logged
    from lightning_relay.ablation.asked import Mean as Mean
    from lightning_relay.ablation.asked import MeanPerStep as MeanPerStep
    from lightning_relay.ablation.asked import Resample as Resample
    from lightning_relay.ablation.damage import Damage as Damage
    from lightning_relay.ablation.report import DamagePrediction as DamagePrediction
    from lightning_relay.ablation.report import DeletionCurve as DeletionCurve
    from lightning_relay.ablation.report import KnockoutReport as KnockoutReport
    from lightning_relay.ablation.report import KnockoutSet as KnockoutSet
    from lightning_relay.ablation.report import ScoreAgreement as ScoreAgreement
    from lightning_relay.ablation.selection import AlongOrder as AlongOrder
    from lightning_relay.ablation.selection import EveryUnit as EveryUnit
    from lightning_relay.ablation.selection import NamedSets as NamedSets
    from lightning_relay.ablation.selection import RandomOrders as RandomOrders
    from lightning_relay.ablation.selection import RandomSets as RandomSets
    from lightning_relay.ablation.selection import TopUnits as TopUnits
    from lightning_relay.callbacks.knockout import KnockoutCallback as KnockoutCallback
    from lightning_relay.callbacks.relay_information import (
        RelayInformationCallback as RelayInformationCallback,
    )
    from lightning_relay.information.bootstrapping import BootstrapIntervals as BootstrapIntervals
    from lightning_relay.information.bootstrapping import bootstrap as bootstrap
    from lightning_relay.information.discretization import discretize as discretize
    from lightning_relay.information.measures import (
        mutual_information as mutual_information,
    )
    from lightning_relay.information.measures import relay_information as relay_information
    from lightning_relay.information.options import RelayMeasure as RelayMeasure
    from lightning_relay.information.ordering import RelayOrder as RelayOrder
    from lightning_relay.information.ordering import relay_order as relay_order
    from lightning_relay.information.permutation import ChanceLevel as ChanceLevel
    from lightning_relay.information.permutation import chance_level as chance_level
    from lightning_relay.information.share import RelayShare as RelayShare
    from lightning_relay.information.share import relay_share as relay_share
    from lightning_relay.information.subsets import (
        relay_information_of_all_subsets as relay_information_of_all_subsets,
    )
    from lightning_relay.knockout.context import knocked_out as knocked_out
    from lightning_relay.latent.analysis import latent_structure as latent_structure
    from lightning_relay.latent.options import LatentMeasure as LatentMeasure
    from lightning_relay.latent.structure import Attractors as Attractors
    from lightning_relay.latent.structure import LatentStructure as LatentStructure
    from lightning_relay.load import RunReports as RunReports
    from lightning_relay.load import load_reports as load_reports
    from lightning_relay.recurrent.adapters import register_recurrent as register_recurrent
    from lightning_relay.recurrent.adapters import (
        register_recurrent_stack as register_recurrent_stack,
    )
    from lightning_relay.recurrent.layers import recurrent_layers as recurrent_layers
    from lightning_relay.recurrent.recorder import HiddenStateRecorder as HiddenStateRecorder
    from lightning_relay.recurrent.states import HiddenStates as HiddenStates
    from lightning_relay.recurrent.torchrecurrent import (
        register_torchrecurrent as register_torchrecurrent,
    )
    from lightning_relay.relay.analysis import relay_report as relay_report
    from lightning_relay.relay.report import ConceptRelay as ConceptRelay
    from lightning_relay.relay.report import LayerRelay as LayerRelay
    from lightning_relay.relay.report import RelayReport as RelayReport
    from lightning_relay.reports.files import ReportFileError as ReportFileError
    from lightning_relay.sampling.sample import SequenceSample as SequenceSample

__version__ = "0.1.0"

_HOMES = {
    "AlongOrder": "lightning_relay.ablation.selection",
    "Attractors": "lightning_relay.latent.structure",
    "BootstrapIntervals": "lightning_relay.information.bootstrapping",
    "ChanceLevel": "lightning_relay.information.permutation",
    "Computed": "lightning_relay.ablation.asked",
    "ConceptRelay": "lightning_relay.relay.report",
    "Damage": "lightning_relay.ablation.damage",
    "DeletionCurve": "lightning_relay.ablation.report",
    "EveryUnit": "lightning_relay.ablation.selection",
    "HiddenStateRecorder": "lightning_relay.recurrent.recorder",
    "HiddenStates": "lightning_relay.recurrent.states",
    "KnockoutCallback": "lightning_relay.callbacks.knockout",
    "KnockoutReport": "lightning_relay.ablation.report",
    "KnockoutSet": "lightning_relay.ablation.report",
    "LatentMeasure": "lightning_relay.latent.options",
    "LatentStructure": "lightning_relay.latent.structure",
    "LayerRelay": "lightning_relay.relay.report",
    "Logged": "lightning_relay.ablation.asked",
    "Mean": "lightning_relay.ablation.asked",
    "MeanPerStep": "lightning_relay.ablation.asked",
    "NamedSets": "lightning_relay.ablation.selection",
    "RandomOrders": "lightning_relay.ablation.selection",
    "RandomSets": "lightning_relay.ablation.selection",
    "RelayInformationCallback": "lightning_relay.callbacks.relay_information",
    "RelayMeasure": "lightning_relay.information.options",
    "RelayOrder": "lightning_relay.information.ordering",
    "RelayReport": "lightning_relay.relay.report",
    "RelayShare": "lightning_relay.information.share",
    "ReportFileError": "lightning_relay.reports.files",
    "Resample": "lightning_relay.ablation.asked",
    "RunReports": "lightning_relay.load",
    "DamagePrediction": "lightning_relay.ablation.report",
    "ScoreAgreement": "lightning_relay.ablation.report",
    "SequenceSample": "lightning_relay.sampling.sample",
    "TopUnits": "lightning_relay.ablation.selection",
    "bootstrap": "lightning_relay.information.bootstrapping",
    "chance_level": "lightning_relay.information.permutation",
    "discretize": "lightning_relay.information.discretization",
    "knocked_out": "lightning_relay.knockout.context",
    "latent_structure": "lightning_relay.latent.analysis",
    "load_reports": "lightning_relay.load",
    "mutual_information": "lightning_relay.information.measures",
    "recurrent_layers": "lightning_relay.recurrent.layers",
    "register_recurrent": "lightning_relay.recurrent.adapters",
    "register_recurrent_stack": "lightning_relay.recurrent.adapters",
    "register_torchrecurrent": "lightning_relay.recurrent.torchrecurrent",
    "relay_information": "lightning_relay.information.measures",
    "relay_information_of_all_subsets": "lightning_relay.information.subsets",
    "relay_order": "lightning_relay.information.ordering",
    "relay_report": "lightning_relay.relay.analysis",
    "relay_share": "lightning_relay.information.share",
}

__all__ = sorted([*_HOMES, "__version__"])


__getattr__ = loaded_when_used(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
