"""Mutants of a module: its source with one small thing wrong in one of the named functions or constants.

Messages of errors are left alone: they decide nothing, and the tests of the messages look at them.
"""

from __future__ import annotations

import ast
import copy
import inspect
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import ModuleType

FLIPPED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}


@dataclass(frozen=True)
class Mutant:
    """A module with one thing wrong."""

    name: str
    """Which function or constant, what stood there, what stands there now."""
    tree: ast.Module

    def namespace(self, module: ModuleType) -> dict[str, Any]:
        """The names of the mutated module."""
        names = {"__name__": module.__name__}
        exec(compile(self.tree, self.name, "exec"), names)  # noqa: S102 - our own source
        return names


def mutants_of(module: ModuleType, where: Iterable[str]) -> Iterator[Mutant]:
    """Every mutant in the functions and constants named."""
    tree = ast.parse(inspect.getsource(module))
    for name in where:
        (place,) = [at for at, node in enumerate(tree.body) if _name_of(node) == name]
        for index, node in enumerate(_nodes(tree.body[place])):
            for what, changed in _changes(node):
                mutated = copy.deepcopy(tree)
                _put(mutated.body[place], _nodes(mutated.body[place])[index], changed)
                if ast.dump(mutated) != ast.dump(tree):
                    yield Mutant(f"{name}: {what}", ast.fix_missing_locations(mutated))


def _name_of(node: ast.stmt) -> str | None:
    if isinstance(node, ast.FunctionDef):
        return node.name
    target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
    return target.id if isinstance(target, ast.Name) else None


def _text(node: ast.AST) -> str:
    text = ast.unparse(node)
    return text if len(text) < 100 else f"{text[:60]} … {text[-30:]}"


def _nodes(root: ast.AST) -> list[ast.AST]:
    """Nodes that may change, in a fixed order: no annotations, no docstrings, nothing below a raise."""
    found: list[ast.AST] = []

    def visit(node: ast.AST) -> None:
        found.append(node)
        if isinstance(node, ast.Raise):
            return
        for field, value in ast.iter_fields(node):
            if field in {"annotation", "returns", "args"} and isinstance(node, ast.FunctionDef | ast.AnnAssign):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not _is_docstring(child):
                    visit(child)

    visit(root)
    return found


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What is changed, and what then stands in place of a node."""
    if isinstance(node, ast.FunctionDef):
        yield from _without_a_rule(node)
        yield from _rules_swapped(node)
        return
    for changed in (*_wrong_conditions(node), *_wrong_values(node), *_wrong_statements(node)):
        yield f"{_text(node)} -> {_text(changed)}", changed


def _wrong_conditions(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.If | ast.IfExp):
        for value in (True, False):
            changed = copy.deepcopy(node)
            changed.test = ast.Constant(value)
            yield changed
    if isinstance(node, ast.comprehension):
        for at in range(len(node.ifs)):
            for value in (True, False):
                changed = copy.deepcopy(node)
                changed.ifs[at] = ast.Constant(value)
                yield changed


def _wrong_values(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(ops=[op]):
            for other in FLIPPED[type(op)]:
                yield ast.Compare(node.left, [other()], node.comparators)
        case ast.BoolOp(values=values):
            yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), values)
            yield from values
        case ast.UnaryOp(operand=operand):
            yield operand
        case ast.BinOp(op=ast.Div()):
            yield ast.BinOp(node.left, ast.Mult(), node.right)
        case ast.Constant(value=str(text)) if text:
            yield ast.Constant(f"{text}x")
        case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
            yield from (ast.Constant(node.value + step) for step in (1, -1))
        case ast.Tuple(elts=[_, _, *_]) | ast.Set(elts=[_, _, *_]):
            yield from _shuffled(node)


def _wrong_statements(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Return):
        yield ast.Return(ast.Constant(None))
    if isinstance(node, ast.Raise):
        yield ast.Pass()


def _shuffled(node: ast.Tuple | ast.Set) -> Iterator[ast.AST]:
    """One element less; of a tuple also two neighbours the other way round."""
    elements = node.elts
    for at in range(len(elements)):
        less = [element for number, element in enumerate(elements) if number != at]
        yield ast.Tuple(less, ast.Load()) if isinstance(node, ast.Tuple) else ast.Set(less)
    for at in range(len(elements) - 1 if isinstance(node, ast.Tuple) else 0):
        swapped = [*elements[:at], elements[at + 1], elements[at], *elements[at + 2 :]]
        yield ast.Tuple(swapped, ast.Load())


def _without_a_rule(function: ast.FunctionDef) -> Iterator[tuple[str, ast.FunctionDef]]:
    for at, statement in enumerate(function.body):
        if isinstance(statement, ast.If | ast.For):
            changed = copy.deepcopy(function)
            changed.body[at] = ast.Pass()
            yield f"without {_head(statement)}", changed


def _rules_swapped(function: ast.FunctionDef) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Each rule (`if … return`) before each earlier one; what is computed for it comes along."""
    rules = [at for at, statement in enumerate(function.body) if isinstance(statement, ast.If)]
    for first, second in itertools.combinations(rules, 2):
        changed = copy.deepcopy(function)
        between = changed.body[first : second + 1]
        computed = [statement for statement in between[:-1] if not isinstance(statement, ast.If)]
        earlier = [statement for statement in between[:-1] if isinstance(statement, ast.If)]
        changed.body[first : second + 1] = [*computed, between[-1], *earlier]
        yield f"{_head(function.body[second])} before {_head(function.body[first])}", changed


def _head(statement: ast.stmt) -> str:
    return ast.unparse(statement).splitlines()[0]


def _put(root: ast.AST, old: ast.AST, new: ast.AST) -> None:
    """Put a node in another's place; the root itself is changed from within."""
    if old is root:
        vars(root).update(vars(copy.deepcopy(new)))
        return
    for parent in ast.walk(root):
        for field, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, field, copy.deepcopy(new))
                return
            if isinstance(value, list) and any(child is old for child in value):
                value[[child is old for child in value].index(True)] = copy.deepcopy(new)
                return
