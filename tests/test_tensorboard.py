"""TensorBoard on a run, opened in a real browser.

Needs Chromium (Debian and Ubuntu: `apt install chromium`).
"""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser import browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

# What each page has to say, and a selector for what it has to draw.
PAGES = {
    "timeseries": (
        ("epoch", "train", "/loss", "val", "within_hidden1", "when_trained", "views"),
        "line-chart",
    ),
    "scalars": (("train", "val", "when_trained", "within_hidden1", "within_output"), "svg"),
    "images": (("views", "views/saturation"), "img"),
    "histograms": (("within_hidden1", "within_hidden1/activation", "within_output"), "svg"),
    "custom_scalars": (("losses", "layers", "weights", "train and validation"), "svg"),
    "text": (("recipe", "BatchNormMLP", "samples", "verdicts", "first loss", "expected 3.30"), "table"),
    "hparams": (("data/batch_size", "model/class", "optimizer/init_args/lr", "model/n_hidden", "val/loss"), None),
    "projector": (("Points: 27", "Dimension: 10"), "canvas"),
}


@pytest.fixture
def tensorboard(run_train, tmp_path):
    """The address of a TensorBoard on a run with everything in it."""
    run_train(
        "--trainer.max_steps", "400", "--trainer.val_check_interval", "100", "--observe.every_n_updates", "50/100/200"
    )
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(tmp_path / "runs"), "--port", "0"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)
    for line in process.stderr:
        if found := re.search(r"(http://\S+?)/? ", line):
            break
    yield found[1]
    process.terminate()
    process.wait()
    process.stderr.close()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium")
def test_every_page_of_tensorboard_shows_the_run(tensorboard, tmp_path):
    screenshots = Path(os.environ.get("SCREENSHOTS", tmp_path))

    async def look():
        async with browser(CHROMIUM, tmp_path / "profile") as page:
            for name, (words, selector) in PAGES.items():
                await page.open("about:blank")
                await page.open(f"{tensorboard}/#{name}")
                try:
                    await page.wait_for(*words, selector=selector)
                finally:
                    await page.screenshot(screenshots / f"{name}.png")

    asyncio.run(look())
    assert {path.stem for path in screenshots.glob("*.png")} >= set(PAGES)
