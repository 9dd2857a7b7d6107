"""VOC's folders: boxes, several years as one set, masks, label maps, and damage."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moco.errors import MocoError
from moco.transfer.data.problems import Checks
from moco.transfer.data.voc import VOC_CLASSES, read_voc, read_voc_segmentation

LENIENT = Checks(max_bad_fraction=1.0)
DOG = """
	<object>
		<name>dog</name>
		<pose>Left</pose>
		<truncated>1</truncated>
		<difficult>0</difficult>
		<bndbox>
			<xmin>5</xmin>
			<ymin>2</ymin>
			<xmax>20</xmax>
			<ymax>9</ymax>
		</bndbox>
	</object>"""
DIFFICULT_PERSON_WITH_PARTS = """
	<object>
		<name>person</name>
		<pose>Unspecified</pose>
		<truncated>0</truncated>
		<occluded>1</occluded>
		<part>
			<name>head</name>
			<bndbox>
				<xmin>3</xmin>
				<ymin>1</ymin>
				<xmax>6</xmax>
				<ymax>4</ymax>
			</bndbox>
		</part>
		<bndbox>
			<xmin>1.70000076293945</xmin>
			<ymin>1</ymin>
			<xmax>24</xmax>
			<ymax>16</ymax>
		</bndbox>
		<difficult>1</difficult>
	</object>"""
SIZE = """
	<size>
		<width>24</width>
		<height>16</height>
		<depth>3</depth>
	</size>"""


def annotation(objects: str, name: str = "000005", size: str = SIZE) -> str:
    return f"""<annotation>
	<folder>VOC2007</folder>
	<filename>{name}.jpg</filename>
	<source>
		<database>The VOC2007 Database</database>
		<annotation>PASCAL VOC2007</annotation>
		<image>flickr</image>
		<flickrid>341012865</flickrid>
	</source>
	<owner>
		<flickrid>Fried Camels</flickrid>
		<name>Jinky the Fruit Bat</name>
	</owner>{size}
	<segmented>0</segmented>{objects}
</annotation>
"""


def add_image(folder: Path, name: str, objects: str, *lists: str, **given) -> None:
    """Add an image of 24 x 16 pixels, its XML, and its name in lists like "Main/trainval"."""
    for part in ("Annotations", "JPEGImages"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "Annotations" / f"{name}.xml").write_text(annotation(objects, name, **given))
    Image.new("RGB", (24, 16)).save(folder / "JPEGImages" / f"{name}.jpg")
    for path in lists:
        file = folder / "ImageSets" / f"{path}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text((file.read_text() if file.exists() else "") + f"{name}\n")


def add_map(folder: Path, part: str, name: str, numbers: np.ndarray) -> None:
    (folder / part).mkdir(exist_ok=True)
    image = Image.fromarray(numbers.astype(np.uint8)).convert("L")
    image.putpalette([(7 * number) % 256 for number in range(256) for _ in range(3)])
    image.save(folder / part / f"{name}.png")


@pytest.fixture
def devkit(tmp_path):
    devkit = tmp_path / "VOCdevkit"
    add_image(devkit / "VOC2007", "000005", DOG + DIFFICULT_PERSON_WITH_PARTS, "Main/trainval")
    add_image(devkit / "VOC2007", "000009", "", "Main/trainval")
    add_image(devkit / "VOC2007", "000006", DOG, "Main/test")
    add_image(devkit / "VOC2012", "2008_000008", DOG, "Main/trainval")
    return devkit


def test_boxes_are_half_open_from_0_and_parts_are_no_objects(devkit):
    found = read_voc(devkit, [("2007", "trainval")])
    assert found.name == "VOC2007 trainval"
    assert found.ids == ["000005", "000009"]
    assert found.paths[0] == devkit / "VOC2007/JPEGImages/000005.jpg"
    assert found.sizes.tolist() == [[16, 24]] * 2
    assert found.first.tolist() == [0, 2, 2]
    assert found.boxes[0].tolist() == [4, 1, 20, 9]
    assert found.boxes[1].tolist() == pytest.approx([0.70000076, 0, 24, 16])
    assert found.areas[0] == 16 * 8
    assert found.ignored.tolist() == [False, True]
    assert found.classes == list(VOC_CLASSES)
    assert [found.classes[label] for label in found.labels] == ["dog", "person"]
    assert found.segments is None
    assert not found.problems


def test_years_are_merged_in_order_and_annotations_have_ids_of_their_own(devkit):
    found = read_voc(devkit, [("2007", "trainval"), ("2012", "trainval")])
    assert found.name == "VOC2007 trainval + VOC2012 trainval"
    assert found.ids == ["000005", "000009", "2008_000008"]
    assert found.first.tolist() == [0, 2, 2, 3]
    assert len(set(found.annotation_ids.tolist())) == 3
    assert found.paths[2].parent.parent.name == "VOC2012"


def test_names_that_years_share_get_the_year_before_them(devkit):
    add_image(devkit / "VOC2012", "000005", DOG, "Main/trainval")
    found = read_voc(devkit, [("2007", "trainval"), ("2012", "trainval")])
    assert found.ids == ["2007/000005", "2007/000009", "2012/2008_000008", "2012/000005"]


def test_the_root_may_be_the_devkit_its_parent_or_one_years_folder(devkit, tmp_path):
    expected = read_voc(devkit, [("2007", "test")]).paths
    assert read_voc(devkit.parent, [("2007", "test")]).paths == expected
    assert read_voc(devkit / "VOC2007", [("2007", "test")]).paths == expected
    own = shutil.copytree(devkit / "VOC2007", tmp_path / "my pets")
    assert read_voc(own, [("2007", "test")]).paths == [own / "JPEGImages/000006.jpg"]


@pytest.mark.parametrize("splits", [[("2012", "trainval")], [("2007", "test"), ("2012", "trainval")]])
def test_one_years_folder_is_not_taken_for_another_year_or_for_two(devkit, splits):
    with pytest.raises(MocoError, match=r"VOC2007: no folder VOC20\d\d in it; expected is .*VOCdevkit"):
        read_voc(devkit / "VOC2007", splits)


def test_classes_of_ones_own_are_the_names_found_in_order(devkit):
    pets = [DOG.replace("dog", "hamster"), DOG.replace("dog", "budgie"), DOG]
    add_image(devkit / "VOCpets", "a.1", "".join(pets), "Main/train")
    found = read_voc(devkit, [("pets", "train")])
    assert found.classes == ["budgie", "dog", "hamster"]
    assert found.labels.tolist() == [2, 0, 1]
    assert found.ids == ["a.1"]


def test_named_classes_give_the_labels_and_an_object_of_no_class_is_left_out(devkit):
    found = read_voc(devkit, [("2007", "trainval")], classes=["person", "cat"], checks=LENIENT)
    assert found.classes == ["person", "cat"]
    assert found.labels.tolist() == [0]
    assert found.first.tolist() == [0, 1, 1]
    assert found.problems[0].path == str(devkit / "VOC2007/Annotations/000005.xml")
    assert found.problems[0].reason == "object 1: 'dog' is none of the classes person, cat"


def test_images_need_not_be_jpeg_and_lists_may_carry_marks(devkit):
    folder = devkit / "VOC2007"
    (folder / "JPEGImages/000006.jpg").unlink()
    Image.new("RGB", (24, 16)).save(folder / "JPEGImages/000006.png")
    (folder / "ImageSets/Main/dog_test.txt").write_text("000006  1\r\n\n")
    assert read_voc(devkit, [("2007", "dog_test")]).paths == [folder / "JPEGImages/000006.png"]


def test_a_size_that_the_xml_lacks_is_the_files(devkit):
    add_image(devkit / "VOC2007", "000010", DOG, "Main/one", size="")
    add_image(devkit / "VOC2007", "000011", DOG, "Main/one", size=SIZE.replace("24", "0"))
    for number, side in enumerate(("inf", "nan", "-24", "9" * 100, "wide"), 12):
        add_image(devkit / "VOC2007", f"0000{number}", DOG, "Main/one", size=SIZE.replace("24", side))
    assert read_voc(devkit, [("2007", "one")]).sizes.tolist() == [[16, 24]] * 7


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<annotation><object>", "cannot be read as XML"),
        ("", "cannot be read as XML"),
        ("<html></html>", "its element is <html>"),
        (None, "no such file"),
    ],
)
def test_an_image_without_a_readable_xml_file_is_left_out_by_name(devkit, text, reason):
    path = devkit / "VOC2007/Annotations/000005.xml"
    path.unlink()
    if text is not None:
        path.write_text(text)
    found = read_voc(devkit, [("2007", "trainval")], checks=LENIENT)
    assert found.ids == ["000009"]
    assert found.problems[0].path == str(path)
    assert reason in found.problems[0].reason
    with pytest.raises(MocoError, match=r"1 of 2 images .*000005\.xml: "):
        read_voc(devkit, [("2007", "trainval")])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("<xmin>5</xmin>", ""), "(dog) its bndbox is not four numbers: None, 2, 20, 9"),
        (("<xmin>5</xmin>", "<xmin>five</xmin>"), "its bndbox is not four numbers: five"),
        (("<name>dog</name>", ""), "has no name"),
    ],
)
def test_an_object_of_no_use_is_listed(devkit, change, reason):
    add_image(devkit / "VOC2007", "000010", DOG.replace(*change) + DOG, "Main/one")
    found = read_voc(devkit, [("2007", "one")], checks=LENIENT)
    assert len(found.boxes) == 1
    assert len(found.problems) == 1
    assert reason in found.problems[0].reason


def test_missing_folders_and_lists_are_named_with_their_remedy(devkit, tmp_path):
    with pytest.raises(MocoError, match=r"Main/val\.txt: no such list .*host\.robots\.ox\.ac\.uk.*voc2007"):
        read_voc(devkit, [("2007", "val")])
    with pytest.raises(MocoError, match=r"nowhere: no folder VOC2007 in it; expected is .*JPEGImages"):
        read_voc(tmp_path / "nowhere", [("2007", "val")])
    (devkit / "VOC2007/ImageSets/Main/empty.txt").write_text("\n")
    with pytest.raises(MocoError, match="VOC2007 empty: no image"):
        read_voc(devkit, [("2007", "empty")])
    shutil.rmtree(devkit / "VOC2007/JPEGImages")
    with pytest.raises(MocoError, match="JPEGImages: no such folder"):
        read_voc(devkit, [("2007", "test")])


@pytest.fixture
def segmented(devkit):
    """An image with a dog, a difficult person and another dog, which no pixel shows."""
    folder = devkit / "VOC2012"
    add_image(
        folder, "2007_000032", DOG + DIFFICULT_PERSON_WITH_PARTS + DOG, "Segmentation/val", "Segmentation/train_aug"
    )
    objects = np.zeros((16, 24))
    objects[1:9, 4:20] = 1
    objects[12:, :10] = 255
    add_map(folder, "SegmentationObject", "2007_000032", objects)
    add_map(folder, "SegmentationClass", "2007_000032", np.where(objects == 1, 12, objects))
    return devkit


def test_masks_are_the_pixels_of_each_objects_number(segmented):
    found = read_voc(segmented, [("2012", "val")], masks=True)
    assert found.ids == ["2007_000032"]
    masks = found.masks(0)
    assert masks.shape == (3, 16, 24)
    assert masks[0].sum() == masks[0, 1:9, 4:20].sum() == 8 * 16
    assert not masks[1:].any()
    assert found.areas.tolist() == [8 * 16, 0, 0]
    assert found.ignored.tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        (np.zeros((24, 16)), "is 16 x 24 pixels, the image 24 x 16"),
        (np.full((16, 24), 4), "has object 4, the XML file only 3"),
        (None, "no such file"),
    ],
)
def test_an_image_whose_object_map_does_not_fit_is_left_out(segmented, numbers, reason):
    folder = segmented / "VOC2012"
    add_image(folder, "other", DOG, "Segmentation/val")
    add_map(folder, "SegmentationObject", "other", np.zeros((16, 24)))
    if numbers is None:
        (folder / "SegmentationObject/2007_000032.png").unlink()
    else:
        add_map(folder, "SegmentationObject", "2007_000032", numbers)
    found = read_voc(segmented, [("2012", "val")], masks=True, checks=LENIENT)
    assert found.ids == ["other"]
    assert found.problems[0].path == str(folder / "SegmentationObject/2007_000032.png")
    assert found.problems[0].reason == reason


def test_a_color_picture_is_no_object_map(segmented):
    path = segmented / "VOC2012/SegmentationObject/2007_000032.png"
    Image.new("RGB", (24, 16)).save(path)
    with pytest.raises(MocoError, match="mode RGB, not one 8-bit number each"):
        read_voc(segmented, [("2012", "val")], masks=True)


def test_label_maps_are_read_with_background_before_the_classes(segmented):
    found = read_voc_segmentation(segmented, [("2012", "val")])
    assert found.semantic_classes == ["background", *VOC_CLASSES]
    assert found.sizes.tolist() == [[16, 24]]
    numbers = found.label_map(0)
    assert found.semantic_classes[numbers[5, 10]] == "dog"
    assert numbers[15, 0] == 255
    assert len(found.boxes) == 0
    assert found.first.tolist() == [0, 0]


def test_label_maps_may_lie_in_another_folder_with_a_list_of_paths(segmented):
    folder = segmented / "VOC2012"
    add_map(folder, "SegmentationClassAug", "2007_000032", np.full((16, 24), 3))
    found = read_voc_segmentation(segmented, [("2012", "train_aug")], labels="SegmentationClassAug")
    assert (found.label_map(0) == 3).all()
    (folder / "ImageSets/SegmentationAug").mkdir()
    (folder / "ImageSets/SegmentationAug/list.txt").write_text(
        "/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png\n"
    )
    again = read_voc_segmentation(segmented, [("2012", "SegmentationAug/list")], labels="SegmentationClassAug")
    assert again.paths == found.paths
    assert again.label_maps == found.label_maps


def test_semantic_classes_of_ones_own_follow_background(segmented):
    found = read_voc_segmentation(segmented, [("2012", "val")], classes=["cat", "dog"])
    assert found.semantic_classes == ["background", "cat", "dog"]
    with pytest.raises(MocoError, match="number 12, but VOC2012 val has 3 classes"):
        found.label_map(0)


def test_missing_label_maps_are_named(segmented):
    with pytest.raises(MocoError, match="SegmentationClassAug: no such folder"):
        read_voc_segmentation(segmented, [("2012", "val")], labels="SegmentationClassAug")
    (segmented / "VOC2012/SegmentationClass/2007_000032.png").unlink()
    with pytest.raises(MocoError, match=r"2007_000032\.png: no such label map"):
        read_voc_segmentation(segmented, [("2012", "val")])


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["my image 1", "my image 2"], "my image 1\nmy image 2\n"),
        (["img", "img copy"], "img\r\nimg copy\r\n"),
        (["000001", "000002"], "\ufeff000001\n000002\n"),
        (["000001", "000002"], "000001.jpg\n000002.JPG\n"),
        (["000001", "my image 1"], "000001 -1\nmy image 1  1\n"),
        (["a.b", "000002"], "JPEGImages/a.b.jpg\n/JPEGImages/000002.jpg /SegmentationClassAug/000002.png\n"),
    ],
)
def test_a_line_of_a_list_names_the_image_with_spaces_suffix_or_mark(tmp_path, names, text):
    for name in names:
        add_image(tmp_path / "VOC2012", name, DOG)
    (tmp_path / "VOC2012/ImageSets/Main").mkdir(parents=True)
    (tmp_path / "VOC2012/ImageSets/Main/train.txt").write_bytes(text.encode())
    found = read_voc(tmp_path, [("2012", "train")])
    assert [path.name for path in found.paths] == [f"{name}.jpg" for name in names]
    assert len(found.boxes) == 2


def test_lines_with_the_number_of_an_object_name_its_image_once(tmp_path):
    folder = tmp_path / "VOC2012"
    for name in ("2007_000170", "2008_000003"):
        add_image(folder, name, DOG)
    (folder / "ImageSets/Layout").mkdir(parents=True)
    lines = "2007_000170  1\n2007_000170  2\n2008_000003  3\n2008_000003  12  -1\n"
    (folder / "ImageSets/Layout/train.txt").write_text(lines)
    assert read_voc(tmp_path, [("2012", "Layout/train")]).ids == ["2007_000170", "2008_000003"]


def test_a_name_that_is_not_there_is_not_taken_for_the_file_of_its_first_word(tmp_path):
    add_image(tmp_path / "VOC2012", "my", DOG, "Main/train")
    (tmp_path / "VOC2012/ImageSets/Main/train.txt").write_text("my\nmy image\n")
    found = read_voc(tmp_path, [("2012", "train")], checks=LENIENT)
    assert found.ids == ["my"]
    assert [Path(problem.path).name for problem in found.problems] == ["my image.xml"]


def test_of_files_with_one_name_the_jpeg_is_the_image_and_two_others_are_a_clash(tmp_path):
    folder = tmp_path / "VOC2012"
    add_image(folder, "000001", DOG, "Main/train")
    Image.new("1", (24, 16)).save(folder / "JPEGImages/000001.png")
    Image.new("RGB", (24, 16)).save(folder / "JPEGImages/000001.bmp")
    assert read_voc(tmp_path, [("2012", "train")]).paths == [folder / "JPEGImages/000001.jpg"]
    (folder / "JPEGImages/000001.jpg").unlink()
    with pytest.raises(MocoError, match=r"000001\.bmp and 000001\.png: both may be the image '000001'"):
        read_voc(tmp_path, [("2012", "train")])


def test_cvats_export_is_read_as_a_year_by_itself(tmp_path):
    add_image(tmp_path, "frame 1", DOG, "Main/default")
    assert read_voc(tmp_path, [("2012", "default")]).ids == ["frame 1"]


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("Annotations", "Annotations without ImageSets, as Label Studio exports"),
        ("train", "as Roboflow exports for VOC"),
    ],
)
def test_an_export_without_lists_is_refused_by_the_name_of_its_writer(tmp_path, folder, said):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "a.xml").write_text(annotation(DOG))
    with pytest.raises(MocoError, match=said):
        read_voc(tmp_path, [("2012", "train")])
