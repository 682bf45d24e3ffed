"""What one of several processes meets is said, and holds up none of the others."""

import signal

import pytest
from multiprocess import launch

from train_jax.checkpoint import Checkpoints
from train_jax.hosts import PREEMPTED_EXIT_CODE

pytestmark = [pytest.mark.multiprocess, pytest.mark.timeout(500)]


def test_a_faulty_device_of_one_process_is_named_by_both(tmp_path):
    results = launch.run("find_a_flipped_bit", into=tmp_path / "out")
    for result in results:
        assert result["broken"][1] == 1
        device, process = result["broken"]
        assert (
            f"copies of w differ from the others on device {device} of process {process}:"
            in (result["error"])
        )


@pytest.mark.parametrize("victim", [0, 1])
def test_a_full_disk_of_one_process_ends_both_and_leaves_the_checkpoint_before(tmp_path, victim):
    directory = tmp_path / "checkpoints"
    call = ("save_what_one_cannot_write", str(directory), victim)
    # Orbax alone would let them wait for each other for 20 minutes.
    impatient = {"HEARTBEAT_S": "20"}
    with launch.start(*call, into=tmp_path / "out", environ=impatient) as group:
        finished = group.finish()
    assert finished[victim].code == 2, finished[victim].output
    errors = [line for line in finished[victim].output.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert "No space left on device" in errors[0]
    other = finished[1 - victim]
    if other.code == -signal.SIGABRT:  # JAX's own thread may be the first to notice
        assert "another task died" in other.output
    else:
        assert other.code == PREEMPTED_EXIT_CODE, other.output
        assert "another process of this run is gone" in other.output
    assert Checkpoints(directory).steps() == [1]
