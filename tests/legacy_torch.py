"""A writer of PyTorch's layout before 1.6, as the original's published files have it."""

import pickle
import struct
import sys
import types

import numpy as np

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001


def _module(name, *functions):
    module = types.ModuleType(name)
    for function in functions:
        function.__module__ = name
        setattr(module, function.__name__, function)
    return module


class _Storage:
    def __init__(self, key, array):
        self.key, self.array = key, array


def _rebuild_tensor_v2(*_):
    """Only named."""


_CLASSES = {
    np.dtype("f4"): type("FloatStorage", (), {}),
    np.dtype("i8"): type("LongStorage", (), {}),
}
_MODULES = {
    "torch": _module("torch", *_CLASSES.values()),
    "torch._utils": _module("torch._utils", _rebuild_tensor_v2),
}


class Tensor:
    """What the pickle has in place of an array: a view of a storage."""

    def __init__(self, key, array, *, offset=0):
        self.storage = _Storage(key, array)
        self.view = (offset, array.shape, tuple(s // array.itemsize for s in array.strides))

    def __reduce__(self):
        return _rebuild_tensor_v2, (self.storage, *self.view, False, {})


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        if not isinstance(obj, _Storage):
            return None
        size = obj.array.size
        return ("storage", _CLASSES[obj.array.dtype], obj.key, "cpu", size, None)


def write(path, content, *, little_endian=True, version=_VERSION, cut=0):
    """Writes a checkpoint whose networks are dictionaries of arrays.

    Args:
        path: file to write.
        content: the checkpoint's dictionary.
        little_endian: what the file says of the machine.
        version: of the protocol.
        cut: bytes that are left out at the end.
    """
    arrays = {}

    def tensors(state):
        if not isinstance(state, dict):
            return state
        made = {}
        for name, array in state.items():
            key = str(94000 + len(arrays))  # PyTorch takes addresses
            arrays[key] = np.array(array, order="C")
            made[name] = Tensor(key, arrays[key])
        return made

    content = {k: tensors(v) if k.startswith("model_") else v for k, v in content.items()}
    facts = {"protocol_version": version, "little_endian": little_endian, "type_sizes": {"int": 4}}
    sys.modules.update(_MODULES)  # pickle looks up what it names
    try:
        with open(path, "wb") as stream:
            for value in (_MAGIC, version, facts):
                pickle.dump(value, stream, protocol=2)
            _Pickler(stream, protocol=2).dump(content)
            keys = sorted(arrays)
            pickle.dump(keys, stream, protocol=2)
            for key in keys:
                stream.write(struct.pack("<q", arrays[key].size) + arrays[key].tobytes())
    finally:
        for name in _MODULES:
            del sys.modules[name]
    if cut:
        path.write_bytes(path.read_bytes()[:-cut])
