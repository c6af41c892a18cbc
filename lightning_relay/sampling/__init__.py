"""A fair sample of sequences in bounded memory."""

from lightning_relay.sampling.buffer import SequenceBuffer
from lightning_relay.sampling.kept import KeptStates
from lightning_relay.sampling.sample import SequenceSample

__all__ = ["KeptStates", "SequenceBuffer", "SequenceSample"]
