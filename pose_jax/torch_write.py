"""Weights in PyTorch's zip layout, written without PyTorch.

The pickle in it consists of the few byte codes (Lib/pickletools.py) that plain data and tensors
need; ``pose_jax.torch_read`` describes the layout.
"""

import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from pose_jax.data.pickles import PathLike
from pose_jax.data.store import refuse_existing, replacing


def write_bin(
    path: PathLike,
    model_pos: Mapping[str, np.ndarray],
    model_traj: Mapping[str, np.ndarray] | None = None,
    *,
    epoch: int = 0,
    lr: float = 1e-3,
) -> None:
    """Writes a checkpoint that the original and ``torch.load(weights_only=True)`` read.

    Args:
        path: local or gs://; must not exist.
        model_pos: parameter name -> float32 or int64 array.
        model_traj: the same of the trajectory network.
        epoch: number of epochs done.
        lr: the learning rate of the next.

    Raises:
        UserError: the file exists, or cannot be written.
    """
    refuse_existing(path)
    states = {"model_pos": model_pos, "model_traj": model_traj}
    arrays: list[np.ndarray] = []
    entries: list[bytes] = [_value("epoch"), _value(epoch), _value("lr"), _value(lr)]
    # The original looks these up when it resumes; it trains on with fresh ones.
    for name in ("random_state", "optimizer", "random_state_semi"):
        entries += [_value(name), _value(None)]
    for name, state in states.items():
        entries += [_value(name), _value(None) if state is None else _state(state, arrays)]
    pickled = b"\x80\x02}(" + b"".join(entries) + b"u."
    root = epath.Path(path).stem
    with replacing(path) as stream, zipfile.ZipFile(stream, "w") as archive:
        members = {"data.pkl": pickled, "byteorder": b"little"}
        members |= {f"data/{i}": array.tobytes() for i, array in enumerate(arrays)}
        for name, data in {**members, "version": b"3\n"}.items():
            archive.writestr(zipfile.ZipInfo(f"{root}/{name}"), data)


def _value(value: str | float | None) -> bytes:
    if value is None:
        return b"N"
    if isinstance(value, str):
        text = value.encode()
        return b"X" + struct.pack("<I", len(text)) + text
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    return b"G" + struct.pack(">d", value)


def _state(state: Mapping[str, np.ndarray], arrays: list[np.ndarray]) -> bytes:
    """A dictionary of tensors; their arrays are appended, the index is the storage's key."""
    entries = []
    for name, array in state.items():
        array = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
        entries += [_value(name), _tensor_bytes(array, str(len(arrays)))]
        arrays.append(array)
    return b"ccollections\nOrderedDict\n)R(" + b"".join(entries) + b"u"


def _tensor_bytes(array: np.ndarray, key: str) -> bytes:
    kind = {np.dtype("<f4"): "Float", np.dtype("<i8"): "Long"}[array.dtype]
    strides = [stride // array.itemsize for stride in array.strides]
    reference = (
        b"("
        + _value("storage")
        + f"ctorch\n{kind}Storage\n".encode()
        + b"".join(map(_value, (key, "cpu", array.size)))
        + b"tQ"
    )
    view = _value(0) + _numbers(array.shape) + _numbers(strides)
    no_grad_no_hooks = b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + reference + view + no_grad_no_hooks + b"tR"


def _numbers(values: Any) -> bytes:
    return b"(" + b"".join(map(_value, values)) + b"t"
