r"""Labels images with a model, for a student to learn from (vit_jax/noisy_student.py).

    python -m vit_jax.pseudo_label --config=experiments/vit/noisy_student.py:B7,teacher \
        --checkpoint=TEACHER --source=folder:/data/images --split=all --output=LABELS

The config is the teacher's: images are prepared as its first evaluation prepares them, without
augmentation, and the model infers without noise. Labels that the images may have are not looked at.
Started again, the command goes on behind the last files that it wrote. It runs on several hosts as
training does.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags, logging
from jax.experimental import multihost_utils

from train_jax import hosts, main
from train_jax.config import to_dict
from train_jax.data.dataset import EvalData
from train_jax.errors import UserError
from train_jax.evaluation import make_collector
from train_jax.mesh import make_mesh
from train_jax.sharding import flat_names
from train_jax.task import Batch, ModelState, Params
from vit_jax.data.on_device import normalise
from vit_jax.data.pipeline import DataConfig, data_source, eval_data
from vit_jax.data.pseudo_labels import About, Unlabelled, start_writing, write_shard
from vit_jax.init_from import load_model
from vit_jax.models import api
from vit_jax.task import ViTTrainConfig, image_shape

#: Images per pair of files: of 1,000 classes 131 MB.
SHARD = 1 << 16


def pseudo_label(
    config: ViTTrainConfig,
    checkpoint: str,
    output: str,
    *,
    source: str,
    split: str,
    data_dir: str | None = None,
    shard: int = SHARD,
) -> int:
    """Writes the probabilities that a teacher gives to images.

    Args:
        config: the teacher's.
        checkpoint: a run of ours or a published file; averaged parameters, where there are some.
        output: directory, see vit_jax/data/pseudo_labels.py.
        source: the images, see vit_jax/data/sources.py.
        split: which of them.
        data_dir: where TFDS data sets are prepared; None: as the config's evaluation.
        shard: images per pair of files.

    Returns:
        How many images were labelled now; those of an earlier call are not counted.

    Raises:
        UserError: what is named cannot be read or written, or the directory holds other labels.
    """
    data = images_of(config, source=source, split=split, data_dir=data_dir)
    images, mesh = data_source(data), make_mesh(config.mesh)
    with jax.set_mesh(mesh):
        params, model_state = load_model(
            checkpoint,
            mesh,
            model=config.model,
            image_shape=image_shape(data),
            averaged=config.transfer.averaged,
        )
        about = About(
            data=images.fingerprint,
            examples=len(images),
            teacher=_fingerprint(data, params, model_state),
            num_classes=config.model.num_classes,
            shard=shard,
            generation=0 if config.pseudo_labels is None else config.pseudo_labels.generation,
        )
        to_do = _from_main(lambda: start_writing(output, about), about.shards)
        batch_size = config.evaluation_batch_size or config.batch_size
        rows = range(0)

        def start(batch_rows: np.ndarray) -> Any:
            part = Unlabelled(images, np.asarray(rows), how=f"{rows}")
            return eval_data(data, batch_size=batch_size, source=part).start(batch_rows)

        predict = _make_predict(config)
        collect = make_collector(EvalData(batch_size, shard, start), predict, mesh)
        for number in to_do:
            rows = about.rows(number)
            found = collect(params, model_state)
            if hosts.is_main():
                write_shard(output, number, _in_place(found, rows, about.num_classes))
            logging.info("Labelled %d of %d images.", rows.stop, about.examples)
        hosts.barrier("pseudo-labels are written")
    return sum(len(about.rows(number)) for number in to_do)


def images_of(
    config: ViTTrainConfig, *, source: str, split: str, data_dir: str | None = None
) -> DataConfig:
    """The images to label, prepared as the config's first evaluation prepares its own.

    Raises:
        UserError: the config has no evaluation.
    """
    if not config.evaluations:
        raise UserError(
            "The config has no evaluations, so how images are prepared is not known; add one to "
            "config.evaluations."
        )
    like = next(iter(config.evaluations.values()))
    return DataConfig(
        source=source,
        split=split,
        preprocess=like.preprocess,
        data_dir=data_dir or like.data_dir,
        corrupt="skip",
        fast_dct=like.fast_dct,
        threads=like.threads,
        workers=like.workers,
        cache_mib=0,
    )


def _make_predict(config: ViTTrainConfig):
    """Index, probabilities, the most probable class and its probability, for a batch."""
    model = config.model

    def predict(params: Params, model_state: ModelState, batch: Batch) -> Mapping[str, jax.Array]:
        logits, *_ = api.apply(model, params, model_state, normalise(batch["image"]))
        probabilities = jax.nn.softmax(logits, axis=-1)
        return {
            "index": batch["labels"][:, 0],
            "probabilities": probabilities.astype(jnp.float16),
            "label": jnp.argmax(probabilities, axis=-1).astype(jnp.int32),
            "confidence": probabilities.max(axis=-1),
        }

    return predict


def _in_place(
    found: Mapping[str, np.ndarray], rows: range, num_classes: int
) -> dict[str, np.ndarray]:
    """The arrays of a pair of files, with gaps where an image could not be read."""
    arrays = {
        "probabilities": np.zeros((len(rows), num_classes), np.float16),
        "label": np.full(len(rows), -1, np.int32),
        "confidence": np.zeros(len(rows), np.float32),
    }
    for name, array in arrays.items():
        array[found["index"] - rows.start] = found[name]
    return arrays


def _fingerprint(data: DataConfig, params: Params, model_state: ModelState) -> str:
    """Of all that the probabilities follow from but the images."""
    digest = hashlib.blake2b(json.dumps(to_dict(data.preprocess)).encode(), digest_size=16)
    for name, leaf in sorted(flat_names((params, model_state)).items()):
        digest.update(name.encode())
        digest.update(np.asarray(multihost_utils.process_allgather(leaf, tiled=True)).tobytes())
    return digest.hexdigest()


def _from_main(make: Callable[[], list[int]], size: int) -> list[int]:
    """Numbers below ``size`` that the main process finds, on every process."""
    fault, mine = None, np.zeros(size, bool)
    if hosts.is_main():
        try:
            mine[make()] = True
        except UserError as error:
            fault = error
    if not hosts.all_agree(fault is None):
        raise fault or UserError("Process 0 cannot write the labels (see its message).")
    if jax.process_count() > 1:
        mine = multihost_utils.broadcast_one_to_all(mine)
    return np.flatnonzero(mine).tolist()


def _command() -> int:
    values = flags.FLAGS
    for name in ("checkpoint", "source", "output"):
        if not values[name].value:
            raise UserError(f"--{name} is missing; see --help.")
    config = main.read_config(ViTTrainConfig)
    count = pseudo_label(
        config,
        values.checkpoint,
        values.output,
        source=values.source,
        split=values.split,
        data_dir=values.data_dir,
        shard=values.shard,
    )
    if hosts.is_main():
        sys.stdout.write(f"{count} images labelled, in {values.output}\n")
    return 0


if __name__ == "__main__":
    # Not on import, because other commands have a flag of the same name.
    flags.DEFINE_string("checkpoint", None, "The teacher: a run's directory, or a published file.")
    flags.DEFINE_string("source", None, "The images, as in config.data.source.")
    flags.DEFINE_string("split", "train", "Which of them, as in config.data.split.")
    flags.DEFINE_string("data_dir", None, "Where TFDS data sets are prepared.")
    flags.DEFINE_string("output", None, "Directory of the labels, local or mounted.")
    flags.DEFINE_integer("shard", SHARD, "Images per pair of files.", lower_bound=1)
    main.launch(_command, __doc__ or "")
