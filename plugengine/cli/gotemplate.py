"""A subset of Go's text/template, as `--format` and `inspect -f` use it: parse once, render values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from plugengine.cli.parse.errors import CommandLineError
from plugengine.cli.templatewords import FUNCTIONS, MISSING, Token, show, tokens_of, truth

_HINT: Final = "for example '{{.ID}} {{.Name}}' or '{{json .State}}'; fields, json, index, range, if, len, eq …"
Scope = dict[str, Any]  # variables by name; "$" is the value rendered, "." the current one


class Text(NamedTuple):
    """What stands outside of the braces."""

    text: str


class Call(NamedTuple):
    """One command of a pipeline: a term, or a function and its arguments."""

    terms: tuple[Any, ...]


class Output(NamedTuple):
    """`{{…}}`: a pipeline whose value is shown."""

    pipeline: tuple[Call, ...]


class Field(NamedTuple):
    """`.State.Status`, `$x.Name`, or `.` itself."""

    variable: str
    names: tuple[str, ...]


class Member(NamedTuple):
    """`(…).HostPort`: a field of what parentheses give."""

    term: Any
    names: tuple[str, ...]


class Literal(NamedTuple):
    """A string, number or truth value."""

    value: Any


class Function(NamedTuple):
    """The name of a function."""

    name: str


class Block(NamedTuple):
    """`{{if}}`, `{{with}}` or `{{range}}` up to its `{{end}}`."""

    word: str
    pipeline: tuple[Call, ...]
    variables: tuple[str, ...]
    body: tuple[Any, ...]
    otherwise: tuple[Any, ...]


class Assignment(NamedTuple):
    """`{{$x := …}}`."""

    variable: str
    pipeline: tuple[Call, ...]


class Template:
    """A parsed template.

    Raises:
        CommandLineError: The text is not understood; says where.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._tokens = list(tokens_of(text, self._fail))
        self._position = 0
        self.nodes: tuple[Any, ...]
        try:
            self.nodes, end = self._parse_nodes()
        except RecursionError:
            raise self._fail("nested too deep") from None
        if end is not None:
            raise self._fail(f"{end} without a beginning")

    def render(self, value: Any) -> str:
        """Return the text for a value.

        Raises:
            CommandLineError: It names what is not there, or asks a function for the impossible.
        """
        try:
            return "".join(self._render(self.nodes, {"$": value, ".": value}))
        except RecursionError:
            raise self._fail("nested too deep") from None

    def _fail(self, why: str) -> CommandLineError:
        return CommandLineError(f"--format {self.text}: {why}", hint=_HINT)

    # --- parsing ---------------------------------------------------------------------------------------------

    def _parse_nodes(self) -> tuple[tuple[Any, ...], str | None]:
        """Parse up to the next end or else, and return which."""
        nodes: list[Any] = []
        while self._position < len(self._tokens):
            token = self._tokens[self._position]
            self._position += 1
            if isinstance(token, str):
                nodes.append(Text(token))
                continue
            word = token[0].text if token and token[0].kind == "word" else ""
            if word in ("end", "else"):
                return tuple(nodes), word if word == "end" else " ".join(each.text for each in token)
            if not token:
                continue
            nodes.append(
                self._parse_block(word, token) if word in ("if", "with", "range") else self._parse_plain(token)
            )
        return tuple(nodes), None

    def _parse_plain(self, token: list[Token]) -> Output | Assignment:
        variables, rest = self._split_variables(token)
        if variables:
            return Assignment(variables[0], self._parse_pipeline(rest))
        return Output(self._parse_pipeline(token))

    def _parse_block(self, word: str, token: list[Token]) -> Block:
        variables, rest = self._split_variables(token[1:])
        pipeline = self._parse_pipeline(rest)
        body, end = self._parse_nodes()
        otherwise: tuple[Any, ...] = ()
        if end is not None and end.startswith("else "):
            # {{else if x}}: a block of its own, which takes the end along
            again = next(tokens_of("{{" + end.removeprefix("else ") + "}}", self._fail))
            otherwise = (self._parse_block(again[0].text, again),) if not isinstance(again, str) else ()
            return Block(word, pipeline, variables, body, otherwise)
        if end == "else":
            otherwise, end = self._parse_nodes()
        if end != "end":
            raise self._fail(f"{word} without an end")
        return Block(word, pipeline, variables, body, otherwise)

    @staticmethod
    def _split_variables(token: list[Token]) -> tuple[tuple[str, ...], list[Token]]:
        """Cut `$i, $x :=` off."""
        place = next((index for index, each in enumerate(token) if each.text == ":="), None)
        if place is None:
            return (), token
        return tuple(each.text for each in token[:place] if each.kind == "variable"), token[place + 1 :]

    def _parse_pipeline(self, token: list[Token]) -> tuple[Call, ...]:
        calls: list[Call] = []
        terms: list[Any] = []
        rest = iter(token)
        for each in rest:
            if each.text == "|" and each.kind == "sign":
                calls.append(self._call(terms))
                terms = []
            elif each.kind == "member":
                terms[-1] = Member(terms[-1], tuple(filter(None, each.text.split("."))))
            else:
                terms.append(self._parse_term(each, rest))
        return (*calls, self._call(terms))

    def _call(self, terms: list[Any]) -> Call:
        if not terms:
            raise self._fail("nothing between the braces")
        return Call(tuple(terms))

    def _parse_term(self, token: Token, rest: Iterator[Token]) -> Any:
        if token.kind == "literal":
            return Literal(token.value)
        if token.kind in ("field", "variable"):
            start, *names = token.text.split(".")
            return Field(start or ".", tuple(filter(None, names)))
        if token.text == "(":
            return self._parse_parenthesis(rest)
        if token.kind == "word" and token.text in FUNCTIONS:
            return Function(token.text)
        raise self._fail(f"{token.text} is not understood")

    def _parse_parenthesis(self, rest: Iterator[Token]) -> Any:
        inside: list[Token] = []
        depth = 1
        for each in rest:
            depth += {"(": 1, ")": -1}.get(each.text, 0) if each.kind == "sign" else 0
            if depth == 0:
                return self._parse_pipeline(inside)
            inside.append(each)
        raise self._fail("a parenthesis is not closed")

    # --- rendering -------------------------------------------------------------------------------------------

    def _render(self, nodes: tuple[Any, ...], scope: Scope) -> Iterator[str]:
        for node in nodes:
            if isinstance(node, Text):
                yield node.text
            elif isinstance(node, Output):
                yield show(self._pipeline(node.pipeline, scope))
            elif isinstance(node, Assignment):
                scope[node.variable] = self._pipeline(node.pipeline, scope)
            elif node.word == "range":
                yield from self._render_range(node, scope)
            else:
                yield from self._render_condition(node, scope)

    def _render_condition(self, node: Block, scope: Scope) -> Iterator[str]:
        value = self._pipeline(node.pipeline, scope)
        inner = dict(scope)
        inner.update(dict.fromkeys(node.variables[:1], value))
        if node.word == "with" and truth(value):
            inner["."] = value
        yield from self._render(node.body if truth(value) else node.otherwise, inner)

    def _render_range(self, node: Block, scope: Scope) -> Iterator[str]:
        value = self._pipeline(node.pipeline, scope)
        items: list[tuple[Any, Any]] = []
        if isinstance(value, Mapping):
            items = sorted(value.items())  # as Go does
        elif isinstance(value, list | tuple):
            items = list(enumerate(value))
        elif value is not None and value is not MISSING:
            raise self._fail(f"range over {type(value).__name__}: it holds no items")
        for key, item in items:
            inner = {**scope, ".": item}
            if node.variables:
                inner[node.variables[-1]] = item
            if len(node.variables) > 1:
                inner[node.variables[0]] = key
            yield from self._render(node.body, inner)
        if not items:
            yield from self._render(node.otherwise, dict(scope))

    def _pipeline(self, pipeline: tuple[Call, ...], scope: Scope) -> Any:
        passed: tuple[Any, ...] = ()
        for call in pipeline:
            first, *arguments = call.terms
            if isinstance(first, Function):
                values = [*(self._value(each, scope) for each in arguments), *passed]
                try:
                    passed = (FUNCTIONS[first.name](*values),)
                except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as exc:
                    raise self._fail(f"{first.name}: {exc}") from exc
            elif arguments or passed:
                raise self._fail("only a function takes arguments")
            else:
                passed = (self._value(first, scope),)
        return passed[0]

    def _value(self, term: Any, scope: Scope) -> Any:
        if isinstance(term, Literal):
            return term.value
        if isinstance(term, Function):
            return self._pipeline((Call((term,)),), scope)
        if isinstance(term, Member):
            value = self._value(term.term, scope)
        elif not isinstance(term, Field):
            return self._pipeline(term, scope)
        elif term.variable not in scope:
            raise self._fail(f"there is no variable {term.variable}")
        else:
            value = scope[term.variable]
        for name in term.names:
            value = self._member(value, name)
        return value

    def _member(self, value: Any, name: str) -> Any:
        if isinstance(value, Mapping):
            if name in value:
                return value[name]
            # What docker has as a struct has capitals only; labels, networks and ports are maps, where a key may miss.
            if not (name[:1].isupper() and value and all(str(each)[:1].isupper() for each in value)):
                return MISSING
            import difflib

            close = difflib.get_close_matches(name, [str(each) for each in value], n=1)
            guess = f", did you mean .{close[0]}?" if close else f"; there are {', '.join(map(str, value))}"
            raise self._fail(f"there is no .{name}{guess}")
        if value is None or value is MISSING:
            return MISSING
        raise self._fail(f".{name} of {type(value).__name__}: it has no fields")


def columns_of(template: Template) -> list[str]:
    """Return the names of the fields a template shows, in order."""
    found: list[str] = []
    for node in template.nodes:
        if isinstance(node, Output):
            terms = [term for call in node.pipeline for term in call.terms]
            found += [term.names[-1] for term in terms if isinstance(term, Field) and term.names]
    return found
