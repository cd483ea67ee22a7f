import hashlib
import http.server
import os
import threading
import time
from typing import ClassVar

import pytest

from ngram_mlp.data import corpus as module
from ngram_mlp.data.corpus import SampleCorpusWarning, load_corpus
from runlab import UserError

CONTENT = b"emma\nolivia\nava"


@pytest.fixture
def server(monkeypatch):
    """Serves what a test puts into `reply`, in place of the address of names.txt."""

    class Handler(http.server.BaseHTTPRequestHandler):
        reply: ClassVar = {"status": 200, "content": CONTENT, "pause": 0.0}

        def do_GET(self):
            self.send_response(self.reply["status"])
            self.end_headers()
            for i in range(0, len(self.reply["content"]), 4):
                try:
                    self.wfile.write(self.reply["content"][i : i + 4])
                except OSError:
                    return
                time.sleep(self.reply["pause"])

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        monkeypatch.setattr(module, "NAMES_URL", f"http://127.0.0.1:{httpd.server_port}/names.txt")
        monkeypatch.setattr(module, "NAMES_SHA256", hashlib.sha256(CONTENT).hexdigest())
        yield Handler.reply
        httpd.shutdown()
        thread.join()


def test_names_are_downloaded_once(server, tmp_path):
    tmp_path /= "data"  # which is made
    corpus = load_corpus("names", tmp_path)
    assert corpus.words == ["emma", "olivia", "ava"]
    assert corpus.name == "names"
    assert corpus.sha256 == hashlib.sha256(CONTENT).hexdigest()
    server["status"] = 500
    assert load_corpus("auto", tmp_path) == corpus
    assert os.listdir(tmp_path) == ["names.txt"]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ({"content": CONTENT + b"x"}, "its SHA-256 is"),
        ({"status": 404}, "Not Found"),
        ({"content": b"x" * 200}, "more than 100 bytes"),
        ({"pause": 0.2}, "not complete after 0.3 s"),
    ],
)
def test_a_failed_download_leaves_nothing_and_says_what_to_do(server, reply, reason, tmp_path, monkeypatch):
    server.update(reply)
    monkeypatch.setattr(module, "DOWNLOAD_SECONDS", 0.3)
    monkeypatch.setattr(module, "DOWNLOAD_BYTES", 100)
    with pytest.raises(UserError, match=reason) as error:
        load_corpus("names", tmp_path)
    assert "use the corpus sample" in str(error.value)
    assert os.listdir(tmp_path) == []


def test_auto_falls_back_to_the_sample_with_a_warning(server, tmp_path):
    server["status"] = 503
    with pytest.warns(SampleCorpusWarning, match="sample corpus"):
        corpus = load_corpus("auto", tmp_path)
    assert corpus == load_corpus("sample")


def test_an_unreachable_address_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "NAMES_URL", "http://127.0.0.1:9/names.txt")
    with pytest.raises(UserError, match="refused"):
        load_corpus("names", tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"ada\nbo\nada\nzo\xc3\xab",
        b"ada\r\nbo\r\nada\r\nzo\xc3\xab\r\n",
        b"\xef\xbb\xbfada \n\n  \nbo\t\nada\nzo\xc3\xab\n\n",
        b"ada\rbo\rada\rzo\xc3\xab\r",
        "ada\x85bo\u2028ada\u2029zo\xeb".encode(),
        b"ada\nbo\nada\nzoe\xcc\x88",
    ],
    ids=[
        "no last newline",
        "CRLF",
        "byte-order mark, blank lines, trailing blanks",
        "CR",
        "NEL and Unicode's separators",
        "a decomposed accent",
    ],
)
def test_harmless_differences_between_files_do_not_matter(content, tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    corpus = load_corpus(str(path))
    assert corpus.words == ["ada", "bo", "ada", "zoë"]
    assert corpus.name == str(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file has no words"),
        (b" \n\n", "the file has no words"),
        (b"ada\nb\xffo\n", "byte 5 is not UTF-8"),
    ],
)
def test_a_file_that_is_no_corpus_is_refused_with_the_place(content, message, tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_corpus(str(path))


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, tmp_path):
        with pytest.raises(UserError, match=r"is (not a regular file|a folder)"):
            load_corpus(str(path))
    with pytest.raises(UserError, match="No such file"):
        load_corpus(str(tmp_path / "nowhere"))


def test_the_shipped_sample_is_a_corpus_of_its_own(sample_words):
    assert len(set(sample_words)) == len(sample_words) >= 4_000
    assert set("".join(sample_words)) <= set("abcdefghijklmnopqrstuvwxyz")
    assert load_corpus("sample").words == sample_words
