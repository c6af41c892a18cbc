from torch import nn


def hook_count(model: nn.Module) -> int:
    """Number of forward hooks and pre-hooks on a model and all its submodules."""
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )
