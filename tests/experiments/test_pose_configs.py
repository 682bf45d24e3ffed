"""Every pose experiment that is shipped builds, says what the paper says, and runs."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest
from configs import ROOT, config_classes, parsed, unread_keys

from experiments.pose import cmu, h36m_semi, humaneva, recipes
from experiments.pose import h36m as supervised
from pose_jax import h36m, skeletons
from pose_jax import humaneva as eva
from pose_jax.data import motion, store
from pose_jax.data.filming import Detector, film
from pose_jax.data.poses import PoseSet, Recording
from pose_jax.data.views import PoseDataConfig
from pose_jax.evaluate import evaluate, table
from pose_jax.measure import MeasureConfig
from pose_jax.models.config import TemporalConfig
from pose_jax.task import make_task
from pose_jax.train_config import BatchNormConfig, PoseTrainConfig, SemiConfig
from train_jax.config import from_config
from train_jax.errors import UserError
from train_jax.loop import fit
from train_jax.optimizers import Adam
from train_jax.schedules import ExponentialConfig, make_schedule, steps_of

AMSGRAD = Adam(b1=0.9, b2=0.999, eps=1e-8, amsgrad=True)


def built(module, arg):
    return from_config(PoseTrainConfig, module.get_config(arg))


# --- the paper ---


@pytest.mark.parametrize("arg", ["1", "9", "27", "81", "243", "243,causal=true", "27,dense=true"])
@pytest.mark.parametrize("keypoints", [*recipes.H36M_KEYPOINTS])
def test_supervised_training_is_that_of_the_paper(arg, keypoints):
    config = built(supervised, f"{arg},keypoints={keypoints}")
    assert (config.batch_size, config.total, config.chunk, config.flip) == (
        1024,
        "80 epochs",
        1,
        True,
    )
    assert config.optimizer == AMSGRAD
    assert config.schedule == ExponentialConfig(base=1e-3, factor=0.95, every="1 epoch")
    assert config.batch_norm == BatchNormConfig(first=0.1, last=0.001)
    assert config.measure == MeasureConfig(flip=True, root="predicted")
    assert (config.semi, config.has_trajectory) == (None, False)
    frames, *rest = arg.split(",")
    model = config.model
    assert (model.receptive_field, model.channels, model.dropout) == (int(frames), 1024, 0.25)
    joints = 16 if "hourglass" in keypoints else 17
    assert (model.joints_in, model.joints_out, model.features) == (joints, 17, 2)
    assert model.causal == ("causal=true" in rest)
    assert model.dense == ("dense=true" in rest)
    test = config.evaluations["test"]
    assert config.data.subjects == ("S1", "S5", "S6", "S7", "S8")
    assert (test.subjects, test.actions) == (("S9", "S11"), h36m.ACTIONS)
    for data in (config.data, test):
        assert (data.fraction, data.downsample, data.longest_side) == (1.0, 1, False)
        assert data.keypoints == recipes.H36M_KEYPOINTS[keypoints]
        assert data.positions == (None if keypoints == "gt" else "h36m.npz")


@pytest.mark.parametrize(
    ("arg", "millions", "flops"),
    [
        ("27,dense=true", 29.53, 59.03),
        ("27", 8.56, 17.09),
        ("81", 12.75, 25.48),
        ("243", 16.95, 33.87),
    ],
)
def test_models_have_the_sizes_of_table_5(arg, millions, flops):
    config = built(supervised, f"{arg},keypoints=gt,average=false")
    assert not config.measure.flip
    assert round(config.model.num_params / 1e6, 2) == millions
    assert round(2 * config.model.multiplications_per_frame / 1e6, 2) == flops


def test_channels_and_the_confidence_are_arguments():
    base = built(supervised, "27")
    small = built(supervised, "27,channels=512,confidence=true")
    assert small == dataclasses.replace(
        base, model=dataclasses.replace(base.model, channels=512, features=3)
    )


def test_the_single_frame_baseline_has_four_blocks():
    model = built(supervised, "1").model
    assert model.widths == (1, 1, 1, 1, 1)
    assert model.num_params == 8_494_131


def test_the_learning_rate_ends_as_in_the_original():
    of = {"batch_size": 64, "examples_per_epoch": 64 * 1000}
    for module, arg, last in (
        (supervised, "243", 1.738e-5),
        (h36m_semi, "S1_10percent", 1.79e-5),
        (humaneva, "all", 1.82e-5),
        (cmu, "27", 1.738e-5),
    ):
        config = built(module, arg)
        total = steps_of(config.total, **of)
        known = functools.partial(steps_of, total_steps=total, **of)
        schedule = make_schedule(config.schedule, total, known)
        assert float(schedule(0)) == pytest.approx(1e-3)
        np.testing.assert_allclose(float(schedule(total - 1)), last, rtol=4e-3)


# Figure 5: labelled subjects, share, receptive field at 50 and 10 frames per second, warm-up.
FIGURE_5 = [
    ("S1_0.1percent", ("S1",), 0.001, 1, 1, 20),
    ("S1_1percent", ("S1",), 0.01, 9, 3, 20),
    ("S1_5percent", ("S1",), 0.05, 27, 3, 20),
    ("S1_10percent", ("S1",), 0.1, 27, 9, 20),
    ("S1_50percent", ("S1",), 0.5, 27, 9, 20),
    ("S1", ("S1",), 1.0, 27, 9, 1),
    ("S1_S5", ("S1", "S5"), 1.0, 27, 9, 1),
    ("S1_S5_S6", ("S1", "S5", "S6"), 1.0, 27, 9, 1),
    ("all", ("S1", "S5", "S6", "S7", "S8"), 1.0, 27, 9, 1),
]


def test_every_point_of_figure_5_is_here():
    assert [row[0] for row in FIGURE_5] == list(h36m_semi.FIGURE_5)


@pytest.mark.parametrize(("labels", "subjects", "fraction", "at_50", "at_10", "warmup"), FIGURE_5)
@pytest.mark.parametrize("downsample", [1, 5])
@pytest.mark.parametrize("keypoints", ["cpn", "gt"])
def test_few_labels_and_much_video(
    labels, subjects, fraction, at_50, at_10, warmup, downsample, keypoints
):
    arg = f"{labels},keypoints={keypoints},downsample={downsample}"
    alone = built(h36m_semi, f"{arg},semi=false")
    assert (alone.semi, alone.has_trajectory) == (None, False)
    assert (alone.batch_size, alone.total, alone.optimizer) == (64, "200 epochs", AMSGRAD)
    assert alone.schedule == ExponentialConfig(base=1e-3, factor=0.98, every="1 epoch")
    assert alone.model.receptive_field == (at_50 if downsample == 1 else at_10)
    assert (alone.data.subjects, alone.data.fraction) == (subjects, fraction)
    test = alone.evaluations["test"]
    assert (test.subjects, test.actions, test.fraction) == (("S9", "S11"), h36m.ACTIONS, 1.0)
    assert alone.data.downsample == test.downsample == downsample
    if (labels, keypoints) == ("all", "gt"):
        return
    config = built(h36m_semi, arg)
    assert dataclasses.replace(config, semi=None) == alone
    others = tuple(s for s in ("S5", "S6", "S7", "S8") if s not in subjects)
    assert config.semi == SemiConfig(
        data=dataclasses.replace(
            alone.data, subjects=others or ("S2", "S3", "S4"), fraction=1.0, actions=()
        ),
        warmup=f"{warmup} epochs",
        projection="full",
        bone_length=True,
        confidence=False,
    )


def test_terms_of_back_projection_can_be_left_out():
    config = built(h36m_semi, "S1_1percent,keypoints=gt,bone_length=false,projection=linear")
    assert config.semi is not None
    assert (config.semi.bone_length, config.semi.projection) == (False, "linear")
    config = built(h36m_semi, "S1_1percent,projection=none,frames=27,causal=true,seed=3")
    assert config.semi is not None
    assert config.semi.projection is None
    assert (config.model.receptive_field, config.model.causal, config.seed) == (27, True, 3)


@pytest.mark.parametrize(
    ("arg", "actions"),
    [
        ("all", ("Walking", "Jog", "Box")),
        (None, ("Walking", "Jog", "Box")),
        ("Walking", ("Walking",)),
        ("Jog", ("Jog",)),
        ("Box", ("Box",)),
    ],
)
def test_humaneva_is_that_of_the_paper(arg, actions):
    config = built(humaneva, arg)
    assert (config.batch_size, config.total, config.optimizer) == (128, "1000 epochs", AMSGRAD)
    assert config.schedule == ExponentialConfig(base=1e-3, factor=0.996, every="1 epoch")
    model = config.model
    assert (model.joints_in, model.joints_out, model.receptive_field) == (17, 15, 27)
    assert model.num_params == 8_549_421
    test = config.evaluations["test"]
    assert config.data.subjects == ("Train/S1", "Train/S2", "Train/S3")
    assert test.subjects == ("Validate/S1", "Validate/S2", "Validate/S3")
    for data in (config.data, test):
        assert data.actions == actions
        assert (data.keypoints, data.positions) == (
            "humaneva15_detectron_pt_coco.npz",
            "humaneva15.npz",
        )


def test_the_rows_of_the_open_benchmark_differ_in_what_they_compare_only():
    base = built(cmu, "27")
    assert base.model == TemporalConfig(widths=(3, 3, 3), channels=base.model.channels)
    assert base.data == PoseDataConfig(keypoints="cmu.npz", subjects=("train",))
    assert base.evaluations == {"test": PoseDataConfig(keypoints="cmu.npz", subjects=("test",))}
    single = built(cmu, "1")
    assert single == dataclasses.replace(
        base, model=dataclasses.replace(base.model, widths=(1, 1, 1, 1, 1))
    )
    causal = built(cmu, "27,causal=true")
    assert causal == dataclasses.replace(base, model=dataclasses.replace(base.model, causal=True))
    # Few labels, as in the paper: 64 examples of them, beside as many without.
    few = built(cmu, "27,labelled=walking+jumping,labels=0.1")
    assert few == dataclasses.replace(
        base,
        batch_size=64,
        data=dataclasses.replace(base.data, actions=("walking", "jumping"), fraction=0.1),
    )
    semi = built(cmu, "27,labelled=walking+jumping,labels=0.1,semi=true")
    assert dataclasses.replace(semi, semi=None) == few
    assert semi.semi is not None
    # All clips, those with labels too, and never the test's.
    assert semi.semi.data == base.data


def test_labels_of_the_open_benchmark_can_be_spread_over_all_clips():
    config = built(cmu, "9,labels=0.01")
    assert (config.data.actions, config.data.fraction, config.batch_size) == ((), 0.01, 64)


# --- what is wrong ---


@pytest.mark.parametrize(
    ("module", "arg", "message"),
    [
        (supervised, "28", "frames=28 must be one of 1, 9, 27, 81, 243"),
        (supervised, "27,keypoints=hrnet", "keypoints=hrnet must be one of cpn, cpn_gt_boxes, "),
        (supervised, "27,tta=false", "no argument 'tta'"),
        (supervised, "27,channels=0", "channels must be at least 1"),
        (supervised, "many", "must be of type int"),
        (h36m_semi, None, r"labels= must be one of S1_0\.1percent"),
        (h36m_semi, "S1_20percent", "labels=S1_20percent must be one of"),
        (h36m_semi, "S1,downsample=2", "downsample=2 must be one of 1, 5"),
        (h36m_semi, "S1,projection=half", "projection=half must be one of full, linear, none"),
        (h36m_semi, "S1,frames=5", "frames=5 must be one of"),
        (h36m_semi, "all,keypoints=gt", "S2, S3 and S4 have no ground truth"),
        (h36m_semi, "S1,semi=false,projection=none", "are about video"),
        (humaneva, "Walk", "action=Walk must be one of all, Walking, Jog, Box"),
        (cmu, "28", "frames=28 must be one of"),
        (cmu, "27,labels=0", "labels=0.0 must be a share"),
        (cmu, "27,labels=10", "labels=10.0 must be a share"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(module, arg, message):
    with pytest.raises(UserError, match=message):
        module.get_config(arg)


def test_every_key_of_every_config_is_read():
    assert {SemiConfig, PoseDataConfig, TemporalConfig} <= set(config_classes(PoseTrainConfig))
    assert unread_keys(PoseTrainConfig, ("train_jax", "pose_jax")) == []


def test_commands_in_the_documentation_build():
    modules = {"h36m": supervised, "h36m_semi": h36m_semi, "humaneva": humaneva, "cmu": cmu}
    command = re.compile(rf"pose/({'|'.join(modules)})\.py:([A-Za-z0-9][^\s`\"]*[A-Za-z0-9])")
    folders = [ROOT / name for name in ("experiments", "pose_jax", "train_jax")]
    files = [path for root in folders for path in (*root.rglob("*.py"), *root.rglob("*.md"))]
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *files)]
    found = {match for text in texts for match in command.findall(text)}
    assert {file for file, _ in found} == set(modules)
    for file, arg in found:
        built(modules[file], arg.replace("$seed", "1"))


# --- every file runs ---

FRAMES = 30


def mixed(positions, name, cameras):
    """As the file of a detector: keypoints alone, of people without poses too."""
    joints = skeletons.layout(name).num_joints
    views = {
        (r.subject, r.action): {camera: seen[:, :joints] for camera, seen in r.views.items()}
        for r in positions.recordings
    }
    some = next(iter(views.values()))
    views |= {(subject, "Waiting 1"): some for subject in h36m.SUBJECTS_UNLABELLED}
    return PoseSet(
        name=name,
        fps=positions.fps,
        skeleton=None,
        keypoint_layout=name,
        source="formulas",
        cameras=positions.cameras | {s: cameras(s) for s in h36m.SUBJECTS_UNLABELLED},
        recordings=tuple(Recording(*title, None, found) for title, found in views.items()),
    )


def humaneva_sets(clip, keypoints):
    """Positions of 15 joints, and keypoints of COCO."""
    subjects = (*eva.SUBJECTS_TRAIN, *eva.SUBJECTS_TEST)
    lenses = {subject: eva.cameras(subject) for subject in subjects}
    titles = [(s, f"{action} 1 chunk0") for s in subjects for action in (*eva.ACTIONS, "Gestures")]

    def one(layout, skeleton, recordings):
        return PoseSet("humaneva", 60.0, skeleton, layout, "formulas", lenses, tuple(recordings))

    views = {name: keypoints for name in ("C1", "C2", "C3")}
    return (
        one(None, "humaneva15", (Recording(*t, clip[:, :15].copy(), {}) for t in titles)),
        one("coco17", None, (Recording(*t, None, views) for t in titles)),
    )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Every file that the experiments name, of a few frames."""
    root = tmp_path_factory.mktemp("pose")
    clip = motion.generate(0, frames=FRAMES, fps=50)
    clips = {subject: {"Walking 1": clip, "Waiting": clip} for subject in h36m.SUBJECTS_TRAIN}
    tested = {f"{action} 1": clip for action in h36m.ACTIONS}
    clips |= dict.fromkeys(h36m.SUBJECTS_TEST, tested)
    how = {"fps": 50.0, "name": "h36m", "source": "formulas"}
    exact = film(clips, cameras_of={s: s for s in clips}, detector=None, **how)
    seen = film(clips, cameras_of={s: s for s in clips}, detector=Detector(), **how)
    store.save(root / "h36m.npz", exact)
    for file, layout in (
        ("h36m_cpn_ft_h36m_dbb.npz", "h36m17"),
        ("h36m_detectron_ft_h36m.npz", "h36m17"),
        ("h36m_detectron_pt_coco.npz", "coco17"),
        ("h36m_cpn_ft_h36m_gt_boxes.npz", "h36m17"),
        ("h36m_cpn_pt_coco.npz", "coco17"),
        ("h36m_sh_ft_h36m.npz", "mpii16"),
        ("h36m_sh_pt_mpii.npz", "mpii16"),
    ):
        store.save(root / file, mixed(seen, layout, h36m.cameras))
    keypoints = next(iter(seen.recordings[0].views.values()))
    positions, detections = humaneva_sets(clip, keypoints)
    store.save(root / "humaneva15.npz", positions)
    store.save(root / "humaneva15_detectron_pt_coco.npz", detections)
    split = {"train": {"walking 1": clip, "running 1": clip}, "test": {"walking 2": clip}}
    of = {"train": "S1", "test": "S9"}
    store.save(root / "cmu.npz", film(split, cameras_of=of, detector=Detector(), **how))
    return root


def small(data_dir):
    """Overrides for a tiny network; all else as it is shipped."""
    return (
        f"--config.data_dir={data_dir}",
        "--config.model.channels=8",
        "--config.batch_size=16",
        "--config.steps_per_dispatch=1",
    )


CONFIGS = [
    *(("h36m", f"{n},keypoints={k}") for n in (1, 9, 27) for k in recipes.H36M_KEYPOINTS),
    *(("h36m", f"{n},causal=true") for n in (27, 81, 243)),
    ("h36m", "27,dense=true,keypoints=gt,average=false"),
    ("h36m", "27,flip=false,seed=2,confidence=true"),
    ("h36m", "243,flip=false,average=false"),
    # A recording of 30 frames has no thousandth.
    *(("h36m_semi", label) for label in h36m_semi.FIGURE_5 if "S1_0.1" not in label),
    ("h36m_semi", "S1_10percent,semi=false,keypoints=gt,downsample=5"),
    ("h36m_semi", "S1_50percent,keypoints=detectron_coco,projection=linear,bone_length=false"),
    *(("humaneva", arg) for arg in ("all", "Walking", "Jog", "Box,causal=true")),
    *(("cmu", arg) for arg in ("1", "27", "27,causal=true", "9,labels=0.1,semi=true")),
    ("cmu", "9,labelled=walking,semi=true"),
]


@pytest.mark.parametrize(("file", "arg"), CONFIGS)
def test_every_config_finds_its_data_and_fits_them(file, arg, data_dir):
    config = parsed(PoseTrainConfig, f"pose/{file}.py", arg, *small(data_dir))
    if "percent" in arg:
        # Of 30 frames a tenth is three, and of a hundredth nothing would be left.
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, fraction=0.5))
    task = make_task(config)
    assert task.train_data.examples_per_epoch > 0
    assert set(task.evaluations) == {"test"}
    params, _ = jax.eval_shape(task.init, jax.random.key(0))
    assert set(params) == ({"pose", "trajectory"} if config.semi else {"pose"})


RUNS = {
    "h36m": ("9", 2 * 15 * 4 * FRAMES),
    "h36m_semi": ("S1_10percent,frames=9", 2 * 15 * 4 * FRAMES),
    "humaneva": ("all", 3 * 3 * 3 * FRAMES),
    "cmu": ("9,labels=0.1,semi=true", 4 * FRAMES),
}


def test_every_file_has_a_run_here():
    files = {path.stem for path in (ROOT / "experiments/pose").glob("*.py")}
    assert files - {"__init__", "recipes"} == set(RUNS)


@pytest.mark.parametrize("file", RUNS)
def test_every_file_steps_evaluates_and_saves(file, data_dir, tmp_path, monkeypatch):
    # Compiles in half the time.
    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    arg, frames = RUNS[file]
    config = parsed(PoseTrainConfig, f"pose/{file}.py", arg, *small(data_dir))
    config = dataclasses.replace(config, total="4 steps")
    if config.semi:
        config = dataclasses.replace(config, semi=dataclasses.replace(config.semi, warmup="1 step"))
    result = fit(make_task(config), config, str(tmp_path))
    assert (result.step, result.preempted) == (4, False)
    again = evaluate(config, str(tmp_path))["test"]
    assert again["examples"] == result.metrics["test/examples"] == frames
    for name in ("mpjpe", "p_mpjpe", "n_mpjpe", "mpjve"):
        # Millimetres of poses that nobody has learnt yet.
        assert 1 < again[name] < 2000
        np.testing.assert_allclose(result.metrics[f"test/{name}"], again[name], rtol=1e-4)
    head = table({"test": again}).splitlines()[1].split()
    actions = {"humaneva": eva.ACTIONS, "cmu": ("walking",)}.get(file, h36m.ACTIONS)
    assert head == ["mm", *actions, "Avg"]
