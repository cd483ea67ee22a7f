"""Reads `--config` files before the parser does, so that a mistake in one gives a one-line error."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from runlab._errors import UserError, shortened
from runlab._options import flattened

REMEDY = "give a YAML file with the values that differ from the defaults, such as `model: {init_args: {n_hidden: 300}}`"


class Setting(NamedTuple):
    """A line of a configuration file."""

    file: str
    option: str
    value: str


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """PyYAML's safe loader, except that it refuses a duplicate key instead of taking the last."""

    def compose_mapping_node(self, anchor: Any) -> Any:  # before keys are merged
        node = super().compose_mapping_node(anchor)
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        if twice := next((key for number, key in enumerate(keys) if key in keys[:number]), None):
            raise ValueError(f"{shortened(str(twice))} appears twice in one group; remove one")
        return node


def read_configuration(path: str) -> dict[str, Any]:
    """Returns the content of a configuration file by option; raises a UserError if it is not such a file."""
    try:
        content = yaml.load(Path(path).read_bytes().decode("utf-8-sig"), _Loader)  # a SafeLoader
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror}); give another file", config=path) from error
    except UnicodeDecodeError as error:
        raise UserError(f"byte {error.start} is not UTF-8; save the file as UTF-8 text", config=path) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"is not valid YAML ({shortened(' '.join(str(error).split()), 200)})", config=path) from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"contains no options; {REMEDY}", config=path)
    return content


def setting_of(key: str, files: Iterable[str]) -> Setting | None:
    """Returns what the last of these files that does so sets an option to, given by its last words."""
    found = None
    for file in files:
        with suppress(UserError):
            settings = (Setting(file, option, str(value)) for option, value in flattened(read_configuration(file)))
            found = next((one for one in settings if f".{one.option}".endswith(f".{key}")), found)
    return found
