#!/usr/bin/env python3
"""Turns this template into your own project: `make adopt NAME=my_project`.

Renames package, distribution, command and documents, and starts a new changelog. Delete what you do not want:
docs/installing.md says which files belong together. Needs only the standard library.
"""

import argparse
import keyword
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
OLD = "ngram_mlp"
LONGEST_NAME = 24  # keeps lines within their limit
TAKEN = {OLD, "multistep", "runlab", "torch", "tests", "scripts", "configs", "benchmarks", *sys.stdlib_module_names}
# Environments, and the output of runs and builds.
LEFT_ALONE = {".git", ".venv", ".venv-jax", ".hypothesis", "runs", "build", "dist"}
SUFFIXES = {".py", ".md", ".toml", ".yaml", ".yml", ".ipynb", ".json", ".in", ".txt", ""}

OF_THE_TEMPLATE = ["scripts/adopt.py", "tests/test_template.py", "CITATION.cff"]
# What the documents and the Makefile say about these files.
ABOUT_THEM = {
    "README.md": r" `make adopt [^.]*\.",
    "docs/installing.md": r"## A project of your own\n(.*\n)*?(?=## )",
    "docs/reliability.md": r"- .*`tests/test_template\.py`.*\n",
    "Makefile": r"^adopt:.*\n(\t.*\n)*\n|(?<= )adopt ",
}


def main() -> None:
    """Adopts the project that contains this script."""
    about = (__doc__ or "").partition("\n\n")[2]
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--name", required=True, help="The name of the package, as it is imported.")
    add("--owner", default="OWNER", help="The owner of the GitHub repository.")
    options = parser.parse_args()
    try:
        refuse_name(options.name)
        refuse_uncommitted_changes(PROJECT)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    adopt(PROJECT, options.name, options.owner)
    print(f"{OLD} is now {options.name}. Next: `make lint test`, write your README.md, and commit.")


def refuse_name(name: str) -> None:
    """Raises a ValueError if a package cannot have this name."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name) or name in TAKEN:
        raise ValueError(f"NAME={name}: give a new package name of lowercase letters, digits and _, such as my_project")
    if len(name) > LONGEST_NAME:
        raise ValueError(f"NAME={name}: give a name of at most {LONGEST_NAME} characters")


def refuse_uncommitted_changes(project: Path) -> None:
    """Raises a ValueError if the project is a git repository with uncommitted changes."""
    if not (project / ".git").exists():
        return
    git = ["git", "-C", str(project), "status", "--porcelain"]
    if subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip():
        raise ValueError("there are uncommitted changes; commit them first, so that nothing is lost")


def adopt(project: Path, name: str, owner: str) -> None:
    """Renames a project, and removes what concerns only the template."""
    pyproject = (project / "pyproject.toml").read_text(encoding="utf-8")
    version = re.findall(r'^version = "(.*)"', pyproject, flags=re.MULTILINE)[0]
    texts = dict(sources(project))
    for one in OF_THE_TEMPLATE:
        (project / one).unlink(missing_ok=True)
        texts.pop(project / one, None)
    for path, text in texts.items():
        changed = renamed(text, name, owner)
        if path.name in ("pyproject.toml", "__init__.py"):
            changed = re.sub(r'^(version|__version__) = ".*"', r'\1 = "0.1.0"', changed, flags=re.MULTILINE)
        if changed != text:
            path.write_text(changed, encoding="utf-8")
    for file, what in ABOUT_THEM.items():
        if (project / file).exists():
            text = (project / file).read_text(encoding="utf-8")
            (project / file).write_text(re.sub(what, "", text, flags=re.MULTILINE), encoding="utf-8")
    (project / "src" / OLD).rename(project / "src" / name)
    begun = f"# Changelog\n\n## 0.1.0 (unreleased)\n\n- Started from {OLD} {version} by `make adopt NAME={name}`.\n"
    (project / "CHANGELOG.md").write_text(begun, encoding="utf-8")


def sources(project: Path) -> Iterator[tuple[Path, str]]:
    """Yields the project's own text files, with their content."""
    for path in sorted(project.rglob("*")):
        parts = path.relative_to(project).parts
        left = parts[0] in LEFT_ALONE or any(part.endswith((".egg-info", "cache__", "_cache")) for part in parts)
        if path.is_file() and not left and path.suffix in SUFFIXES and parts != ("data", "names.txt"):
            with suppress(UnicodeDecodeError):  # a binary file
                yield path, path.read_text(encoding="utf-8")


def renamed(text: str, name: str, owner: str) -> str:
    """Returns the text with the names of package, distribution, environment variables and owner replaced."""
    text = re.sub(r"(github(?:\.com)?)/OWNER/", rf"\1/{owner}/", text)
    for old, new in ((OLD, name), (OLD.replace("_", "-"), name.replace("_", "-")), (OLD.upper(), name.upper())):
        text = text.replace(old, new)
    return text


if __name__ == "__main__":
    main()
