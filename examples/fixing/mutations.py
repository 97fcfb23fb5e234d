"""Mutations: every small change of a file that may undo a small mistake.

Each rule looks at one node and yields edits. The number beside a rule says how often, of equally suspicious places,
it is worth trying first: changes that undo a typical slip stand above those that only sometimes make sense.
"""

import ast
from collections.abc import Callable, Iterator
from itertools import pairwise

from fixing.edits import Edit, Patch, Source

Function = ast.FunctionDef | ast.AsyncFunctionDef

COMPARISONS: dict[type[ast.cmpop], tuple[str, tuple[str, ...]]] = {
    ast.Lt: ("<", ("<=", ">")),
    ast.LtE: ("<=", ("<", ">=")),
    ast.Gt: (">", (">=", "<")),
    ast.GtE: (">=", (">", "<=")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: ("not in", ("in",)),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: ("is not", ("is",)),
}
OPERATORS: dict[type[ast.operator], tuple[str, tuple[str, ...]]] = {
    ast.Add: ("+", ("-", "*")),
    ast.Sub: ("-", ("+",)),
    ast.Mult: ("*", ("+", "/", "**")),
    ast.Div: ("/", ("//", "*")),
    ast.FloorDiv: ("//", ("/", "%")),
    ast.Mod: ("%", ("//",)),
    ast.Pow: ("**", ("*",)),
    ast.BitAnd: ("&", ("|",)),
    ast.BitOr: ("|", ("&", "^")),
    ast.BitXor: ("^", ("&", "|")),
    ast.LShift: ("<<", (">>",)),
    ast.RShift: (">>", ("<<",)),
}
NOT_COMMUTATIVE = (ast.Sub, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.LShift, ast.RShift)
TIGHT = (ast.Name, ast.Constant, ast.Call, ast.Attribute, ast.Subscript)
TWINS = {"min": "max", "any": "all", "floor": "ceil", "append": "extend", "startswith": "endswith"}
TWINS |= {twin: name for name, twin in TWINS.items()}


def other_comparison(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`a < b` becomes `a <= b` or `a > b`."""
    if isinstance(node, ast.Compare):
        for (left, right), operator in zip(pairwise([node.left, *node.comparators]), node.ops, strict=True):
            old, others = COMPARISONS[type(operator)]
            for new in others:
                yield from source.operators(left, right, old, new)


def other_operator(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`a + b` becomes `a - b`, and `a += b` becomes `a -= b`."""
    if isinstance(node, ast.BinOp):
        left, right, suffix = node.left, node.right, ""
    elif isinstance(node, ast.AugAssign):
        left, right, suffix = node.target, node.value, "="
    else:
        return
    old, others = OPERATORS.get(type(node.op), ("", ()))
    for new in others:
        yield from source.operators(left, right, old + suffix, new + suffix)


def other_boolean(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`a and b` becomes `a or b`."""
    if isinstance(node, ast.BoolOp):
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in pairwise(node.values):
            yield from source.operators(left, right, old, new)


def other_constant(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`1` becomes `2` or `0`, and `True` becomes `False`."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield source.replace(node, str(not node.value))
        elif isinstance(node.value, int):
            yield source.replace(node, str(node.value + 1))
            yield source.replace(node, str(node.value - 1))


def without_one(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`n - 1` becomes `n`."""
    match node:
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as op, right=ast.Constant(value=1) as right):
            for operator, _, _ in source.operators(left, right, OPERATORS[type(op)][0], ""):
                yield source.replace(node, source.between(source.start(node), operator).rstrip())


def one_more_or_less(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`xs[i]` becomes `xs[i + 1]` or `xs[i - 1]`: in indices, slices, ranges, results and what is assigned."""
    for place in _counting_places(node):
        if isinstance(place, ast.Name | ast.BinOp | ast.Call | ast.Attribute | ast.Subscript):
            for change in (" + 1", " - 1"):
                yield source.end(place), source.end(place), change


def _counting_places(node: ast.AST) -> list[ast.expr]:
    """The operands where counting from the wrong end, or up to it, goes wrong."""
    match node:
        case ast.Subscript(slice=ast.Slice(lower=lower, upper=upper)):
            return [bound for bound in (lower, upper) if bound]
        case ast.Subscript(slice=index):
            return [index]
        case ast.Call(func=ast.Name(id="range"), args=args):
            return args
        case ast.Assign(value=value) | ast.Return(value=ast.expr() as value):
            return [value] if isinstance(value, ast.Name | ast.BinOp) else []
    return []


def swapped_arguments(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`f(a, b)` becomes `f(b, a)`."""
    if isinstance(node, ast.Call):
        for left, right in pairwise(node.args):
            if not isinstance(left, ast.Starred) and not isinstance(right, ast.Starred):
                yield source.exchange(left, right)


def swapped_operands(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`a - b` becomes `b - a`."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, NOT_COMMUTATIVE):
        gap = source.between(source.end(node.left), source.start(node.right))
        # A node's own text leaves its parentheses out: whatever could bind differently gets new ones.
        left, right = (
            source.text(side) if isinstance(side, TIGHT) else f"({source.text(side)})"
            for side in (node.left, node.right)
        )
        yield source.start(node.left), source.end(node.right), right + gap + left


def negation(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`if a` becomes `if not a`, and `not a` becomes `a`."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield source.start(node), source.start(node.operand), ""
    elif isinstance(node, ast.If | ast.While | ast.IfExp) and isinstance(node.test, ast.Name | ast.Call):
        yield source.start(node.test), source.start(node.test), "not "


def twin_function(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`min(...)` becomes `max(...)`."""
    if isinstance(node, ast.Call):
        name = node.func
        if isinstance(name, ast.Name) and name.id in TWINS:
            yield source.replace(name, TWINS[name.id])
        elif isinstance(name, ast.Attribute) and name.attr in TWINS:
            yield source.end(name) - len(name.attr), source.end(name), TWINS[name.attr]


def missing_return(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`f(x)` becomes `return f(x)`, and a function that ends without a result returns one of its variables."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call | ast.BinOp | ast.Name | ast.Await):
        yield source.start(node), source.start(node), "return "
    if isinstance(node, Function) and not isinstance(node.body[-1], ast.Return | ast.Raise):
        last = node.body[-1]
        indent = source.between(source.line_start(last.lineno), source.start(last))
        if not indent.strip():
            for name in _names(node, ast.Store):
                yield source.end(last), source.end(last), f"\n{indent}return {name}"


def other_variable(source: Source, node: ast.AST) -> Iterator[Edit]:
    """In a function, one of its variables becomes another."""
    if isinstance(node, Function):
        names = [argument.arg for argument in node.args.args] + _names(node, ast.Store)
        for use in nodes(node):
            if isinstance(use, ast.Name) and isinstance(use.ctx, ast.Load) and use.id in names:
                yield from (source.replace(use, name) for name in dict.fromkeys(names) if name != use.id)


def deletion(source: Source, node: ast.AST) -> Iterator[Edit]:
    """A statement goes."""
    for block in _blocks(node):
        for statement in filter(_movable, block):
            lines = source.whole_lines(statement)
            yield (*lines, "") if lines and len(block) > 1 else source.replace(statement, "pass")


def exchange(source: Source, node: ast.AST) -> Iterator[Edit]:
    """Two neighbouring statements change places; it can only matter where they name a common variable."""
    for block in _blocks(node):
        for first, second in pairwise(block):
            if _movable(first) and _movable(second) and {*_names(first)} & {*_names(second)}:
                yield source.exchange(first, second)


Rule = Callable[[Source, ast.AST], Iterator[Edit]]
RULES: dict[Rule, float] = {
    missing_return: 1.0,
    other_comparison: 1.0,
    other_operator: 0.9,
    other_boolean: 0.9,
    swapped_arguments: 0.9,
    without_one: 0.85,
    other_constant: 0.8,
    swapped_operands: 0.8,
    twin_function: 0.8,
    exchange: 0.8,
    one_more_or_less: 0.7,
    negation: 0.7,
    deletion: 0.5,
    other_variable: 0.4,
}


def mutate(code: str) -> list[tuple[Patch, float]]:
    """Return every patch of one mutation, each text once, with the weight of its rule.

    Raises:
        SyntaxError: The code cannot be parsed, so there is nothing to mutate.
    """
    source = Source(code)
    found: dict[Edit, tuple[Patch, float]] = {}
    for node in nodes(source.tree):
        for rule, weight in RULES.items():
            for edit in rule(source, node):
                found.setdefault(edit, (Patch(edit, rule.__name__.replace("_", " "), *source.lines(edit)), weight))
    return list(found.values())


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk what runs: no annotations, no decorators, and no f-strings, whose positions Python 3.11 gets wrong."""
    yield tree
    for name, value in ast.iter_fields(tree):
        if name not in {"annotation", "returns", "decorator_list", "type_params"}:
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):
                    yield from nodes(child)


def _blocks(node: ast.AST) -> list[list[ast.stmt]]:
    blocks = [getattr(node, name, None) for name in ("body", "orelse", "finalbody")]
    return [block for block in blocks if isinstance(block, list)]


def _movable(node: ast.stmt) -> bool:
    """Tell whether a statement does something where it stands: no definition, no import, no docstring."""
    if isinstance(node, ast.Expr):
        return not isinstance(node.value, ast.Constant)
    return not isinstance(node, Function | ast.ClassDef | ast.Import | ast.ImportFrom | ast.Pass)


def _names(tree: ast.AST, context: type[ast.expr_context] = ast.expr_context) -> list[str]:
    """List the variables a piece of code uses in a context, each once, in the order of the text."""
    uses = (node for node in nodes(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, context))
    return list(dict.fromkeys(node.id for node in uses))
