"""Images over two real processes: the same batches as in one, and every example evaluated once."""

import pytest
from multiprocess import launch

pytestmark = [pytest.mark.multiprocess, pytest.mark.timeout(800)]

# Data parallel with FSDP within a process; and tensor parallel over both, which then load the same.
ROWS = {(2, 2, 1): 48, (1, 1, 4): 96}


def test_two_processes_load_the_batches_of_one(tmp_path):
    data = str(tmp_path / "data")
    [alone] = launch.run(
        "load_images", data, [4, 1, 1], into=tmp_path / "alone", num_processes=1, devices=4
    )
    assert alone["rows"] == list(range(96))
    for shape, num_rows in ROWS.items():
        into = tmp_path / "x".join(map(str, shape))
        both = launch.run("load_images", data, list(shape), into=into)
        for each in both:
            assert each["checks"] == alone["checks"]
            assert len(each["rows"]) == num_rows
            # 360 test images in batches of 32.
            assert (each["counted"], each["steps"]) == (360, 12)
        assert {row for each in both for row in each["rows"]} == set(range(96))
