"""Downloads: resumed where they were cut, whole or not at all, and noticed when they change."""

import json
import socket

import file_server
import pytest

from pose_jax.data import download
from train_jax.errors import UserError

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_PAUSE", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "01.asf").write_bytes(CONTENT)
    with file_server.serving(tmp_path / "theirs") as running:
        yield running


@pytest.fixture
def ours(tmp_path):
    return tmp_path / "ours" / "01.asf"


def test_a_file_arrives_once(server, ours):
    assert download.fetch(f"{server.url}/01.asf", ours)
    assert ours.read_bytes() == CONTENT
    assert not download.fetch(f"{server.url}/01.asf", ours)
    assert len(server.requests) == 1
    entry = json.loads((ours.parent / "manifest.json").read_text())["01.asf"]
    assert entry["bytes"] == len(CONTENT)
    assert entry["url"] == f"{server.url}/01.asf"
    assert sorted(p.name for p in ours.parent.iterdir()) == ["01.asf", "manifest.json"]


def test_a_cut_transfer_goes_on_where_it_ended(server, ours):
    server.cut = 3000
    with pytest.raises(UserError, match=r"was cut after 9,000 of 10,240 bytes; the same command"):
        download.fetch(f"{server.url}/01.asf", ours)
    assert not ours.exists()
    assert [r for _, r in server.requests] == [None, "bytes=3000-", "bytes=6000-"]
    server.cut = None
    assert download.fetch(f"{server.url}/01.asf", ours)
    assert server.requests[-1][1] == "bytes=9000-"
    assert ours.read_bytes() == CONTENT
    assert sorted(p.name for p in ours.parent.iterdir()) == ["01.asf", "manifest.json"]
    download.verify(ours)


def test_cut_transfers_are_tried_again_at_once(server, ours):
    server.cut = 4000
    assert download.fetch(f"{server.url}/01.asf", ours)
    assert ours.read_bytes() == CONTENT
    assert len(server.requests) == 3


def test_another_file_under_the_name_is_begun_anew(server, ours, tmp_path):
    server.cut = 2000
    with pytest.raises(UserError, match="was cut"):
        download.fetch(f"{server.url}/01.asf", ours)
    server.cut = None
    (tmp_path / "theirs" / "01.asf").write_bytes(CONTENT[::-1])
    assert download.fetch(f"{server.url}/01.asf", ours)
    assert ours.read_bytes() == CONTENT[::-1]


def test_without_a_validator_nothing_is_pieced_together(server, ours):
    server.validate = False
    server.cut = 3000
    with pytest.raises(UserError, match=r"was cut after 3,000 of 10,240"):
        download.fetch(f"{server.url}/01.asf", ours)
    server.cut = None
    assert download.fetch(f"{server.url}/01.asf", ours)
    assert {r for _, r in server.requests} == {None}
    assert ours.read_bytes() == CONTENT


def test_a_partial_file_that_is_too_long_is_dropped(server, ours):
    server.cut = 3000
    with pytest.raises(UserError, match="was cut"):
        download.fetch(f"{server.url}/01.asf", ours)
    ours.with_name("01.asf.partial").write_bytes(CONTENT * 2)
    server.cut = None
    assert download.fetch(f"{server.url}/01.asf", ours)
    assert ours.read_bytes() == CONTENT


def test_a_changed_file_is_noticed(server, ours):
    download.fetch(f"{server.url}/01.asf", ours)
    assert download.verify_all(ours.parents[1]) == 1
    ours.write_bytes(CONTENT[:-1] + b"x")
    for use in (
        lambda: download.fetch(f"{server.url}/01.asf", ours),
        lambda: download.verify_all(ours.parents[1]),
    ):
        with pytest.raises(UserError, match=r"01\.asf is not what was fetched from http://127"):
            use()
    ours.unlink()
    assert download.fetch(f"{server.url}/01.asf", ours)
    assert ours.read_bytes() == CONTENT


def test_a_file_of_the_users_own_is_taken_as_it_is(server, ours):
    ours.parent.mkdir()
    ours.write_bytes(b"mine")
    assert not download.fetch(f"{server.url}/01.asf", ours)
    assert ours.read_bytes() == b"mine"
    assert server.requests == []


def test_an_error_of_the_server_is_tried_again(server, ours):
    server.fail = 2
    assert download.fetch(f"{server.url}/01.asf", ours)
    ours.unlink()
    server.fail = 3
    with pytest.raises(
        UserError, match=r"the server answers 503 \(Service Unavailable\); the same"
    ):
        download.fetch(f"{server.url}/01.asf", ours)


def test_a_refusal_is_not(server, ours):
    with pytest.raises(UserError, match=r"02\.asf cannot be fetched: the server answers 404"):
        download.fetch(f"{server.url}/02.asf", ours)
    assert len(server.requests) == 1
    assert not ours.exists()


def test_no_network(ours):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/01.asf"
    with pytest.raises(UserError, match=r"cannot be reached \(.*refused\); check the network"):
        download.fetch(url, ours)
    with pytest.raises(UserError, match="no address that begins with http"):
        download.fetch("file:///etc/hostname", ours)


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 1}'])
def test_a_broken_manifest_is_named(server, ours, content):
    ours.parent.mkdir()
    (ours.parent / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=r"manifest\.json .*; delete it to do without"):
        download.fetch(f"{server.url}/01.asf", ours)
