import json

from etils import epath

from train_jax.writers import JsonLines, Progress, Writers


def read(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_lines_of_steps_that_are_done_again_are_dropped(tmp_path):
    first = JsonLines(epath.Path(tmp_path), resumed_at=0)
    for step in (5, 10, 15):
        first.write(step, {"loss": float(step)})
    # A kill may tear the last line.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "lo')
    JsonLines(epath.Path(tmp_path), resumed_at=10).write(15, {"loss": 15.5})
    assert [(r["step"], r["loss"]) for r in read(tmp_path)] == [(5, 5.0), (10, 10.0), (15, 15.5)]


def test_only_the_main_process_writes(tmp_path):
    writers = Writers(epath.Path(tmp_path), resumed_at=0, active=False)
    writers.write(1, {"loss": 1.0})
    writers.close()
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_gets_the_numbers(tmp_path):
    writers = Writers(epath.Path(tmp_path), resumed_at=0, active=True)
    writers.write(1, {"loss": 1.0, "note": "text"})
    writers.close()
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_a_progress_line_says_speed_and_what_is_lost(caplog):
    caplog.set_level("INFO")
    progress = Progress(total=100, unit="images", active=True)
    progress.show(
        50,
        {"loss": 0.5, "images_per_second_per_core": 72.2, "eta_seconds": 61},
        {"input": 0.1, "checkpoint": 0.02, "evaluate": 0.0},
    )
    assert "step 50/100  loss 0.5000  72.2 images/s/core  ETA 1m01s  input 10%" in caplog.text
