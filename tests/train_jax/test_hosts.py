"""What one process does about several: nothing, or a clear refusal."""

import os
import signal
import threading

import jax
import pytest

from train_jax import hosts
from train_jax.errors import UserError


@pytest.fixture
def joined(monkeypatch):
    """Records what would have been joined; the rest of the tests stay one process."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **_: calls.append(args))
    yield calls
    jax.config.update("jax_enable_preemption_service", False)


def test_one_process_needs_nothing(joined):
    hosts.initialize(environ={})
    hosts.initialize("localhost:1234", num_processes=1, process_id=0)
    assert joined == []
    assert hosts.is_main()
    assert hosts.all_agree(True)
    assert not hosts.all_agree(False)
    hosts.barrier("alone")


def test_explicit_values_are_passed_on_and_the_preemption_service_is_on(joined):
    hosts.initialize("10.0.0.1:8476", num_processes=4, process_id=3, environ={})
    assert joined == [("10.0.0.1:8476", 4, 3)]
    assert jax.config.jax_enable_preemption_service


@pytest.mark.parametrize(
    ("environ", "several"),
    [
        ({}, False),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_ML_PLATFORM": "JAX"}, False),
        ({"TPU_WORKER_HOSTNAMES": "t1v-0,t1v-1"}, True),
        ({"TPU_WORKER_HOSTNAMES": "t1v-0", "MEGASCALE_NUM_SLICES": "2"}, True),
        ({"TPU_ML_PLATFORM": "JAX"}, True),
        ({"TPU_ML_PLATFORM": "JAX", "TPU_SKIP_MDS_QUERY": "1"}, False),
    ],
)
def test_cloud_tpus_find_each_other(joined, monkeypatch, environ, several):
    monkeypatch.setattr(hosts, "_platforms", lambda: None)
    hosts.initialize(environ=environ)
    assert joined == ([(None, None, None)] if several else [])


def test_on_cpu_nobody_looks_for_tpus(joined):
    hosts.initialize(environ={"TPU_WORKER_HOSTNAMES": "t1v-0,t1v-1"})
    assert joined == []


@pytest.mark.parametrize(
    ("coordinator", "values", "fault"),
    [
        ("localhost:1", {}, "all three"),
        (None, {"num_processes": 2, "process_id": 0}, "all three"),
        ("localhost", {"num_processes": 2, "process_id": 0}, "host:port"),
        ("localhost:x", {"num_processes": 2, "process_id": 0}, "host:port"),
        ("localhost:1", {"num_processes": 2, "process_id": 2}, "process id is 2"),
        ("localhost:1", {"num_processes": 0, "process_id": 0}, "with 0 processes"),
    ],
)
def test_incomplete_values_are_refused(joined, coordinator, values, fault):
    with pytest.raises(UserError, match=fault):
        hosts.initialize(coordinator, environ={}, **values)
    assert joined == []


def test_processes_that_do_not_come_are_named(monkeypatch):
    def never(*_, **__):
        raise RuntimeError("DEADLINE_EXCEEDED: Barrier timed out")

    monkeypatch.setattr(jax.distributed, "initialize", never)
    with pytest.raises(UserError, match=r"did not all reach 10\.0\.0\.1:8476 within 5 s"):
        hosts.initialize("10.0.0.1:8476", num_processes=2, process_id=1, timeout_s=5, environ={})
    jax.config.update("jax_enable_preemption_service", False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_remembered_and_the_second_acts(number):
    # A shell ignores it on behalf of what it starts in the background.
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with hosts.StopNotice() as notice:
        assert not notice.should_stop(1)
        os.kill(os.getpid(), number)
        assert notice.should_stop(2)
        assert notice.should_stop(3)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    signal.signal(signal.SIGINT, ignored)


def test_a_run_in_another_thread_leaves_signals_alone():
    answers = []

    def body():
        with hosts.StopNotice() as notice:
            answers.append(notice.should_stop(1))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert answers == [False]
