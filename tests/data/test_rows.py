"""Rows are computed once, by however many processes, of which some may be killed, and whole wherever they are used."""

import multiprocessing
import os
import signal
import stat
from pathlib import Path

import numpy as np
import pytest
from waiting import LONGEST_S, run_at_once

from cnn_sweeps.data.rows import load_rows

POSITIONS = np.arange(0, 600, 2)  # three parts of at most 128
SHAPE = (600, 5)


def rows_of(positions):
    return np.asarray(positions)[:, None] + np.arange(5, dtype=np.float32) / 8


class Computer:
    """Gives rows, and notes in a folder which ones it was asked for, and by which process."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def __call__(self, positions):
        with Path(self.folder, str(os.getpid())).open("a") as file:
            file.write("".join(f"{position}\n" for position in positions))
        return rows_of(positions)

    def asked_of(self, process):
        return [int(line) for line in Path(self.folder, str(process.pid)).read_text().split()]


def load(cache_dir, compute, about=("network", "images")):
    return load_rows(cache_dir, list(about), POSITIONS, SHAPE, compute)


def forbidden(_):
    raise AssertionError("computed again")


def only_file(cache_dir):
    (file,) = (cache_dir / "features").iterdir()
    return file


def assert_whole(rows):
    np.testing.assert_array_equal(rows[POSITIONS], rows_of(POSITIONS))
    assert not rows[1::2].any()


def test_rows_are_those_computed_and_the_others_are_0_and_all_are_mapped_from_a_private_folder(tmp_path):
    rows = load(tmp_path, rows_of)
    assert_whole(rows)
    assert isinstance(rows, np.memmap)
    assert not rows.flags.writeable
    assert only_file(tmp_path).read_bytes() == rows.tobytes()
    assert stat.S_IMODE((tmp_path / "features").stat().st_mode) == 0o700


def test_second_load_computes_nothing(tmp_path):
    load(tmp_path, rows_of)
    assert_whole(load(tmp_path, forbidden))


def test_rows_of_several_axes_keep_their_order(tmp_path):
    def compute(positions):
        return np.stack([rows_of(positions), -rows_of(positions)], axis=1)

    views = load_rows(tmp_path, ["views"], POSITIONS, (600, 2, 5), compute)
    np.testing.assert_array_equal(views[POSITIONS], compute(POSITIONS))


@pytest.mark.parametrize(
    ("about", "positions", "shape"),
    [
        (["other"], POSITIONS, SHAPE),
        (["network", "images"], POSITIONS[:-1], SHAPE),
        (["network", "images"], POSITIONS, (601, 5)),
    ],
)
def test_whatever_rows_depend_on_gives_them_a_file_of_their_own(about, positions, shape, tmp_path):
    load(tmp_path, rows_of)
    load_rows(tmp_path, about, positions, shape, rows_of)
    assert len(list((tmp_path / "features").iterdir())) == 2


@pytest.mark.parametrize("size", [0, 1, 4 * 600 * 5 - 1])
def test_truncated_file_is_computed_again(size, tmp_path):
    load(tmp_path, rows_of)
    os.truncate(only_file(tmp_path), size)
    assert_whole(load(tmp_path, rows_of))


@pytest.mark.parametrize("interruption", [ValueError, KeyboardInterrupt])
def test_interrupted_computation_is_gone_on_with(interruption, tmp_path):
    def fail(positions):
        if positions[0]:
            raise interruption
        return rows_of(positions)

    with pytest.raises(interruption):
        load(tmp_path, fail)
    assert not list(tmp_path.glob("features/*.f32"))
    compute = Computer(tmp_path / "asked")
    assert_whole(load(tmp_path, compute))
    assert compute.asked_of(multiprocessing.current_process()) == POSITIONS[128:].tolist()
    assert only_file(tmp_path).suffix == ".f32"


class MeetingOnce:
    """Lets the first part of each of two processes wait for the other's."""

    def __init__(self, compute, barrier):
        self.compute, self.barrier = compute, barrier

    def __call__(self, positions):
        if self.barrier is not None:
            self.barrier.wait(timeout=LONGEST_S)
            self.barrier = None
        return self.compute(positions)


def load_and_keep(cache_dir, compute, result):
    np.save(result, load(cache_dir, compute))


class KilledInPart:
    """Ends its process without a warning while it computes the second part."""

    def __call__(self, positions):
        if positions[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return rows_of(positions)


def test_processes_share_the_work_of_a_killed_one_but_for_what_that_has_finished(tmp_path):
    """And leave one whole file, and nothing beside it."""
    context = multiprocessing.get_context("spawn")
    killed = context.Process(target=load, args=(tmp_path, KilledInPart()))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert not list(tmp_path.glob("features/*.f32"))

    compute, barrier = Computer(tmp_path / "asked"), context.Barrier(2)
    results = [tmp_path / "0.npy", tmp_path / "1.npy"]
    meeting = MeetingOnce(compute, barrier)
    processes = [context.Process(target=load_and_keep, args=(tmp_path, meeting, each)) for each in results]
    run_at_once(processes)
    for result in results:
        assert_whole(np.load(result))
    asked = [compute.asked_of(process) for process in processes]
    assert sorted(map(len, asked)) == [44, 128]
    assert sorted(asked[0] + asked[1]) == POSITIONS[128:].tolist()
    assert_whole(np.memmap(only_file(tmp_path), np.float32, "r", shape=SHAPE))
