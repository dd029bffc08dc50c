"""Store what OpenCV's warpAffine makes of a small picture, in opencv_shift.npz. Needs OpenCV and NumPy."""

from pathlib import Path

import cv2
import numpy as np

BORDERS = {
    "reflect": cv2.BORDER_REFLECT,
    "replicate": cv2.BORDER_REPLICATE,
    "wrap": cv2.BORDER_WRAP,
    "constant": cv2.BORDER_CONSTANT,
}

draw = np.random.default_rng(0)
source = draw.integers(0, 256, (26, 34), dtype=np.uint8)
source[:13] = cv2.GaussianBlur(source, (0, 0), 1.5)[:13]  # half of it is smooth
stored = {"source": source, "version": np.array(cv2.__version__)}
for dy, dx in ((3.5, 3.5), (-1.25, 2.75), (0.3, -0.7)):
    for name, border in BORDERS.items():
        matrix = np.array([[1, 0, dx], [0, 1, dy]])
        moved = cv2.warpAffine(source, matrix, (34, 26), flags=cv2.INTER_CUBIC, borderMode=border, borderValue=100)
        stored[f"{dy},{dx}/{name}"] = moved
np.savez_compressed(Path(__file__).with_suffix(".npz"), **stored)
