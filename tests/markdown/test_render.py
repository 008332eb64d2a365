"""What a message looks like: the HTML that the style sheet and the Copy button are made for."""

from __future__ import annotations

import threading
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conversations.markdown import render_markdown, render_user_text
from conversations.markdown.code import LEXERS, Highlighter

ICON = '<svg class="icon" aria-hidden="true"><use href="#i-copy"></use></svg>'
COPY = f'<button class="btn plain small" type="button" data-copy>{ICON}Copy</button>'
REL = 'target="_blank" rel="noopener noreferrer nofollow"'


def test_code_is_a_figure_with_language_file_name_and_copy_button() -> None:
    assert render_markdown("```sql preflight.sql\nSELECT 1 -- x\n```") == (
        f'<figure class="code"><header><span>sql · preflight.sql</span>{COPY}</header>'
        '<pre tabindex="0" aria-label="sql code"><code class="language-sql"><span class="k">SELECT</span> '
        '<span class="m">1</span> <span class="c">-- x</span></code></pre></figure>\n'
    )


def test_code_without_a_language_is_shown_as_it_is() -> None:
    html = render_markdown("```\n\n  <b> & x\n\n```")
    assert '<pre tabindex="0" aria-label="code"><code>\n  &lt;b&gt; &amp; x\n</code></pre>' in html


def test_an_unknown_language_is_named_and_not_guessed() -> None:
    html = render_markdown("```brainfart\ndef x\n```")
    assert "<span>brainfart</span>" in html
    assert "<code>def x</code>" in html


def test_code_inside_a_list_is_a_figure_too() -> None:
    html = render_markdown("- a\n  ```py\n  x = 1\n  ```\n- b")
    assert html.count("<figure") == 1
    assert html.index("<li>a") < html.index("<figure") < html.index("<li>b")


def test_an_open_fence_is_code_to_the_end() -> None:
    assert "<code>a\n\nb</code>" in render_markdown("```\na\n\nb")


def test_a_table_scrolls_in_its_own_box_and_aligns_by_class() -> None:
    html = render_markdown("| a | b | c | d |\n|---|:--|:-:|--:|\n| 1 | 2 | 3 | 4 |\n")
    assert html.startswith('<div class="wide"><table>')
    assert (
        '<th scope="col">a</th>\n<th scope="col" class="l">b</th>\n'
        '<th scope="col" class="c">c</th>\n<th scope="col" class="n">d</th>' in html
    )
    assert '<td>1</td>\n<td class="l">2</td>\n<td class="c">3</td>\n<td class="n">4</td>' in html


@given(
    st.text("aé1 .,:;!?'\"()%+=#/-…“_*`[]<>&$~|\\\n\t\xa0x", max_size=30).map(lambda text: "A" + text)
    | st.from_regex(r"([1-9]{1,3}[.)] |[-+#=] ?|h)?[a-z :/.*]{1,20}\n?", fullmatch=True)
)
@example("www.example.org, https://example.org/ and mailto:bob@example.org")
@example("Ends with blanks   \n\n")
@example("\xb2 is no letter, \u01c5 is")
def test_sentences_are_what_the_parser_makes_of_them(text: str) -> None:
    with mock.patch("conversations.markdown.html._is_prose", return_value=False):
        parsed = render_markdown(text)
    assert render_markdown(text) == parsed


@pytest.mark.parametrize("source", ["$x^2$", r"\(x^2\)"])
def test_inline_math_is_mathml(source: str) -> None:
    html = render_markdown(f"so {source} holds")
    assert html == "<p>so <math><mrow><msup><mi>x</mi><mn>2</mn></msup></mrow></math> holds</p>\n"


@pytest.mark.parametrize("source", ["$$\nx\n$$", "$$x$$", "\\[\nx\n\\]", r"\[x\]", "text\n$$\nx\n$$"])
def test_block_math_scrolls_in_its_own_box(source: str) -> None:
    math = '<div class="wide"><math display="block" class="math-block"><mrow><mi>x</mi></mrow></math></div>'
    assert math in render_markdown(source)


def test_math_inside_a_list_keeps_its_lines() -> None:
    html = render_markdown("- a\n\n  $$\n  x +\n  y\n  $$\n")
    assert "<mi>x</mi><mo>+</mo><mi>y</mi>" in html


@pytest.mark.parametrize(
    "text", ["$5 and $6", "US$5 or A$7", "$ x $", r"\$x\$", "a$x$b", "costs $5/month, was $10", "`$x$`", "$$"]
)
def test_money_and_code_are_not_math(text: str) -> None:
    assert "<math" not in render_markdown(text)


@pytest.mark.parametrize(
    "latex", [r"\frac{a}{", r"\nosuchcommand x", r"\newcommand{\x}{y}\x", "x" * 3_000, "{" * 900]
)
def test_a_formula_that_cannot_be_read_is_shown_as_its_source(latex: str) -> None:
    html = render_markdown(f"$${latex}$$")
    assert "<math" not in html
    assert latex in html


def test_symbols_in_a_formula_are_characters_and_text_is_text() -> None:
    html = render_markdown(r"$\sum \text{a < b &amp;} \unicode{x3c}$")
    assert "<mo>∑</mo>" in html
    assert "<mtext>a&nbsp;&lt;&nbsp;b&nbsp;&amp;amp;</mtext><mi>&lt;</mi>" in html


@pytest.mark.parametrize(
    ("source", "level"), [("# a", 3), ("## a", 4), ("### a", 5), ("###### a", 6), ("a\n=", 3)]
)
def test_headings_leave_h1_and_h2_to_the_page(source: str, level: int) -> None:
    assert render_markdown(source) == f"<h{level}>a</h{level}>\n"


def test_html_is_shown_and_not_obeyed() -> None:
    assert render_markdown("a <b>c</b>\n\n<div>\nx\n</div>") == (
        "<p>a &lt;b&gt;c&lt;/b&gt;</p>\n<p>&lt;div&gt;\nx\n&lt;/div&gt;</p>\n"
    )


def test_a_link_opens_outside_and_tells_nothing_about_us() -> None:
    assert render_markdown("[a](https://example.org/ 'T')") == (
        f'<p><a href="https://example.org/" title="T" {REL}>a</a></p>\n'
    )


@pytest.mark.parametrize(
    ("text", "url", "rest"),
    [
        ("see https://example.org/a.", "https://example.org/a", "."),
        ("(https://example.org/a_(b))", "https://example.org/a_(b)", ")"),
        ("**https://example.org/**", "https://example.org/", ""),
        ("https://example.org/?a=1&b=2, and", "https://example.org/?a=1&amp;b=2", ", and"),
        ("HTTP://example.org/ x", "HTTP://example.org/", " x"),
        ("見https://example.org/。", "https://example.org/", "。"),
    ],
)
def test_a_bare_url_is_a_link_without_the_punctuation_around_it(text: str, url: str, rest: str) -> None:
    html = render_markdown(text)
    assert f">{url}</a>" in html
    assert html.partition("</a>")[2].startswith(rest or "</strong>")


@pytest.mark.parametrize(
    "text", ["main.py", "README.md", "a@b.example", "ftp://a.example/", "https://", "xhttps://a.b/"]
)
def test_only_web_addresses_with_their_scheme_become_links(text: str) -> None:
    assert "<a " not in render_markdown(text)


def test_a_host_is_shown_as_it_is_written() -> None:
    assert ">https://xn--pple-43d.com/</a>" in render_markdown("<https://xn--pple-43d.com/>")


def test_an_image_is_a_link_with_its_description() -> None:
    assert render_markdown("![a *cat*](https://example.org/cat.png)") == (
        f'<p><a href="https://example.org/cat.png" {REL}>a cat</a></p>\n'
    )
    assert ">https://example.org/cat.png</a>" in render_markdown("![](https://example.org/cat.png)")


def test_an_image_inside_a_link_is_the_text_of_that_link() -> None:
    assert render_markdown("[![cat](https://a.example/)](https://b.example/)") == (
        f'<p><a href="https://b.example/" {REL}>cat</a></p>\n'
    )


def test_task_lists_are_boxes_that_cannot_be_ticked() -> None:
    html = render_markdown("- [x] a\n- [ ] b\n")
    assert html.count('<li class="task"><input type="checkbox" disabled') == 2
    assert html.count("checked") == 1
    assert html.count('aria-label="Not done"') == 1


def test_strikethrough_and_line_breaks() -> None:
    assert render_markdown("~~a~~  \nb\nc") == "<p><s>a</s><br>\nb\nc</p>\n"


def test_a_persons_text_is_shown_as_written_with_fenced_code_as_code() -> None:
    html = render_user_text("# not a heading\n\n  *x* <b>\n```py\nx = 1\n```\n1 < 2\n")
    before, figure, after = html.partition("<figure")
    assert before == '<p class="plain"># not a heading\n\n  *x* &lt;b&gt;</p>\n'
    assert figure
    assert after.endswith('<p class="plain">1 &lt; 2</p>\n')


def test_a_fence_that_a_person_did_not_close_is_text() -> None:
    assert render_user_text("a\n```\nb") == '<p class="plain">a\n```\nb</p>\n'


def test_empty_text_is_empty() -> None:
    for text in ("", "\n\n", " \n"):
        assert render_markdown(text) == ""
        assert render_user_text(text) == ""


def test_threads_render_the_same() -> None:
    text = "```python\ndef f(): return 'x'\n```\n\n$x^2$ [a](https://example.org/)\n" * 20
    expected, seen = render_markdown(text), []
    threads = [threading.Thread(target=lambda: seen.append(render_markdown(text))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert seen == [expected] * 8


def test_every_known_language_is_coloured_from_its_first_use() -> None:
    for language in LEXERS:
        assert Highlighter().highlight("x = 1\n" * 200, language) is not None, language
