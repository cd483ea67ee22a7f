"""A file for `--config`, read before the parser reads it, so that what no run could mean is one line."""

import stat
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from ngram_mlp.errors import UserError, shortened

LARGEST_FILE = 2**20
LARGEST_TREE = 10_000  # values, an alias counted as often as it stands for others
REMEDY = "give a YAML file with what differs from the default, such as `model: {init_args: {n_hidden: 300}}`"


def read_configuration(path: str) -> dict[str, Any]:
    """What a configuration file holds, by option; raises a UserError where it is no file of that kind."""
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST_FILE:
            raise UserError(f"is not a regular file of at most {LARGEST_FILE:,} bytes; {REMEDY}", config=path)
        text = Path(path).read_bytes().decode("utf-8-sig")
        _weigh(yaml.compose(text, yaml.SafeLoader), {}, path)
        content = yaml.safe_load(text)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror}); give another", config=path) from error
    except UnicodeDecodeError as error:
        raise UserError(f"byte {error.start} is not UTF-8; save the file as UTF-8 text", config=path) from error
    except RecursionError as error:
        raise UserError(f"is nested too deep; {REMEDY}", config=path) from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"is no YAML ({shortened(' '.join(str(error).split()), 200)})", config=path) from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"holds no options; {REMEDY}", config=path)
    return content


def _weigh(node: Any, sizes: dict[int, int | None], path: str) -> int:
    """How many values a node stands for; raises a UserError where they are too many, or where a key is there twice."""
    if node is None:
        return 0
    if id(node) in sizes:
        if (known := sizes[id(node)]) is None:
            raise UserError(f"line {node.start_mark.line + 1} contains itself; {REMEDY}", config=path)
        return known
    sizes[id(node)], size = None, 1
    if isinstance(node, yaml.MappingNode):
        keys = Counter(str(key.value) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge")
        for key, times in keys.most_common(1):
            if times > 1:
                raise UserError(f"has {shortened(key)} twice in one group; leave one of them", config=path)
        children = [child for pair in node.value for child in pair]
    else:
        children = node.value if isinstance(node, yaml.SequenceNode) else []
    for child in children:
        size += _weigh(child, sizes, path)
        if size > LARGEST_TREE:
            raise UserError(f"holds more than {LARGEST_TREE:,} values; {REMEDY}", config=path)
    sizes[id(node)] = size
    return size
