"""How fast does a pose lifter train, infer and evaluate on this CPU, beside plain PyTorch?

    python benchmarks/pose_throughput.py [--cores=2] [--rounds=3]
    python benchmarks/pose_throughput.py --torch_python=/path/to/python   # an environment with it
    python benchmarks/pose_throughput.py --quick                          # does it run at all?

The peer is the same network in PyTorch, written below: convolutions, batch normalisation, AMSGrad
and a NumPy generator of batches, as in the paper. Both are processes that stay alive; rounds go
around them, so a noisy minute hits both alike, and the best and the median round are given.

    training    one output frame per example; PyTorch's batches are made within the time, as ours
    inference   one long sequence
    evaluation  poses averaged with those of the mirror image, all four errors, sequences as long as
                Human3.6M's test recordings; PyTorch goes from sequence to sequence
    streaming   frame after frame, each pose at once; PyTorch computes a window for each
    by CPU      the ratio of CPU time, which other work on the machine hardly changes
    host        what our main thread needs for a step, dispatches of several steps
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# Runs from a checkout that nobody has installed.
sys.path.insert(0, str(Path(__file__).parents[1]))

KINDS = {
    "train": ("training", "samples/s"),
    "infer": ("inference", "frames/s"),
    "evaluate": ("evaluation", "frames/s"),
    "stream": ("streaming", "frames/s"),
}
JOINTS = 17
# Of the Human3.6M skeleton.
MIRROR = (0, 4, 5, 6, 1, 2, 3, 7, 8, 9, 10, 14, 15, 16, 11, 12, 13)
TEST_LENGTHS = (2699, 2356, 5873, 1447, 3319, 2346, 1964, 1226, 2962, 1612)
LEARNING_RATE, DROPOUT, MOMENTUM = 1e-3, 0.25, 0.1


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description="Speed of a pose lifter on this CPU, beside plain PyTorch."
    )
    parser.add_argument("--widths", nargs="+", default=["3,3,3", "3,3,3,3,3"])
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--contestants", default="ours,torch")
    parser.add_argument("--channels", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--torch_python", default=sys.executable)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, a single round")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.quick:
        args.channels, args.batch, args.rounds = 32, 32, 1
    return args


def main():
    """Starts the contestants, goes around them, prints the table."""
    args = parse()
    cores = sorted(os.sched_getaffinity(0))[: args.cores]
    os.sched_setaffinity(0, cores)
    if args.worker:
        serve(args)
        return
    print(
        f"{len(cores)} core(s), float32, {args.channels} channels, batch {args.batch}, "
        f"best/median of {args.rounds} round(s)"
    )
    print(
        f"{'widths':12s}{'':12s}{'ours':>17s}{'PyTorch':>17s}{'':11s}{'ratio':>11s}{'by CPU':>9s}"
    )
    for widths in args.widths:
        compare(args, widths)


def compare(args: argparse.Namespace, widths: str):
    """One table: both contestants on one network."""
    workers = {}
    for name in args.contestants.split(","):
        worker = Worker(args, name, widths)
        if worker.absent:
            print(f"{name} is absent ({worker.absent}); ours is measured alone.")
            print(
                "To compare, give --torch_python a Python environment with `pip install torch`, "
                "NumPy included."
            )
        else:
            workers[name] = worker
    kinds = args.kinds.split(",")
    for _ in range(args.rounds):
        for kind in kinds:
            for worker in workers.values():
                worker.measure(kind)
    for kind in kinds:
        title, unit = KINDS[kind]
        rates = {name: worker.rates(kind) for name, worker in workers.items()}
        cells = [
            f"{rates[name][0]:9,.0f}/{rates[name][1]:7,.0f}" if name in rates else f"{'-':>17s}"
            for name in ("ours", "torch")
        ]
        ratio = ""
        if len(rates) == 2:
            best, median = (rates["ours"][i] / rates["torch"][i] for i in (0, 1))
            ours, theirs = (
                min(a["cpu_seconds"] / a["count"] for a in workers[name].answers[kind])
                for name in ("ours", "torch")
            )
            ratio = f"{best:6.2f}/{median:4.2f}{theirs / ours:9.2f}"
        print(f"{widths:12s}{title:12s}{cells[0]}{cells[1]}  {unit:9s}{ratio}", flush=True)
    if "ours" in workers and "train" in kinds:
        answers = workers["ours"].answers["train"]
        step = min(answer["seconds"] for answer in answers)
        host = statistics.median(answer["host_seconds"] for answer in answers)
        print(
            f"{widths:12s}host        {1e3 * host / answers[0]['steps']:.3f} ms of a step of "
            f"{1e3 * step / answers[0]['steps']:.0f} ms: {host / step:.3%}"
        )
    for worker in workers.values():
        worker.close()


class Worker:
    """A contestant in its own process, asked over a pipe."""

    def __init__(self, args: argparse.Namespace, name: str, widths: str):
        python = args.torch_python if name == "torch" else sys.executable
        self.answers: dict[str, list[dict]] = {kind: [] for kind in KINDS}
        command = [python, __file__, f"--worker={name}", f"--widths={widths}"]
        command += [f"--{key}={getattr(args, key)}" for key in ("channels", "batch", "cores")]
        command += ["--quick"] if args.quick else []
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": str(args.cores)}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.absent = self._read().get("absent")

    def measure(self, kind: str):
        """One round of one kind."""
        assert self.process.stdin is not None
        self.process.stdin.write(kind + "\n")
        self.process.stdin.flush()
        self.answers[kind].append(self._read())

    def rates(self, kind: str) -> tuple[float, float]:
        """Examples or frames per second of the best round, and of the median one."""
        rates = [answer["count"] / answer["seconds"] for answer in self.answers[kind]]
        return max(rates), statistics.median(rates)

    def close(self):
        """Lets the process end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _read(self) -> dict:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("A contestant died; its error is above.")
        return json.loads(line)


def serve(args: argparse.Namespace):
    """The other end of the pipe: builds a contestant, warms it up, then obeys."""
    build = {"ours": build_ours, "torch": build_torch}[args.worker]
    try:
        calls = build(args)
    except ImportError as error:
        print(json.dumps({"absent": str(error)}), flush=True)
        return
    warm: set[str] = set()
    print(json.dumps({}), flush=True)
    for line in sys.stdin:
        kind = line.strip()
        if kind not in warm:
            calls[kind](True)
            warm.add(kind)
        start, cpu = time.perf_counter(), time.process_time()
        answer = calls[kind](False)
        answer["cpu_seconds"] = time.process_time() - cpu
        answer["seconds"] = answer.get("seconds", time.perf_counter() - start)
        print(json.dumps(answer), flush=True)


class Sizes:
    """How much a round does; the same for both."""

    def __init__(self, args: argparse.Namespace):
        self.widths = tuple(int(width) for width in args.widths[0].split(","))
        self.receptive_field = int(np.prod(self.widths))
        long = self.receptive_field > 100
        self.steps = 2 if args.quick or long else 6
        self.infer_frames = 2000 if args.quick else 16384 if long else 32768
        self.stream_frames = 20 if args.quick else 200
        self.train_lengths = (300, 200) if args.quick else (2000,) * 50
        self.test_lengths = (300, 200) if args.quick else TEST_LENGTHS


def motion(lengths: tuple[int, ...]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Keypoints float32 (t, joints, 2) and poses float32 (t, joints, 3) of sequences."""
    numbers = np.random.default_rng(0)
    poses = [
        (0.02 * numbers.normal(size=(t, JOINTS, 3)).cumsum(0)).astype(np.float32) for t in lengths
    ]
    for pose in poses:
        pose[:, 0, 2] += 4
    return [pose[..., :2] / np.float32(3) for pose in poses], poses


Calls = dict[str, Callable[[bool], dict[str, Any]]]


def build_torch(args: argparse.Namespace) -> Calls:
    """The peer."""
    import pose_torch  # beside this file

    return pose_torch.build(args, Sizes(args))


def build_ours(args: argparse.Namespace) -> Calls:
    """This project: its task, its step, its evaluator, as the commands use them."""
    import functools

    import jax

    from pose_jax.data.views import View, Views
    from pose_jax.models import streaming
    from pose_jax.models.config import TemporalConfig
    from pose_jax.skeletons import layout
    from train_jax.mesh import MeshConfig, make_mesh
    from train_jax.process import set_up

    set_up()
    sizes = Sizes(args)
    mesh = make_mesh(MeshConfig())
    jax.set_mesh(mesh)
    model = TemporalConfig(widths=sizes.widths, channels=args.channels)
    skeleton = layout("h36m17")

    def views(lengths: tuple[int, ...]) -> Views:
        made = [
            View("S1", f"Action{i} 1", "camera", *sequence, None)
            for i, sequence in enumerate(zip(*motion(lengths), strict=True))
        ]
        return Views(tuple(made), skeleton, skeleton, 50.0)

    train, params, state = train_ours(args, sizes, mesh, model, views(sizes.train_lengths))
    evaluate = evaluate_ours(mesh, model, views(sizes.test_lengths))
    infer = infer_ours(mesh, model, views((sizes.infer_frames,)))
    folded = jax.jit(functools.partial(streaming.fold, model))(params["pose"], state["pose"])
    push = jax.jit(functools.partial(streaming.push, model), donate_argnums=1)
    frames = [frame[None] for frame in motion((sizes.stream_frames,))[0][0]]
    stream = streaming.start(model, folded, jax.numpy.asarray(frames[0]))

    def run_stream(warm_up: bool) -> dict[str, Any]:
        state = jax.tree.map(jax.numpy.copy, stream)
        for frame in frames[:3] if warm_up else frames:
            state, pose = push(folded, state, frame)
            pose.block_until_ready()
        return {"count": len(frames)}

    return {
        "train": train,
        "infer": lambda warm_up: infer(params["pose"], state["pose"]),
        "evaluate": lambda warm_up: evaluate(params, state),
        "stream": run_stream,
    }


def train_ours(args: argparse.Namespace, sizes: Sizes, mesh: Any, model: Any, views: Any):
    """One dispatch of training; the parameters and statistics before it."""
    import jax

    from pose_jax.data.training import training_data
    from pose_jax.data.views import PoseDataConfig
    from pose_jax.data.windows import make_windows
    from pose_jax.task import PARAM_RULES, PoseTrainConfig, make_init, make_loss
    from train_jax.data.placement import local_rows, to_device, to_reside
    from train_jax.metrics import empty_window
    from train_jax.optimizers import Adam, make_optimizer
    from train_jax.schedules import ExponentialConfig, make_schedule
    from train_jax.sharding import batch_sharding, replicated
    from train_jax.state import abstract_state, initial_state, step_key
    from train_jax.step import jit_train_step, make_train_step
    from train_jax.task import Task

    config = PoseTrainConfig(
        batch_size=args.batch,
        total="80 epochs",
        optimizer=Adam(amsgrad=True),
        schedule=ExponentialConfig(base=LEARNING_RATE),
        model=model,
        data=PoseDataConfig(keypoints=""),
    )
    windows = make_windows(views.views, model, keypoint_mirror=MIRROR, pose_mirror=MIRROR)
    data = training_data(
        windows, None, batch_size=args.batch, seed=0, order="device", content="benchmark"
    )
    task = Task(
        init=make_init(config),
        loss=make_loss(config, views.keypoint_layout, views.skeleton, data.examples_per_epoch),
        train_data=data,
        evaluations={},
        param_rules=PARAM_RULES,
    )
    schedule = make_schedule(config.schedule, 1000, lambda duration: 100)
    optimizer = make_optimizer(config.optimizer, schedule, {})
    abstract = abstract_state(task, optimizer, mesh, ema=False)
    step = jit_train_step(make_train_step(task, optimizer), abstract, mesh, several=True)
    everywhere, sharding = replicated(mesh), batch_sharding(mesh)
    state = initial_state(task, optimizer, abstract, 0)
    before = jax.tree.map(jax.numpy.copy, (state.params, state.model_state))
    carried = [state, jax.device_put(empty_window(["loss", "gradient_norm", "pose"]), everywhere)]
    resident = to_reside(data.resident, mesh)
    key = jax.device_put(step_key(0), everywhere)
    batches = data.start(0, local_rows(sharding, args.batch))

    def train(warm_up: bool) -> dict[str, Any]:
        cpu, steps = time.thread_time(), sizes.steps
        group = [next(batches) for _ in range(steps)]
        stacked = {name: np.stack([batch[name] for batch in group]) for name in group[0]}
        placed = to_device(stacked, sharding, args.batch, stacked=True)
        count = np.int32(1 if warm_up else steps)
        *carried[:], loss = step(*carried, key, resident, placed, count)
        host = time.thread_time() - cpu
        loss.block_until_ready()
        return {"count": args.batch * steps, "steps": steps, "host_seconds": host}

    return train, *before


def evaluate_ours(mesh: Any, model: Any, views: Any):
    """A whole evaluation."""
    from pose_jax.measure import MeasureConfig, make_evaluation
    from train_jax.evaluation import make_evaluator
    from train_jax.sharding import batch_shards

    evaluation = make_evaluation(
        views, model, MeasureConfig(), trajectory=False, shards=batch_shards(mesh)
    )
    evaluator = make_evaluator(evaluation, mesh)

    def evaluate(params: Any, state: Any) -> dict[str, Any]:
        return {"count": evaluator(params, state)["examples"]}

    return evaluate


def infer_ours(mesh: Any, model: Any, views: Any):
    """A pose for each frame of a sequence."""
    import jax

    from pose_jax.data.evaluation import evaluation_data
    from pose_jax.models import temporal
    from train_jax.data.placement import to_device, to_reside
    from train_jax.sharding import batch_sharding, batch_shards

    data = evaluation_data(views.views, model, shards=batch_shards(mesh))
    resident, sharding = to_reside(data.resident, mesh), batch_sharding(mesh)

    @jax.jit
    def poses(params: Any, state: Any, resident: Any, batch: Any) -> jax.Array:
        x = data.expand(resident, batch)["keypoints"]
        return temporal.dilated(model, params, state, x)[0]

    def infer(params: Any, state: Any) -> dict[str, Any]:
        results = [
            poses(params, state, resident, to_device(batch, sharding, data.batch_size))
            for batch in data.start(np.arange(data.batch_size))
        ]
        jax.block_until_ready(results)
        return {"count": len(views.views[0].keypoints)}

    return infer


if __name__ == "__main__":
    main()
