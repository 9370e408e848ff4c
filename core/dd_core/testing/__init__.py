"""Conformance kits: tests for every method, protocol, artefact and network, also other packages'. They need pytest.

A kit is a class to inherit from in a test; `blobs` is a small source of images that is made here, not downloaded.
"""

from __future__ import annotations

from dd_core.testing.artefacts import ArtefactConformance
from dd_core.testing.distillers import CPU, DistillerConformance, blobs
from dd_core.testing.networks import NetworkConformance
from dd_core.testing.protocols import ProtocolConformance

__all__ = ["CPU", "ArtefactConformance", "DistillerConformance", "NetworkConformance", "ProtocolConformance", "blobs"]
