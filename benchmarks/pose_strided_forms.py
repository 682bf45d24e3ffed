"""Training's strided form as convolution, or as reshape and matrix product: which is faster?

    python benchmarks/pose_strided_forms.py [--widths 3,3,3 3,3,3,3,3] [--batch=1024]
    python benchmarks/pose_strided_forms.py --tpu=v5e:1x1      # needs `pip install "jax[tpu]"`

The gradient of a batch on this CPU, in CPU time, which a busy machine hardly changes; rounds go
around both forms. With --tpu, nothing is run: the cycles are the sum of what the TPU compiler
estimates for the operations of the program, good for comparing two programs and for nothing else.
"""

import argparse
import functools
import os
import re
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

# Runs from a checkout that nobody has installed.
sys.path.insert(0, str(Path(__file__).parents[1]))


def main():
    """Prints a line per network."""
    parser = argparse.ArgumentParser(description="Convolution or matrix product in training.")
    parser.add_argument("--widths", nargs="+", default=["3,3,3", "3,3,3,3,3"])
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--channels", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--tpu", help="a topology, such as v5e:1x1: estimates instead of times")
    args = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    unit = f"{args.tpu}, million cycles by estimate" if args.tpu else "this CPU, CPU-seconds"
    print(f"gradient of a batch of {args.batch}, {args.channels} channels, {args.dtype}; {unit}")
    for widths in args.widths:
        costs = (estimated if args.tpu else measured)(args, widths)
        print(
            f"{widths:12s} convolution {costs['convolution']:8.3f}  product "
            f"{costs['product']:8.3f}  convolution / product "
            f"{costs['convolution'] / costs['product']:.2f}",
            flush=True,
        )


def gradients(args: argparse.Namespace, widths: str):
    """For each form the function to compile, and the shapes that it takes."""
    import jax
    import jax.numpy as jnp

    from pose_jax.models import temporal
    from pose_jax.models.config import TemporalConfig

    model = TemporalConfig(
        widths=tuple(int(width) for width in widths.split(",")),
        channels=args.channels,
        compute_dtype=args.dtype,
    )

    def convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return temporal._as_convolution(x, kernel.astype(x.dtype))

    def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return temporal._as_product(x, kernel.astype(x.dtype))

    # Ours, with its own gradient, is one of them on each platform.
    ours = "convolution" if args.tpu else "product"
    forms = {"convolution": convolution, "product": product, ours: temporal._grouped}

    def gradient(form: str, params: Any, state: Any, x: jax.Array) -> Any:
        def loss(params: Any) -> Any:
            training = temporal.Training(jnp.float32(0.1), jax.random.key(0))
            with mock.patch.object(temporal, "_grouped", forms[form]):
                poses, new_state = temporal.strided(model, params, state, x, training)
            return jnp.linalg.norm(poses - 1, axis=-1).mean(), new_state

        return jax.grad(loss, has_aux=True)(params)

    init = functools.partial(temporal.init, model)
    shapes = jax.eval_shape(init, jax.random.key(0))
    x = jax.ShapeDtypeStruct(
        (args.batch, model.receptive_field, model.joints_in, model.features), jnp.float32
    )
    return {form: functools.partial(gradient, form) for form in forms}, (*shapes, x), init


def measured(args: argparse.Namespace, widths: str) -> dict[str, float]:
    """CPU-seconds of the best round."""
    import jax
    import jax.numpy as jnp

    functions, (*_, x), init = gradients(args, widths)
    inputs = (*init(jax.random.key(0)), jax.random.normal(jax.random.key(1), x.shape))
    programs = {form: jax.jit(function) for form, function in functions.items()}
    best = dict.fromkeys(programs, float("inf"))
    for program in programs.values():
        jax.block_until_ready(program(*inputs))
    for _ in range(args.rounds):
        for form, program in programs.items():
            start = time.process_time()
            jax.block_until_ready(program(*inputs))
            best[form] = min(best[form], time.process_time() - start)
    assert all(jnp.isfinite(jnp.array(list(best.values()))))
    return best


def estimated(args: argparse.Namespace, widths: str) -> dict[str, float]:
    """Millions of cycles on one device of a topology."""
    import jax
    from jax.experimental import topologies
    from jax.sharding import SingleDeviceSharding

    bounds = {"chips_per_host_bounds": (1, 1, 1)} if args.tpu.endswith(":1x1") else {}
    topology = topologies.get_topology_desc(platform="tpu", topology_name=args.tpu, **bounds)
    sharding = SingleDeviceSharding(topology.devices[0])
    functions, shapes, _ = gradients(args, widths)
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes
    )
    costs = {}
    for form, function in functions.items():
        text = jax.jit(function).lower(*shapes).compile().as_text() or ""
        cycles = re.findall(r'"estimated_cycles":"(\d+)"', text)
        costs[form] = sum(map(int, cycles)) / 1e6
    return costs


if __name__ == "__main__":
    main()
