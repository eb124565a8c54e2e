"""What every device must do, here and on real ones, and what happens if one is lost."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from real_devices import (
    PARTS,
    AdbPair,
    Board,
    adb_pair,
    board,
    make_key,
    sshd,
    wait_for_sshd,
    write_ssh_config,
)

from ghostnas.devices.device import Device, open_device
from ghostnas.errors import DeviceError, DeviceLostError, InputError

NASTY = [
    "plain",
    "two words",
    "",
    "-n",
    "$HOME ${x} $(id) `id`",
    "'single' \"double\" '\"'\"'",
    "back\\slash \\n \\",
    "line\nbreak\n",
    "* ? [a] {b,c} ~ # ! & ; | < > = %",
    "tab\tand é, 中, 🙂",
    "x" * 5000,
]
ODD_NAMES = ["plain", "two words", "-dash", "it's $HOME", 'a"b\\c', "é 中"]
FEW_PAUSES_S = (0.05, 0.1)
needs_ssh = pytest.mark.skipif(not shutil.which("ssh"), reason="no ssh here")


def shell(device: Device, script: str, timeout_s: float = 20) -> str:
    return device.run(["sh", "-c", script], timeout_s=timeout_s)


def failure(device: Device, script: str, timeout_s: float = 20) -> str:
    """The message of a failing command: it is not retried, and the device is not lost."""
    with pytest.raises(DeviceError) as caught:
        shell(device, f"echo try >>tries; {script}", timeout_s)
    assert type(caught.value) is DeviceError
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{device.url}: ")
    assert shell(device, "cat tries; rm tries") == "try\n"
    return str(caught.value)


def write_tree(root: Path) -> Path:
    (root / "deep er" / "deepest").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "bytes").write_bytes(bytes(range(256)) * 100)
    (root / "nothing").touch()
    (root / "deep er" / "deepest" / "é 中").write_text("é 中\n")
    program = root / "program"
    program.write_text("#!/bin/sh\necho ran\n")
    program.chmod(0o755)
    return root


def contents(root: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in root.rglob("*")
    }


class DeviceConformance:
    """A subclass has a `device` fixture: an open device."""

    @pytest.mark.parametrize("argument", NASTY, ids=range(len(NASTY)))
    def test_an_argument_arrives_as_it_is(self, device: Device, argument: str) -> None:
        assert device.run(["printf", "<%s>", argument], timeout_s=20) == f"<{argument}>"

    def test_arguments_stay_apart_and_in_order(self, device: Device) -> None:
        expected = "".join(f"<{argument}>" for argument in NASTY)
        assert device.run(["printf", "<%s>", *NASTY], timeout_s=20) == expected

    @pytest.mark.parametrize("name", [name for name in ODD_NAMES if "-" not in name])
    def test_a_program_of_any_name_is_run(self, device: Device, name: str, tmp_path: Path) -> None:
        (tmp_path / "program").write_text("#!/bin/sh\necho ran\n")
        (tmp_path / "program").chmod(0o755)
        device.push(tmp_path / "program", name)
        assert device.run([f"./{name}"], timeout_s=20) == "ran\n"

    def test_output_is_returned_exactly_and_errors_are_not(self, device: Device) -> None:
        assert shell(device, "echo '  é 中'; echo err >&2; printf '\n\nend'") == "  é 中\n\n\nend"
        assert shell(device, "true") == ""
        assert shell(device, "printf '1;'") == "1;"

    def test_output_that_is_not_text_does_not_stop_it(self, device: Device) -> None:
        assert shell(device, r"printf 'a\377b'") == "a\N{REPLACEMENT CHARACTER}b"

    def test_a_megabyte_of_output(self, device: Device) -> None:
        output = shell(device, "head -c 1000000 /dev/zero | tr '\\000' x; echo .")
        assert output == "x" * 1_000_000 + ".\n"

    def test_there_is_no_input(self, device: Device) -> None:
        assert device.run(["cat"], timeout_s=20) == ""

    def test_commands_run_in_the_folder(self, device: Device) -> None:
        assert device.run(["pwd"], timeout_s=20) == f"{device.folder}\n"
        assert device.folder.startswith("/")
        assert device.run(["ls", "-A"], timeout_s=20) == ""

    @pytest.mark.parametrize("code", [1, 2, 124, 126, 127, 137, 255])
    def test_an_exit_code_is_reported(self, device: Device, code: int) -> None:
        said = failure(device, f"echo first >&2; echo the reason >&2; exit {code}")
        assert said.endswith(f"ended with {code}: the reason")
        assert "first >&2; echo the" in said

    def test_a_command_that_says_what_a_connection_says_is_not_a_lost_device(
        self, device: Device
    ) -> None:
        for words in ("Connection refused", "error: device offline", "Broken pipe"):
            assert words in failure(device, f"echo '{words}' >&2; exit 255")

    def test_a_command_that_a_signal_ends(self, device: Device) -> None:
        assert "ended with 137" in failure(device, "kill -9 $$")

    def test_a_missing_program_is_named(self, device: Device) -> None:
        with pytest.raises(DeviceError, match="no-such-program x: ended with 127"):
            device.run(["no-such-program", "x"], timeout_s=20)

    def test_a_long_command_is_cut_in_the_message(self, device: Device) -> None:
        assert len(failure(device, f": {'x ' * 500}; exit 3")) < 200

    def test_a_command_that_takes_too_long_is_ended_on_the_device_too(self, device: Device) -> None:
        start = time.monotonic()
        said = failure(device, "echo $$ >number; sleep 60; true", timeout_s=1)
        assert "took longer than 1 s" in said
        assert time.monotonic() - start < 10
        assert shell(device, 'kill -0 "$(cat number)" 2>/dev/null || echo ended') == "ended\n"

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_a_file_goes_there_and_back(self, device: Device, name: str, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.write_bytes(bytes(range(256)) * 1000)
        device.push(source, name)
        assert device.run(["ls", "-A"], timeout_s=20).count("\n") == 1
        device.pull(name, tmp_path / "new folder" / "target")
        assert (tmp_path / "new folder" / "target").read_bytes() == source.read_bytes()

    def test_a_folder_goes_there_and_back(self, device: Device, tmp_path: Path) -> None:
        source = write_tree(tmp_path / "source")
        device.push(source, "a tree")
        assert shell(device, "'./a tree/program'") == "ran\n"
        device.pull("a tree", tmp_path / "target")
        assert contents(tmp_path / "target") == contents(source)
        assert os.access(tmp_path / "target" / "program", os.X_OK)

    def test_links_are_followed(self, device: Device, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("file")
        (tmp_path / "link").symlink_to("file")
        device.push(tmp_path / "link", "name")
        shell(device, "ln -s name other")
        device.pull("other", tmp_path / "target")
        assert not (tmp_path / "target").is_symlink()
        assert (tmp_path / "target").read_text() == "file"

    def test_the_last_push_is_what_is_there(self, device: Device, tmp_path: Path) -> None:
        tree, file = write_tree(tmp_path / "tree"), tmp_path / "file"
        file.write_text("file")
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "only").touch()
        for source in (tree, tmp_path / "other", file, file, tree):
            device.push(source, "name")
            device.pull("name", tmp_path / "target")
            if source.is_dir():
                assert contents(tmp_path / "target") == contents(source)
            else:
                assert (tmp_path / "target").read_text() == "file"
        assert device.run(["ls", "-A"], timeout_s=20) == "name\n"
        assert sorted(os.listdir(tmp_path)) == ["file", "other", "target", "tree"]

    def test_a_pull_of_what_is_missing_leaves_nothing(self, device: Device, tmp_path: Path) -> None:
        (tmp_path / "old").write_text("old")
        for target in ("old", "new"):
            with pytest.raises(DeviceError, match=r"missing: .*No such file") as caught:
                device.pull("missing", tmp_path / target)
            assert type(caught.value) is DeviceError
        assert contents(tmp_path) == {"old": b"old"}

    def test_a_push_of_what_is_missing_leaves_the_old(self, device: Device, tmp_path: Path) -> None:
        (tmp_path / "old").write_text("old")
        device.push(tmp_path / "old", "name")
        with pytest.raises(InputError, match="no such file"):
            device.push(tmp_path / "missing", "name")
        assert shell(device, "cat name") == "old"

    @pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc"])
    def test_a_name_cannot_leave_the_folder(
        self, device: Device, name: str, tmp_path: Path
    ) -> None:
        with pytest.raises(ValueError, match="not the name"):
            device.push(tmp_path, name)
        with pytest.raises(ValueError, match="not the name"):
            device.pull(name, tmp_path / "target")

    def test_the_folder_is_private_and_goes_with_close(self, device: Device) -> None:
        with open_device(device.url) as other:
            assert other.folder != device.folder
            assert shell(device, f"ls -ld {os.path.dirname(other.folder)}").startswith("drwx------")
            shell(other, "mkdir -p sub; touch sub/file")
        assert shell(device, f"ls -d {os.path.dirname(other.folder)} 2>/dev/null || true") == ""
        other.close()
        assert device.run(["pwd"], timeout_s=20) == f"{device.folder}\n"


class TestLocal(DeviceConformance):
    @pytest.fixture
    def device(self) -> Iterator[Device]:
        with open_device("local") as device:
            yield device


@pytest.fixture(scope="module")
def running_board() -> Iterator[Board]:
    with board() as it:
        it.start()
        wait_for_sshd(it.port)
        yield it


@pytest.fixture(scope="module")
def running_adb() -> Iterator[AdbPair]:
    with adb_pair() as it:
        it.start()
        it.wait()
        yield it


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Path]]:
    with sshd() as it:
        yield it


def use_config(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.setenv("GHOSTNAS_SSH_OPTIONS", shlex.join(["-F", str(path)]))


def use_adb(monkeypatch: pytest.MonkeyPatch, pair: AdbPair) -> None:
    monkeypatch.setenv("PATH", str(pair.programs), prepend=os.pathsep)


@pytest.mark.slow
class TestBoard(DeviceConformance):
    @pytest.fixture
    def device(self, running_board: Board, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
        use_config(monkeypatch, running_board.ssh_config)
        with open_device(running_board.url) as device:
            yield device

    def test_it_is_an_arm_board_with_litert(self, device: Device) -> None:
        assert device.run(["uname", "-m"], timeout_s=20) == "aarch64\n"
        script = "from ai_edge_litert.interpreter import Interpreter; print('here')"
        assert device.run(["python3", "-c", script], timeout_s=60) == "here\n"


@pytest.mark.slow
class TestAdb(DeviceConformance):
    @pytest.fixture
    def device(self, running_adb: AdbPair, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
        use_adb(monkeypatch, running_adb)
        with open_device("adb") as device:
            yield device


@pytest.mark.slow
class TestSshd(DeviceConformance):
    @pytest.fixture
    def device(self, server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
        use_config(monkeypatch, server[1])
        with open_device(server[0]) as device:
            yield device


@pytest.mark.parametrize(
    "url",
    [
        *("", "Local", "local:", "ssh", "ssh:", "ssh:@host", "ssh:user@", "ssh://host", "ssh:a b"),
        *("ssh:-oProxyCommand=x", "ssh:-l@host", "ssh:host:", "ssh:host:0", "ssh:host:65536"),
        *("ssh:host:x", "ssh:a@b@c", "ssh:::1", "ssh:[::1", "ssh:host/path", "adb:", "adb:a b"),
        *("telnet:host", "local\n", "emulated"),
    ],
)
def test_a_bad_url_is_refused_in_one_line_that_lists_the_good_ones(url: str) -> None:
    with pytest.raises(InputError) as caught:
        open_device(url)
    for form in ("local", "ssh:[user@]host[:port]", "adb[:SERIAL]"):
        assert form in str(caught.value)
    assert "\n" not in str(caught.value)


@needs_ssh
@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("ssh:127.0.0.1:1", "127.0.0.1 port 1:"),
        ("ssh:me@127.0.0.1:1", "127.0.0.1 port 1:"),
        ("ssh:me@[127.0.0.1]:1", "127.0.0.1 port 1:"),
    ],
)
def test_nobody_listens(url: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GHOSTNAS_SSH_OPTIONS", "-F none")
    start = time.monotonic()
    with pytest.raises(DeviceLostError) as caught:
        open_device(url, pauses_s=FEW_PAUSES_S)
    assert time.monotonic() - start >= sum(FEW_PAUSES_S)
    assert f"{place} Connection refused" in str(caught.value)
    assert "\n" not in str(caught.value)


@needs_ssh
def test_an_ipv6_address_goes_in_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GHOSTNAS_SSH_OPTIONS", "-F none")
    with pytest.raises(DeviceError, match="::1 port 1: "):
        open_device("ssh:me@[::1]:1", pauses_s=())


@needs_ssh
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("-F none", "Could not resolve hostname a..b"),
        ("-F none -oNoSuchOption=1", "Bad configuration option"),
        ("-F /no/such/file", "Can't open user config file"),
    ],
)
def test_a_lasting_fault_is_reported_at_once(
    options: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GHOSTNAS_SSH_OPTIONS", options)
    with pytest.raises(DeviceError, match=reason) as caught:
        open_device("ssh:a..b", pauses_s=(60,))
    assert type(caught.value) is DeviceError


def test_ssh_options_that_no_shell_could_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GHOSTNAS_SSH_OPTIONS", "-F 'half")
    with pytest.raises(InputError, match="GHOSTNAS_SSH_OPTIONS"):
        open_device("ssh:host")


@pytest.mark.parametrize(
    ("url", "package"), [("ssh:host", "openssh-client"), ("adb", "adb"), ("adb:x:1", "adb")]
)
def test_a_missing_program_says_what_to_install(
    url: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match=rf"install .*\(Debian: {package}\)"):
        open_device(url)


def test_a_command_ends_with_the_program_that_waits_for_it(tmp_path: Path) -> None:
    script = (
        "from ghostnas.devices.device import open_device\n"
        "with open_device('local') as device:\n"
        f"    device.run(['sh', '-c', 'echo $$ >{tmp_path}/number; sleep 60; :'], timeout_s=60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    number = tmp_path / "number"
    wait_until(lambda: number.exists() and number.read_text().endswith("\n"))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert "KeyboardInterrupt" in errors
    wait_until(lambda: not alive(int(number.read_text())))


def alive(pid: int) -> bool:
    ran = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return ran.stdout.strip()[:1] not in ("", "Z")


def wait_until(holds: Callable[[], bool], limit_s: float = 10) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def own_board(monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    """A board to break, started."""
    with board() as it:
        use_config(monkeypatch, it.ssh_config)
        it.start()
        wait_for_sshd(it.port)
        yield it


@pytest.mark.slow
def test_a_board_that_is_started_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with board() as late:
        use_config(monkeypatch, late.ssh_config)
        timer = threading.Timer(2, late.start)
        timer.start()
        with open_device(late.url) as device:
            assert device.run(["echo", "here"], timeout_s=20) == "here\n"
        timer.join()


@pytest.mark.slow
def test_a_board_that_dies_in_the_middle_of_a_command_is_lost(own_board: Board) -> None:
    with open_device(own_board.url, pauses_s=FEW_PAUSES_S) as device:
        timer = threading.Timer(1, own_board.kill)
        timer.start()
        with pytest.raises(DeviceLostError, match="Connection refused"):
            device.run(["sleep", "20"], timeout_s=30)
        timer.join()
        with pytest.raises(DeviceLostError):
            device.push(PARTS / "key.pub", "name")


@pytest.mark.slow
def test_a_board_that_came_back_without_the_folder_is_reported_at_once(own_board: Board) -> None:
    with open_device(own_board.url) as device:
        own_board.kill()
        own_board.start()
        wait_for_sshd(own_board.port)
        with pytest.raises(DeviceError, match="ghostnas") as caught:
            device.run(["true"], timeout_s=20)
        assert type(caught.value) is DeviceError


@pytest.mark.slow
def test_a_pulled_cable_is_noticed(own_board: Board) -> None:
    with open_device(own_board.url, pauses_s=(0.1,)) as device:
        timer = threading.Timer(1, own_board.freeze)
        timer.start()
        start = time.monotonic()
        with pytest.raises(DeviceLostError):
            device.run(["sleep", "300"], timeout_s=600)
        assert time.monotonic() - start < 40
        timer.join()


CUT_OFF_ONCE = """
if [ -e number ]; then
    sleep 1
    case "$(ps -o stat= -p "$(cat number)")" in
        "" | Z*) echo second ;;
        *) echo both ;;
    esac
else
    echo $$ >number
    {cut}
    sleep 30
    echo first
fi
"""
SSHD_OF_SESSION = "$(ps -o ppid= -p $(ps -o ppid= -p $(ps -o ppid= -p $PPID)))"


@pytest.mark.slow
def test_what_a_dropped_connection_left_running_is_ended_before_the_next_try(
    running_board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_config(monkeypatch, running_board.ssh_config)
    with open_device(running_board.url) as device:
        assert (
            shell(device, CUT_OFF_ONCE.format(cut=f"kill -9 {SSHD_OF_SESSION}"), 40) == "second\n"
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "reason"), [("key", "Permission denied"), ("host", "Host key verification failed")]
)
def test_a_wrong_key_is_reported_at_once(
    running_board: Board,
    wrong: str,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = make_key(tmp_path / "other")
    known = (PARTS / "known_hosts").read_text().split(" ", 1)[1]
    host_key = other.with_suffix(".pub").read_text() if wrong == "host" else known
    config = write_ssh_config(tmp_path, other if wrong == "key" else PARTS / "key", host_key)
    use_config(monkeypatch, config)
    with pytest.raises(DeviceError, match=reason) as caught:
        open_device(running_board.url.replace("ssh:", "ssh:root@"), pauses_s=(60,))
    assert type(caught.value) is DeviceError


@pytest.mark.slow
def test_adbd_that_is_restarted_in_the_middle_of_a_command(
    running_adb: AdbPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_adb(monkeypatch, running_adb)
    with open_device(running_adb.url) as device:
        timer = threading.Timer(0.5, lambda: (running_adb.kill(), running_adb.start()))
        timer.start()
        assert shell(device, CUT_OFF_ONCE.format(cut=":"), 40) == "second\n"
        timer.join()


@pytest.mark.slow
def test_adbd_that_stays_away_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    with adb_pair() as pair:
        use_adb(monkeypatch, pair)
        with pytest.raises(DeviceLostError, match="no devices"):
            open_device("adb", pauses_s=FEW_PAUSES_S)
        pair.adb("kill-server")
        pair.start()
        pair.wait()
        with open_device(pair.url, pauses_s=FEW_PAUSES_S) as device:
            timer = threading.Timer(0.5, pair.kill)
            timer.start()
            with pytest.raises(DeviceLostError, match=r"offline|not found|no devices|not answer"):
                device.run(["sleep", "20"], timeout_s=30)
            timer.join()


@pytest.mark.slow
def test_an_adb_server_that_ended_is_started_again(
    running_adb: AdbPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_adb(monkeypatch, running_adb)
    with open_device("adb") as device:
        running_adb.adb("kill-server")
        assert device.run(["echo", "here"], timeout_s=20) == "here\n"


@pytest.mark.slow
def test_an_unknown_serial_is_lost_and_named(
    running_adb: AdbPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_adb(monkeypatch, running_adb)
    with pytest.raises(DeviceLostError, match=r"'10\.0\.0\.1:5555' not found"):
        open_device("adb:10.0.0.1:5555", pauses_s=FEW_PAUSES_S)
