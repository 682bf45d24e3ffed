"""What is written has the very form that PyTorch gives its zip files."""

import pickletools
import zipfile

import numpy as np
import pytest

from pose_jax.torch_read import read_bin
from pose_jax.torch_write import write_bin
from train_jax.errors import UserError

STATE = {
    "shrink.weight": np.arange(6, dtype=np.float32).reshape(3, 2, 1),
    "bn.num_batches_tracked": np.array(2**40),
}


def test_the_archive_is_pytorchs(tmp_path):
    """Members uncompressed below one directory, which PyTorch maps into memory."""
    write_bin(tmp_path / "model.bin", STATE, epoch=80, lr=1.7e-5)
    with zipfile.ZipFile(tmp_path / "model.bin") as archive:
        names = [member.filename for member in archive.infolist()]
        assert names[0] == "model/data.pkl"
        assert set(names[1:]) == {
            *("model/byteorder", "model/version", "model/data/0", "model/data/1"),
        }
        assert {m.compress_type for m in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.read("model/version") == b"3\n"
        assert archive.read("model/data/0") == STATE["shrink.weight"].tobytes()
        codes = list(pickletools.genops(archive.read("model/data.pkl")))
    # Nothing else is named, so `torch.load(weights_only=True)` lets it pass.
    named = {argument for code, argument, _ in codes if code.name == "GLOBAL"}
    assert named == {
        "collections OrderedDict",
        "torch._utils _rebuild_tensor_v2",
        "torch FloatStorage",
        "torch LongStorage",
    }


@pytest.mark.parametrize("epoch", [0, 80, 100_000])
def test_numbers_come_back(tmp_path, epoch):
    write_bin(tmp_path / "model.bin", STATE, epoch=epoch, lr=1.738e-5)
    content = read_bin(tmp_path / "model.bin")
    assert (content["epoch"], content["lr"]) == (epoch, 1.738e-5)
    for name, array in STATE.items():
        np.testing.assert_array_equal(content["model_pos"][name], array)


def test_any_memory_order_and_byte_order(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_bin(tmp_path / "model.bin", {"a": np.asfortranarray(array), "b": array.astype(">f4").T})
    content = read_bin(tmp_path / "model.bin")["model_pos"]
    np.testing.assert_array_equal(content["a"], array)
    np.testing.assert_array_equal(content["b"], array.T)


def test_equal_weights_give_equal_bytes(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        write_bin(tmp_path / name / "model.bin", STATE)
    one, other = ((tmp_path / name / "model.bin").read_bytes() for name in ("one", "other"))
    assert one == other


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path):
    path = tmp_path / "model.bin"
    write_bin(path, STATE)
    with pytest.raises(UserError, match=r"model\.bin exists already"):
        write_bin(path, STATE)
    with pytest.raises(UserError, match=r"cannot be written: No such file"):
        write_bin(tmp_path / "nowhere" / "model.bin", STATE)
    with pytest.raises(KeyError):
        write_bin(tmp_path / "half.bin", {"x": np.zeros(2, np.float64)})
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.bin"]
