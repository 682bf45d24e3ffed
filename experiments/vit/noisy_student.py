r"""Noisy Student ("Self-training with Noisy Student improves ImageNet classification", 2020).

Behind the colon: VARIANT,STAGE, B0 to B7 or L2, and teacher, student or finetune. The paper's runs,
of which every student is the next teacher (section 4.2: B7, B7, L2, L2, L2):

    python -m vit_jax.train --config=experiments/vit/noisy_student.py:B7,teacher --workdir=T0
    python -m vit_jax.pseudo_label --config=experiments/vit/noisy_student.py:B7,teacher \
        --checkpoint=T0 --source=tfds:NAME --split=train --output=LABELS0
    python -m vit_jax.train \
        --config=experiments/vit/noisy_student.py:B7,student,labels=LABELS0,unlabelled=tfds:NAME \
        --workdir=T1
    python -m vit_jax.pseudo_label --config=experiments/vit/noisy_student.py:B7,student \
        --checkpoint=T1 --source=tfds:NAME --split=train --output=LABELS1

and so on with L2 and generation=2 on LABELS1, generation=3 on LABELS2 and, with ratio=28,
generation=4 on LABELS3; then

    python -m vit_jax.train --config=experiments/vit/noisy_student.py:L2,finetune \
        --config.init_from=T4 --workdir=FINAL

STAGE teacher trains on ImageNet alone; student on ImageNet and on images that a teacher has
labelled; finetune goes on from a student at a higher resolution.

Then any of
    labels=DIR       what vit_jax.pseudo_label wrote (stage student)
    unlabelled=...   the images that it labelled, tfds:NAME or folder:/PATH, its split train; the
                     paper's, JFT-300M, are not public
    selection=DIR    labels that choose the images. In the paper those of an EfficientNet-B0 choose
                     once for all iterations; without it every teacher's own do
    generation=N     how many students in a row this one makes (1); must be one more than that of
                     the teacher that labelled
    ratio=N          pseudo-labelled images per labelled one (14; the paper's last iteration: 28;
                     its released scripts for B0 1, for B1 to B7 3)
    batch=N          labelled images per update (2048); the learning rate follows
    real=true        also evaluates on the ReaL labels (`real`) and on ImageNet-V2 (`v2`). Later:
                     python -m vit_jax.evaluate --config=...:L2,finetune,real=true --checkpoint=DIR
    source=...       other images than ImageNet's with the same classes
    seed=N           order, crops, noise (0)

Recipe (section 3.1): RMSProp with decay 0.9, momentum 0.9 and epsilon 0.001 under the root; 350
epochs over the labelled images from B5 on, 700 for smaller models; learning rate 0.128 for 2048
labelled images, times 0.97 every 2.4 (4.8) epochs, after a warm-up of 5; weight decay 1e-5 in the
loss, not of batch norm; label smoothing 0.1 of the labelled images; parameters averaged with
0.9999. 130,000 images of every class: those with a confidence above 0.3, the most confident first,
repeated where there are fewer; soft labels. Noise: RandAugment of two operations with magnitude 27,
dropout 0.5 before the head, stochastic depth growing to 0.2. L2 trains at 475 px and is fine-tuned
for 1.5 epochs at 800 on labelled images without augmentation. What the paper leaves open is that of
the released code: warm-up, weight decay, smoothing, crops of at least 8 % of the area, smaller
magnitudes for smaller models (B2 6, B3 12, B4 15, B5 18, B6 24; B0 and B1 none; dropout 0.2 to
0.5), and that fine-tuning is at the learning rate at which training ends.

Departures: the loss is the mean over all images of a batch, as the paper says; the released code
divides by the labelled ones, which makes gradients 15 times larger, and RMSProp notices by its
epsilon. Pictures are resized bilinearly, theirs bicubically, and normalised to [-1, 1]. Batch norm
takes the statistics of the whole global batch, theirs of groups of devices; running statistics have
a momentum of 0.9999, which stands for their averaging of 0.99. In the warm-up the rate decays
already. Fine-tuning averages with 0.99, as their averaging does after so few updates, crops within
32 pixels of the borders, and trains all layers; the paper keeps the first ones as they are, and
does not say which. Convolutions are bfloat16.

Expected, ImageNet top-1 in % (the paper's study of iterations): L2 from B7 87.6, from that L2 88.1,
from that with ratio=28 88.4; ReaL of the last 90.55 (ViT paper, Table 2). With L2 as the teacher,
B0 78.8, B1 81.5, B2 82.4, B3 84.1, B4 85.3, B5 86.1, B6 86.4, B7 86.9 (EfficientNet's
repository; without pseudo-labels B7 has 85.0).

Cost: 12.3k TPUv3-core-days for one L2 with ratio=14 (ViT paper, Table 2): six days on 2048 cores.

Data: experiments/vit/datasets.py says how to prepare them.
"""

from ml_collections import ConfigDict

from experiments.vit.datasets import DATASETS, data_config
from experiments.vit.finetune import evaluations
from train_jax.config import parse_arg, to_config_dict
from train_jax.errors import UserError
from train_jax.mesh import MeshConfig
from train_jax.optimizers import RmsProp
from train_jax.schedules import ConstantConfig, ExponentialConfig
from vit_jax.data.preprocess import InceptionCrop, ResizeSmallCrop
from vit_jax.data.randaugment import RandAugment
from vit_jax.models.efficientnet_config import config_for, variant_named
from vit_jax.noisy_student import PseudoLabelConfig
from vit_jax.task import ViTTrainConfig
from vit_jax.transfer import TransferConfig

STAGES = ("teacher", "student", "finetune")
BATCH = 2048
RATE = 0.128
DECAY = 0.97
POLYAK = 0.9999
# L2's own resolution is that of fine-tuning.
L2_SIZE = 475
# Released scripts of the paper's code; 27 is the paper's.
MAGNITUDES = {"B2": 6, "B3": 12, "B4": 15, "B5": 18, "B6": 24, "B7": 27, "L2": 27}
# Twice as long for these.
SMALL = ("B0", "B1", "B2", "B3", "B4")
# All but batch norm's.
DECAYED = r".*/kernel|.*se/(reduce|expand)/bias|head/bias"


def get_config(arg: str | None = None) -> ConfigDict:
    """The run, with every key that the command line can override.

    Raises:
        UserError: an unknown model or stage, or a wrong argument.
    """
    args = parse_arg(
        arg,
        variant="",
        stage="",
        labels="",
        unlabelled="",
        selection="",
        generation=1,
        ratio=14,
        batch=BATCH,
        real=False,
        source="",
        seed=0,
    )
    variant, stage, source = args["variant"], args["stage"], args["source"]
    known, dataset = variant_named(variant), DATASETS["imagenet2012"]
    _check(args)
    finetune = stage == "finetune"
    size = L2_SIZE if variant == "L2" and not finetune else known.resolution
    # The authors cut 16 pixels off every side of the smaller one's square.
    centre = ResizeSmallCrop(resize=size + 32, size=size, method="bilinear")
    crop = centre if finetune else InceptionCrop(size=size, min_area=0.08)
    augment = None
    if variant in MAGNITUDES and not finetune:
        augment = RandAugment(2, MAGNITUDES[variant])
    pseudo = None
    if stage == "student":
        images = data_config(
            DATASETS["jft300m"],
            "train",
            preprocess=crop,
            source=args["unlabelled"],
            randaugment=augment,
        )
        pseudo = PseudoLabelConfig(
            data=images,
            labels=args["labels"],
            generation=args["generation"],
            selection=args["selection"] or None,
            ratio=args["ratio"],
        )
    epochs, every = (700, 4.8) if variant in SMALL else (350, 2.4)
    rate = RATE * args["batch"] / BATCH
    return to_config_dict(
        ViTTrainConfig(
            seed=args["seed"],
            model=config_for(
                variant,
                num_classes=dataset.num_classes,
                batch_norm_momentum=0.99 if finetune else POLYAK,
                remat="full" if variant == "L2" else "none",
                compute_dtype="bfloat16",
            ),
            data=data_config(
                dataset, dataset.whole, preprocess=crop, source=source, randaugment=augment
            ),
            pseudo_labels=pseudo,
            evaluations=evaluations(dataset, centre, final=True, real=args["real"], source=source),
            evaluation_batch_size=2048,
            batch_size=args["batch"] * (1 if pseudo is None else 1 + pseudo.ratio),
            total="1.5 epochs" if finetune else f"{epochs} epochs",
            loss="softmax",
            label_smoothing=0.1,
            flip=not finetune,
            optimizer=RmsProp(weight_decay=1e-5, decay_pattern=DECAYED),
            schedule=ConstantConfig(base=rate * DECAY ** int(epochs / every))
            if finetune
            else ExponentialConfig(
                base=rate, factor=DECAY, every=f"{every} epochs", warmup="5 epochs"
            ),
            ema_decay=0.99 if finetune else POLYAK,
            transfer=TransferConfig(keep_head=True),
            # Channels are multiples of 8, and hardly ever of more.
            mesh=MeshConfig(data=-1, fsdp=8) if variant == "L2" else MeshConfig(),
        )
    )


def _check(args: dict[str, object]) -> None:
    stage = args["stage"]
    if stage not in STAGES:
        raise UserError(
            f"Config argument stage={stage!r} must be one of {', '.join(STAGES)}; write "
            "VARIANT,STAGE as in B7,teacher."
        )
    for name in ("labels", "unlabelled", "selection"):
        if args[name] and stage != "student":
            raise UserError(f"Config argument {name} is for the stage student, not {stage}.")
    for name in ("ratio", "batch"):
        if args[name] < 1:  # pyright: ignore[reportOperatorIssue]
            raise UserError(f"Config argument {name}={args[name]} must be at least 1.")
