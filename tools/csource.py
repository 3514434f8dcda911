"""Reads C just well enough to count and to compare: comments, functions, parameters, includes.

It is no parser. Comments, literals and preprocessor lines are blanked with every byte's place kept,
and what is left is cut at braces and semicolons. That is exact for code that clang-format laid out.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

TOKEN = re.compile(
    r"""(?P<block>/\*.*?\*/)|(?P<line>//[^\n]*)|(?P<string>"(?:\\.|[^"\\\n])*")"""
    r"""|(?P<char>'(?:\\.|[^'\\\n])+')""",
    re.S | re.X)
DIRECTIVE = re.compile(r"^[ \t]*#(?:[^\n\\]|\\\n|\\.)*", re.M)
CPLUSPLUS = re.compile(r"^[ \t]*#ifdef __cplusplus\n.*?^[ \t]*#endif", re.M | re.S)
ATTRIBUTE = re.compile(r"__attribute__\s*\(\(")
NAME_BEFORE_PAREN = re.compile(r"([A-Za-z_]\w*)\s*\(")
POINTER = re.compile(r"\(\s*\*\s*(?:const\s+)?(\w+)\s*\)\s*\(")


@dataclass
class Comment:
    text: str
    first: int
    last: int

    def words(self):
        """The text without its stars, as one line."""
        body = re.sub(r"^[ \t]*\*(?!/) ?", "", self.text[2:-2], flags=re.M)
        return " ".join(body.split())


@dataclass
class Function:
    name: str
    head: str  # all that stands before the parameters
    parameters: list
    first: int
    last: int
    body: str = ""  # blanked; empty for a declaration
    body_first: int = 0

    @property
    def is_static(self):
        return re.search(r"\bstatic\b", self.head) is not None


@dataclass
class Source:
    path: Path
    text: str
    code: str = ""  # without comments and literals
    bare: str = ""  # without directives either
    comments: list = field(default_factory=list)
    definitions: list = field(default_factory=list)
    declarations: list = field(default_factory=list)
    pointers: list = field(default_factory=list)  # (name, parameters, line)

    @property
    def lines(self):
        return self.text.splitlines()

    def line_at(self, offset):
        return self.text.count("\n", 0, offset) + 1

    def includes(self):
        """Yields (name, is_quoted, line) of every include."""
        for match in re.finditer(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', self.text, re.M):
            yield match[2], match[1] == '"', self.line_at(match.start())

    def comment_before(self, line):
        """The comment that ends on the line before, or None."""
        for comment in self.comments:
            if comment.last == line - 1:
                return comment
        return None

    def excuse(self, line, first=None):
        """The reason of a `tidy: …` comment on the line, just above it, or within first..line."""
        for comment in self.comments:
            near = comment.last == line - 1 or comment.first <= line <= comment.last
            inside = first is not None and first <= comment.first <= line
            if near or inside:
                match = re.search(r"\btidy:\s*(\S.*)", comment.words())
                if match:
                    return match[1]
        return None


def blank(text):
    return re.sub(r"[^\n]", " ", text)


def strip_text(source):
    def replace(match):
        if match["block"] or match["line"]:
            first = source.line_at(match.start())
            source.comments.append(Comment(match[0], first, first + match[0].count("\n")))
            return blank(match[0])
        quote = match[0][0]
        return quote + blank(match[0][1:-1]) + quote
    return TOKEN.sub(replace, source.text)


def closing(text, start, pair):
    """The offset behind the partner of the bracket at `start`."""
    depth = 0
    for offset in range(start, len(text)):
        if text[offset] == pair[0]:
            depth += 1
        elif text[offset] == pair[1]:
            depth -= 1
            if depth == 0:
                return offset + 1
    return len(text)


def strip_attributes(text):
    while True:
        match = ATTRIBUTE.search(text)
        if not match:
            return text
        end = closing(text, text.index("(", match.start()), "()")
        text = text[:match.start()] + blank(text[match.start():end]) + text[end:]


def split_parameters(text):
    parts, depth, start = [], 0, 0
    for offset, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append(text[start:offset])
            start = offset + 1
    parts.append(text[start:])
    parts = [" ".join(part.split()) for part in parts]
    return [part for part in parts if part not in ("", "void", "...")]


def read_head(source, start, end):
    """The function whose head lies in bare[start:end], or None when it is something else."""
    head = strip_attributes(source.bare[start:end])
    found = None
    offset = 0
    while True:
        match = NAME_BEFORE_PAREN.search(head, offset)
        if not match:
            break
        offset = closing(head, match.end() - 1, "()")
        if head[offset:].strip() == "":
            found = match, offset
    if not found or "=" in head[:found[0].start()] or not head[:found[0].start()].strip():
        return None
    match, offset = found
    before = head[:match.start()]
    if re.search(r"\b(typedef|return|else)\b", before):
        return None
    first = source.line_at(start + len(head) - len(head.lstrip()))
    return Function(match[1], before, split_parameters(head[match.end():offset - 1]), first,
                    source.line_at(end))


def cut(source):
    """Fills definitions and declarations from the text between top-level braces and semicolons."""
    text = source.bare
    start = offset = 0
    while offset < len(text):
        character = text[offset]
        if character == "(":
            offset = closing(text, offset, "()")
            continue
        if character == ";":
            function = read_head(source, start, offset)
            if function:
                source.declarations.append(function)
            start = offset = offset + 1
            continue
        if character == "{":
            end = closing(text, offset, "{}")
            function = read_head(source, start, offset)
            if function:
                function.body = text[offset:end]
                function.body_first = source.line_at(offset)
                function.last = source.line_at(end - 1)
                source.definitions.append(function)
                start = end
            offset = end
            continue
        offset += 1


def read(path, text):
    source = Source(path, text)
    source.code = strip_text(source)
    source.bare = DIRECTIVE.sub(lambda match: blank(match[0]),
                                CPLUSPLUS.sub(lambda match: blank(match[0]), source.code))
    cut(source)
    for match in POINTER.finditer(source.bare):
        end = closing(source.bare, match.end() - 1, "()")
        parameters = split_parameters(source.bare[match.end():end - 1])
        source.pointers.append((match[1], parameters, source.line_at(match.start(1))))
    return source
