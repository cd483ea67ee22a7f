"""Changes a traced graph where the compiler takes something for granted or makes a mistake."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from multistep._errors import CannotFuseError

aten = torch.ops.aten
# Operators whose index inductor does not check, or counts from the end if it is negative.
UNCHECKED = {aten.scatter, aten.index_add, aten.index_copy}
UNCHECKED |= {getattr(aten, f"{packet.__name__}_") for packet in UNCHECKED}
# Operators that the compiler may drop, so that their result is in their argument's memory; schemas identify views.
COPYING = {aten.clone, aten.alias, aten.lift_fresh_copy, aten.detach, aten._to_copy, aten.cat, aten.constant_pad_nd}
COPYING |= {aten.slice_scatter, aten.select_scatter, torch.ops.prims.convert_element_type, aten.expand}


def check_indices(graph: GraphModule) -> None:
    """Inserts checks of indices before operators that do not check them.

    Raises a CannotFuseError if an operator has no result but an effect, such as an assertion, or if one converts
    to int8: compiled code would leave out the one, and do the other otherwise.
    """
    for node in list(graph.graph.nodes):
        schema = getattr(node.target, "_schema", None)
        if schema and schema.name.startswith("aten::") and not (schema.returns or schema.is_mutable):
            raise CannotFuseError(f"compiled code would leave out {node.target}")
        to = node.kwargs.get("dtype") if node.target is aten._to_copy.default else None
        if to is torch.int8 and node.args[0].meta["val"].is_floating_point():
            raise CannotFuseError("compiled code converts numbers beyond its range to int8 otherwise")
        if getattr(node.target, "overloadpacket", None) in UNCHECKED:
            x, dim, index, *rest = node.args
            shape = x.meta["val"].shape
            with graph.graph.inserting_before(node):
                within = graph.graph.call_function(
                    torch.ops.multistep.within.default, (index, shape[dim] if len(shape) else 1)
                )
            node.args = (x, dim, within, *rest)
    graph.recompile()


def lifted_constants(graph: GraphModule) -> list[Tensor]:
    """Turns the tensors that a graph holds, besides parameters and buffers, into its last inputs, and returns them."""
    last = [node for node in graph.graph.nodes if node.op == "placeholder"][-1]
    lifted: dict[str, Node] = {}
    for node in [node for node in graph.graph.nodes if node.op == "get_attr"]:
        if node.target not in lifted:
            with graph.graph.inserting_after(last):
                last = lifted[node.target] = graph.graph.placeholder(node.target)
        node.replace_all_uses_with(lifted[node.target])
        graph.graph.erase_node(node)
    if {*lifted.values()} & {*_written_in(graph)}:
        raise CannotFuseError("an update changes a tensor that is no parameter, buffer or optimizer state")
    constants = [getattr(graph, name).detach().clone() for name in lifted]
    for name in lifted:
        delattr(graph, name)
    graph.recompile()
    return constants


def _written_in(graph: GraphModule) -> Iterator[Node]:
    """Yields the nodes whose memory the operators of a graph write to, directly or through views."""
    for node in graph.graph.nodes:
        arguments = getattr(getattr(node.target, "_schema", None), "arguments", ())
        for number, argument in enumerate(arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            value = node.args[number] if number < len(node.args) else node.kwargs.get(argument.name)
            for each in value if isinstance(value, (list, tuple)) else [value]:
                while isinstance(each, Node):
                    yield each
                    each = each.args[0] if getattr(each.target, "is_view", False) else None


def read_before_written(graph: GraphModule) -> None:
    """Makes a graph read the inputs that it copies to other inputs before it writes anything.

    The graph ends with copies to its inputs. Torch 2.13 drops a clone that seems to have no effect; a copy from an
    input that an earlier copy has written then takes the new value.
    """
    copies = [node for node in graph.graph.nodes if node.target is aten.copy_.default]
    written = {target for node in copies for target in _inputs_of(node.args[0])}
    for node in copies:
        target, source = node.args[:2]
        if isinstance(source, Node) and source is not target and written & {*_inputs_of(source)}:
            with graph.graph.inserting_before(copies[0]):
                value = graph.graph.call_function(aten.maximum.default, (source, source))  # equal to it, even for nan
            value.meta["val"] = source.meta["val"]
            node.args = (target, value, *node.args[2:])
    graph.recompile()


def _inputs_of(node: Node) -> Iterator[Node]:
    """Yields the inputs of the graph whose memory a node's value may share."""
    if node.op == "placeholder":
        yield node
    elif getattr(node.target, "overloadpacket", None) in COPYING or getattr(node.target, "is_view", False):
        for argument in node.all_input_nodes:
            yield from _inputs_of(argument)
