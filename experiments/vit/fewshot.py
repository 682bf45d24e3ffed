r"""Few-shot linear evaluation (ViT paper, section 4.1; data sets and details of big_vision).

    python -m vit_jax.fewshot --config=experiments/vit/fewshot.py --checkpoint=DIR_OR_NPZ
    python -m vit_jax.fewshot --config=experiments/vit/fewshot.py:imagenet2012 \
        --checkpoint=ViT-B_16.npz

Behind the colon: names of data sets, joined by +, then
    resolution=N  image side in pixels (224)

Without names: all of big_vision's list but ImageNet, whose archives nobody can download for you:
caltech101, cars196, cifar100, dtd, oxford_iiit_pet, uc_merced. `python -m vit_jax.data.prepare
tfds:NAME` prepares each. The paper's main measure is imagenet2012 with 5 shots: images are taken
from train[:65000], at least 30 of each class, and the validation images are classified.

Recipe: regularised least squares to {-1, 1}^K, 1, 5, 10 and 25 images per class, three choices of
them, penalty 2^10, pictures squashed to 256 and the centre 224 (in proportion at other sizes),
representation as the head would see it. --config.fewshot.l2='(64.0, 256.0, 1024.0)' sweeps the
penalty and reports the best of all data sets together. How a choice is drawn from its seed follows
NumPy and the order of the examples on disk, so big_vision's very choices are not repeated.

During pre-training: pretrain.py and masked_patch.py take `fewshot=NAMES` behind their colons.

Expected: B/16 on JFT-300M, ImageNet 5-shot 64.2 % (Table 8: 1-D learned position embedding).

Cost: representing the images once. A choice of images then takes a decomposition on the host, of a
matrix as large as the representation is wide.
"""

from ml_collections import ConfigDict

from train_jax.config import parse_arg, to_config_dict
from train_jax.errors import UserError
from vit_jax.data.pipeline import DataConfig
from vit_jax.data.preprocess import ResizeCrop
from vit_jax.fewshot import FewShotRun
from vit_jax.least_squares import FewShotConfig
from vit_jax.representations import ProbeData

# Training and test split in TFDS (big_vision's configs/common_fewshot.py).
SPLITS = {
    "caltech101": ("train", "test"),
    "cars196": ("train", "test"),
    "cifar100": ("train", "test"),
    "dtd": ("train", "test"),
    "oxford_iiit_pet": ("train", "test"),
    "uc_merced": ("train[:1000]", "train[1000:]"),
    "imagenet2012": ("train[:65000]", "validation"),
}
# Side to which pictures are squashed, relative to the crop.
MARGIN = 256 / 224


def get_config(arg: str | None = None) -> ConfigDict:
    """The evaluation, with every key that the command line can override.

    Raises:
        UserError: an unknown data set, or a wrong argument.
    """
    args = parse_arg(arg, datasets="", resolution=224)
    names = args["datasets"] or "+".join(name for name in SPLITS if name != "imagenet2012")
    return to_config_dict(FewShotRun(fewshot=fewshot_config(names, size=args["resolution"])))


def fewshot_config(names: str, *, size: int) -> FewShotConfig:
    """What is measured on data sets joined by "+", at an image side in pixels.

    Raises:
        UserError: an unknown data set, or a size that is no size.
    """
    if size < 1:
        raise UserError(f"Config argument resolution={size} must be positive.")
    datasets = {}
    for name in names.split("+"):
        if name not in SPLITS:
            raise UserError(
                f"Unknown data set {name!r} for few-shot evaluation; known: {', '.join(SPLITS)}. "
                "For your own, add config.fewshot.datasets.NAME to a config file of yours."
            )
        datasets[name] = probe_data(f"tfds:{name}", SPLITS[name], size=size)
    return FewShotConfig(datasets=datasets)


def probe_data(source: str, splits: tuple[str, str], *, size: int) -> ProbeData:
    """Training and test images of a data set, both read as in evaluation."""
    preprocess = ResizeCrop(resize=round(MARGIN * size), size=size)
    train, test = (
        DataConfig(source=source, split=split, preprocess=preprocess) for split in splits
    )
    return ProbeData(train=train, test=test)
