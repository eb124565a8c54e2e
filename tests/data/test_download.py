import dataclasses
import hashlib
import io
import socket
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from ghostnas.data import datasets, download
from ghostnas.errors import InputError
from ghostnas.files import locked


def archive_of(files):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return raw.getvalue()


def records(labels, seed):
    """CIFAR-100's: a coarse label, a fine one and noise, which does not compress."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (len(labels), 3072), np.uint8)
    return b"".join(
        bytes([0, label]) + row.tobytes() for label, row in zip(labels, pixels, strict=True)
    )


CONTENT = archive_of(
    {
        "cifar-100-binary/train.bin": records([5, 6, 7], 0),
        "cifar-100-binary/test.bin": records([8], 1),
    }
)


class Server(ThreadingHTTPServer):
    """Sends `content`; `ranges` says if it knows them, `cut` after how many bytes a response
    breaks off, and `status` a refusal. It notes where each request wants to begin.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.content, self.ranges, self.cut, self.status = CONTENT, True, None, 200
        self.asked = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/files/cifar-100-binary.tar.gz"


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range", "bytes=0-")
        begin = int(wanted.removeprefix("bytes=").rstrip("-"))
        server.asked.append(begin)
        if not server.ranges:
            begin = 0
        if server.status != 200:
            self.send_error(server.status)
            return
        if begin >= len(server.content):
            self.send_error(416)
            return
        self.send_response(206 if begin else 200)
        if begin:
            last = len(server.content) - 1
            self.send_header("Content-Range", f"bytes {begin}-{last}/{len(server.content)}")
        self.send_header("Content-Length", str(len(server.content) - begin))
        self.end_headers()
        self.wfile.write(server.content[begin:][: server.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    entry = dataclasses.replace(download.ARCHIVES["cifar100"], md5=hashlib.md5(CONTENT).hexdigest())
    monkeypatch.setitem(download.ARCHIVES, "cifar100", entry)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(server, folder):
    lines = []
    download.get("cifar100", folder, lines.append, server.url)
    return lines


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_dataset_is_fetched_checked_and_unpacked(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "CHUNK_BYTES", 1000)
    folder = tmp_path / "new" / "folder"
    lines = get(server, folder)
    dataset = datasets.load(f"cifar100:{folder}")
    assert dataset.train.labels.tolist() == [5, 6, 7]
    assert dataset.test.labels.tolist() == [8]
    assert names(folder) == [".lock", "cifar-100-binary"]
    assert len(lines) == download.LINES + 1
    assert lines[-2].startswith("cifar-100-binary.tar.gz: 0 of 0 MB")
    assert lines[-1] == f"{folder / 'cifar-100-binary'} is complete"


def test_what_is_there_is_not_fetched_again(server, tmp_path):
    get(server, tmp_path)
    assert get(server, tmp_path) == [f"{tmp_path / 'cifar-100-binary'} already exists"]
    assert server.asked == [0]


def test_a_partial_file_is_resumed(server, tmp_path):
    (tmp_path / "cifar-100-binary.tar.gz.part").write_bytes(CONTENT[:5000])
    get(server, tmp_path)
    assert server.asked == [5000]
    assert len(datasets.load(f"cifar100:{tmp_path}").train) == 3


def test_a_partial_file_that_is_whole_only_lacks_unpacking(server, tmp_path):
    (tmp_path / "cifar-100-binary.tar.gz.part").write_bytes(CONTENT)
    get(server, tmp_path)
    assert server.asked == [len(CONTENT)]
    assert len(datasets.load(f"cifar100:{tmp_path}").train) == 3


def test_a_server_that_knows_no_ranges_starts_over(server, tmp_path):
    server.ranges = False
    (tmp_path / "cifar-100-binary.tar.gz.part").write_bytes(b"x" * 5000)
    get(server, tmp_path)
    assert len(datasets.load(f"cifar100:{tmp_path}").train) == 3


def test_a_connection_that_breaks_resumes_where_it_broke(server, tmp_path):
    server.cut = len(CONTENT) // 3
    lines = get(server, tmp_path)
    assert server.asked == [0, server.cut, 2 * server.cut, 3 * server.cut][: len(server.asked)]
    assert len(server.asked) >= 3
    assert f"the connection ended after {server.cut} of {len(CONTENT)} bytes; resuming" in lines
    assert len(datasets.load(f"cifar100:{tmp_path}").train) == 3


def test_a_connection_that_brings_nothing_more_is_an_error_and_can_be_resumed(server, tmp_path):
    part = tmp_path / "cifar-100-binary.tar.gz.part"
    part.write_bytes(CONTENT[:700])
    server.cut = 0
    with pytest.raises(
        InputError, match=rf"after 700 of {len(CONTENT)} bytes; run the command again"
    ):
        get(server, tmp_path)
    assert part.read_bytes() == CONTENT[:700]
    server.cut = None
    get(server, tmp_path)
    assert server.asked == [700, 700]


def test_wrong_bytes_are_deleted_and_both_checksums_named(server, tmp_path):
    server.content = CONTENT[:-1] + b"x"
    found, expected = (hashlib.md5(each).hexdigest() for each in (server.content, CONTENT))
    with pytest.raises(InputError, match=f"tar.gz: has MD5 {found}, not {expected}; deleted"):
        get(server, tmp_path)
    assert names(tmp_path) == [".lock"]


@pytest.mark.parametrize(("status", "reason"), [(404, "Not Found"), (503, "Service Unavailable")])
def test_a_refusal_is_reported_in_one_line(server, tmp_path, status, reason):
    server.status = status
    with pytest.raises(InputError, match=rf"{server.url}: the server refused: {status} {reason}$"):
        get(server, tmp_path)
    assert names(tmp_path) == [".lock"]


def test_no_server_is_reported_in_one_line(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/x.tar.gz"
    with pytest.raises(InputError, match=r"cannot be reached \(.*refused.*\); is there a network"):
        download.get("cifar10", tmp_path, print, url)


@pytest.mark.parametrize("answer", [b"what?\r\n\r\n", b"", b"HTTP/1.1 206 OK\r\n\r\nhello"])
def test_an_invalid_response_is_reported_in_one_line(tmp_path, answer):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def babble():
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        thread = threading.Thread(target=babble)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x.tar.gz"
        with pytest.raises(InputError, match=r"x.tar.gz: ") as caught:
            download.get("cifar10", tmp_path, print, url)
        thread.join()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no archive", "cannot be unpacked"),
        (archive_of({"elsewhere/train.bin": b""}), "holds no folder cifar-100-binary"),
        (archive_of({"../../outside.bin": b""}), "cannot be unpacked: .*outside"),
        (CONTENT[:5000], "cannot be unpacked"),
    ],
    ids=["text", "another", "climbs", "cut"],
)
def test_an_archive_that_cannot_be_unpacked_leaves_nothing_that_looks_whole(
    server, tmp_path, monkeypatch, content, message
):
    server.content = content
    entry = dataclasses.replace(download.ARCHIVES["cifar100"], md5=hashlib.md5(content).hexdigest())
    monkeypatch.setitem(download.ARCHIVES, "cifar100", entry)
    folder = tmp_path / "a" / "b"
    with pytest.raises(InputError, match=message):
        get(server, folder)
    assert names(folder) == [".lock", "cifar-100-binary.tar.gz.part"]
    assert not list(tmp_path.rglob("outside.bin"))


def test_a_folder_that_cannot_be_written_is_reported_in_one_line(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="file: cannot be written: "):
        get(server, tmp_path / "file")


def test_two_at_once_do_not_share_a_part(server, tmp_path):
    with locked(tmp_path), pytest.raises(InputError, match="another process is at work there"):
        get(server, tmp_path)
    assert server.asked == []


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(InputError, match="unknown data 'mnist'; can be fetched: cifar10, cifar100"):
        download.get("mnist", tmp_path, print)


def test_archives_are_those_of_the_authors():
    assert {name: (entry.url, entry.md5) for name, entry in download.ARCHIVES.items()} == {
        "cifar10": (
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            "c32a1d4ab5d03f1284b67883e8d87530",
        ),
        "cifar100": (
            "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
            "03b5dce01913d631647c71ecec9e9cb8",
        ),
    }
