"""Model cards say what was recorded, and that the rest is unknown."""

import dataclasses
import json

import commands
import jax.numpy as jnp
import made_records
import pytest
import tiny
import yaml
from etils import epath

from train_jax.checkpoint import save_once
from train_jax.errors import UserError
from train_jax.model_card import card
from train_jax.record import write
from train_jax.stored import read_meta


def head(text):
    return yaml.safe_load(text.split("---")[1])


def test_what_nobody_recorded_is_unknown(tmp_path):
    save_once(tmp_path / "run", {"params": {"w": jnp.ones((3, 4))}}, {"model": {"width": 4}})
    text = card(tmp_path / "run", name="A model")
    assert "# A model\n" in text
    assert "- Parameters: 12\n" in text
    assert "- width: 4\n" in text
    assert "## Training data\n\n- unknown\n" in text
    assert "## Recipe\n\n- unknown\n" in text
    assert "- unknown: no result record" in text
    assert "- Core-days: unknown" in text
    assert head(text) == {"library_name": "jax"}


def test_results_come_with_their_record(tmp_path):
    save_once(tmp_path / "run" / "checkpoints", {"params": {"w": jnp.ones(3)}}, {})
    record = dataclasses.replace(
        made_records.finetuned(0.9125), step=read_meta(tmp_path / "run").get("step")
    )
    write(record, epath.Path(tmp_path / "run" / "results"))
    text = card(tmp_path / "run", name="A model")
    assert "accuracy 0.9125 (10000 examples" in text
    assert f"config hash {record.config_hash}" in text
    (result,) = head(text)["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "accuracy", "value": 0.9125}]


@pytest.mark.slow
def test_a_run_is_described_by_its_records(tmp_path):
    workdir = tmp_path / "run"
    tiny_run = ("--config=tests/tiny.py:6", f"--workdir={workdir}")
    finished = commands.shared().run("vit_jax.train", *tiny_run)
    assert finished.code == 0, finished.stderr
    text = card(workdir, name="Tiny")
    (path,) = (workdir / "results").iterdir()
    record = json.loads(path.read_text())
    value = record["splits"]["test"]["metrics"]["accuracy"]
    assert f"accuracy {value:.6g}" in text
    assert f"{tiny.NUM_TEST} examples" in text
    assert f"config hash {record['config_hash']}" in text
    assert f"Config hash: {record['config_hash']}" in text
    assert "- batch_size: 16\n" in text
    assert "- source: digits\n" in text
    assert "- patch_size: [4, 4]\n" in text
    assert "Step 6 of 6" in text
    assert "Core-days of" in text
    yaml_head = head(text)
    (result,) = yaml_head["model-index"][0]["results"]
    assert result["task"]["type"] == "image-classification"
    metrics = {entry["type"]: entry["value"] for entry in result["metrics"]}
    assert metrics["accuracy"] == value
    assert yaml_head["datasets"] == ["digits"]


def test_the_license_is_what_the_user_says(tmp_path):
    save_once(tmp_path / "run", {"params": {"w": jnp.ones(3)}}, {})
    assert head(card(tmp_path / "run", license_name="apache-2.0"))["license"] == "apache-2.0"


def test_there_must_be_a_checkpoint(tmp_path):
    with pytest.raises(UserError, match="holds no complete checkpoint"):
        card(tmp_path)


def test_the_command_overwrites_nothing(tmp_path):
    save_once(tmp_path / "run", {"params": {"w": jnp.ones(3)}}, {})
    arguments = (str(tmp_path / "run"), f"--output={tmp_path / 'README.md'}")
    finished = commands.shared().run("train_jax.model_card", *arguments)
    assert finished.code == 0, finished.stderr
    assert "# run\n" in (tmp_path / "README.md").read_text()
    again = commands.shared().run("train_jax.model_card", *arguments)
    assert again.code == 2
    assert "exists already" in again.stderr
