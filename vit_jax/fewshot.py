"""Few-shot linear evaluation of a checkpoint (ViT paper, section 4.1).

    python -m vit_jax.fewshot --config=experiments/vit/fewshot.py --checkpoint=DIR_OR_NPZ

A linear classifier is fitted in closed form to the frozen representations of a few images per class
(see vit_jax/least_squares.py for how); accuracies on all test images are averaged over several
choices of them. The checkpoint is a run of ours, whatever it was trained on, or a published .npz
file; the model is read from it. In a run, config.fewshot does the same at every evaluation. A
result record goes to `results` in the run's directory, or to --record=DIR.
"""

import dataclasses
import statistics
import sys
from collections.abc import Mapping

import jax
import numpy as np

from train_jax import hosts, main
from train_jax.config import FREE
from train_jax.mesh import MeshConfig, make_mesh
from vit_jax.checkpoint_command import define_flags, file_results, named_checkpoint
from vit_jax.least_squares import Accuracies, FewShotConfig, few_shot, means_by_name
from vit_jax.representations import load_frozen, make_extractor, only_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class FewShotRun:
    """The command's config.

    Attributes:
        fewshot: what is measured.
        batch_size: images per step.
        averaged: take the averaged parameters of a run that kept them.
        mesh: how devices are used.
    """

    fewshot: FewShotConfig
    batch_size: int = 512
    averaged: bool = True
    mesh: MeshConfig = dataclasses.field(default=MeshConfig(), metadata=FREE)


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What was measured on one data set.

    Attributes:
        accuracies: by shots, penalty and seed.
        examples: test images.
    """

    accuracies: Accuracies
    examples: int


def best_penalty(results: Mapping[str, Result]) -> int:
    """Which penalty has the best mean rank over all data sets and numbers of shots.

    One penalty for all of them, as scenic chooses it. It is chosen on the test images, so the
    accuracies with the best of many penalties are a little too good.
    """
    rows = [each for result in results.values() for each in result.accuracies.values()]
    means = np.array([each.mean(axis=1) for each in rows])
    # Equal accuracies share their ranks.
    above = (means[:, :, None] < means[:, None, :]).sum(axis=2)
    equal = (means[:, :, None] == means[:, None, :]).sum(axis=2)
    return int(np.argmin((above + (equal - 1) / 2).mean(axis=0)))


def evaluate(config: FewShotRun, checkpoint: str) -> dict[str, Result]:
    """The accuracies of a checkpoint by data set.

    Raises:
        UserError: the checkpoint or the data cannot be read, or do not fit each other.
    """
    mesh, datasets = make_mesh(config.mesh), dict(config.fewshot.datasets)
    shape, results = only_size(datasets), {}
    with jax.set_mesh(mesh):
        frozen = load_frozen(checkpoint, mesh, image_shape=shape, averaged=config.averaged)
        for name, data in datasets.items():
            extract = make_extractor(frozen.model, data, mesh, batch_size=config.batch_size)
            train, test = extract(frozen.params, frozen.model_state)
            results[name] = Result(few_shot(train, test, config.fewshot), len(test))
    return results


def table(results: Mapping[str, Result], config: FewShotConfig) -> str:
    """Mean and standard deviation over seeds in %, a data set a line."""
    best = best_penalty(results)
    rows = [["", *(f"{shots}-shot" for shots in config.shots)]]
    for name, each in results.items():
        rows.append([name, *(_cell(each.accuracies[shots][best]) for shots in config.shots)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    choices, chosen = "one choice of the images", ""
    if config.seeds > 1:
        choices = f"mean ± standard deviation over {config.seeds} choices of the images"
    if len(config.l2) > 1:
        chosen = f", the best of {', '.join(f'{l2:g}' for l2 in config.l2)} by mean rank"
    lines.append(f"Top-1 in %, {choices}; penalty {config.l2[best]:g}{chosen}.")
    return "".join(f"{line}\n" for line in lines)


def _cell(accuracies: np.ndarray) -> str:
    percent = [100 * float(each) for each in accuracies]
    spread = f" ± {statistics.stdev(percent):.2f}" if len(percent) > 1 else ""
    return f"{statistics.mean(percent):.2f}{spread}"


def _command() -> int:
    config = main.read_config(FewShotRun)
    results = evaluate(config, named_checkpoint())
    if hosts.is_main():
        sys.stdout.write(table(results, config.fewshot))
        means = {
            name: {
                **means_by_name(result.accuracies, config.fewshot),
                "examples": float(result.examples),
            }
            for name, result in results.items()
        }
        file_results("vit_jax.fewshot", config, means, data=config.fewshot.datasets)
    return 0


if __name__ == "__main__":
    define_flags()
    main.launch(_command, __doc__ or "")
