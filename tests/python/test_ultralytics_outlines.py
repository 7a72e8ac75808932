"""Checks how masks in run lengths become outlines, and what of a document is told as left out. Needs OpenCV."""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any, Dict, List

from support import TRAINERS

from trainyard_sdk import DatasetError, splits

sys.path.append(str(TRAINERS / "ultralytics"))
HAS_CV2 = all(importlib.util.find_spec(name) is not None for name in ("cv2", "yaml"))
if HAS_CV2:
    import cv2
    import dataset
    import numpy
    import outlines
    import yaml


def runs_of(mask: Any) -> List[int]:
    """Run lengths of a mask, column by column, background first."""
    runs, value = [0], 0
    for pixel in mask.T.reshape(-1):
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


def text_of(runs: List[int]) -> str:
    """The same as COCO's text."""
    made = ""
    for number, run in enumerate(runs):
        left = run - (runs[number - 2] if number > 2 else 0)
        while True:
            bits, left = left & 0x1F, left >> 5
            more = left != (-1 if bits & 0x10 else 0)
            made += chr((bits | (0x20 if more else 0)) + 48)
            if not more:
                break
    return made


@unittest.skipUnless(HAS_CV2, "OpenCV is not importable; run with the environment of trainers/ultralytics")
class Outlines(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name).resolve() / "set"
        (self.root / "images").mkdir(parents=True)
        self.told: List[str] = []

    def masks(self) -> Dict[str, Any]:
        def blank() -> Any:
            return numpy.zeros((40, 60), dtype=numpy.uint8)

        block, ring, apart, dots, whole = blank(), blank(), blank(), blank(), blank() + 1
        block[5:20, 10:50] = 1
        ring[5:35, 5:55] = 1
        ring[15:25, 20:40] = 0
        apart[2:10, 2:10] = apart[20:38, 30:58] = 1
        dots[3, 3] = dots[30:32, 50] = dots[10:20, 20:30] = 1
        return {"block": block, "ring": ring, "apart": apart, "dots": dots, "whole": whole}

    def test_filled_again_an_outline_covers_the_same_pixels(self) -> None:
        for name, mask in self.masks().items():
            runs = runs_of(mask)
            for counts in (runs, text_of(runs), text_of(runs).encode()):
                polygons, size = outlines.of_runs({"counts": counts, "size": [40, 60]})
                self.assertEqual(size, (60.0, 40.0))
                outline = numpy.asarray(outlines.joined(polygons)).reshape(-1, 2)
                filled = numpy.zeros_like(mask)
                cv2.fillPoly(filled, [outline.round().astype(numpy.int32)], 1)
                # Bridges between pieces are a pixel wide, and dots a pixel larger.
                wrong = int((filled != mask).sum())
                self.assertLessEqual(wrong, 0 if name in ("block", "whole") else 70, name)
                self.assertEqual(int(((mask == 1) & (filled == 0)).sum()), 0, name)

    def test_runs_that_are_none_are_refused(self) -> None:
        for runs in ({"counts": [1, 2], "size": [2, 2]}, {"counts": "~~", "size": [2, 2]}, {"counts": [4]}, {}):
            with self.assertRaises(ValueError):
                outlines.of_runs(runs)

    def convert(self, annotations: List[Dict[str, Any]], task: str = "segmentation") -> List[str]:
        """All lines of the labels."""
        for number in range(2):
            (self.root / "images" / f"{number}.png").write_bytes(b"")
        document = {
            "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "__background__"}],
            "images": [{"id": n, "file_name": f"{n}.png", "width": 60, "height": 40} for n in range(2)],
            "annotations": [{"id": n, "image_id": 0, "category_id": 1, **item} for n, item in enumerate(annotations)],
        }
        (self.root / "annotations.json").write_text(json.dumps(document))
        work = self.root.parent / "work"
        made = dataset.resolve(self.root, task, splits.read({}), work, self.told.append)
        self.assertTrue(Path(made).is_file())
        labels = sorted((work / "converted" / "labels").rglob("*.txt"))
        self.assertEqual(len(labels), 2)
        return [line for label in labels for line in label.read_text().splitlines()]

    def test_run_lengths_of_a_document_become_outlines(self) -> None:
        runs = runs_of(self.masks()["block"])
        lines = self.convert(
            [{"segmentation": {"counts": counts, "size": [40, 60]}, "iscrowd": 0} for counts in (runs, text_of(runs))]
        )
        self.assertEqual(len(lines), 2)
        self.assertEqual(lines[0], lines[1])
        values = [float(value) for value in lines[0].split()[1:]]
        self.assertEqual((round(min(values[0::2]) * 60), round(max(values[0::2]) * 60)), (10, 49))
        self.assertEqual((round(min(values[1::2]) * 40), round(max(values[1::2]) * 40)), (5, 19))
        self.assertEqual(self.told, [])

    def test_what_is_left_out_is_told_by_number_and_reason(self) -> None:
        square = [[0, 0, 9, 0, 9, 9]]
        runs = {"counts": runs_of(self.masks()["ring"]), "size": [40, 60]}
        lines = self.convert(
            [
                {"segmentation": square},
                {"segmentation": runs, "iscrowd": 1},
                {"segmentation": square, "iscrowd": 1},
                {"segmentation": [[1, 2]]},
                {"segmentation": {"counts": [2400], "size": [40, 60]}},
                {"bbox": [0, 0, 5, 5]},
                {"category_id": 2},
            ]
        )
        self.assertEqual(len(lines), 1)
        self.assertEqual(len(self.told), 2, self.told)
        self.assertIn("annotations.json: left out crowd regions (iscrowd)", self.told[0])
        self.assertTrue(self.told[0].endswith(": 2") and self.told[1].endswith(": 3"), self.told)
        self.assertIn("annotations.json: left out objects whose segmentation", self.told[1])

    def test_a_document_that_leaves_no_object_is_refused_with_the_reasons(self) -> None:
        with self.assertRaisesRegex(
            DatasetError, "no object for task pose: annotations.json: left out objects without keypoints: 1"
        ):
            self.convert([{"bbox": [0, 0, 5, 5], "keypoints": []}], "pose")
        with self.assertRaisesRegex(DatasetError, "annotation 0 of image '0.png' is not usable"):
            self.convert([{"segmentation": {"counts": "?", "size": [1, 1]}}])

    def test_pictures_of_kinds_that_are_not_read_are_left_out_and_told(self) -> None:
        from PIL import Image

        names = ["a.png", "b.gif", "c.jpg", "d.dng", "e.webp", "f.avif"]
        for part in ("train", "val"):
            (self.root / "images" / part).mkdir()
            for name in names:
                file = self.root / "images" / part / name
                if name.endswith((".dng", ".avif")):
                    file.write_bytes(b"no picture")
                else:
                    Image.new("RGB", (32, 32)).save(file)
        (self.root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [a]\n")
        work = self.root.parent / "work"
        made = yaml.safe_load(
            Path(dataset.resolve(self.root, "detection", splits.read({}), work, self.told.append)).read_text()
        )
        for part in ("train", "val"):
            found = [Path(line).name for line in Path(made[part]).read_text().split()]
            self.assertEqual(found, ["a.png", "c.jpg", "e.webp"])
        self.assertEqual(len(self.told), 1)
        self.assertIn("6 left out", self.told[0])
        self.assertIn("(.avif, .dng, .gif)", self.told[0])


if __name__ == "__main__":
    unittest.main()
