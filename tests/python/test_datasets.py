"""Checks how the SDK reads classification datasets: layouts, parts and what is refused. Pictures may be empty files."""

from __future__ import annotations

import json
import tempfile
import unittest
from pathlib import Path
from typing import Any, Dict, List, Optional

import support  # noqa: F401  puts the SDK on the path

from trainyard_sdk import DatasetError
from trainyard_sdk.datasets import Classification, read_classification
from trainyard_sdk.splits import read


class DatasetCase(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name).resolve()

    def pictures(self, *folders: str, count: int = 10) -> None:
        for folder in folders:
            (self.root / folder).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                (self.root / folder / f"{number}.png").write_bytes(b"")

    def document(self, nested: bool, parts: Optional[List[Optional[str]]] = None, count: int = 10) -> Dict[str, Any]:
        """Pictures of cats and dogs in turn, and one of the background, in either shape."""
        self.pictures("images", count=count)
        classes = [{"id": 0, "name": "__background__"}, {"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]
        images: List[Dict[str, Any]] = []
        flat = []
        for number in range(count):
            image: Dict[str, Any] = {"id": 100 + number, "file_name": f"{number}.png", "width": 8, "height": 8}
            if parts is not None and parts[number] is not None:
                image["split"] = parts[number]
            identity = 0 if number == 9 else (7, 3)[number % 2]
            key = "class_id" if nested else "category_id"
            item = {"id": number, "image_id": image["id"], key: identity}
            if nested:
                image["annotations"] = [item]
            else:
                flat.append(item)
            images.append(image)
        made: Dict[str, Any] = {"images": images, "classes" if nested else "categories": classes}
        if not nested:
            made["annotations"] = flat
        (self.root / "annotations_classification.json").write_text(json.dumps(made))
        return made

    def read(self, **split: Any) -> Classification:
        return read_classification(self.root, read(split))

    def names(self, data: Classification, part: str) -> List[str]:
        return sorted(str(sample.path.relative_to(self.root)) for sample in data.part(part))

    def refused(self, words: str, **split: Any) -> None:
        with self.assertRaises(DatasetError) as caught:
            self.read(**split)
        self.assertIn(words, str(caught.exception))


class Folders(DatasetCase):
    def test_parts_of_their_own_are_kept(self) -> None:
        self.pictures("train/a", "train/b", count=6)
        self.pictures("val/a", "val/b", count=3)
        data = self.read(ratio=[0.5, 0.5])
        self.assertEqual(data.classes, ("a", "b"))
        self.assertEqual(data.counts(), {"train": 12, "val": 6})
        self.assertTrue(all("/train/" in str(sample.path) for sample in data.part("train")))

    def test_without_parts_each_class_is_divided_stably(self) -> None:
        self.pictures("b", "a")
        first, second = self.read(ratio=[0.7, 0.3], seed=3), self.read(ratio=[0.7, 0.3], seed=3)
        self.assertEqual(first, second)
        self.assertEqual(first.counts(), {"train": 14, "val": 6})
        for label in (0, 1):
            self.assertEqual(len([sample for sample in first.part("val") if sample.label == label]), 3)
        self.assertNotEqual(self.names(first, "val"), self.names(self.read(ratio=[0.7, 0.3], seed=4), "val"))

    def test_only_training_folders_are_divided(self) -> None:
        self.pictures("train/a", "train/b")
        self.assertEqual(self.read().counts(), {"train": 16, "val": 4})

    def test_a_test_folder_is_not_trained_on(self) -> None:
        for part in ("train", "val", "test"):
            self.pictures(f"{part}/a", f"{part}/b", count=2)
        self.assertEqual(self.read().counts(), {"train": 4, "val": 4, "test": 4})

    def test_named_pictures_and_excluded_ones(self) -> None:
        self.pictures("a", "b", count=4)
        data = self.read(custom_splits={"a/0.png": "val", "b/1.png": "val"}, exclude_images=["a/3.png"])
        self.assertEqual(self.names(data, "val"), ["a/0.png", "b/1.png"])
        self.assertEqual(data.counts(), {"train": 5, "val": 2})

    def test_what_cannot_be_trained_on(self) -> None:
        self.refused("0 classes")
        self.pictures("a")
        self.refused("1 classes")
        self.pictures("train/a", "train/b", "val/a", "val/c", count=1)
        self.refused("lacks: c")


class Documents(DatasetCase):
    def test_both_shapes_give_the_same(self) -> None:
        self.document(nested=False)
        flat = self.read()
        self.document(nested=True)
        self.assertEqual(flat, self.read())
        self.assertEqual(flat.classes, ("cat", "dog"))
        self.assertEqual(sum(flat.counts().values()), 9, "the background is no class")
        for sample in flat.samples:
            self.assertEqual(sample.label, int(sample.path.stem) % 2)

    def test_the_part_of_each_picture_is_kept(self) -> None:
        parts: List[Optional[str]] = ["train", "val", "train", "training", "val", "test", None, None, "valid", "val"]
        for nested in (False, True):
            self.document(nested, parts)
            data = self.read(ratio=[0.1, 0.9])
            self.assertEqual(self.names(data, "val"), [f"images/{n}.png" for n in (1, 4, 8)])
            self.assertEqual(self.names(data, "test"), ["images/5.png"])
            self.assertEqual(self.names(data, "train"), [f"images/{n}.png" for n in (0, 2, 3, 6, 7)])

    def test_ids_are_the_same_as_text_and_as_numbers_and_what_has_no_class_is_told(self) -> None:
        made = self.document(nested=False)
        plain = self.read()
        for image in made["images"]:
            image["id"] = str(image["id"])
        for item in made["annotations"]:
            item.update(category_id=None, class_id=str(item["category_id"]))
        path = self.root / "annotations_classification.json"
        path.write_text(json.dumps(made))
        self.assertEqual((self.read(), plain.notes), (plain, ()))
        made["annotations"][0]["class_id"] = 12
        del made["annotations"][1]
        path.write_text(json.dumps(made))
        self.assertEqual(
            self.read().notes,
            (
                "annotations_classification.json: left out pictures of no known class: 1",
                "annotations_classification.json: left out pictures without an annotation: 1",
            ),
        )

    def test_the_job_s_own_parts_win(self) -> None:
        self.document(True, ["train"] * 5 + ["val"] * 5)
        data = self.read(method="custom", custom_splits={"100": "val", "7.png": "train"}, exclude_images=["108"])
        self.assertEqual(self.names(data, "val"), [f"images/{n}.png" for n in (0, 5, 6)])
        self.assertEqual(self.names(data, "train"), [f"images/{n}.png" for n in (1, 2, 3, 4, 7)])

    def test_only_training_pictures_are_divided(self) -> None:
        self.document(True, ["train"] * 10)
        self.assertEqual(self.read().counts(), {"train": 7, "val": 2})

    def test_what_cannot_be_read(self) -> None:
        made = self.document(True)
        made["images"][0]["file_name"] = "../elsewhere.png"
        path = self.root / "annotations_classification.json"
        path.write_text(json.dumps(made))
        self.refused("../elsewhere.png")
        path.write_text("[]")
        self.refused("not a JSON object")
        path.write_text("{")
        self.refused("not readable")
        path.write_text(json.dumps({"images": [1, None], "classes": [{"name": "x"}]}))
        self.refused("id and a name")


if __name__ == "__main__":
    unittest.main()
