from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def decoded(png: bytes) -> NDArray[np.uint8]:
    """Pixels ``(height, width, 3)`` of an encoded image."""
    return np.asarray(Image.open(BytesIO(png)).convert("RGB"))
