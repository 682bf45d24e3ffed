"""PyTorch's files are read without PyTorch, in both of its layouts, and run nothing."""

import os
import pickle
import zipfile

import legacy_torch
import numpy as np
import pytest

from pose_jax.torch_read import read_bin
from pose_jax.torch_write import write_bin
from train_jax.errors import UserError


def state(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "expand_conv.weight": rng.normal(size=(4, 6, 3)).astype(np.float32),
        "expand_bn.weight": rng.normal(size=4).astype(np.float32),
        "expand_bn.num_batches_tracked": np.array(7),
        "nothing": np.zeros((0, 3), np.float32),
    }


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
        assert found[name].dtype == wanted[name].dtype
        assert found[name].shape == wanted[name].shape


def rewritten(path, to, **members):
    """A zip file of PyTorch with other members; those that are None are left out."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(to, "w") as new:
        root = old.namelist()[0].partition("/")[0]
        content = {name.partition("/")[2]: old.read(name) for name in old.namelist()}
        for name, data in (content | members).items():
            if data is not None:
                new.writestr(f"{root}/{name}", data)
    return to


class Hostile:
    """Would run a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch hostile-was-here",)


def test_what_the_original_has_written(data_dir):
    """The whole file: optimizer and a random generator are in it."""
    content = read_bin(data_dir / "pose" / "semi_init.bin")
    assert content.keys() == {"model_pos", "model_traj", "epoch", "lr"}
    pose = content["model_pos"]
    assert pose["expand_conv.weight"].dtype == np.float32
    assert pose["expand_bn.num_batches_tracked"].shape == ()
    assert content["model_traj"]["shrink.bias"].shape == (3,)


def test_both_layouts_hold_the_same(tmp_path):
    pose, path = state(0), state(1)
    write_bin(tmp_path / "zip.bin", pose, path, epoch=3, lr=0.25)
    content = {
        "epoch": 3,
        "lr": 0.25,
        # As PyTorch's users had it in 2018: numpy's generator, pickled by itself.
        "random_state": np.random.RandomState(1),
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.25, "betas": (0.9, 0.999)}]},
        "model_pos": pose,
        "model_traj": path,
        "random_state_semi": np.random.RandomState(2),
    }
    legacy_torch.write(tmp_path / "legacy.bin", content)
    for name in ("zip.bin", "legacy.bin"):
        found = read_bin(tmp_path / name)
        assert (found["epoch"], found["lr"]) == (3, 0.25)
        assert_same(found["model_pos"], pose)
        assert_same(found["model_traj"], path)


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_a_file_without_a_trajectory(tmp_path, layout):
    path = tmp_path / "file.bin"
    if layout == "zip":
        write_bin(path, state())
    else:
        legacy_torch.write(path, {"model_pos": state()})
    content = read_bin(path)
    assert content["model_traj"] is None
    assert content["epoch"] == (0 if layout == "zip" else None)


def test_a_tensor_may_be_a_transposed_view(tmp_path):
    """Strides count: PyTorch saves views as they are."""
    columns = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    strides = tuple(stride // 4 for stride in columns.strides)
    write_bin(tmp_path / "file.bin", {"x": np.zeros((2, 3), np.float32)})
    with zipfile.ZipFile(tmp_path / "file.bin") as archive:
        pickled = archive.read("file/data.pkl")
    row, column = (b"(J" + bytes([n]) + b"\0\0\0J\1\0\0\0t" for n in (3, 2))
    assert strides == (1, 2)
    assert pickled.count(row) == 1
    by_column = b"(J\1\0\0\0J\2\0\0\0t"
    path = rewritten(
        tmp_path / "file.bin",
        tmp_path / "view.bin",
        **{"data.pkl": pickled.replace(row, by_column), "data/0": columns.tobytes("F")},
    )
    np.testing.assert_array_equal(read_bin(path)["model_pos"]["x"], columns)
    assert column not in pickled


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_hostile_pickles_are_refused_by_name(tmp_path, monkeypatch, layout):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file.bin"
    content = {"model_pos": state(), "optimizer": Hostile()}
    if layout == "zip":
        write_bin(tmp_path / "good.bin", state())
        rewritten(tmp_path / "good.bin", path, **{"data.pkl": pickle.dumps(content["optimizer"])})
    else:
        legacy_torch.write(path, content)
    with pytest.raises(UserError, match=r"file\.bin holds posix\.system, which .* not loaded"):
        read_bin(path)
    assert not (tmp_path / "hostile-was-here").exists()


@pytest.mark.parametrize(
    "name", ["numpy.random\n__RandomState_ctor", "torch._utils\n_rebuild_tensor_v2"]
)
def test_what_is_tolerated_cannot_be_used_to_run_code(tmp_path, name):
    """Neither calls nor states of the stand-ins reach anything."""
    write_bin(tmp_path / "good.bin", state())
    attack = b"\x80\x02c" + name.encode() + b"\n}X\x05\x00\x00\x00_callcposix\nsystem\nsb."
    path = rewritten(tmp_path / "good.bin", tmp_path / "bad.bin", **{"data.pkl": attack})
    with pytest.raises(UserError, match="not loaded"):
        read_bin(path)


def test_tensors_cannot_reach_beyond_their_storage(tmp_path):
    write_bin(tmp_path / "good.bin", {"x": np.arange(6, dtype=np.float32)})
    path = rewritten(tmp_path / "good.bin", tmp_path / "bad.bin", **{"data/0": b"\0" * 20})
    with pytest.raises(UserError, match=r"bad\.bin is damaged .*larger than its storage"):
        read_bin(path)


def test_big_endian_files_are_refused(tmp_path):
    write_bin(tmp_path / "good.bin", state())
    path = rewritten(tmp_path / "good.bin", tmp_path / "zip.bin", byteorder=b"big")
    legacy_torch.write(tmp_path / "legacy.bin", {"model_pos": state()}, little_endian=False)
    for name in (path, tmp_path / "legacy.bin"):
        with pytest.raises(UserError, match="big-endian"):
            read_bin(name)
    # PyTorch wrote no byte order before 2.0.
    path = rewritten(tmp_path / "good.bin", tmp_path / "old.bin", byteorder=None)
    assert_same(read_bin(path)["model_pos"], state())


def faulty(kind, path):
    """A file that cannot be read."""
    if kind == "text":
        path.write_text("not a checkpoint")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "version":
        legacy_torch.write(path, {"model_pos": state()}, version=1002)
    elif kind == "cut":
        legacy_torch.write(path, {"model_pos": state()}, cut=12)
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.npy", b"")
    elif kind == "cut zip":
        write_bin(path, state())
        path.write_bytes(path.read_bytes()[:-30])
    elif kind == "other":
        legacy_torch.write(path, {"state_dict": 1})
    elif kind == "list":
        legacy_torch.write(path, {"model_pos": [1, 2]})
    elif kind == "number":
        legacy_torch.write(path, {"model_pos": {}, "model_traj": 5})
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("text", "damaged or of another kind"),
        ("empty", "damaged or of another kind"),
        ("version", "not a file of PyTorch"),
        ("cut", "ends within a storage"),
        ("zip", r"without data\.pkl"),
        ("cut zip", "damaged or of another kind"),
        ("other", "holds no model_pos; only checkpoints of the original"),
        ("list", "holds no model_pos"),
        ("number", "model_traj is no set of tensors but a int"),
        ("missing", "cannot be opened: No such file"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, kind, message):
    path = faulty(kind, tmp_path / "file.bin")
    with pytest.raises(UserError, match=message) as error:
        read_bin(path)
    assert "file.bin" in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_tensor_is_named(tmp_path):
    write_bin(tmp_path / "good.bin", {"x": np.zeros(2, np.float32)})
    content = {"model_pos": {"x": 1.5}}
    path = rewritten(
        tmp_path / "good.bin", tmp_path / "bad.bin", **{"data.pkl": pickle.dumps(content)}
    )
    with pytest.raises(UserError, match="'x' is not a tensor but a float"):
        read_bin(path)
