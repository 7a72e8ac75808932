"""Checks how the Ultralytics trainer finds and describes a dataset. Needs PyYAML, which its environment has."""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any, Dict, List

from support import TRAINERS

from trainyard_sdk import ConfigError, DatasetError

sys.path.append(str(TRAINERS / "ultralytics"))
HAS_YAML = importlib.util.find_spec("yaml") is not None
if HAS_YAML:
    import dataset
    from trainyard_sdk import splits
    import yaml


@unittest.skipUnless(HAS_YAML, "PyYAML is not importable; run with the environment of trainers/ultralytics")
class DatasetCase(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name).resolve() / "set"
        self.work = Path(folder.name).resolve() / "work"
        self.root.mkdir()

    def images(self, folder: str, count: int) -> None:
        (self.root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (self.root / folder / f"{number}.png").write_bytes(b"")

    def resolve(self, task: str = "detection", split: Any = None, root: Any = None) -> Any:
        made = dataset.resolve(root or self.root, task, splits.read(split or {}), self.work)
        return yaml.safe_load(Path(made).read_text()) if made.endswith(".yaml") else made

    def files(self, entry: str) -> List[str]:
        return sorted(Path(name).name for name in dataset._files(entry))

    def test_yaml_starts_from_its_own_folder(self) -> None:
        self.images("images/train", 2)
        self.images("images/val", 1)
        for path in (".", "/somewhere/else", "datasets/unknown", None):
            document: Dict[str, Any] = {
                "train": "images/train",
                "val": "../images/val",
                "names": {0: "a"},
                "path": path,
            }
            document["download"] = "import os"
            (self.root / "data.yaml").write_text(yaml.safe_dump(document))
            for root in (self.root, self.root / "data.yaml"):
                made = self.resolve(root=root)
                self.assertEqual(made["train"], str(self.root / "images" / "train"))
                self.assertEqual(made["val"], str(self.root / "images" / "val"))
                self.assertNotIn("download", made)

    def test_yaml_without_val_is_split_by_ratio_and_seed(self) -> None:
        self.images("images", 10)
        (self.root / "data.yaml").write_text("train: images\nnames: [a]\n")
        made = self.resolve(split={"ratio": [0.7, 0.3], "seed": 1})
        train, val = self.files(made["train"]), self.files(made["val"])
        self.assertEqual((len(train), len(val), len({*train, *val})), (7, 3, 10))
        self.assertEqual(self.files(self.resolve(split={"ratio": [0.7, 0.3], "seed": 1})["val"]), val)
        self.assertNotEqual(self.files(self.resolve(split={"ratio": [0.7, 0.3], "seed": 2})["val"]), val)

    def test_boxes_in_place_of_outlines_are_told(self) -> None:
        for part in ("train", "val"):
            self.images(f"images/{part}", 2)
            (self.root / "labels" / part).mkdir(parents=True)
            (self.root / "labels" / part / "0.txt").write_text("0 0.5 0.5 0.1 0.1\n")
        (self.root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [a]\n")
        self.resolve("detection")
        with self.assertRaisesRegex(DatasetError, "hold boxes, but segmentation needs outlines"):
            self.resolve("segmentation")
        (self.root / "labels" / "train" / "1.txt").write_text("0 0.1 0.1 0.2 0.1 0.2 0.2\n")
        told: List[str] = []
        dataset.resolve(self.root, "segmentation", splits.read({}), self.work, told.append)
        self.assertEqual(len(told), 1)
        self.assertIn("of 2 images hold boxes", told[0])

    def test_folders_without_description(self) -> None:
        self.images("images/train", 2)
        self.images("images/val", 1)
        (self.root / "labels" / "train").mkdir(parents=True)
        (self.root / "labels" / "train" / "0.txt").write_text("2 0.5 0.5 0.1 0.1\n")
        self.assertEqual(self.resolve()["names"], {0: "class_0", 1: "class_1", 2: "class_2"})

    def test_what_is_wrong_is_named(self) -> None:
        cases = {
            "names: [a]\n": "train",
            "train: images\nval: images\n": "names",
            "train: nowhere\nnames: [a]\n": "nowhere",
            "[": "not readable",
        }
        self.images("images", 2)
        for text, word in cases.items():
            (self.root / "data.yaml").write_text(text)
            with self.assertRaisesRegex(DatasetError, word):
                self.resolve()
        (self.root / "data.yaml").unlink()
        with self.assertRaisesRegex(DatasetError, "LOCAL_DATASET_PATH"):
            self.resolve()

    def test_nested_annotations_keep_their_split(self) -> None:
        self.images("images", 4)
        box = {"class_id": 7, "bbox": [10, 20, 30, 40], "bbox_format": "xywh"}
        splits = ["train", "train", "val", "train"]
        listed = [
            {"id": n, "file_name": f"{n}.png", "width": 100, "height": 200, "split": splits[n], "annotations": [box]}
            for n in range(4)
        ]
        listed[3]["annotations"] = [{"class_id": 9, "bbox": [1, 1, 1, 1]}]
        classes = [{"id": 7, "name": "cat"}, {"id": 9, "name": "__background__"}]
        document = {"format_version": "1.0", "classes": classes, "images": listed}
        (self.root / "annotations_detection.json").write_text(json.dumps(document))
        made = self.resolve()
        self.assertEqual(made["names"], {0: "cat"})
        self.assertEqual(self.files(made["val"]), ["2.png"])
        label = Path(made["val"].replace("images", "labels")) / "2.txt"
        self.assertEqual(label.read_text(), "0 0.250000 0.200000 0.300000 0.200000\n")
        self.assertEqual((Path(made["train"].replace("images", "labels")) / "3.txt").read_text(), "")
        self.assertFalse((self.root / "labels").exists())

    def test_flat_annotations_are_split_and_serve_all_tasks(self) -> None:
        self.images("images", 5)
        shape = {
            "category_id": 1,
            "bbox": [0, 0, 50, 50],
            "segmentation": [[0, 0, 50, 0, 50, 50]],
            "keypoints": [10, 10, 2, 20, 20, 1],
        }
        document = {
            "categories": [{"id": 1, "name": "dog"}],
            "images": [{"id": n, "file_name": f"{n}.png", "width": 100, "height": 100} for n in range(5)],
            "annotations": [{"id": n, "image_id": n, **shape} for n in range(5)],
        }
        (self.root / "annotations.json").write_text(json.dumps(document))
        lines = {
            "detection": "0 0.250000 0.250000 0.500000 0.500000\n",
            "segmentation": "0 0.000000 0.000000 0.500000 0.000000 0.500000 0.500000\n",
            "pose": "0 0.250000 0.250000 0.500000 0.500000 0.100000 0.100000 2.000000 0.200000 0.200000 1.000000\n",
        }
        for task, line in lines.items():
            made = self.resolve(task)
            self.assertEqual((len(self.files(made["train"])), len(self.files(made["val"]))), (4, 1))
            label = next(Path(made["val"].replace("images", "labels")).glob("*.txt"))
            self.assertEqual(label.read_text(), line, task)
        self.assertEqual(made["kpt_shape"], [2, 3])

    def described(self, task: str, objects: List[Dict[str, Any]], images: Any = None, **more: Any) -> Any:
        """Labels by image, and what is told, of a document with two images of 100 by 100."""
        self.images("images", 2)
        sized = {"width": 100, "height": 100}
        listed = [{"id": n, "file_name": f"{n}.png", **sized, "split": ("train", "val")[n]} for n in range(2)]
        document = {"categories": [{"id": 1, "name": "dog"}], "images": images or listed, "annotations": objects}
        (self.root / f"annotations_{task}.json").write_text(json.dumps({**document, **more}))
        told: List[str] = []
        made = yaml.safe_load(
            Path(dataset.resolve(self.root, task, splits.read({}), self.work, told.append)).read_text()
        )
        folders = [Path(made[part].replace("images", "labels")) for part in ("train", "val")]
        return [file.read_text() for folder in folders for file in sorted(folder.glob("*.txt"))], told

    def test_ids_are_the_same_as_text_and_as_numbers(self) -> None:
        images = [
            {"id": str(n), "file_name": f"{n}.png", "width": 100, "height": 100, "split": ("train", "val")[n]}
            for n in range(2)
        ]
        objects = [
            {"id": 1, "image_id": 0, "category_id": "1", "bbox": [0, 0, 50, 50]},
            {"id": 2, "image_id": "1", "category_id": None, "class_id": 1, "bbox": [0, 0, 50, 50]},
        ]
        line = "0 0.250000 0.250000 0.500000 0.500000\n"
        self.assertEqual(self.described("detection", objects, images), ([line, line], []))

    def test_objects_of_no_known_class_or_image_are_told_and_the_background_is_not(self) -> None:
        box = [0, 0, 50, 50]
        objects = [
            {"image_id": 0, "category_id": 1, "bbox": box},
            {"image_id": 0, "category_id": 8, "bbox": box},
            {"image_id": 1, "bbox": box},
            {"image_id": 1, "category_id": "0", "bbox": box},
            {"image_id": 7, "category_id": 1, "bbox": box},
        ]
        classes = [{"id": 0, "name": "__background__"}, {"id": 1, "name": "dog"}]
        labels, told = self.described("detection", objects, categories=classes)
        self.assertEqual(labels, ["0 0.250000 0.250000 0.500000 0.500000\n", ""])
        self.assertEqual(
            told,
            [
                "annotations_detection.json: left out objects of no known class: 2",
                "annotations_detection.json: left out objects whose image_id is no image of the document: 1",
            ],
        )

    def test_what_reaches_beyond_an_image_is_cut_and_told(self) -> None:
        objects: List[Dict[str, Any]] = [
            {"image_id": 0, "category_id": 1, "bbox": [80, -1, 60, 51], "keypoints": [130, 20, 2, 90, 20, 1]},
            {"image_id": 1, "category_id": 1, "bbox": [200, 0, 50, 50], "keypoints": [210, 20, 2, 220, 20, 1]},
        ]
        box = "0 0.900000 0.250000 0.200000 0.500000"
        expected = {"detection": f"{box}\n", "pose": f"{box} 1.000000 0.200000 2.000000 0.900000 0.200000 1.000000\n"}
        for task, line in expected.items():
            labels, told = self.described(task, objects)
            self.assertEqual(labels, [line, ""])
            self.assertEqual(
                told,
                [
                    f"annotations_{task}.json: left out objects that lie outside their image: 1",
                    f"annotations_{task}.json: cut objects that reach beyond their image's edge: 1",
                ],
            )

    @unittest.skipUnless(
        importlib.util.find_spec("numpy"), "numpy is not importable; run with the trainer's environment"
    )
    def test_an_outline_is_cut_at_the_edge(self) -> None:
        objects = [{"image_id": 0, "category_id": 1, "segmentation": [[50, 50, 150, 50, 150, 90]]}]
        labels, told = self.described("segmentation", objects)
        self.assertEqual(labels[0], "0 0.500000 0.500000 1.000000 0.500000 1.000000 0.900000\n")
        self.assertEqual(told, ["annotations_segmentation.json: cut objects that reach beyond their image's edge: 1"])

    @unittest.skipUnless(
        importlib.util.find_spec("numpy"), "numpy is not importable; run with the trainer's environment"
    )
    def test_several_polygons_of_one_object_become_one_outline_of_the_same_area(self) -> None:
        self.images("images", 2)
        squares = [[10, 10, 20, 10, 20, 20, 10, 20], [40, 40, 60, 40, 60, 60, 40, 60], [1, 2]]
        document = {
            "categories": [{"id": 1, "name": "dog"}],
            "images": [{"id": n, "file_name": f"{n}.png", "width": 100, "height": 100} for n in range(2)],
            "annotations": [{"id": n, "image_id": n, "category_id": 1, "segmentation": squares} for n in range(2)],
        }
        (self.root / "annotations_segmentation.json").write_text(json.dumps(document))
        made = self.resolve("segmentation")
        label = next(Path(made["val"].replace("images", "labels")).glob("*.txt")).read_text()
        values = [float(value) * 100 for value in label.split()[1:]]
        points = list(zip(values[0::2], values[1::2]))
        for square in squares[:2]:
            self.assertLessEqual(set(zip(square[0::2], square[1::2])), {(round(x), round(y)) for x, y in points})
        area = sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(points, points[1:] + points[:1])) / 2
        self.assertAlmostEqual(area, 100 + 400, places=2)

    def test_a_view_with_a_part_for_each_image_is_taken_as_it_is(self) -> None:
        """The agent's view: parts in the document, and a resolved split that only counts."""
        parts = ["train", "val", "train", "test", "train", "val"]
        for folder, count in (("images/a", 3), ("images/b", 3)):
            self.images(folder, count)
        names = [f"{folder}/{n}.png" for folder in "ab" for n in range(3)]
        keypoints = [[10, 10, 2], [10, 10, 2, 20, 20, 1]]
        document = {
            "categories": [{"id": 1, "name": "dog"}],
            "images": [
                {"id": n, "file_name": name, "width": 100, "height": 100, "split": parts[n]}
                for n, name in enumerate(names)
            ],
            "annotations": [
                {"id": n, "image_id": n, "category_id": 1, "bbox": [0, 0, 9, 9], "keypoints": keypoints[n % 2]}
                for n in range(6)
            ],
            "split_config": {"method": "custom", "splits": {str(n): part for n, part in enumerate(parts)}},
        }
        (self.root / "annotations_pose.json").write_text(json.dumps(document))
        counts = {"train": 3, "val": 2, "test": 1}
        split = {"source": "job", "method": "custom", "ratio": None, "seed": 1, "rest": "train", "counts": counts}
        made = self.resolve("pose", split={**split, "named": 3, "excluded": 0})
        self.assertEqual({part: len(self.files(made[part])) for part in counts}, counts)
        self.assertEqual(self.files(made["val"]), ["a_1.png", "b_2.png"])
        columns = {
            len(file.read_text().split())
            for part in counts
            for file in Path(made[part].replace("images", "labels")).glob("*.txt")
        }
        self.assertEqual((made["kpt_shape"], columns), ([2, 3], {1 + 4 + 6}), "each line has all keypoints")

    def test_images_that_share_a_stem_keep_labels_of_their_own(self) -> None:
        (self.root / "images").mkdir()
        names = ["1.png", "1.jpg"]
        for name in names:
            (self.root / "images" / name).write_bytes(b"")
        images = [
            {"id": n, "file_name": name, "width": 100, "height": 100, "split": "train", "annotations": []}
            for n, name in enumerate([*names, "2.png"])
        ]
        self.images("images", 3)
        images[2]["split"] = "val"
        images[0]["annotations"] = [{"class_id": 1, "bbox": [0, 0, 50, 50]}]
        document = {"classes": [{"id": 1, "name": "dog"}], "images": images}
        (self.root / "annotations.json").write_text(json.dumps(document))
        made = self.resolve()
        labels = sorted(file.read_text() for file in Path(made["train"].replace("images", "labels")).glob("*.txt"))
        self.assertEqual(labels, ["", "0 0.250000 0.250000 0.500000 0.500000\n"])

    def test_named_images_and_exclusions_win(self) -> None:
        self.images("images/train", 4)
        self.images("images/val", 1)
        (self.root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [a]\n")
        (self.root / "images" / "val" / "0.png").rename(self.root / "images" / "val" / "v.png")
        made = self.resolve(split={"method": "custom", "splits": {"3.png": "val"}, "exclude_images": ["1"]})
        self.assertEqual((self.files(made["train"]), self.files(made["val"])), (["0.png", "2.png"], ["3.png", "v.png"]))
        for config in ({"splits": {"0": "somewhere"}}, {"ratio": [1.5]}, {"ratio": "half"}):
            with self.assertRaisesRegex(ConfigError, "split_config"):
                splits.read(config)

    def test_named_images_of_annotations(self) -> None:
        self.images("images", 4)
        images = [{"id": n + 10, "file_name": f"{n}.png", "width": 9, "height": 9} for n in range(4)]
        document = {"categories": [{"id": 1, "name": "x"}], "images": images, "annotations": []}
        (self.root / "annotations.json").write_text(json.dumps(document))
        made = self.resolve(split={"custom_splits": {"12": "val"}, "exclude_images": [10]})
        self.assertEqual((self.files(made["train"]), self.files(made["val"])), (["1.png", "3.png"], ["2.png"]))

    def test_named_images_of_classes(self) -> None:
        for name in ("train/cat", "train/dog", "val/cat", "val/dog"):
            self.images(name, 3)
        made = Path(self.resolve("classification", split={"exclude_images": ["2.png"]}))
        self.assertEqual(len(list((made / "train" / "cat").iterdir())), 2)

    def test_annotations_of_a_missing_image(self) -> None:
        images = [{"id": n, "file_name": f"{n}.png", "width": 1, "height": 1} for n in range(2)]
        document = {"categories": [{"id": 1, "name": "x"}], "images": images, "annotations": []}
        (self.root / "annotations.json").write_text(json.dumps(document))
        with self.assertRaisesRegex(DatasetError, r"\d\.png"):
            self.resolve()

    def test_class_folders(self) -> None:
        for name in ("cat", "dog"):
            self.images(name, 5)
        made = Path(self.resolve("classification"))
        self.assertEqual(sorted(p.name for p in made.iterdir()), ["train", "val"])
        self.assertEqual(len(list((made / "train" / "cat").iterdir())), 4)
        for name in ("train/cat", "train/dog", "val/cat"):
            self.images(name, 1)
        self.assertEqual(self.resolve("classification"), str(self.root))


if __name__ == "__main__":
    unittest.main()
