#!/usr/bin/env python3
"""Makes a project of your own of this template: `make adopt NAME=my_project WITHOUT=studies,tour`.

Renames package, distribution, command and documents, empties the changelog, and removes parts that you do not want,
their tests and the passages about them included. Needs the standard library alone.
"""

import argparse
import keyword
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
OLD = "ngram_mlp"
LONGEST_NAME = 24  # so that lines stay within their limit
TAKEN = {OLD, "torch", "tests", "scripts", "configs", "benchmarks", *sys.stdlib_module_names}
# Environments, caches, and what runs and builds leave behind.
LEFT_ALONE = {".git", ".venv", ".venv-jax", ".hypothesis", "runs", "build", "dist"}
SUFFIXES = {".py", ".md", ".toml", ".yaml", ".yml", ".ipynb", ".json", ".in", ".txt", ""}

# The files of each part; passages elsewhere are marked, see `without_passages`.
PARTS = {
    "studies": [
        *("src/ngram_mlp/studies", "src/ngram_mlp/cli/compare.py", "src/ngram_mlp/cli/search.py"),
        *("src/ngram_mlp/cli/server.py", "src/ngram_mlp/callbacks/supervised.py", "scripts/compare.py"),
        *("scripts/search.py", "configs/depth", "docs/comparing.md", "docs/studies", "tests/studies"),
        "tests/cli/test_server.py",
    ],
    "tour": ["docs/tour.ipynb", "tests/test_tour.py"],
    "replay": ["docs/notebooks.md", "tests/test_replay.py"],
    "benchmarks": [
        *("benchmarks", "scripts/benchmark.py", "docs/speed.md", "docs/verdicts.md", "docs/verdicts.csv"),
        "docs/images/story.png",
    ],
}
USED_BY = {"studies": ("tour", "benchmarks")}  # which go with it
OF_THE_TEMPLATE = ["scripts/adopt.py", "tests/test_template.py", "CITATION.cff"]


def main() -> None:
    """Adopts the project that this script lies in."""
    about = (__doc__ or "").partition("\n\n")[2]
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--name", required=True, help="The name of the package, as it is imported.")
    add("--owner", default="OWNER", help="Whose repository it will be, for its addresses on GitHub.")
    add("--without", default="", metavar="PART,PART", help=f"Parts to remove: {', '.join(PARTS)}.")
    options = parser.parse_args()
    try:
        name, without = checked(options.name, options.without.split(","))
        refuse_uncommitted_changes(PROJECT)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    adopt(PROJECT, name, options.owner, without)
    removed = f", without {', '.join(without)}" if without else ""
    print(f"{OLD} is {name} now{removed}. Next: `make lint test`, write your README.md, and commit.")


def checked(name: str, without: Iterable[str]) -> tuple[str, list[str]]:
    """A name that can be taken, and the parts to be removed; raises a ValueError otherwise."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name) or name in TAKEN:
        raise ValueError(f"NAME={name}: give a new name to import, of small letters, digits and _, such as my_project")
    if len(name) > LONGEST_NAME:
        raise ValueError(f"NAME={name}: give one of at most {LONGEST_NAME} characters")
    parts = [part.strip() for part in without if part.strip()]
    for part in parts:
        if part not in PARTS:
            raise ValueError(f"WITHOUT={part}: give some of {','.join(PARTS)}")
    return name, [*dict.fromkeys([*parts, *(more for part in parts for more in USED_BY.get(part, ()))])]


def refuse_uncommitted_changes(project: Path) -> None:
    """Raises a ValueError where git has not everything that would be changed."""
    if not (project / ".git").exists():
        return
    git = ["git", "-C", str(project), "status", "--porcelain"]
    if subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip():
        raise ValueError("there are changes that are not committed; commit them, so that nothing is lost")


def adopt(project: Path, name: str, owner: str, without: list[str]) -> None:
    """Changes the files of a project: what is not wanted goes, what stays is renamed."""
    pyproject = (project / "pyproject.toml").read_text(encoding="utf-8")
    version = re.findall(r'^version = "(.*)"', pyproject, flags=re.MULTILINE)[0]
    for one in [*OF_THE_TEMPLATE, *(one for part in without for one in PARTS[part])]:
        path = project / one
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for path in sources(project):
        text = path.read_text(encoding="utf-8")
        changed = renamed(without_passages(text, [*without, "template"]), name, owner)
        if path.name in ("pyproject.toml", "__init__.py"):
            changed = re.sub(r'^(version|__version__) = ".*"', r'\1 = "0.1.0"', changed, flags=re.MULTILINE)
        if changed != text:
            path.write_text(changed, encoding="utf-8")
    (project / "src" / OLD).rename(project / "src" / name)
    call = f"make adopt NAME={name} OWNER={owner} WITHOUT={','.join(without)}"
    begun = f"# Changelog\n\n## 0.1.0 (unreleased)\n\n- Begun from {OLD} {version} by `{call}`.\n"
    (project / "CHANGELOG.md").write_text(begun, encoding="utf-8")


def sources(project: Path) -> Iterator[Path]:
    """The text files of a project that are its own."""
    for path in sorted(project.rglob("*")):
        parts = path.relative_to(project).parts
        left = parts[0] in LEFT_ALONE or any(part.endswith((".egg-info", "cache__", "_cache")) for part in parts)
        if path.is_file() and not left and path.suffix in SUFFIXES and parts != ("data", "names.txt"):
            yield path


def without_passages(text: str, parts: Iterable[str]) -> str:
    """A text without the passages of these parts, and without the marks of others.

    A line that ends with the comment `part: NAME` belongs to a part, as do the lines from a comment
    `part: NAME begins` to one `part: NAME ends`.
    """
    for part in parts:
        block = rf"^.*\bpart: {part} begins\b.*\n(.*\n)*?.*\bpart: {part} ends\b.*\n"
        text = re.sub(block, "", text, flags=re.MULTILINE)
        text = re.sub(rf"^.*(?:<!-- part: {part} -->|# part: {part})\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"^\s*(?:<!--|#) part: \w+ (?:begins|ends)(?: -->)?\n", "", text, flags=re.MULTILINE)
    return re.sub(r" *(?:<!-- part: \w+ -->|# part: \w+)$", "", text, flags=re.MULTILINE)


def renamed(text: str, name: str, owner: str) -> str:
    """A text with the names of package, distribution and environment variables replaced, and of whose it is."""
    text = re.sub(r"(github(?:\.com)?)/OWNER/", rf"\1/{owner}/", text)
    for old, new in ((OLD, name), (OLD.replace("_", "-"), name.replace("_", "-")), (OLD.upper(), name.upper())):
        text = text.replace(old, new)
    return text


if __name__ == "__main__":
    main()
