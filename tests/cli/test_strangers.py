"""Corpora and configurations from strangers: correct work or one line, and nothing that steers the terminal."""

import os
import string
import sys
import unicodedata

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ngram_mlp.cli import evaluate, sample, train
from tests.conftest import PROJECT

DEFAULT = PROJECT / "configs" / "default.yaml"
SHORT = ("--trainer.max_steps", "3", "--model.n_hidden", "8", "--model.n_embd", "2", "--engine", "eager")


def outcome(function, capsys, *args):
    """The status of a command and all that it printed."""
    status = 0
    try:
        function(*args)
    except SystemExit as stop:
        status = stop.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@settings(max_examples=5, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.lists(
        st.text(st.characters(max_codepoint=sys.maxunicode, exclude_categories=["Cs"]), max_size=8),
        min_size=4,
        max_size=14,
    ).map("\n".join)
)
def test_any_corpus_trains_or_is_refused_with_a_reason(content, tmp_path, capsys):
    path = tmp_path / "words.txt"
    path.write_bytes(content.encode())
    args = ["--data.corpus", str(path), "--runs_dir", str(tmp_path / "runs"), *SHORT]
    status, out, err = outcome(train.main, capsys, DEFAULT, args)
    if status:
        assert status == 2
        assert err.startswith("error: ")
        assert "--data.corpus" in err
        assert err.count("\n") == 1
    assert not [c for c in out + err if c != "\n" and unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]


HOSTILE = [
    "\x1b[2J\x1b]0;title\x07",
    "\u202eevil\u2066",
    "nul\x00nul",
    "\x9bmcsi",
    "a\u2028b",
    "ta\tb",
    "zoë",
    "李",
    "\r\rb",
]


def test_a_corpus_that_steers_the_terminal_is_trained_on_evaluated_and_sampled_escaped(tmp_path, capsys):
    path = tmp_path / "bad\x1b[31m\u202e.txt"
    path.write_text("\n".join(HOSTILE * 3), newline="")
    args = ["--data.corpus", str(path), "--runs_dir", str(tmp_path / "runs"), *SHORT]
    status, out, err = outcome(train.main, capsys, DEFAULT, args)
    assert (status, err) == (0, "")
    checkpoint = str(next(tmp_path.rglob("last.ckpt")))
    printed = out
    for command, options in ((evaluate, []), (sample, ["--num", "50"])):
        status, out, err = outcome(command.main, capsys, ["--ckpt_path", checkpoint, *options])
        assert (status, err) == (0, "")
        printed += out
    other = tmp_path / "other.txt"
    other.write_text("ada\nbo\n" * 9)
    for command, options in ((evaluate, ["--corpus", str(other)]), (sample, ["--prompt", "ü"])):
        status, out, err = outcome(command.main, capsys, ["--ckpt_path", checkpoint, *options])
        assert status == 2
        printed += err
    assert not set(printed) & {*map(chr, range(32)), "\x7f", "\x9b", "\u202e", "\u2066", "\u2028"} - {"\n"}
    assert r"bad\x1b[31m\u202e.txt" in printed


@pytest.mark.parametrize("path", ["fifo", "folder", "/dev/zero", "/dev/null", "nul\x00", "x" * 5000, "surrogates.txt"])
def test_a_path_that_is_no_corpus_is_refused_at_once(path, tmp_path, monkeypatch, fails):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    os.mkdir("folder")
    (tmp_path / "surrogates.txt").write_bytes(b"ada\n\xed\xa0\x80\n")
    assert "--data.corpus" in fails(train.main, DEFAULT, ["--data.corpus", path])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "yaml",
    [
        "!!python/object/apply:os.system ['touch sprung']",
        "seed_everything: !!python/object/apply:os.system ['touch sprung']",
        "data: {corpus: !!python/name:os.system }",
        "model: !!python/object/new:os.system ['touch sprung']",
        "model: {class_path: os.system, init_args: {command: touch sprung}}",
        "trainer: {callbacks: [{class_path: subprocess.Popen, init_args: {args: [touch, sprung]}}]}",
        "a: &a [x, x]\nb: &b [*a, *a]\n",
        "{",
        "\x00",
        "- a\n- b",
    ],
)
def test_a_configuration_runs_no_code_of_its_own(yaml, tmp_path, monkeypatch, fails):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text(yaml)
    fails(train.main, DEFAULT, ["--config", "bad.yaml", "--data.corpus", "sample", "--trainer.max_steps", "1"])
    assert not (tmp_path / "sprung").exists()


def test_ordinary_letters_are_printed_as_they_are(tmp_path, capsys):
    path = tmp_path / "words.txt"
    words = ["Ελένη", "Мария", "محمد", "李小龍", "zoë", *string.ascii_lowercase]
    path.write_text("\n".join(words))
    train.main(DEFAULT, ["--data.corpus", str(path), "--runs_dir", str(tmp_path / "runs"), *SHORT])
    out = capsys.readouterr().out
    sampled = next(line for line in out.splitlines() if line.startswith("sampled"))
    assert "\\" not in sampled
    assert set(sampled.removeprefix("sampled")) <= {*"".join(words), " ", ","}
