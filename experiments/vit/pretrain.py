r"""Pre-training as in the ViT paper (Table 3; section 4.1; appendix B.1).

    python -m vit_jax.train --config=experiments/vit/pretrain.py:L/16,imagenet21k --workdir=DIR
    python -m vit_jax.train --config=experiments/vit/pretrain.py:H/14,jft300m,source=tfds:my_jft \
        --workdir=gs://BUCKET/RUN
    python -m vit_jax.train --config=experiments/vit/pretrain.py:B/16,imagenet2012 --workdir=DIR

Behind the colon: VARIANT,DATASET, then any of
    epochs=N      one of the table's lengths (the longest)
    fewshot=NAMES few-shot evaluation at every evaluation, see fewshot.py (none)
    source=...    data of your own, tfds:NAME or folder:/PATH, in the place of DATASET's
    seed=N        initial parameters, order of the data, crops, dropout (0)

Recipe: Adam (0.9, 0.999), batch 4096, warm-up of 10k steps, linear decay to 1e-5 (the authors'
value) or cosine, decoupled weight decay multiplied by the learning rate, on kernels only (the paper
does not say on what; as big_vision), 224 px inception crops and flips, no other augmentation.
Sigmoid cross-entropy, a hidden tanh layer as wide as the model, head bias -10. On ImageNet alone
also global-norm clipping at 1; the loss, bias and hidden layer there are those of reproductions
that the authors helped with, some of which add --config.label_smoothing=1e-4. Matrix products and
residual stream are bfloat16 (--config.model.compute_dtype=float32 for all float32).

Data: experiments/vit/datasets.py. Pre-training keeps `held_out` (and `test`) back and evaluates on
it: ImageNet train[99%:] and the public validation set; 25,600 images each of ImageNet-21k; 51,200
of JFT, which is ours. De-duplicate against the downstream test sets yourself, as the paper did.
Evaluation resizes the shorter side to 256 and takes the centre 224.

Expected, in % (top-1): on ImageNet-21k's validation images, published by the authors: B/16 47.88,
B/32 44.04, L/16 49.90, L/32 45.42. On ImageNet's validation images at 224, 300 epochs, likewise:
B/16 74.79, B/32 69.19, L/16 72.59, L/32 66.90. After fine-tuning on ImageNet at 384 (Table 5):

    pre-trained on    B/16   B/32   L/16   L/32   H/14
    ImageNet          77.91  73.38  76.53  71.16
    ImageNet-21k      83.97  81.28  85.15  80.99
    JFT-300M          84.15  80.73  87.12  84.37  88.04
    JFT, hybrids (Table 6): R50+B/16 85.58, R50+B/32 84.90, R50+L/16 87.12, R50+L/32 85.68

Position embeddings (appendix D.4, Table 8; vit_jax/models/embeddings.py): B/16 on JFT, 5-shot on
ImageNet. The default is one learned vector a token, at the stem; the others, for example:

    python -m vit_jax.train --config=experiments/vit/pretrain.py:B/16,jft300m,fewshot=imagenet2012 \
        --config.model.position=learned2d --config.model.position_at=layers --workdir=DIR

    model.position_at    stem     layers   layers_shared
    none                 61.382
    learned              64.206   63.964   64.292
    learned2d            64.001   64.046   64.022
    relative             64.032

Cost, in TPUv3-core-days (Table 2): L/16 on ImageNet-21k 230, L/16 on JFT 680, H/14 on JFT 2500. In
exaFLOP (Table 6, JFT): B/32 55, B/16 224, L/32 196, L/16 783 (7 epochs) or 1567, H/14 4262.
"""

import dataclasses

from ml_collections import ConfigDict

from experiments.vit import recipes
from experiments.vit.datasets import Dataset, data_config, dataset_named
from experiments.vit.fewshot import fewshot_config
from train_jax.config import parse_arg, to_config_dict
from train_jax.optimizers import Adam
from train_jax.schedules import CosineConfig, LinearConfig
from vit_jax.data.pipeline import DataConfig
from vit_jax.data.preprocess import InceptionCrop, ResizeSmallCrop
from vit_jax.models.variants import config_for
from vit_jax.task import ViTTrainConfig

SIZE = recipes.PRETRAIN_SIZE


def get_config(arg: str | None = None) -> ConfigDict:
    """The run, with every key that the command line can override.

    Raises:
        UserError: a model, data set or length that Table 3 does not have, or a wrong argument.
    """
    args = parse_arg(arg, variant="", dataset="", epochs=0, fewshot="", source="", seed=0)
    variant = args["variant"]
    row = recipes.pretrain_row(variant, args["dataset"])
    dataset = dataset_named(row.data)
    epochs = recipes.choose_epochs(args["epochs"], row.epochs, table="Table 3 of the ViT paper")
    model = config_for(
        variant,
        num_classes=dataset.num_classes,
        head_bias=recipes.PRETRAIN_HEAD_BIAS,
        dropout=row.dropout,
        compute_dtype="bfloat16",
    )
    linear = LinearConfig(base=row.base_lr, end=1e-5, warmup=recipes.PRETRAIN_WARMUP)
    cosine = CosineConfig(base=row.base_lr, warmup=recipes.PRETRAIN_WARMUP)
    return to_config_dict(
        ViTTrainConfig(
            seed=args["seed"],
            model=dataclasses.replace(model, representation_size=model.width),
            data=data_config(
                dataset,
                dataset.part,
                preprocess=InceptionCrop(size=SIZE),
                source=args["source"],
            ),
            evaluations=evaluations(dataset, source=args["source"]),
            fewshot=fewshot_config(args["fewshot"], size=SIZE) if args["fewshot"] else None,
            batch_size=recipes.PRETRAIN_BATCH,
            total=f"{epochs} epochs",
            loss="sigmoid",
            optimizer=Adam(
                b1=0.9, b2=0.999, weight_decay=row.weight_decay, clip_norm=row.clip_norm
            ),
            schedule=linear if row.decay == "linear" else cosine,
            mesh=recipes.mesh_for(variant),
        )
    )


def evaluations(dataset: Dataset, *, source: str) -> dict[str, DataConfig]:
    """What is measured during pre-training: the images that were held back."""
    splits = {"held_out": dataset.held_out, "test": dataset.test}
    centre = ResizeSmallCrop(resize=recipes.PRETRAIN_EVAL_RESIZE, size=SIZE)
    return {
        name: data_config(dataset, split, preprocess=centre, source=source)
        for name, split in splits.items()
        if split is not None
    }
