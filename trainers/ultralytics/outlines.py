"""Owns the geometry of outlines: masks in run lengths become polygons, and several polygons one outline.

Run lengths are COCO's: columns of a mask from the top left, background first, as a list of numbers or as a text.
numpy and OpenCV, which Ultralytics needs anyway. Callers: `annotations_json`.
"""

from __future__ import annotations

from typing import Any, List, Mapping, Sequence, Tuple

MOST_PIXELS = 1 << 28


def of_runs(runs: Mapping[str, Any]) -> Tuple[List[List[float]], Tuple[float, float]]:
    """Polygons around a mask and around the holes in it, flat as `x, y, x, y, …`, and the mask's width and height.

    Filled together by the even-odd rule they cover the same pixels.

    Raises:
        ValueError: the runs are not those of a mask of that size.
    """
    import cv2

    mask = _mask(runs)
    found, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    rings = [[float(value) for value in _wide(contour.reshape(-1, 2)).reshape(-1)] for contour in found]
    return rings, (float(mask.shape[1]), float(mask.shape[0]))


def joined(polygons: Sequence[Sequence[float]]) -> List[float]:
    """One outline around all polygons of an object, flat as they are: a label file has room for one.

    Each further polygon is entered and left by the same bridge, between the two points that are nearest to each
    other, so that the area stays that of all of them.
    """
    flat = [[float(value) for value in ring[: len(ring) // 2 * 2]] for ring in polygons if len(ring) >= 6]
    if len(flat) < 2:
        return flat[0] if flat else []
    import numpy

    rings = [numpy.asarray(ring).reshape(-1, 2) for ring in flat]
    outline = rings[0]
    for ring in rings[1:]:
        apart = ((outline[:, None, :] - ring[None, :, :]) ** 2).sum(axis=2)
        near, far = numpy.unravel_index(int(apart.argmin()), apart.shape)
        outline = numpy.concatenate((outline[: near + 1], ring[far:], ring[: far + 1], outline[near:]))
    return [float(value) for value in outline.reshape(-1)]


def _wide(points: Any) -> Any:
    """A ring of at least three points: one or two pixels have fewer, and become the square around them."""
    import numpy

    if len(points) >= 3:
        return points
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0) + 1
    return numpy.asarray([(left, top), (right, top), (right, bottom), (left, bottom)])


def _mask(runs: Mapping[str, Any]) -> Any:
    import numpy

    try:
        height, width = (int(side) for side in runs["size"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError("run lengths need a size of [height, width]") from error
    counts = runs.get("counts")
    if isinstance(counts, (str, bytes)):
        counts = _counts(counts if isinstance(counts, bytes) else counts.encode("latin-1"))
    lengths = [int(count) for count in counts or []]
    if not 0 < height * width <= MOST_PIXELS or min(lengths, default=-1) < 0 or sum(lengths) != height * width:
        raise ValueError(f"run lengths of {sum(lengths)} pixels do not fill a mask of {height} x {width}")
    values = numpy.arange(len(lengths), dtype=numpy.uint8) % 2
    return numpy.ascontiguousarray(numpy.repeat(values, lengths).reshape(width, height).T)


def _counts(text: bytes) -> List[int]:
    """Numbers of COCO's text: five bits a character, the sixth says that more follow; from the fourth number on each
    is the difference to the one before the last."""
    counts: List[int] = []
    value, shift = 0, 0
    for character in text:
        bits = character - 48
        if not 0 <= bits < 64:
            raise ValueError("run lengths hold a character that stands for no number")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise ValueError("run lengths end within a number")
    return counts
