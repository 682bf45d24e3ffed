r"""VTAB-1k with BiT, by BiT-HyperRule (BiT paper, section 4.2 and appendix; ViT paper, Table 2).

    python -m experiments.vtab --config=experiments/vit/bit_vtab.py:R152x4 \
        --config.init_from=PRETRAINED --workdir=DIR
    python -m vit_jax.train --config=experiments/vit/bit_vtab.py:R50x1,svhn \
        --config.init_from=BiT-M-R50x1.npz --workdir=DIR

Behind the colon: VARIANT,TASK (see vit_jax/vtab.py), then final= and seed= as in vtab.py, and
crop=384 or crop=480 as in bit_finetune.py.

Recipe: BiT-HyperRule for 1,000 examples, 500 steps without MixUp; 128 px for the tasks with small
pictures (CIFAR-100, SVHN, EuroSAT, dSprites), 384 px (480 for R152x4) for the others. BiT's
exceptions are those of vtab.py: no flips, or no crops, where left and right, or size and place,
are the label.

Expected, mean over the 19 tasks in %: BiT-L R152x4 (JFT) 76.29 ± 1.70 (ViT paper, Table 2), BiT-M
R152x4 (ImageNet-21k) 70.64 (BiT paper).

Cost: not published.
"""

from ml_collections import ConfigDict

from experiments.vit import vtab
from experiments.vit.bit import mesh_for
from train_jax.config import parse_arg, to_config_dict
from train_jax.errors import UserError
from train_jax.train_config import CheckpointConfig
from vit_jax import hyperrule
from vit_jax.data.preprocess import Squash
from vit_jax.models.bit import bit_config
from vit_jax.task import ViTTrainConfig
from vit_jax.vtab import EXAMPLES, TASKS, task_named

#: Sides of the pictures of the tasks where they are small; all others are large.
SIDES = {
    "cifar100": 32,
    "svhn": 32,
    "eurosat": 64,
    "dsprites_location": 64,
    "dsprites_orientation": 64,
}
_LARGE_SIDE = 224
_CROPS = {sides[1]: sides for sides in (hyperrule.LARGE_SIDES, hyperrule.LARGEST_SIDES)}


def get_config(arg: str | None = None) -> ConfigDict:
    """The run, with every key that the command line can override.

    Raises:
        UserError: an unknown task or model, or a wrong argument.
    """
    args = parse_arg(arg, variant="", task=vtab.ALL, final=True, seed=0, crop=0)
    name, variant = args["task"], args["variant"]
    # The command line reads a config of all tasks, of which only the keys matter.
    task = task_named(next(iter(TASKS)) if name == vtab.ALL else name)
    crop = args["crop"] or (480 if variant == "R152x4" else 384)
    if crop not in _CROPS:
        raise UserError(f"Config argument crop={crop} must be 384 or 480.")
    side = SIDES.get(name, _LARGE_SIDE)
    rule = hyperrule.hyperrule(EXAMPLES, (side, side), large=_CROPS[crop])
    data, evaluations = vtab.data_of(
        name,
        final=args["final"],
        training=rule.training if task.crop else Squash(size=rule.crop),
        evaluation=rule.evaluation,
    )
    return to_config_dict(
        ViTTrainConfig(
            seed=args["seed"],
            model=bit_config(variant, num_classes=task.num_classes, compute_dtype="bfloat16"),
            data=data,
            evaluations=evaluations,
            batch_size=hyperrule.BATCH,
            total=f"{rule.steps} steps",
            loss="softmax",
            mixup=rule.mixup,
            flip=task.flip,
            optimizer=rule.optimizer,
            schedule=rule.schedule,
            mesh=mesh_for(variant),
            checkpoint=CheckpointConfig(every="20 percent"),
            evaluate_every="100 percent",
        )
    )
