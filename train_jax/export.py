"""Programs with their weights inside, for other tools: StableHLO, SavedModel, TFLite.

What every export is: one function of one float32 array, computed in float32, with a sentence of
JSON beside it (``PATH.json``) that says what goes in, what comes out and how inputs are prepared.
ONNX has a module of its own (:mod:`train_jax.onnx_graph`).
"""

import dataclasses
import importlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import jax
import jax.export
import jax.numpy as jnp
from absl import flags

from train_jax.errors import UserError
from train_jax.onnx_graph import OPSET, Graph

Format = Literal["stablehlo", "onnx", "saved_model", "tflite"]
FORMATS: tuple[Format, ...] = ("stablehlo", "onnx", "saved_model", "tflite")

#: What an exported StableHLO program runs on.
PLATFORMS = ("cpu", "tpu", "cuda")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Export:
    """A function to hand over.

    Attributes:
        function: float32 array -> float32 array; the weights are constants in it.
        input_name: of its argument.
        input_shape: sizes, or a name where any size is taken ("batch", "frames").
        output_name: of its result.
        constraints: of the named sizes, as jax.export writes them ("frames >= 27").
        about: what else a user must know, as JSON values.
    """

    function: Callable[[jax.Array], jax.Array]
    input_name: str
    input_shape: tuple[str | int, ...]
    output_name: str
    constraints: tuple[str, ...] = ()
    about: Mapping[str, Any]


def refuse_taken(path: str | os.PathLike[str]) -> None:
    """Raises a UserError if a file to be written is there, or its directory is not."""
    for there in (Path(path), metadata_path(path)):
        if there.exists():
            raise UserError(f"{there} exists already; nothing is overwritten, remove it first.")
    if not Path(path).absolute().parent.is_dir():
        raise UserError(f"{path} cannot be written: its directory does not exist; make it first.")


def metadata_path(path: str | os.PathLike[str]) -> Path:
    """Where the description of an exported program lies."""
    return Path(f"{os.fspath(path).rstrip('/')}.json")


def write_stablehlo(export: Export, path: str | os.PathLike[str]) -> None:
    """Writes the bytes of :func:`jax.export.export`: StableHLO with symbolic sizes.

    JAX reads such a program for six months after it was written at least (its compatibility window)
    and, the other way, programs of up to three weeks newer versions.

    Raises:
        UserError: the path is taken or cannot be written.
    """
    refuse_taken(path)
    exported = jax.export.export(jax.jit(export.function), platforms=PLATFORMS)(_argument(export))
    _write(path, bytes(exported.serialize()))
    _write_metadata(
        export,
        path,
        format="stablehlo",
        output_shape=[str(size) for size in exported.out_avals[0].shape],
        platforms=list(PLATFORMS),
        calling_convention_version=exported.calling_convention_version,
    )


def read_stablehlo(path: str | os.PathLike[str]) -> Callable[[jax.Array], jax.Array]:
    """The program of a file that :func:`write_stablehlo` wrote.

    Raises:
        UserError: there is none, or it is damaged or written by a JAX too far from this one.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        return jax.export.deserialize(bytearray(data)).call
    except Exception as error:  # flatbuffers and MLIR fail in many ways
        raise UserError(
            f"{path} is not a program that JAX {jax.__version__} reads (damaged, or written by a "
            "JAX too far from this one); export it again."
        ) from error


def write_saved_model(export: Export, path: str | os.PathLike[str]) -> None:
    """Writes a TensorFlow SavedModel directory, through jax2tf.

    Raises:
        UserError: TensorFlow is not installed or does not take this JAX's programs, or the path is
            taken.
    """
    refuse_taken(path)
    tensorflow = _tensorflow()
    _save(tensorflow, export, path, batch=None)
    _write_metadata(export, path, format="saved_model", signature="serving_default")


def write_tflite(export: Export, path: str | os.PathLike[str]) -> None:
    """Writes a TFLite file for one example at a time; named sizes other than the batch are refused.

    Raises:
        UserError: as :func:`write_saved_model`, or the program has no fixed shape.
    """
    refuse_taken(path)
    named = [size for size in export.input_shape[1:] if isinstance(size, str)]
    if named:
        raise UserError(
            f"TFLite needs fixed sizes, but this program takes any number of {named[0]}; "
            f"fix it with --{named[0]}."
        )
    tensorflow = _tensorflow()
    with tempfile.TemporaryDirectory() as directory:
        _save(tensorflow, export, directory, batch=1)
        converter = tensorflow.lite.TFLiteConverter.from_saved_model(directory)
        try:
            data = converter.convert()
        except Exception as error:  # the converter has no exceptions of its own
            line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise UserError(
                f"TensorFlow {tensorflow.__version__} cannot turn this program into TFLite "
                f"({line[:200]}); export ONNX or StableHLO."
            ) from error
    _write(path, data)
    _write_metadata(export, path, format="tflite", batch=1)


def write(
    export: Export, path: str | os.PathLike[str], kind: Format, *, graph: Callable[[], Graph]
) -> None:
    """Writes an export in a format.

    Args:
        export: the function.
        path: file to make (saved_model: directory).
        kind: the format.
        graph: makes the same function as ONNX.

    Raises:
        UserError: the path is taken, or the format does not take this function.
    """
    if kind == "onnx":
        refuse_taken(path)
        graph().save(path)
        _write_metadata(export, path, format="onnx", opset=OPSET)
        return
    writers = {
        "stablehlo": write_stablehlo,
        "saved_model": write_saved_model,
        "tflite": write_tflite,
    }
    writers[kind](export, path)


def define_flags(checkpoint: str) -> None:
    """The flags of a command that exports; not on import: other commands have the same names."""
    flags.DEFINE_string("checkpoint", None, checkpoint)
    flags.DEFINE_enum("format", None, FORMATS, "What to write.")
    flags.DEFINE_string("output", None, "The file to make (saved_model: the directory).")


def required_flags() -> tuple[str, Format, str]:
    """Checkpoint, format and output of the command line.

    Raises:
        UserError: one of them is missing, or the output is taken.
    """
    for name in ("checkpoint", "format", "output"):
        if not flags.FLAGS[name].value:
            raise UserError(f"--{name} is missing; see --help.")
    given = flags.FLAGS
    refuse_taken(given.output)
    return given.checkpoint, given.format, given.output


def _argument(export: Export) -> jax.ShapeDtypeStruct:
    text = ", ".join(map(str, export.input_shape))
    shape = jax.export.symbolic_shape(text, constraints=export.constraints)
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _tensorflow() -> ModuleType:
    try:
        return importlib.import_module("tensorflow")
    except ImportError as error:
        raise UserError(
            "This format needs TensorFlow; run `pip install -e '.[export-tensorflow]'`."
        ) from error


def _save(
    tensorflow: Any, export: Export, path: str | os.PathLike[str], *, batch: int | None
) -> None:
    jax2tf = importlib.import_module("jax.experimental.jax2tf")
    shape = (batch or export.input_shape[0], *export.input_shape[1:])
    sizes = [None if isinstance(size, str) else size for size in shape]
    try:
        function = tensorflow.function(
            jax2tf.convert(
                export.function,
                polymorphic_shapes=[f"({', '.join(map(str, shape))})"],
                polymorphic_constraints=export.constraints,
                with_gradient=False,
            ),
            input_signature=[
                tensorflow.TensorSpec(sizes, tensorflow.float32, name=export.input_name)
            ],
            autograph=False,
        )
        named = tensorflow.function(
            lambda x: {export.output_name: function(x)},
            input_signature=function.input_signature,
            autograph=False,
        )
        module = tensorflow.Module()
        module.function = named
        tensorflow.saved_model.save(
            module,
            os.fspath(path),
            signatures=named.get_concrete_function(),
        )
    except Exception as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise UserError(
            f"jax2tf of JAX {jax.__version__} and TensorFlow {tensorflow.__version__} cannot export"
            f" this program ({line[:200]}); export ONNX or StableHLO."
        ) from error


def _write(path: str | os.PathLike[str], data: bytes) -> None:
    path = Path(path)
    temporary = path.parent / f".{path.name}.{os.getpid()}.partial"
    try:
        temporary.write_bytes(data)
        temporary.rename(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _write_metadata(export: Export, path: str | os.PathLike[str], **more: Any) -> None:
    values = {
        "input": {
            "name": export.input_name,
            "shape": list(export.input_shape),
            "dtype": "float32",
        },
        "output": {"name": export.output_name, "dtype": "float32"},
        "constraints": list(export.constraints),
        "jax": jax.__version__,
        **more,
        **export.about,
    }
    _write(metadata_path(path), (json.dumps(values, indent=1) + "\n").encode())
