r"""Masked patch prediction: pre-training without labels (ViT paper, section 4.6; appendix B.1.2).

    python -m vit_jax.train --config=experiments/vit/masked_patch.py:B/16,imagenet2012 --workdir=DIR
    python -m vit_jax.train \
        --config=experiments/vit/masked_patch.py:B/16,jft300m,source=tfds:my_jft --workdir=DIR

Then fine-tuning, which leaves the [mask] embedding and the prediction layer behind:
    python -m vit_jax.train --config=experiments/vit/finetune.py:B/16,imagenet2012 \
        --config.init_from=DIR --workdir=OTHER

Behind the colon: VARIANT,DATASET, then any of
    target=T      mean_colour (512 classes of 3-bit colours; the default), small_patch (4x4 of
                  them), or pixels (all of them, by least squares)
    fewshot=NAMES few-shot evaluation during training, see fewshot.py
    steps=N       the length (1,000,000; after 100,000 the paper saw diminishing returns)
    source=..., seed=N as in pretrain.py

Recipe: half of the patch embeddings corrupted (80 % [mask], 10 % another patch, 10 % as they are),
batch 4096, Adam (0.9, 0.999), base learning rate 2e-4, warm-up of 10k steps, cosine decay, 224 px
inception crops and flips. Weight decay is not stated; it is 0.1 here, that of Table 3 for JFT.
No dropout, as Table 3 has it for B on JFT. Matrix products and residual stream are bfloat16. See
vit_jax/masked_patch.py for what the paper leaves open about the task.

The class token is never trained to say anything, only to be read by others; fine-tuning teaches it.
With --config.model.pool=gap, there and here, few-shot evaluation sees the mean of the patches
instead.

Expected: B/16 on JFT, fine-tuned on ImageNet: 79.9 %, 2 % more than from scratch, 4 % less than
after supervised pre-training. All targets worked, pixels slightly worse; 15 % corruption
(--config.masked_patches.corrupted=0.15) was slightly worse in few-shot evaluation.

Cost: not published; that of a step of pretrain.py.
"""

import dataclasses

from ml_collections import ConfigDict

from experiments.vit import pretrain, recipes
from experiments.vit.datasets import data_config, dataset_named
from experiments.vit.fewshot import fewshot_config
from train_jax.config import parse_arg, to_config_dict
from train_jax.errors import UserError
from train_jax.optimizers import Adam
from train_jax.schedules import CosineConfig
from vit_jax.data.preprocess import InceptionCrop
from vit_jax.masked_patch import MaskedPatchConfig, num_outputs
from vit_jax.models.variants import config_for
from vit_jax.task import ViTTrainConfig

TARGETS = ("mean_colour", "small_patch", "pixels")
STEPS = 1_000_000
LR = 2e-4
WEIGHT_DECAY = 0.1


def get_config(arg: str | None = None) -> ConfigDict:
    """The run, with every key that the command line can override.

    Raises:
        UserError: an unknown model, data set or target, or a wrong argument.
    """
    args = parse_arg(
        arg, variant="", dataset="", target=TARGETS[0], fewshot="", steps=STEPS, source="", seed=0
    )
    target, dataset = args["target"], dataset_named(args["dataset"])
    if target not in TARGETS:
        raise UserError(f"Config argument target={target!r} must be one of {', '.join(TARGETS)}.")
    if args["steps"] < 1:
        raise UserError(f"Config argument steps={args['steps']} must be positive.")
    model = config_for(args["variant"], num_classes=0, compute_dtype="bfloat16")
    return to_config_dict(
        ViTTrainConfig(
            seed=args["seed"],
            model=dataclasses.replace(model, patch_outputs=num_outputs(target, model)),
            masked_patches=MaskedPatchConfig(target=target),
            data=data_config(
                dataset,
                dataset.part,
                preprocess=InceptionCrop(size=pretrain.SIZE),
                source=args["source"],
            ),
            evaluations=pretrain.evaluations(dataset, source=args["source"]),
            fewshot=fewshot_config(args["fewshot"], size=pretrain.SIZE)
            if args["fewshot"]
            else None,
            batch_size=recipes.PRETRAIN_BATCH,
            total=f"{args['steps']} steps",
            optimizer=Adam(b1=0.9, b2=0.999, weight_decay=WEIGHT_DECAY),
            schedule=CosineConfig(base=LR, warmup=recipes.PRETRAIN_WARMUP),
            mesh=recipes.mesh_for(args["variant"]),
        )
    )
