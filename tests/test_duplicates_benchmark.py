from small_material import photographs

from benchmarks import duplicates


def test_copies_of_photographs_are_found_and_crops_are_not(capsys):
    duplicates.recall(photographs())
    out = capsys.readouterr().out
    printed = {line[:26].strip(): line.split()[-1] for line in out.splitlines()}
    for name in ("half the sides", "JPEG of quality 30", "mirrored"):
        assert printed[name] == "1.000", name
    assert printed["20 % cropped"] == "0.000"
    assert "pairs of different originals that count: 0 in" in out


def test_each_copy_has_the_size_that_its_name_says():
    photo = photographs()[0]
    height, width = photo.shape[:2]
    sizes = {name: change(photo).shape[:2] for name, change in duplicates.COPIES.items()}
    assert sizes["half the sides"] == (-(-height // 2), width // 2)
    assert sizes["20 % cropped"] == (round(height * 0.8), round(width * 0.8))
    assert sizes["mirrored"] == sizes["10 % brighter"] == (height, width)
