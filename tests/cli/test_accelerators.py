import logging

import pytest
import torch
from torch import nn

from ngram_mlp.cli.accelerators import resolve_accelerator

SMALL, LARGE = nn.Linear(30, 200), nn.Linear(2_000, 1_000)


@pytest.fixture
def gpu(monkeypatch):
    """A machine on which torch finds a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.usefixtures("gpu")
def test_a_small_network_is_trained_on_the_cpu_and_that_is_told(caplog):
    caplog.set_level(logging.INFO, "ngram_mlp")
    assert resolve_accelerator("auto", "auto", SMALL, 32) == "cpu"
    assert resolve_accelerator("auto", 1, SMALL, 32) == "cpu"  # as configs/default.yaml has it
    assert "this network has 0.2 million. Use --trainer.accelerator gpu to force it" in caplog.text
    caplog.clear()
    assert resolve_accelerator("auto", "auto", LARGE, 32) == "auto"
    assert not caplog.text


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("accelerator", "devices"), [("gpu", "auto"), ("cuda", 1), ("auto", 2), ("cpu", "auto")])
def test_what_was_asked_for_is_taken(accelerator, devices):
    assert resolve_accelerator(accelerator, devices, SMALL, 32) == accelerator


def test_without_a_gpu_lightning_chooses():
    assert resolve_accelerator("auto", "auto", SMALL, 32) == "auto"
