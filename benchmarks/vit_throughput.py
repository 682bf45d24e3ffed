"""How fast does a ViT train and infer on this CPU, beside plain Flax and timm?

    python benchmarks/vit_throughput.py [--variants=Ti/16,S/16] [--cores=2] [--rounds=5]
    python benchmarks/vit_throughput.py --timm_python=/path/to/python   # an environment with timm

Every contestant is a process of its own that stays alive; rounds go around all of them, so a noisy
minute hits all alike, and the best and the median round are given. "scan" and "unrolled" are ours;
"flax" is the program of the public JAX code bases: Flax layers in a Python loop. All take the same
step of SGD with momentum. "peak" is the share that training reaches of a large float32 product.
Time to first step counts from the start of the process, compilation included, without a persistent
cache.
"""

import argparse
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import types
from pathlib import Path

# Runs from a checkout that nobody has installed.
sys.path.insert(0, str(Path(__file__).parents[1]))

MATMUL_SIZE = 2048
LEARNING_RATE, MOMENTUM = 0.01, 0.9
# Multiply-accumulates of one image at 224, forward ("ViT paper", matrix products only).
GMAC = {"Ti/16": 1.25, "S/16": 4.60, "B/16": 17.56}


def main():
    """Starts the contestants, goes around them, prints the table."""
    parser = argparse.ArgumentParser(
        description="Images per second of a ViT on this CPU, beside plain Flax and timm."
    )
    parser.add_argument("--variants", default="Ti/16,S/16")
    parser.add_argument("--contestants", default="scan,unrolled,flax,timm")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--timm_python", default=sys.executable)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[: args.cores]
    os.sched_setaffinity(0, cores)
    if args.worker:
        serve(args)
        return
    print(f"{len(cores)} core(s), float32, 224 x 224, batch {args.batch}, best/median of rounds")
    columns = (f"{'first step':>12s}", f"{'training':>15s}", f"{'inference':>15s}")
    print(f"{'':15s}", *columns, f"{'CPU-s/step':>11s}", f"{'peak':>6s}", sep="")
    for variant in args.variants.split(","):
        compare(args, variant)


def compare(args: argparse.Namespace, variant: str):
    """One table: all contestants on one model."""
    workers = {}
    for name in args.contestants.split(","):
        worker = Worker(args, name, variant)
        if worker.absent:
            print(f"{variant:6s} {name:8s} absent: {worker.absent}")
        else:
            workers[name] = worker
    for _ in range(args.rounds):
        for worker in workers.values():
            for what in ("matmul", "train", "infer"):
                worker.measure(what)
    flops = 6e9 * GMAC[variant] if variant in GMAC else float("nan")
    # Whoever multiplies fastest: ours does it on one of its devices, with its share of the threads.
    peak = max(2 * MATMUL_SIZE**3 / min(worker.seconds["matmul"]) for worker in workers.values())
    print(
        f"{variant:6s} a product of {MATMUL_SIZE}x{MATMUL_SIZE} matrices: {peak / 1e9:.0f} GFLOP/s"
    )
    for name, worker in workers.items():
        train, infer = (worker.images_per_second(what) for what in ("train", "infer"))
        cpu = statistics.median(worker.cpu_seconds["train"])
        print(
            f"{variant:6s} {name:8s}{worker.first_step:11.1f}s"
            f"{train[0]:9.1f}/{train[1]:5.1f}{infer[0]:10.1f}/{infer[1]:5.1f}"
            f"{cpu:12.2f}{train[0] * flops / peak:7.0%}"
        )
    base = workers.get("flax")
    for name, worker in workers.items():
        if base and worker is not base:
            ratios = [
                worker.images_per_second(what)[i] / base.images_per_second(what)[i]
                for what in ("train", "infer")
                for i in (0, 1)
            ]
            print(
                f"{variant:6s} {name} / flax: training {ratios[0]:.2f} (median {ratios[1]:.2f}), "
                f"inference {ratios[2]:.2f} (median {ratios[3]:.2f}), "
                f"time to first step {worker.first_step / base.first_step:.2f}"
            )
    for worker in workers.values():
        worker.close()


class Worker:
    """A contestant in its own process, asked over a pipe."""

    def __init__(self, args: argparse.Namespace, name: str, variant: str):
        python = args.timm_python if name == "timm" else sys.executable
        self.batch = args.batch
        self.seconds: dict[str, list[float]] = {"matmul": [], "train": [], "infer": []}
        self.cpu_seconds: dict[str, list[float]] = {"matmul": [], "train": [], "infer": []}
        command = [python, __file__, f"--worker={name}", f"--variants={variant}"]
        command += [f"--{key}={getattr(args, key)}" for key in ("batch", "cores")]
        # A persistent cache would turn the time to first step into a time to read a file.
        environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
        environment |= {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": str(args.cores)}
        start = time.time()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        ready = self._read()
        self.absent = ready.get("absent")
        self.first_step = ready.get("first_step", start) - start

    def measure(self, what: str):
        """One round of one kind."""
        assert self.process.stdin is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        answer = self._read()
        self.seconds[what].append(answer["seconds"])
        self.cpu_seconds[what].append(answer["cpu_seconds"])

    def images_per_second(self, what: str) -> tuple[float, float]:
        """Of the best round, and of the median one."""
        seconds = self.seconds[what]
        return self.batch / min(seconds), self.batch / statistics.median(seconds)

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
    """The other end of the pipe: builds a contestant, takes a first step, then obeys."""
    build = {"flax": build_flax, "timm": build_timm}.get(args.worker, build_ours)
    try:
        calls = build(args)
    except ImportError as error:
        print(json.dumps({"absent": str(error)}), flush=True)
        return
    calls["train"]()
    print(json.dumps({"first_step": time.time()}), flush=True)
    calls["infer"]()
    calls["matmul"]()
    for line in sys.stdin:
        start, cpu = time.perf_counter(), _cpu_seconds()
        calls[line.strip()]()
        seconds = time.perf_counter() - start
        answer = {"seconds": seconds, "cpu_seconds": _cpu_seconds() - cpu}
        print(json.dumps(answer), flush=True)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def build_ours(args: argparse.Namespace) -> dict:
    """This project's model, scanned with its rematerialisation, or unrolled without."""
    import jax

    from train_jax.mesh import MeshConfig, make_mesh, use_a_device_per_core
    from train_jax.sharding import batch_sharding, replicated
    from vit_jax.models import api
    from vit_jax.models.vit import config_for

    use_a_device_per_core()  # as our commands do
    mesh = make_mesh(MeshConfig())
    jax.set_mesh(mesh)
    modes = {"scan": ("scan", "names"), "unrolled": ("unrolled", "none")}
    execution, remat = modes[args.worker]
    config = config_for(args.variants, execution=execution, remat=remat)
    shape = (224, 224, 3)
    init = jax.jit(lambda key: api.init(config, key, shape)[0], out_shardings=replicated(mesh))
    return jax_calls(
        args,
        init,
        lambda params, images: api.apply(config, params, {}, images)[0],
        sharding=batch_sharding(mesh),
    )


def build_flax(args: argparse.Namespace) -> dict:
    """What the public JAX programs do: Flax layers, one after the other."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    from vit_jax.models.vit import config_for

    config = config_for(args.variants)
    xavier = nn.initializers.xavier_uniform()

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            y = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(config.num_heads, kernel_init=xavier)(y, y)
            y = nn.Dense(config.mlp_dim, kernel_init=xavier)(nn.LayerNorm()(x))
            return x + nn.Dense(config.width, kernel_init=xavier)(nn.gelu(y))

    class Model(nn.Module):
        @nn.compact
        def __call__(self, images):
            patch = config.patch_size
            x = nn.Conv(config.width, patch, strides=patch, padding="VALID")(images)
            x = x.reshape(len(x), -1, config.width)
            cls = self.param("cls", nn.initializers.zeros, (1, 1, config.width))
            x = jnp.concatenate([jnp.tile(cls, (len(x), 1, 1)), x], axis=1)
            x = x + self.param("position", nn.initializers.normal(0.02), (1, *x.shape[1:]))
            for _ in range(config.depth):
                x = Block()(x)
            return nn.Dense(1000, kernel_init=nn.initializers.zeros)(nn.LayerNorm()(x)[:, 0])

    model = Model()
    init = jax.jit(lambda key: model.init(key, jnp.ones((1, 224, 224, 3))))
    return jax_calls(args, init, lambda params, images: model.apply(params, images))


def jax_calls(args: argparse.Namespace, init, forward, sharding=None) -> dict:
    """The same training step around both JAX models."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    optimizer = optax.sgd(LEARNING_RATE, momentum=MOMENTUM)
    numbers = np.random.default_rng(0)
    images = jnp.asarray(numbers.uniform(-1, 1, (args.batch, 224, 224, 3)).astype(np.float32))
    labels = jnp.asarray(numbers.integers(0, 1000, args.batch))
    if sharding is not None:
        images, labels = jax.device_put((images, labels), sharding)

    def loss(params, images, labels):
        logits = forward(params, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, images, labels):
        params, moments = state
        value, gradient = jax.value_and_grad(loss)(params, images, labels)
        updates, moments = optimizer.update(gradient, moments, params)
        return (optax.apply_updates(params, updates), moments), value

    state = [jax.jit(lambda params: (params, optimizer.init(params)))(init(jax.random.key(0)))]
    predict = jax.jit(forward)
    square = jnp.ones((MATMUL_SIZE, MATMUL_SIZE))
    product = jax.jit(jnp.matmul)

    def train():
        state[0], value = step(state[0], images, labels)
        jax.block_until_ready((state[0], value))

    return {
        "train": train,
        "infer": lambda: predict(state[0][0], images).block_until_ready(),
        "matmul": lambda: product(square, square).block_until_ready(),
    }


def build_timm(args: argparse.Namespace) -> dict:
    """The models of timm on PyTorch, eager."""
    import torch  # pyright: ignore[reportMissingImports]

    if importlib.util.find_spec("torchvision") is None:
        stub_torchvision()
    import timm  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(args.cores)
    size = {"Ti": "tiny", "S": "small", "B": "base", "L": "large"}[args.variants.split("/")[0]]
    model = timm.create_model(f"vit_{size}_patch{args.variants.split('/')[1]}_224")
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    images = torch.rand(args.batch, 3, 224, 224) * 2 - 1
    labels = torch.randint(0, 1000, (args.batch,))
    square = torch.ones(MATMUL_SIZE, MATMUL_SIZE)

    def train():
        model.train()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    def infer():
        model.eval()
        with torch.inference_mode():
            model(images)

    return {"train": train, "infer": infer, "matmul": lambda: square @ square}


def stub_torchvision():
    """Stands in for torchvision, whose transforms timm imports and nobody calls here."""

    class AnyClass(type):
        def __getattr__(cls, name):
            if name.startswith("__"):
                raise AttributeError(name)
            return name

    class Anything(types.ModuleType):
        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            return AnyClass(name, (), {})

    class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "torchvision":
                return importlib.machinery.ModuleSpec(name, self, is_package=True)
            return None

        def create_module(self, spec):
            module = Anything(spec.name)
            module.__path__ = []
            return module

        def exec_module(self, module):
            pass

    sys.meta_path.insert(0, Finder())


if __name__ == "__main__":
    main()
