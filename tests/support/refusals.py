"""What a function refuses, and in which words."""

from collections.abc import Callable
from typing import Any

import pytest


def refusals_of(function: Callable[..., Any], **arguments: Any) -> Callable[..., None]:
    """A check that the function raises an error when some of these arguments are others."""

    def refused(error: type[Exception], match: str, **others: Any) -> None:
        with pytest.raises(error, match=match):
            function(**(arguments | others))

    return refused
