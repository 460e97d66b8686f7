"""Labelled data sets on the disk: tiny folders in every layout, and what is wrong with a folder in a sentence."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import spectral_toolkit as st
from spectral_toolkit.datasets import coco_stuff
from spectral_toolkit.errors import DatasetError, SpectralToolkitError, StudyError
from spectral_toolkit.studies.sources import load_pictures

RANDOM = np.random.default_rng(0)


def picture(path: Path, size: tuple[int, int] = (2, 3), orientation: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RANDOM.integers(0, 255, (*size, 3), dtype=np.uint8)).save(path, exif=exif)


def label_map(path: Path, values: Any, dtype: Any = np.uint8, *, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.array(values, dtype))
    if palette:
        image = image.convert("L")
        image.putpalette(RANDOM.integers(0, 256, 768, dtype=np.uint8).tobytes())
    image.save(path)


def voc(root: Path) -> None:
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("2007_b\n\n2007_a \n")
    (lists / "train.txt").write_text("2007_c\n")
    for name in "abc":
        picture(root / "JPEGImages" / f"2007_{name}.jpg")
    label_map(root / "SegmentationClass" / "2007_b.png", [[0, 15, 255], [20, 0, 255]], palette=True)
    label_map(root / "SegmentationObject" / "2007_b.png", [[0, 1, 255], [2, 0, 255]], palette=True)
    label_map(root / "SegmentationClass" / "2007_a.png", [[0, 0, 0], [8, 8, 255]], palette=True)
    label_map(root / "SegmentationObject" / "2007_a.png", [[0, 0, 0], [1, 1, 255]], palette=True)


def stuff(root: Path) -> None:
    picture(root / "images" / "val2017" / "000000000139.jpg")
    # person, bicycle and stop sign by their ids less one; tree, wood, no label
    label_map(root / "annotations" / "val2017" / "000000000139.png", [[0, 1, 12], [168, 181, 255]])


def panoptic(root: Path) -> None:
    picture(root / "val2017" / "7.jpg")
    picture(root / "val2017" / "3.jpg")
    table = {70_000: [112, 17, 1], 300: [44, 1, 0], 5: [5, 0, 0], 0: [0, 0, 0]}
    label_map(
        root / "annotations" / "panoptic_val2017" / "7.png",
        [[table[70_000], table[300], table[0]], [table[5], table[5], table[300]]],
    )
    label_map(root / "annotations" / "panoptic_val2017" / "3.png", [[table[5]] * 3] * 2)
    record = {
        "categories": [
            {"id": 1, "name": "person", "isthing": 1},
            {"id": 18, "name": "dog", "isthing": 1},
            {"id": 199, "name": "wall-other-merged", "isthing": 0},
        ],
        # Images and annotations are in different orders, and paired by their numbers.
        "images": [{"id": 3, "file_name": "3.jpg"}, {"id": 7, "file_name": "7.jpg"}],
        "annotations": [
            {
                "image_id": 7,
                "file_name": "7.png",
                "segments_info": [
                    {"id": 70_000, "category_id": 199, "iscrowd": 0},
                    {"id": 300, "category_id": 18, "iscrowd": 0},
                    {"id": 5, "category_id": 1, "iscrowd": 1},
                ],
            },
            {"image_id": 3, "file_name": "3.png", "segments_info": [{"id": 5, "category_id": 1, "iscrowd": 0}]},
        ],
    }
    (root / "annotations" / "panoptic_val2017.json").write_text(json.dumps(record))


def ade(root: Path) -> None:
    picture(root / "images" / "validation" / "ADE_val_00000001.jpg")
    label_map(root / "annotations" / "validation" / "ADE_val_00000001.png", [[0, 1, 150], [13, 2, 0]])


def ade_full(root: Path) -> None:
    home = root / "images" / "ADE" / "validation" / "urban" / "street"
    picture(home / "ADE_val_00000001.jpg")
    # Class 2978 is 256 * 11 + 162 and written as R = 110; 10 * 11 + 3 in red counts as 11, too.
    seg = [[[110, 162, 7], [113, 162, 9], [0, 0, 0]], [[10, 5, 4], [10, 5, 4], [0, 5, 1]]]
    label_map(home / "ADE_val_00000001_seg.png", seg)
    label_map(home / "ADE_val_00000001_parts_1.png", seg)
    objects = [{"name": "wall", "name_ndx": 2978}, {"name": "car", "name_ndx": 261}, {"name": "aa", "name_ndx": 5}]
    (home / "ADE_val_00000001.json").write_bytes(
        json.dumps({"annotation": {"object": objects, "scene": "CAF"}}).encode().replace(b"CAF", b"caf\xe9")
    )


def cityscapes(root: Path) -> None:
    for city in ("lindau", "munster"):
        name = f"{city}_000000_000019"
        picture(root / "leftImg8bit" / "val" / city / f"{name}_leftImg8bit.png")
        truth = root / "gtFine" / "val" / city
        label_map(truth / f"{name}_gtFine_labelIds.png", [[7, 26, 0], [33, 9, 24]])
        label_map(truth / f"{name}_gtFine_instanceIds.png", [[7, 26_003, 0], [33, 9, 24_000]], np.uint16)
        label_map(truth / f"{name}_gtFine_color.png", np.zeros((2, 3, 3)))


EXPECTED: dict[str, tuple[Callable[[Path], None], list[list[int]], list[list[int]] | None, int, dict[int, str]]] = {
    "voc": (voc, [[0, 15, -1], [20, 0, -1]], [[-1, 1, -1], [2, -1, -1]], 21, {0: "background", 15: "person"}),
    "coco_stuff": (stuff, [[0, 1, 11], [157, 170, -1]], None, 171, {11: "stop sign", 157: "tree", 170: "wood"}),
    "coco_stuff_27": (stuff, [[9, 11, 8], [22, 24, -1]], None, 27, {9: "person-things", 22: "plant-stuff"}),
    "coco_panoptic": (panoptic, [[2, 1, -1], [0, 0, 1]], [[-1, 300, -1], [-1, -1, 300]], 3, {1: "dog"}),
    "ade20k": (ade, [[-1, 0, 149], [12, 1, -1]], None, 150, {0: "wall", 149: "flag"}),
    "ade20k_full": (ade_full, [[2, 2, -1], [1, 1, 0]], [[7, 9, -1], [4, 4, 1]], 3, {2: "wall", 1: "car", 0: "aa"}),
    "cityscapes": (cityscapes, [[0, 13, -1], [18, -1, 11]], [[-1, 26_003, -1], [-1, -1, 24_000]], 19, {13: "car"}),
    "cityscapes_27": (cityscapes, [[0, 19, -1], [26, 2, 17]], [[-1, 26_003, -1], [-1, -1, 24_000]], 27, {2: "parking"}),
}


@pytest.mark.parametrize("layout", EXPECTED)
def test_each_layout_is_read_as_it_is_defined(layout: str, tmp_path: Path) -> None:
    build, labels, instances, n_categories, names = EXPECTED[layout]
    build(tmp_path)
    data = st.datasets.load(layout, tmp_path)
    at = next(place for place, one in enumerate(data.labels) if one.tolist() == labels)
    assert data.labels[at].dtype == np.int64
    assert len(data.categories) == n_categories == len(set(data.categories))
    assert {number: data.categories[number] for number in names} == names
    if instances is None:
        assert data.instances is None
    else:
        assert data.instances is not None
        assert data.instances[at].tolist() == instances
    pixels, again = data[at]
    assert pixels.shape == (2, 3, 3)
    assert again.tolist() == labels
    copy = pickle.loads(pickle.dumps(data))
    assert copy.labels[at].tolist() == labels
    # As our own functions take it.
    acts = st.capture("scenes", data.images, layers=[0], quantities=("value",), progress=False)
    found = st.prepare_labels(acts, data.labels, grid=(2, 3))
    assert found.values[at].tolist() == labels


def test_every_layout_has_a_test() -> None:
    assert list(EXPECTED) == list(st.datasets.LAYOUTS)


def test_the_table_of_coco_stuff_is_whole() -> None:
    gaps = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
    ids = {number - 1 for number in range(1, 183)} - {number - 1 for number in gaps}
    assert set(coco_stuff.FINE_PLACE) == ids == set(coco_stuff.COARSE_PLACE)
    assert list(coco_stuff.FINE_PLACE.values()) == list(range(171))
    assert sorted(set(coco_stuff.COARSE_PLACE.values())) == list(range(27))


def test_lists_order_and_parts(tmp_path: Path) -> None:
    voc(tmp_path)
    data = st.datasets.load("voc", tmp_path)
    assert data.names == ("2007_b.jpg", "2007_a.jpg")  # the order of the list
    assert data[1:].names == ("2007_a.jpg",)
    assert data.labels[1:][0].tolist() == data.labels[1].tolist()
    assert data.sample(1, seed=0).names == data.sample(1, seed=0).names
    assert data.sample(5) is data
    (tmp_path / "SegmentationObject" / "2007_a.png").unlink()
    assert st.datasets.load("voc", tmp_path).instances is None
    assert "2 of Pascal VOC 2012, 21 categories" in repr(data)
    with pytest.raises(DatasetError, match="n=0 is out of range"):
        data.sample(0)


def test_images_of_one_name_have_their_folders(tmp_path: Path) -> None:
    for part in ("good", "bad"):
        picture(tmp_path / "photos" / part / "0.jpg")
        label_map(tmp_path / "masks" / part / "0.png", np.full((2, 3), len(part)))
    data = st.datasets.folder(f"{tmp_path}/photos/*/*.jpg", f"{tmp_path}/masks/*/*.png")
    assert data.names == ("bad/0.jpg", "good/0.jpg")
    assert [int(one[0, 0]) for one in data.labels] == [3, 4]


def test_a_map_has_the_size_of_its_image_as_it_is_seen(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg", (2, 3), orientation=6)  # 3 high and 2 wide, once it is turned
    label_map(tmp_path / "a.png", np.zeros((3, 2)))
    assert st.datasets.folder(tmp_path / "a.jpg", f"{tmp_path}/*.png").labels[0].shape == (3, 2)
    label_map(tmp_path / "a.png", np.zeros((2, 3)))
    with pytest.raises(
        DatasetError, match=re.escape("has 2x3 pixels, but the image has 3x2 with its EXIF orientation")
    ):
        _ = st.datasets.folder(tmp_path / "a.jpg", f"{tmp_path}/*.png").labels[0]


def test_folders_of_ones_own(tmp_path: Path) -> None:
    for name in "ab":
        picture(tmp_path / "photos" / f"{name}.jpg")
        label_map(tmp_path / "masks" / f"{name}.png", [[23, 11, 255], [11, 11, 23]])
        label_map(tmp_path / "objects" / f"{name}.png", [[0, 1, 0], [1, 2, 0]])
    own = tmp_path / "photos", tmp_path / "masks"
    data = st.datasets.folder(*own, {11: "building", 23: "sky"}, instances=tmp_path / "objects")
    assert data.categories == ("building", "sky")
    assert data.labels[0].tolist() == [[1, 0, -1], [0, 0, 1]]
    assert data.instances is not None
    assert data.instances[1].tolist() == [[-1, 1, -1], [1, 2, -1]]
    assert st.datasets.folder(*own).labels[0].tolist() == [[23, 11, 255], [11, 11, 23]]
    assert st.datasets.folder(*own, ignore=(255, 23)).labels[0].tolist() == [[-1, 11, -1], [11, 11, -1]]
    with pytest.raises(DatasetError, match=r"'a\.png' holds the id 11 \(and 1 other such numbers\) at 5 pixels"):
        _ = st.datasets.folder(*own, ["soil", "leaf"]).labels[0]
    with pytest.raises(DatasetError, match=r"'a\.png' holds the id 255 at 1 pixels"):
        _ = st.datasets.folder(*own, {11: "building", 23: "sky"}, ignore=0).labels[0]
    with pytest.raises(DatasetError, match="categories='sky' is not understood"):
        st.datasets.folder(*own, "sky")
    with pytest.raises(DatasetError, match=re.escape("categories=['sky', 'sky'] is not understood")):
        st.datasets.folder(*own, ["sky", "sky"])
    with pytest.raises(DatasetError, match="ignore='255' is not understood"):
        st.datasets.folder(*own, ignore="255")  # pyright: ignore[reportArgumentType]
    with pytest.raises(DatasetError, match="labels=3 is not understood"):
        st.datasets.folder(own[0], 3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(DatasetError, match="an image is no file"):
        st.datasets.folder(np.zeros((2, 3, 3), np.uint8), own[1])
    (tmp_path / "objects" / "b.png").unlink()
    with pytest.raises(DatasetError, match=r"The image 'b\.jpg' has 0 instance maps among the 1 files"):
        st.datasets.folder(*own, instances=tmp_path / "objects")


def broken(layout: str, root: Path, change: Callable[[Path], object]) -> str:
    EXPECTED[layout][0](root)
    change(root)
    with pytest.raises(DatasetError) as caught:
        _ = [*st.datasets.load(layout, root).labels]
    return str(caught.value)


def map_of(root: Path, ending: str = "") -> Path:
    """The first label map of a folder."""
    folders = ("SegmentationClass", "annotations", "gtFine", "images/ADE")
    found = [one for folder in folders for one in sorted((root / folder).rglob(f"*{ending}.png"))]
    return found[0]


@pytest.mark.parametrize(
    ("layout", "change", "message"),
    [
        ("voc", lambda root: label_map(map_of(root), [[0, 21, 0]] * 2), "'2007_a.png' holds the id 21 at 2 pixels"),
        ("voc", lambda root: label_map(map_of(root), np.zeros((2, 3, 3))), "expected one integer per pixel"),
        ("voc", lambda root: map_of(root).write_bytes(b"no"), "'2007_a.png' cannot be read as an image"),
        ("voc", lambda root: map_of(root).unlink(), "1 of 2 images have no label map, such as '2007_a'"),
        ("voc", lambda root: (root / "JPEGImages" / "2007_a.jpg").unlink(), "1 of 2 images have no file"),
        ("voc", lambda root: next(root.rglob("val.txt")).unlink(), "for split='val': there are 'train'"),
        ("voc", lambda root: next(root.rglob("val.txt")).write_text("\n"), "is empty: expected the name"),
        ("coco_stuff", lambda root: label_map(map_of(root), [[11] * 3] * 2), "holds the id 11 at 6 pixels"),
        ("coco_stuff_27", lambda root: label_map(map_of(root), [[182] * 3] * 2), "holds the id 182 at 6 pixels"),
        ("coco_stuff", lambda root: map_of(root).unlink(), "have no label map, such as '000000000139.jpg'"),
        ("coco_stuff", lambda root: (root / "annotations").rename(root / "x"), "no folder 'annotations/val2017' or"),
        ("coco_stuff", lambda root: label_map(map_of(root), [[0] * 2] * 2), "has 2x2 pixels, but the image has 2x3"),
        ("coco_panoptic", lambda root: label_map(map_of(root), [[[1, 0, 1]] * 3] * 2), "holds the id 65537 at 6"),
        ("coco_panoptic", lambda root: label_map(map_of(root), [[0] * 3] * 2), "expected red, green and blue"),
        ("coco_panoptic", lambda root: label_map(map_of(root), np.zeros((2, 3, 4))), "expected red, green and blue"),
        ("coco_panoptic", lambda root: next(root.rglob("*.json")).unlink(), "There is no 'panoptic_val2017.json'"),
        ("coco_panoptic", lambda root: next(root.rglob("*.json")).write_text("{}"), "(KeyError: 'categories')"),
        ("coco_panoptic", lambda root: (root / "val2017" / "3.jpg").unlink(), "1 of 2 images have no file"),
        (
            "coco_panoptic",
            lambda root: next(root.rglob("*.json")).write_text(
                next(root.rglob("*.json")).read_text().replace('"category_id": 18', '"category_id": 19')
            ),
            "gives segment 300 of '7.png' the category id 19",
        ),
        ("ade20k", lambda root: label_map(map_of(root), [[151] * 3] * 2), "holds the id 151 at 6 pixels"),
        ("ade20k", lambda root: next(root.rglob("*.jpg")).unlink(), "holds no image"),
        ("ade20k_full", lambda root: next(root.rglob("*.json")).unlink(), "have no JSON file with the names"),
        ("ade20k_full", lambda root: next(root.rglob("*.json")).write_text("[]"), "needs annotation.object with name"),
        ("ade20k_full", lambda root: map_of(root, "_seg").unlink(), "1 of 1 images have no map of objects"),
        (
            "ade20k_full",
            lambda root: label_map(map_of(root, "_seg"), [[[10, 6, 0]] * 3] * 2),
            "holds the id 262 at 6 pixels, but its ids are the name_ndx",
        ),
        ("cityscapes", lambda root: label_map(map_of(root, "labelIds"), [[34] * 3] * 2), "holds the id 34"),
        ("cityscapes", lambda root: map_of(root, "labelIds").unlink(), "1 of 2 images have no label map"),
        ("cityscapes", lambda root: (root / "gtFine").rename(root / "gtCoarse"), "There is no folder 'gtFine'"),
    ],
)
def test_what_is_wrong_is_said(layout: str, change: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    assert message in broken(layout, tmp_path, change)


def test_what_is_asked_for_wrongly(tmp_path: Path) -> None:
    cityscapes(tmp_path)
    with pytest.raises(DatasetError, match=re.escape("layout='cityscape' is not offered (did you mean 'cityscapes'?)")):
        st.datasets.load("cityscape", tmp_path)
    with pytest.raises(DatasetError, match="root='nowhere' is not a folder of this machine"):
        st.datasets.load("voc", "nowhere")
    with pytest.raises(DatasetError, match="split='test' has no folder of images in .*: there are 'val'"):
        st.datasets.load("cityscapes", tmp_path, "test")
    with pytest.raises(DatasetError, match=re.escape("split='../val' is not understood")):
        st.datasets.load("cityscapes", tmp_path, "../val")
    with pytest.raises(DatasetError, match="built in and cannot be replaced"):
        st.datasets.register(
            st.datasets.DatasetLayout("voc", "Mine", "", "", lambda root, split: st.datasets.folder(root, root))
        )
    with pytest.raises(DatasetError, match="There is no image in labelled images"):
        st.datasets.LabelledImages([])


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ({"dataset": {"layout": "vok", "root": "."}}, "pictures.a.dataset.layout is 'vok': expected one of voc"),
        ({"dataset": None}, "pictures.a.dataset is empty: expected a data set with any of the keys layout, root"),
        ({"dataset": {"layout": "voc"}}, "pictures.a.dataset.root is empty: expected a text"),
        ({"dataset": {"layout": "voc", "root": "."}, "labels": "x"}, "no labels for data sets"),
        ({"dataset": {"layout": "voc", "root": "."}, "files": "x"}, "expected either files, scenes or a dataset"),
        ({"files": "*.jpg", "categories": ["a"]}, "expected labels beside it, whose categories are named"),
        ({"files": "*.jpg", "labels": "*.png", "categories": {"x": "a"}}, "expected names in a list, or names by"),
        ({"files": "*.jpg", "labels": "*.png", "categories": ["a", "a"]}, "expected names that all differ"),
    ],
)
def test_a_study_file_refuses_what_it_does_not_understand(pictures: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=re.escape(message)):
        st.studies.read_study({"models": "scenes", "pictures": {"a": pictures}})


def test_a_study_reads_a_data_set(tmp_path: Path) -> None:
    voc(tmp_path / "VOC2012")
    (tmp_path / "study.yaml").write_text(
        "models: scenes\npictures:\n"
        "  voc: {dataset: {layout: voc, root: VOC2012, n: 1}}\n"
        "  own: {files: VOC2012/JPEGImages/2007_a.jpg, labels: VOC2012/SegmentationClass/*.png,\n"
        "        categories: {0: ground, 8: cat}}\n"
    )
    study = st.studies.read_study(tmp_path / "study.yaml")
    published, own = (load_pictures(choice, study.folder) for choice in study.pictures)
    assert published.expression == "st.datasets.load('voc', 'VOC2012').sample(1, seed=0).images"
    assert len(published.pictures) == 1
    assert published.labels_sha256
    assert own.categories == ("ground", "cat")
    assert own.labels is not None
    assert own.labels[0].tolist() == [[0, 0, 0], [1, 1, -1]]
    # The recipe makes the same label maps.
    images = st.load_images(str(tmp_path / own.expression.strip("'")))
    text = (own.labels_expression or "").replace("VOC2012", str(tmp_path / "VOC2012"))
    assert [one.tolist() for one in eval(text, {"st": st, "images": images})] == [one.tolist() for one in own.labels]
    broken_study = {"gone": {"dataset": {"layout": "voc", "root": str(tmp_path / "VOC2012"), "split": "gone"}}}
    with pytest.raises(SpectralToolkitError, match="images 'gone': There is no list"):
        st.studies.run_study({"models": "scenes", "pictures": broken_study}, tmp_path / "s.html", progress=False)
