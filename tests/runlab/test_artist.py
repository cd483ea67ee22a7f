"""Figures that are drawn by another process."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from runlab import Artist, draw, figure_with_panels


def points(values, title):
    figure, (axis,) = figure_with_panels(1, title)
    axis.plot(values)
    return figure


def talkative():
    print("something for the console")
    os.write(1, b"and more")
    return Figure()


def failing():
    raise LookupError("no such curve")


def slow():
    time.sleep(600)


@pytest.fixture
def artist():
    artist = Artist()
    yield artist
    artist.close()


def test_it_draws_what_is_drawn_here_in_order(artist, capfd):
    curves = np.arange(6.0).reshape(2, 3)
    asked = [artist.draw(points, curve, "a curve", name="runs/a") for curve in curves]
    asked.insert(1, artist.draw(talkative))
    here = [draw(points, curve, "a curve", name="runs/a") for curve in curves]
    there = [picture.result(60) for picture in asked]
    assert there[0] == here[0]
    assert there[2] == here[1]
    assert capfd.readouterr() == ("", "")


def test_a_figure_that_fails_leaves_the_next_one(artist):
    with pytest.raises(RuntimeError, match="LookupError: no such curve"):
        artist.draw(failing).result(60)
    assert artist.draw(points, [1, 2], "next").result(60)[1:] == (450, 500)


def test_what_only_this_process_knows_is_refused_at_once(artist):
    with pytest.raises((AttributeError, TypeError), match=r"local|pickle"):
        artist.draw(lambda: Figure())


def test_ctrl_c_does_not_reach_it_and_closing_ends_it_at_once(artist):
    process = artist._process
    assert os.getpgid(process.pid) != os.getpgid(0)
    pictures = [artist.draw(slow), artist.draw(points, [1], "never")]
    began = time.monotonic()
    artist.close()
    assert time.monotonic() - began < 60
    assert process.returncode == -signal.SIGKILL
    for picture in pictures:
        with pytest.raises((EOFError, OSError, CancelledError)):
            picture.result(60)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_ends_with_the_process_that_began_it():
    code = "from runlab import Artist; import os; print(Artist()._process.pid, flush=True); os.kill(os.getpid(), 9)"
    number = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout
    state = Path("/proc", number.strip(), "stat")
    for _ in range(600):
        if not state.exists() or state.read_text().split()[2] == "Z":  # perhaps nobody waits for it here
            return
        time.sleep(0.1)
    pytest.fail("it lives on")


def test_nothing_of_the_current_folder_is_imported(tmp_path, monkeypatch):
    """As in a script: `python -c` would look there first."""
    for name in ("numbers", "matplotlib", "numpy"):
        (tmp_path / f"{name}.py").write_text("from pathlib import Path\nPath('imported').touch()\nx = 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    artist = Artist()
    try:
        assert artist.draw(points, [1, 2], "a curve").result(60) == draw(points, [1, 2], "a curve")
    finally:
        artist.close()
    assert not (tmp_path / "imported").exists()
