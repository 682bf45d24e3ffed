"""The temporal network in plain PyTorch: the peer of `pose_throughput.py`, which runs this.

Written from the paper's section 3 and Appendix A. It needs PyTorch and NumPy only.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pose_throughput as sizes_of
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

MIRROR = list(sizes_of.MIRROR)


class Layer(nn.Module):
    """A convolution and what follows it."""

    def __init__(self, inputs: int, outputs: int, width: int):
        super().__init__()
        self.convolution = nn.Conv1d(inputs, outputs, width, bias=False)
        self.norm = nn.BatchNorm1d(outputs, momentum=sizes_of.MOMENTUM)
        self.dropout = nn.Dropout(sizes_of.DROPOUT)

    def forward(self, x: Any, *, dilation: int = 1, stride: int = 1) -> Any:
        """(n, inputs, t) to (n, outputs, t')."""
        y = nn.functional.conv1d(x, self.convolution.weight, stride=stride, dilation=dilation)
        return self.dropout(torch.relu(self.norm(y)))


class Network(nn.Module):
    """Lifts keypoints (n, t, joints, 2) to poses (n, t', joints, 3), strided or dilated."""

    def __init__(self, widths: Sequence[int], channels: int, joints: int):
        super().__init__()
        self.widths, self.joints = tuple(widths), joints
        self.expand = Layer(2 * joints, channels, self.widths[0])
        self.wide = nn.ModuleList([Layer(channels, channels, w) for w in self.widths[1:]])
        self.pointwise = nn.ModuleList([Layer(channels, channels, 1) for _ in self.widths[1:]])
        self.shrink = nn.Conv1d(channels, 3 * joints, 1)

    def forward(self, x: Any, *, strided: bool) -> Any:
        """Strided: windows of one receptive field to one pose each. Dilated: a pose per frame."""
        x = x.flatten(2).transpose(1, 2)
        x = self.expand(x, stride=self.widths[0] if strided else 1)
        dilation = self.widths[0]
        for width, wide, pointwise in zip(self.widths[1:], self.wide, self.pointwise, strict=True):
            if strided:
                shortcut = x[:, :, width // 2 :: width]
                y = wide(x, stride=width)
            else:
                reach = dilation * (width // 2)
                shortcut = x[:, :, reach : x.shape[2] - reach]
                y = wide(x, dilation=dilation)
            x = shortcut + pointwise(y)
            dilation *= width
        y = self.shrink(x).transpose(1, 2)
        return y.reshape(len(y), -1, self.joints, 3)


def build(args: argparse.Namespace, sizes: Any) -> dict[str, Callable[[bool], dict[str, Any]]]:
    """What is measured, by name."""
    torch.set_num_threads(args.cores)
    torch.manual_seed(0)
    network = Network(sizes.widths, args.channels, sizes_of.JOINTS)
    optimizer = torch.optim.Adam(network.parameters(), lr=sizes_of.LEARNING_RATE, amsgrad=True)
    pad = sizes.receptive_field // 2
    batches = training_batches(*sizes_of.motion(sizes.train_lengths), pad, args.batch)
    long = sizes_of.motion((sizes.infer_frames,))[0][0]
    tests = list(zip(*sizes_of.motion(sizes.test_lengths), strict=True))

    def train(warm_up: bool) -> dict[str, Any]:
        network.train()
        steps = 1 if warm_up else sizes.steps
        for _ in range(steps):
            x, target = map(torch.from_numpy, next(batches))
            optimizer.zero_grad()
            torch.linalg.vector_norm(network(x, strided=True) - target, dim=-1).mean().backward()
            optimizer.step()
        return {"count": args.batch * steps}

    def infer(warm_up: bool) -> dict[str, Any]:
        network.eval()
        with torch.inference_mode():
            network(torch.from_numpy(edges(long, pad)[None]), strided=False)
        return {"count": len(long)}

    def evaluate(warm_up: bool) -> dict[str, Any]:
        network.eval()
        sums, count = np.zeros(4), 0
        for keypoints, pose in tests[:1] if warm_up else tests:
            x = edges(keypoints, pad)
            both = torch.from_numpy(np.stack([x, mirrored(x)]))
            with torch.inference_mode():
                y = network(both, strided=False).numpy()
            target = pose.copy()
            target[:, 0] = 0
            sums += len(pose) * errors((y[0] + mirrored(y[1])) / 2, target)
            count += len(pose)
        return {"count": count}

    def stream(warm_up: bool) -> dict[str, Any]:
        network.eval()
        x = edges(sizes_of.motion((sizes.stream_frames,))[0][0], pad)
        frames = 3 if warm_up else sizes.stream_frames
        with torch.inference_mode():
            for t in range(frames):
                window = torch.from_numpy(x[None, t : t + 2 * pad + 1])
                network(window, strided=True)
        return {"count": frames}

    return {"train": train, "infer": infer, "evaluate": evaluate, "stream": stream}


def training_batches(
    keypoints: list[np.ndarray], poses: list[np.ndarray], pad: int, batch: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Windows in random order, every one also mirrored, edges repeated: one after the other."""
    numbers = np.random.default_rng(0)
    frames = [(i, t) for i, x in enumerate(keypoints) for t in range(len(x))]
    while True:
        order = numbers.permutation(2 * len(frames))
        for first in range(0, len(order) - batch + 1, batch):
            xs = np.empty((batch, 2 * pad + 1, *keypoints[0].shape[1:]), np.float32)
            ys = np.empty((batch, 1, *poses[0].shape[1:]), np.float32)
            for row, number in enumerate(order[first : first + batch]):
                frame, flip = divmod(number, 2)
                i, t = frames[frame]
                times = np.arange(t - pad, t + pad + 1).clip(0, len(keypoints[i]) - 1)
                xs[row], ys[row, 0] = keypoints[i][times], poses[i][t]
                if flip:
                    xs[row], ys[row] = mirrored(xs[row]), mirrored(ys[row])
            ys[:, :, 0] = 0
            yield xs, ys


def edges(x: np.ndarray, pad: int) -> np.ndarray:
    """A sequence with its first and last frame repeated."""
    return np.pad(x, [(pad, pad), (0, 0), (0, 0)], mode="edge")


def mirrored(x: np.ndarray) -> np.ndarray:
    """Left and right joints change places, x its sign."""
    x = x[..., MIRROR, :]
    x[..., 0] *= -1
    return x


def errors(y: np.ndarray, target: np.ndarray) -> np.ndarray:
    """MPJPE, P-MPJPE, N-MPJPE and MPJVE of a sequence (t, joints, 3)."""
    scale = (y * target).sum((1, 2), keepdims=True) / (y * y).sum((1, 2), keepdims=True)
    return np.array(
        [
            distance(y, target),
            distance(aligned(y, target), target),
            distance(scale * y, target),
            distance(np.diff(y, axis=0), np.diff(target, axis=0)),
        ]
    )


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The mean over frames and joints."""
    return float(np.linalg.norm(a - b, axis=-1).mean())


def aligned(y: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The poses after the best similarity (Procrustes; Umeyama, 1991)."""
    middle = target.mean(1, keepdims=True)
    a, b = y - y.mean(1, keepdims=True), target - middle
    u, s, vt = np.linalg.svd(a.transpose(0, 2, 1) @ b)
    sign = np.sign(np.linalg.det(u @ vt))
    s[:, 2] *= sign
    u[:, :, 2] *= sign[:, None]
    scale = s.sum(1) / (a * a).sum((1, 2))
    return scale[:, None, None] * (a @ (u @ vt)) + middle
