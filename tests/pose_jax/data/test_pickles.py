"""Object archives are read without running them; what is more than data is refused by name."""

import collections
import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from pose_jax.data.pickles import Made, Refused, StandIn, read_object_npz, unpickle
from train_jax.errors import UserError


def write(path, content, shape=()):
    """An .npz whose member ``data`` is the given pickle, as ``np.savez`` would hold it."""
    header = f"{{'descr': '|O', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    npy = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + content
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.npy", npy)
    return path


def array(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_what_the_original_writes(tmp_path):
    """dict of dict of arrays, and a list per action, saved by ``np.savez``."""
    poses = {"S1": {"Walking 1": array(4, 32, 3), "Sitting": array(2, 32, 3)}}
    metadata = {"num_joints": 17, "keypoints_symmetry": [[1, 3], [2, 4]], "layout_name": "h36m"}
    views = {"S1": {"Walking": [array(4, 17, 2), array(5, 17, 2)]}}
    path = tmp_path / "file.npz"
    np.savez_compressed(path, positions_3d=poses, positions_2d=views, metadata=metadata)
    back = read_object_npz(path)
    np.testing.assert_array_equal(back["positions_3d"]["S1"]["Sitting"], poses["S1"]["Sitting"])
    assert back["positions_3d"]["S1"]["Sitting"].dtype == np.float32
    np.testing.assert_array_equal(
        back["positions_2d"]["S1"]["Walking"][1], views["S1"]["Walking"][1]
    )
    assert back["metadata"] == metadata


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_all_kinds_of_data(tmp_path, protocol):
    ragged = np.empty(2, dtype=object)
    ragged[0], ragged[1] = [], array(3, 5)
    shared = array(2)
    content = {
        "order": collections.OrderedDict(b=1, a=None),
        "numbers": (1, 2.5, True, 10**30),
        "bytes": b"\x00\xff",
        "scalar": np.float32(1.5),
        "column order": np.asfortranarray(array(2, 3)),
        "big endian": array(3).astype(">f8"),
        "flags": np.array([True, False]),
        "texts": np.array(["Sitting", "Photo"]),
        "empty": np.zeros((0, 17, 2), np.float32),
        "ragged": ragged,
        "twice": [shared, shared],
    }
    path = write(tmp_path / "file.npz", pickle.dumps(content, protocol=protocol))
    back = read_object_npz(path)["data"]
    assert list(back) == list(content)
    assert list(back["order"].items()) == [("b", 1), ("a", None)]
    for name in ("numbers", "bytes", "scalar"):
        assert back[name] == content[name]
    for name in ("column order", "big endian", "flags", "texts", "empty"):
        np.testing.assert_array_equal(back[name], content[name])
        assert back[name].dtype == content[name].dtype
    assert back["ragged"][0] == []
    np.testing.assert_array_equal(back["ragged"][1], ragged[1])
    assert back["twice"][0] is back["twice"][1]
    back["flags"][0] = False  # arrays of one's own


def test_plain_arrays_beside_objects(tmp_path):
    np.savez(tmp_path / "file.npz", plain=np.asfortranarray(array(3, 2)), text=np.array("COCO"))
    back = read_object_npz(tmp_path / "file.npz")
    np.testing.assert_array_equal(back["plain"], array(3, 2))
    assert str(back["text"]) == "COCO"


class Calls:
    """Pickles to a call of a function."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


class Thing:
    """Some class."""


OBJECTS = {
    "a command": (Calls(os.system, "true"), r"posix\.system|nt\.system"),
    "evaluation": (Calls(eval, "1 + 1"), r"builtin\w*\.eval"),
    "import": (Calls(__import__, "os"), r"builtin\w*\.__import__"),
    "attributes": (Calls(getattr, [], "append"), r"builtin\w*\.getattr"),
    "a class": (Thing, r"Thing"),
    "an instance": (Thing(), r"copyreg\._reconstructor|Thing"),
    "numpy files": (Calls(np.fromfile, "/etc/hostname"), r"numpy.*fromfile"),
    "numpy's own unpickler": (Calls(np.load, "file.npy", None, True), r"numpy\.load"),
    "numpy's importer": (Calls(np.testing.measure, "0"), r"numpy\.testing.*measure"),
    "deep inside": ({"a": [(1, Calls(os.getcwd))]}, r"posix\.getcwd|nt\.getcwd"),
    "inside of an array": (np.array([Calls(os.getcwd)], dtype=object), r"posix\.getcwd"),
    "a set": ({1, 2}, r"builtin\w*\.set|the type set"),
    "records": (np.zeros(2, dtype=[("a", "f4"), ("b", "O")]), "an array of type 'V12'|type 'V"),
    "dates": (np.zeros(2, dtype="M8[s]"), "an array of type 'M8'"),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("case", OBJECTS)
def test_what_is_no_data_is_refused_by_name(tmp_path, case, protocol):
    content, name = OBJECTS[case]
    path = write(tmp_path / "file.npz", pickle.dumps(content, protocol=protocol))
    with pytest.raises(UserError, match=rf"holds .*({name}).* could run code: not loaded"):
        read_object_npz(path)


def test_an_attack_does_not_run(tmp_path, monkeypatch):
    """The same file does run its command when it is unpickled in earnest."""
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps(Calls(os.system, "echo > trap"))
    path = write(tmp_path / "file.npz", data)
    with pytest.raises(UserError, match=r"system"):
        read_object_npz(path)
    assert not (tmp_path / "trap").exists()
    pickle.loads(data)
    assert (tmp_path / "trap").exists()


HAND_WRITTEN = {
    # c module name: load; (: mark; t: tuple; R: call; b: set state; }: dict; s: set item
    "the old way to call": ("(S'true'\nios\nsystem\n.", r"os\.system"),
    "a class by the old way": ("(ios\n_exit\n.", r"os\._exit"),
    "through an attribute": ("cnumpy\nload.__globals__\n.", r"numpy\.load\.__globals__"),
    "a dotted name": ("cnumpy\ndtype.__class__\n.", r"numpy\.dtype\.__class__"),
    "a function that is changed": (
        "cnumpy\ndtype\n}S'__code__'\nNsb.",
        "a change to a function",
    ),
    "a function as data": ("(lcnumpy\ndtype\na.", "an object of the type StandIn"),
    "a type as data": (
        "cnumpy\ndtype\n(S'f4'\ntR.",
        "an object of the type _DType",
    ),
    "a reference": ("S'0'\nQ.", "a reference to something outside"),
    "a list within itself": ("(lp0\ng0\na.", "a collection that contains itself"),
    "fields by the back door": (
        "cnumpy\ndtype\n(S'f4'\ntR(I3\nS'<'\nN(S'a'\nt}I8\nI1\nI0\ntb.",
        "an array of records",
    ),
    "memory as an object": (
        "cnumpy\ndtype\n(S'V8'\ntR.",
        "an array of type 'V8'",
    ),
    "another encoding": ("c_codecs\nencode\n(S'a'\nS'rot13'\ntR.", "the encoding 'rot13'"),
    "an opaque scalar": (
        "cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\ntRS'abcdefgh'\ntR.",
        "a scalar of an unknown type",
    ),
}


@pytest.mark.parametrize("case", HAND_WRITTEN)
def test_tricks_are_refused(tmp_path, case):
    text, name = HAND_WRITTEN[case]
    path = write(tmp_path / "file.npz", text.encode("latin1"))
    with pytest.raises(UserError, match=f"holds .*{name}.* could run code: not loaded"):
        read_object_npz(path)


@pytest.mark.parametrize(
    "text",
    [
        "cnumpy\nndarray\n)\x81.",  # makes an instance of what is no class here
        "cnumpy.core.multiarray\n_reconstruct\n)R.",  # an array that never got its contents
        "c_codecs\nencode\n)R.",
        "(lp0\n",
        "",
        "(" * 3000 + "t" * 3000 + ".",
    ],
)
def test_damaged_pickles_are_one_sentence(tmp_path, text):
    path = write(tmp_path / "file.npz", text.encode("latin1"))
    with pytest.raises(UserError, match=r"file\.npz is damaged or of another kind"):
        read_object_npz(path)


def test_what_covers_methods_is_not_called(tmp_path):
    """A dictionary that gets a function of its own for `items` is read all the same."""
    text = "ccollections\nOrderedDict\n(tRp0\n}S'items'\ncnumpy\nndarray\nsbg0\nS'a'\nI1\ns."
    assert read_object_npz(write(tmp_path / "file.npz", text.encode()))["data"] == {"a": 1}


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="cannot be opened: No such file"):
        read_object_npz(tmp_path / "none.npz")
    (tmp_path / "page.npz").write_text("<html>")
    with pytest.raises(UserError, match=r"page\.npz is damaged or of another kind \(BadZipFile"):
        read_object_npz(tmp_path / "page.npz")
    with zipfile.ZipFile(tmp_path / "empty.npz", "w") as archive:
        archive.writestr("readme.txt", "")
    with pytest.raises(UserError, match="a zip archive but holds no arrays"):
        read_object_npz(tmp_path / "empty.npz")
    np.savez(tmp_path / "whole.npz", data={"a": array(500)})
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:1000])
    with pytest.raises(UserError, match=r"cut\.npz is damaged"):
        read_object_npz(tmp_path / "cut.npz")


def test_a_reader_of_other_files_adds_names_and_gets_what_it_made_of_them():
    """Tensors, for instance: whatever a stand-in makes stays as it is, and cannot be changed."""
    names = {("made", "up"): StandIn(lambda *parts: Made(("up", parts)))}
    assert unpickle(io.BytesIO(b"(lcmade\nup\n(I1\nI2\ntRa."), names=names) == [("up", (1, 2))]
    with pytest.raises(Refused, match="a change to what was made"):
        unpickle(io.BytesIO(b"cmade\nup\n)R}b."), names=names)
    with pytest.raises(Refused, match=r"made\.up"):
        unpickle(io.BytesIO(b"cmade\nup\n)R."))
