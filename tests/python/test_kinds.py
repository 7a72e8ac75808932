"""Checks which files count as pictures, and that the coordinator and all trainers mean the same ones."""

from __future__ import annotations

import importlib.util
import re
import tempfile
import unittest
from pathlib import Path

from support import ROOT, TRAINERS

from trainyard_sdk import kinds
from trainyard_sdk.datasets import read_classification
from trainyard_sdk.splits import read

HAS_PILLOW = importlib.util.find_spec("PIL") is not None


class Kinds(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name).resolve()

    def test_the_coordinator_counts_the_same_kinds(self) -> None:
        source = (ROOT / "core" / "src" / "dataset" / "paths.rs").read_text()
        listed = re.search(r"const IMAGES: [^=]+= \[(.*?)\];", source, re.DOTALL)
        assert listed is not None
        self.assertEqual({f".{name}" for name in re.findall(r'"(\w+)"', listed.group(1))}, set(kinds.SUFFIXES))

    def test_no_trainer_has_a_list_of_its_own(self) -> None:
        for file in [*TRAINERS.rglob("*.py"), *(ROOT / "sdk" / "python").rglob("*.py")]:
            if ".venv" not in file.parts and file.name not in ("kinds.py", "make_dataset.py"):
                self.assertNotIn('".jpg"', file.read_text(), file)

    def test_hidden_files_are_no_pictures(self) -> None:
        found = [name for name in ("a.PNG", "b.avif", ".c.png", "d.txt", "png") if kinds.is_picture(Path(name))]
        self.assertEqual(found, ["a.PNG", "b.avif"])

    def test_what_is_left_out_is_told_by_number_kind_and_name(self) -> None:
        words = kinds.told([Path(f"x/{n}.dng") for n in range(4)] + [Path("y/a.MPO")])
        self.assertIn("5 left out", words)
        self.assertIn("(.dng, .mpo): 0.dng, 1.dng, 2.dng and 2 more", words)

    @unittest.skipUnless(HAS_PILLOW, "Pillow is not importable; run with the environment of a trainer")
    def test_a_classification_leaves_out_what_pillow_cannot_open(self) -> None:
        from PIL import Image

        for part in ("train", "val"):
            for name in ("cat", "dog"):
                folder = self.root / part / name
                folder.mkdir(parents=True)
                for ending in ("png", "gif", "webp"):
                    Image.new("RGB", (12, 12)).save(folder / f"a.{ending}")
        (self.root / "train" / "cat" / "raw.dng").write_bytes(b"no picture")
        (self.root / "val" / "dog" / "odd.avif").write_bytes(b"no picture")
        data = read_classification(self.root, read({}), kinds.pillow_reads)
        self.assertEqual(data.counts(), {"train": 6, "val": 6})
        self.assertEqual([path.name for path in data.left_out], ["raw.dng", "odd.avif"])


if __name__ == "__main__":
    unittest.main()
