import pytest
import torch

from lightning_relay.recurrent import adapters


@pytest.fixture(autouse=True)
def _nothing_is_compiled_or_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.compiler.reset()
    monkeypatch.setattr(adapters, "_ADAPTERS", dict(adapters._ADAPTERS))
