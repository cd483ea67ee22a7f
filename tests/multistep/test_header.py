"""The precompiled header: when it is made, and that it changes nothing but the time."""

import os
import stat
from pathlib import Path

import pytest
import torch
from torch._inductor.cpu_vec_isa import pick_vec_isa

from multistep.compiled import header
from multistep.compiled.inductor import compile_update
from multistep.compiled.program import Program


@pytest.fixture
def said(tmp_path, monkeypatch):
    monkeypatch.setenv("MULTISTEP_CACHE_DIR", str(tmp_path / "cache"))
    return []


def test_it_is_made_by_the_second_compilation_and_found_by_the_third(said, monkeypatch):
    made = []

    def precompile(place, _):
        made.append(place)
        (place / header.NAME).touch()

    monkeypatch.setattr(header, "_precompile", precompile)
    isa = pick_vec_isa()
    assert header.precompiled(isa, said.append) is None
    found = [header.precompiled(isa, said.append) for _ in range(2)]
    assert found == [str(made[0] / header.NAME)] * 2
    assert len(made) == len(said) == 1
    assert stat.S_IMODE(made[0].stat().st_mode) == 0o700


@pytest.mark.skipif(os.name == "nt", reason="needs modes of files")
@pytest.mark.parametrize("level", [0, 1])
def test_a_folder_that_others_can_write_to_is_not_trusted(level, said, monkeypatch):
    isa = pick_vec_isa()
    header.precompiled(isa, said.append)
    monkeypatch.setattr(header, "_precompile", lambda place, options: (place / header.NAME).touch())
    path = Path(header.precompiled(isa, said.append))
    (path.parent if level else path.parents[1]).chmod(0o777)
    assert header.precompiled(isa, said.append) is None


def test_a_compiler_that_fails_costs_nothing(said, monkeypatch):
    monkeypatch.setattr(header, "_precompile", lambda place, options: 1 / 0)
    assert [header.precompiled(pick_vec_isa(), said.append) for _ in range(3)] == [None] * 3


@pytest.mark.slow
def test_the_bits_do_not_depend_on_it(said, tmp_path):
    def update(state, minibatch):
        (weight,), (x,) = state, minibatch
        weight.copy_(weight - 0.1 * torch.tanh(x @ weight).exp().mean(0))

    generator = torch.Generator().manual_seed(1)
    start, data = torch.randn(20, 20, generator=generator), torch.randn(50, 30, 20, generator=generator)
    results = []
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        weight = start.clone()
        Program(*compile_update(update, [weight], [data], folder, said.append)).run([weight, data], len(data))
        results.append(weight)
    assert len(said) == 1
    assert results[0].equal(results[1])
    assert results[0].equal(results[2])
    assert not results[0].equal(start)
