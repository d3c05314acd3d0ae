"""Writing under faults: killed at every step, disk full, two writers at once, directories that must not be touched."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import LLAMA_CONFIG, contents, llama_tensors, write_hugging_face

from gossamer.checkpoint import ModelReader, ModelWriter
from gossamer.checkpoint.export import export_model
from gossamer.checkpoint.file_io import FileIO, exclusive_lock
from gossamer.convert import ConvertOptions, convert, open_source
from gossamer.errors import CheckpointError

SHARD_BYTES = 3000  # several shards, so that there is something to resume
STEPS = ("make_directory", "create", "write", "sync", "close", "rename", "sync_directory", "unlink", "remove_tree", "exchange")


class StepIO(FileIO):
    """Calls `on_step(number, name, arguments)` before each step, from 1 on."""

    def __init__(self, on_step: Callable[[int, str, tuple[Any, ...]], None], *, can_exchange: bool = True) -> None:
        self.count = 0
        for name in STEPS:
            setattr(self, name, self._wrapped(name, getattr(super(), name), on_step))
        if not can_exchange:
            self.exchange = lambda first, second: False  # type: ignore[method-assign]

    def _wrapped(self, name: str, step: Callable[..., Any], on_step: Callable[[int, str, tuple[Any, ...]], None]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            self.count += 1
            on_step(self.count, name, arguments)
            return step(*arguments)

        return run


def in_child(action: Callable[[], object]) -> int:
    """Run `action` in a forked child; 0 when it returned, 1 when it raised, else the code it exited with."""
    child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        except BaseException as error:
            print(type(error).__name__, error, file=sys.stderr)
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at(k: int, *, half_done: bool) -> Callable[[int, str, tuple[Any, ...]], None]:
    """Dies at the k-th step: before it, or in the middle of it where it has one."""

    def on_step(count: int, name: str, arguments: tuple[Any, ...]) -> None:
        if count != k:
            return
        if half_done and name == "write":
            os.write(arguments[0], arguments[1][: len(arguments[1]) // 2])
        if half_done and name == "remove_tree":
            next(iter(sorted(arguments[0].iterdir()))).unlink()
        os._exit(9)

    return on_step


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory where there is such a file system: thousands of fsyncs to a disk take minutes."""
    path = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_hugging_face(tmp_path / "hf", llama_tensors(zeros=0.5, layers=1), LLAMA_CONFIG | {"num_hidden_layers": 1})


@pytest.fixture
def new(tmp_path: Path, source: Path) -> dict[str, bytes]:
    convert(source, tmp_path / "reference", max_shard_bytes=SHARD_BYTES)
    out = contents(tmp_path / "reference")
    shutil.rmtree(tmp_path / "reference")
    assert len(out) > 5
    return out


@pytest.fixture
def old(tmp_path: Path) -> dict[str, bytes]:
    other = write_hugging_face(tmp_path / "other", llama_tensors(seed=9))
    convert(other, tmp_path / "old")
    out = contents(tmp_path / "old")
    shutil.rmtree(tmp_path / "old")
    shutil.rmtree(other)
    return out


def put(directory: Path, files: dict[str, bytes]) -> None:
    directory.mkdir()
    for name, data in files.items():
        (directory / name).write_bytes(data)


def leftovers(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name not in ("hf", "model"))


def count_steps(run: Callable[[FileIO], object], *, can_exchange: bool = True) -> int:
    io = StepIO(lambda *_: None, can_exchange=can_exchange)
    run(io)
    return io.count


@pytest.mark.parametrize(
    ("replace", "half_done", "can_exchange"), [(False, True, True), (True, False, True), (True, True, True), (True, True, False)]
)
def test_killed_at_every_step_leaves_the_old_or_the_new(
    tmp_path: Path, source: Path, new: dict[str, bytes], old: dict[str, bytes], replace: bool, half_done: bool, can_exchange: bool
) -> None:
    model = tmp_path / "model"

    def run(io: FileIO | None = None) -> None:
        convert(source, model, overwrite=True, max_shard_bytes=SHARD_BYTES, io=io)

    def prepare() -> None:
        for path in tmp_path.iterdir():
            if path != source:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if replace:
            put(model, old)

    prepare()
    total = count_steps(run, can_exchange=can_exchange)
    assert total > 30
    seen = set()
    for k in range(1, total + 1):
        prepare()
        assert in_child(lambda k=k: run(StepIO(kill_at(k, half_done=half_done), can_exchange=can_exchange))) == 9
        state = contents(model) if model.is_dir() else None
        if state is None and replace:  # between the two renames of a file system that cannot exchange
            assert not can_exchange
            state = contents(tmp_path / ".model.old")
        assert state in ((old if replace else None), new)
        seen.add(state == new)
        run()
        assert contents(model) == new
        assert leftovers(tmp_path) == []
    assert seen == {False, True}


def test_finished_shards_are_not_written_again(tmp_path: Path, source: Path, new: dict[str, bytes]) -> None:
    model = tmp_path / "model"
    assert in_child(lambda: convert(source, model, max_shard_bytes=SHARD_BYTES, io=StepIO(kill_at(20, half_done=True)))) == 9
    finished = sorted((tmp_path / ".model.partial").glob("shard-*"))
    assert finished
    written: list[str] = []
    io = StepIO(lambda _, name, arguments: written.append(arguments[0].name) if name == "create" else None)
    convert(source, model, max_shard_bytes=SHARD_BYTES, io=io)
    assert contents(model) == new
    assert not {f".{path.name}.partial" for path in finished} & set(written)


def test_a_damaged_or_foreign_partial_is_not_trusted(tmp_path: Path, source: Path, new: dict[str, bytes]) -> None:
    model, partial = tmp_path / "model", tmp_path / ".model.partial"

    def interrupt() -> list[Path]:
        assert in_child(lambda: convert(source, model, max_shard_bytes=SHARD_BYTES, io=StepIO(kill_at(40, half_done=True)))) == 9
        return sorted(partial.glob("shard-*"))

    first, second, *_ = interrupt()
    data = bytearray(second.read_bytes())
    data[-1] ^= 1
    second.write_bytes(data)
    convert(source, model, max_shard_bytes=SHARD_BYTES)
    assert contents(model) == new
    shutil.rmtree(model)

    first, *_ = interrupt()
    first.rename(tmp_path / "elsewhere")
    first.symlink_to(tmp_path / "elsewhere")
    convert(source, model, max_shard_bytes=SHARD_BYTES)
    assert contents(model) == new
    assert not any(path.is_symlink() for path in model.iterdir())
    (tmp_path / "elsewhere").unlink()
    shutil.rmtree(model)

    interrupt()
    (partial / ".resume.json").write_text('{"key": 3')
    convert(source, model, max_shard_bytes=SHARD_BYTES)
    assert contents(model) == new
    shutil.rmtree(model)

    interrupt()
    convert(source, model, ConvertOptions(dtype="bf16"), max_shard_bytes=SHARD_BYTES)  # another conversion: nothing of the first remains
    with ModelReader(model) as reader:
        assert {record.dtype for record in reader.manifest.tensors.values()} == {"bf16"}
    assert leftovers(tmp_path) == []


def fail_at(k: int, code: int, *, forever: bool) -> Callable[[int, str, tuple[Any, ...]], None]:
    def on_step(count: int, name: str, arguments: tuple[Any, ...]) -> None:
        if (count >= k if forever else count == k) and name not in ("close", "remove_tree"):
            raise OSError(code, os.strerror(code))

    return on_step


@pytest.mark.parametrize("forever", [False, True])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_every_failing_step_is_an_error_and_the_old_stays(
    tmp_path: Path, source: Path, new: dict[str, bytes], old: dict[str, bytes], code: int, forever: bool
) -> None:
    model = tmp_path / "model"
    put(model, old)
    total = count_steps(lambda io: convert(source, model, overwrite=True, max_shard_bytes=SHARD_BYTES, io=io))
    for k in range(1, total + 1):
        shutil.rmtree(model)
        put(model, old)
        io = StepIO(fail_at(k, code, forever=forever))
        try:
            convert(source, model, overwrite=True, max_shard_bytes=SHARD_BYTES, io=io)
        except OSError as error:
            assert error.errno == code  # noqa: PT017
        assert contents(model) in (old, new)
        convert(source, model, overwrite=True, max_shard_bytes=SHARD_BYTES)
        assert contents(model) == new
        assert leftovers(tmp_path) == []


class FullDisk(FileIO):
    def __init__(self, free: int) -> None:
        self.free = free

    def free_bytes(self, path: Path) -> int:
        return self.free


def test_free_space_is_checked_before_anything_is_written(tmp_path: Path, source: Path) -> None:
    with pytest.raises(OSError, match=r"Not enough disk space: [\d,]+ bytes are needed, 1,000 are free") as caught:
        convert(source, tmp_path / "model", io=FullDisk(1000))
    assert caught.value.errno == errno.ENOSPC
    assert leftovers(tmp_path) == []
    assert not (tmp_path / "model").exists()
    convert(source, tmp_path / "model")
    with pytest.raises(OSError, match="Not enough disk space"):
        export_model(tmp_path / "model", tmp_path / "out", io=FullDisk(1000))
    assert leftovers(tmp_path) == []


def test_disk_that_fills_up_meanwhile_keeps_what_can_be_resumed(tmp_path: Path, source: Path, new: dict[str, bytes]) -> None:
    io = FullDisk(10**9)
    io.write = lambda descriptor, data: (_ for _ in ()).throw(OSError(errno.ENOSPC, "disk full"))  # type: ignore[method-assign]
    with pytest.raises(OSError, match=r"No space left: this shard needs [\d,]+ bytes"):
        convert(source, tmp_path / "model", max_shard_bytes=SHARD_BYTES, io=io)
    assert leftovers(tmp_path) == []  # nothing was finished, so nothing is kept

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2900, 2900))
        convert(source, tmp_path / "model", max_shard_bytes=SHARD_BYTES)

    assert in_child(limited) == 1
    assert not (tmp_path / "model").exists()
    convert(source, tmp_path / "model", max_shard_bytes=SHARD_BYTES)
    assert contents(tmp_path / "model") == new
    assert leftovers(tmp_path) == []


def test_files_are_synced_before_they_are_renamed_and_the_manifest_comes_last(tmp_path: Path, source: Path) -> None:
    steps: list[tuple[str, tuple[Any, ...]]] = []
    convert(source, tmp_path / "model", max_shard_bytes=SHARD_BYTES, io=StepIO(lambda _, name, arguments: steps.append((name, arguments))))
    synced = None
    for name, arguments in steps:
        if name == "sync":
            synced = True
        elif name == "create":
            synced = False
        elif name == "rename" and arguments[0].name.endswith(".partial"):
            assert synced, arguments
    names = [name for name, _ in steps]
    created = [arguments[0].name for name, arguments in steps if name == "create"]
    assert created[-1] == ".gossamer.json.partial"
    manifest = names.index("create", len(names) - 1 - names[::-1].index("create"))
    assert names[manifest - 1] == "sync_directory"
    publish = next(i for i, (name, a) in enumerate(steps) if name == "rename" and a[1] == tmp_path / "model")
    assert steps[publish - 1] == ("sync_directory", (tmp_path / ".model.partial",))
    assert steps[publish + 1] == ("sync_directory", (tmp_path,))


def test_two_writers_at_once(tmp_path: Path, source: Path) -> None:
    with exclusive_lock(tmp_path / ".model.lock"), pytest.raises(BlockingIOError, match=r"Another process is writing .*model"):
        convert(source, tmp_path / "model")
    assert leftovers(tmp_path) == []
    convert(source, tmp_path / "model")


def test_a_dead_writer_holds_no_lock(tmp_path: Path, source: Path) -> None:
    def die() -> None:
        with exclusive_lock(tmp_path / ".model.lock"):
            os._exit(9)

    assert in_child(die) == 9
    assert (tmp_path / ".model.lock").exists()
    convert(source, tmp_path / "model")
    assert leftovers(tmp_path) == []


def test_what_is_there_is_not_replaced_unless_asked_and_ours(tmp_path: Path, source: Path, old: dict[str, bytes]) -> None:
    model = tmp_path / "model"
    put(model, old)
    with pytest.raises(FileExistsError, match="--overwrite"):
        convert(source, model)
    (model / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"did not write \(notes\.txt\)"):
        convert(source, model, overwrite=True)
    assert contents(model) == {**old, "notes.txt": b"mine"}
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="not a directory"):
        convert(source, tmp_path / "file", overwrite=True)
    with pytest.raises(FileExistsError, match="did not write"):
        convert(source, source, overwrite=True)
    (model / "notes.txt").unlink()
    (tmp_path / "link").symlink_to(model)
    convert(source, tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert contents(model) != old
    (tmp_path / "empty").mkdir()
    convert(source, tmp_path / "empty")


def test_files_added_while_converting_are_not_lost(tmp_path: Path, source: Path, old: dict[str, bytes]) -> None:
    model = tmp_path / "model"
    put(model, old)
    with pytest.raises(FileExistsError, match=r"notes\.txt"):
        convert(source, model, overwrite=True, progress=lambda *_: (model / "notes.txt").write_text("mine"))
    assert contents(model) == {**old, "notes.txt": b"mine"}


def test_a_source_that_changes_meanwhile_is_reported(tmp_path: Path, source: Path) -> None:
    def touch(done: int, total: int, what: str) -> None:
        if done == total:
            os.utime(source / "model.safetensors", ns=(1, 1))

    with pytest.raises(CheckpointError, match=r"changed while it was converted.*model\.safetensors"):
        convert(source, tmp_path / "model", progress=touch)
    assert leftovers(tmp_path) == []


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A temporary directory that every user may enter (pytest's are private)."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def test_directory_without_permission(open_directory: Path) -> None:
    source = write_hugging_face(open_directory / "hf", llama_tensors())
    (source / "model.safetensors").chmod(0o644)
    locked = open_directory / "locked"
    locked.mkdir(mode=0o555)

    def attempt() -> None:
        if os.geteuid() == 0:
            os.setuid(65534)  # root may write anywhere
        with pytest.raises(PermissionError):
            convert(source, locked / "model")

    assert in_child(attempt) == 0
    assert list(locked.iterdir()) == []


def test_name_too_long(tmp_path: Path, source: Path) -> None:
    with pytest.raises(OSError, match="too long"):
        convert(source, tmp_path / ("x" * 250))
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_an_exception_in_the_middle_keeps_finished_shards_only_if_resumable(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "side_files": {"config.json": b'{"architectures": ["X"]}'},
        "source": {},
        "producer": "test",
        "max_shard_bytes": 100,
    }

    def stopped_after(names: str, key: str | None) -> None:
        with ModelWriter(tmp_path / "m", resume_key=key, **options) as writer:
            for name in names:
                writer.add_dense(f"{name}.weight", np.ones(25, np.float32))
            raise RuntimeError("stop")

    for key in (None, "key"):
        with pytest.raises(RuntimeError, match="stop"):
            stopped_after("012", key)
        assert leftovers(tmp_path) == ([] if key is None else [".m.partial"])
    with ModelWriter(tmp_path / "m", resume_key="key", **options) as writer:
        assert [writer.has(f"{i}.weight") for i in range(3)] == [True, True, False]
        assert writer.resumed_tensors == 2
        for i in range(3):
            writer.add_dense(f"{i}.weight", np.ones(25, np.float32))
        writer.finish()
    assert leftovers(tmp_path) == ["m"]


def test_export_is_atomic_and_resumes(tmp_path: Path, source: Path) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    convert(source, model)
    export_model(model, out, max_shard_bytes=SHARD_BYTES)
    expected = contents(out)
    total = count_steps(lambda io: export_model(model, out, overwrite=True, max_shard_bytes=SHARD_BYTES, io=io))
    shutil.rmtree(out)
    for k in range(1, total - 2, 3):
        assert in_child(lambda k=k: export_model(model, out, max_shard_bytes=SHARD_BYTES, io=StepIO(kill_at(k, half_done=True)))) == 9
        if out.exists():
            assert contents(out) == expected
            shutil.rmtree(out)
        export_model(model, out, max_shard_bytes=SHARD_BYTES)
        assert contents(out) == expected
        assert leftovers(tmp_path) == ["out"]
        shutil.rmtree(out)


def test_reading_a_file_that_shrinks_is_an_error_not_a_crash(source: Path) -> None:
    with open_source(source, ConvertOptions()) as opened:
        os.truncate(source / "model.safetensors", 3000)
        with pytest.raises(CheckpointError, match=r"shorter than its header says.*model\.safetensors"):
            opened.read("model.norm.weight")
        assert opened.has_changed() == "model.safetensors"
