"""Tokens to HTML that can be trusted. What the parser made goes through nh3 with a strict allow list; the frames of
code (figure, button, icon), which no message may write, are put in after that. Nothing else marks Markdown safe, but
for lines that have no character by which HTML or Markdown means anything."""

from __future__ import annotations

import re
from collections.abc import MutableMapping, Sequence
from html import escape
from typing import Any

import nh3
from django.utils.safestring import SafeString, mark_safe
from markdown_it.common.utils import unescapeAll
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict

from conversations.markdown.code import CODE_CLASSES, Highlighter, figure, parse_info
from conversations.markdown.math import MATHML_ATTRIBUTES, MATHML_TAGS, to_mathml
from conversations.markdown.parser import MAX_NESTING, parser

Env = MutableMapping[str, Any]

MAX_MATH = 20_000  #: characters of LaTeX in one message, 7 µs each; formulas after that are shown as source

_HEADING_SHIFT = 2  #: the page has its own h1, and h2 for what is around the thread
_ALIGNMENT = {"text-align:left": "l", "text-align:center": "c", "text-align:right": "n"}
_PROSE_TAGS = {
    *(
        "a",
        "blockquote",
        "br",
        "code",
        "data",
        "div",
        "em",
        "h3",
        "h4",
        "h5",
        "h6",
        "hr",
        "input",
        "li",
        "ol",
        "p",
    ),
    *("pre", "s", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul"),
}

_prose = nh3.Cleaner(
    tags=_PROSE_TAGS | MATHML_TAGS,
    attributes={
        "a": {"href", "title"},
        "data": {"value"},
        "input": {"checked", "disabled"},
        "ol": {"start"},
        **MATHML_ATTRIBUTES,
    },
    tag_attribute_values={
        "input": {"type": {"checkbox"}, "aria-label": {"Done", "Not done"}},
        "pre": {"tabindex": {"0"}},
        "th": {"scope": {"col"}},
    },
    allowed_classes={
        "div": {"wide"},
        "li": {"task"},
        "math": {"math-block"},
        "pre": {"plain"},
        "td": set(_ALIGNMENT.values()),
        "th": set(_ALIGNMENT.values()),
    },
    set_tag_attribute_values={"a": {"target": "_blank"}},
    link_rel="noopener noreferrer nofollow",
    url_schemes={"http", "https", "mailto"},
    url_relative="deny",
)
_code = nh3.Cleaner(tags={"span"}, attributes={}, allowed_classes={"span": set(CODE_CLASSES)}, link_rel=None)
#: What sentences do not have. By the rest Markdown means nothing in a line that begins with a letter. Two slashes may
#: be a URL's.
_NO_PROSE = re.compile(r"""[^\w .,;:!?'"()%+=#/\u2013\u2014\u2018\u2019\u201c\u201d\u2026-]|_|//""")
_SLOT = re.compile(r'<data value="([0-9]+)"></data>')


class Renderer:
    """Renders the blocks of one message in order. They share link definitions and an allowance for colours and math."""

    def __init__(self) -> None:
        self._env: dict[str, Any] = {"highlighter": Highlighter(), "math_left": MAX_MATH}

    def define_links(self, text: str) -> None:
        """Learn the `[name]: url` lines of a block, so that text before it can use them."""
        if "]:" in text:
            parser().block.parse(text, parser(), self._env, [])

    def render(self, text: str) -> SafeString:
        """One or more whole blocks of Markdown; shown as plain text if they nest too deep to be parsed."""
        if _is_prose(line := text.rstrip(" \n")):
            return mark_safe(f"<p>{line}</p>\n")
        try:
            html, figures = self._render(text)
        except (_TooDeep, RecursionError):
            return plain(text)
        return mark_safe(_SLOT.sub(lambda slot: figures[int(slot[1])], _prose.clean(html)))

    def render_code(self, code: str, info: str) -> SafeString:
        return mark_safe(_figure(code, info, self._env))

    def _render(self, text: str) -> tuple[str, list[str]]:
        figures: list[str] = []
        self._env["figures"] = figures
        tokens = parser().parse(text, self._env)
        if any(token.nesting == 1 and token.level >= MAX_NESTING - 1 for token in tokens):
            raise _TooDeep
        return _tokens_to_html.render(tokens, parser().options, self._env), figures


def _is_prose(line: str) -> bool:
    """Whether it is one line of sentences, as much of what models write is: the parser would change nothing."""
    return line[:1].isalpha() and _NO_PROSE.search(line) is None


class _TooDeep(Exception):
    """The parser leaves out what lies deeper than `MAX_NESTING`."""


def plain(text: str) -> SafeString:
    """Text as it is, with its line breaks kept by CSS."""
    shown = escape(text.strip("\n"))
    return mark_safe(f'<pre class="plain">{shown}</pre>\n')


def _figure(code: str, info: str, env: Env) -> str:
    code = code.removesuffix("\n")
    info = unescapeAll(info).strip()
    language, _ = parse_info(info)
    highlighted = env["highlighter"].highlight(code, language)
    return figure(escape(code) if highlighted is None else _code.clean(highlighted), info)


def _math(latex: str, env: Env, *, display: bool) -> str | None:
    env["math_left"] -= len(latex)
    return to_mathml(latex, display=display) if env["math_left"] >= 0 else None


class _TokenRenderer(RendererHTML):
    """What differs from CommonMark's own HTML. A method is named after the token that it renders."""

    def code_block(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Env) -> str:
        return self.fence(tokens, idx, options, env)

    def fence(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Env) -> str:
        env["figures"].append(_figure(tokens[idx].content, tokens[idx].info, env))
        return f'<data value="{len(env["figures"]) - 1}"></data>'

    def heading_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Env) -> str:
        return f"<h{_heading_level(tokens[idx])}>"

    def heading_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Env) -> str:
        return f"</h{_heading_level(tokens[idx])}>\n"

    def list_item_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Env) -> str:
        if "checked" not in tokens[idx].meta:
            return self.renderToken(tokens, idx, options, env)
        state = 'aria-label="Done" checked' if tokens[idx].meta["checked"] else 'aria-label="Not done"'
        return f'<li class="task"><input type="checkbox" disabled {state}> '

    def math_block(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Env) -> str:
        latex = tokens[idx].content
        math = _math(latex, env, display=True)
        return f'<div class="wide">{math or f"<pre>{escape(latex)}</pre>"}</div>\n'

    def math_display(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Env) -> str:
        return _math(tokens[idx].content, env, display=True) or f"<code>{escape(tokens[idx].markup)}</code>"

    def math_inline(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Env) -> str:
        return _math(tokens[idx].content, env, display=False) or f"<code>{escape(tokens[idx].markup)}</code>"

    def table_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Env) -> str:
        return '<div class="wide"><table>\n'

    def table_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Env) -> str:
        return "</table></div>\n"

    def td_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Env) -> str:
        return f"<td{_alignment(tokens[idx])}>"

    def th_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Env) -> str:
        return f'<th scope="col"{_alignment(tokens[idx])}>'


def _heading_level(token: Token) -> int:
    return min(int(token.tag[1]) + _HEADING_SHIFT, 6)


def _alignment(token: Token) -> str:
    alignment = _ALIGNMENT.get(str(token.attrs.get("style", "")))
    return f' class="{alignment}"' if alignment else ""


_tokens_to_html = _TokenRenderer()
