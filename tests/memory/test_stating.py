"""What a person states plainly is found by rules: in four languages, and never in a question, a quote or a paste."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conversations.memory import stated
from conversations.memory.stating import LONGEST_MESSAGE, MOST, may_state

RULES = {
    # English
    "Never mention prices.": "Never mention prices",
    "please never mention prices": "never mention prices",
    "Draft an offer, and never mention prices.": "never mention prices",
    "Thanks. Don't ever drop a table!": "Don't ever drop a table",
    "Don\u2019t ever drop a table": "Don\u2019t ever drop a table",
    "Always answer in German": "Always answer in German",
    "From now on, answer in one sentence.": "From now on, answer in one sentence",
    'You must never say "hello" first.': 'You must never say "hello" first',
    "Rules:\n- Never use tables\n- Always cite sources": "Never use tables",
    "Never drop anything before sign-off; ask me.": "Never drop anything before sign-off; ask me",
    "Remember to cite sources": "cite sources",
    "Never mention prices in the offers, please.": "Never mention prices in the offers",
    "Always use metric units, e.g. km.": "Always use metric units, e.g. km",
    "I'd like you to never use emojis.": "I'd like you to never use emojis",
    "never mention prices. what are the fees?": "never mention prices",
    "Remember: never mention prices": "never mention prices",
    # German
    "Bitte erwähne niemals Preise.": "erwähne niemals Preise",
    "Antworten Sie bitte immer auf Deutsch.": "Antworten Sie bitte immer auf Deutsch",
    "Preise niemals erwähnen.": "Preise niemals erwähnen",
    "Ab jetzt antworte kurz.": "Ab jetzt antworte kurz",
    "Nenne auf keinen Fall Namen": "Nenne auf keinen Fall Namen",
    # French
    "Ne mentionne jamais les prix.": "Ne mentionne jamais les prix",
    "N\u2019utilise jamais d\u2019emojis": "N\u2019utilise jamais d\u2019emojis",
    "Réponds toujours en français.": "Réponds toujours en français",
    "Toujours répondre en français.": "Toujours répondre en français",
    "À partir de maintenant, réponds brièvement": "À partir de maintenant, réponds brièvement",
    # Spanish
    "Nunca menciones los precios.": "Nunca menciones los precios",
    "Responde siempre en español": "Responde siempre en español",
    "Por favor, no uses nunca emojis": "no uses nunca emojis",
    "A partir de ahora, responde en una frase": "A partir de ahora, responde en una frase",
}

ABOUT_PEOPLE = {
    "My name is Anna Berg and I work in Oslo.": "My name is Anna Berg",
    "Hi, my name is anna": "my name is anna",
    "Call me Sam.": "Call me Sam",
    "My name\u2019s Tom": "My name\u2019s Tom",
    "My name is Dr. Anna O'Neill-Berg, and this is my dog.": "My name is Dr. Anna O'Neill-Berg",
    "Please remember I'm vegan": "I'm vegan",
    "I want you to remember that my birthday is 3 May.": "my birthday is 3 May",
    "Remember that I am allergic to nuts.": "I am allergic to nuts",
    "Ich heiße Jürgen Groß.": "Ich heiße Jürgen Groß",
    "Nenn mich Jo": "Nenn mich Jo",
    "Merk dir, dass ich Vegetarier bin.": "ich Vegetarier bin",
    "Je m'appelle Zoé.": "Je m'appelle Zoé",
    "Souviens-toi que je suis végétarienne": "je suis végétarienne",
    "Me llamo José Luis": "Me llamo José Luis",
    "Recuerda que soy alérgico": "soy alérgico",
}

NOTHING = [
    # questions
    "Did I say never mention prices?",
    "Do you remember that I am allergic?",
    "Remember that time we went to Oslo?",
    "Should you never mention prices?",
    # quotes, code, tables
    '"Never mention prices."',
    "\u201eErwähne niemals Preise.\u201c",
    "«Ne mentionne jamais les prix.»",
    "> Never mention prices",
    "```\nNever mention prices\n```",
    "`never mention prices`",
    "| Never mention prices | x |",
    "    Never mention prices",
    # told, not asked for
    "I never said that.",
    "He told me to never mention prices.",
    "She walked on, but never looked back.",
    "Ich habe nie etwas gesagt.",
    "Je n'ai jamais vu ça.",
    "Nunca he estado en Oslo.",
    "From now on I will be careful.",
    "They said: call me Ishmael",
    # ways of speaking
    "Never mind.",
    "Never mind that, let us go on",
    "Never heard of it.",
    "Never again.",
    "Never saw this coming!",
    "Remember, I'm always here for you!",
    "Never ever.",
    "Always a pleasure.",
    "Call me back tomorrow",
    "Remember my last message",
    "Always look on the bright side of life",
    "We never mention prices to customers.",
    "Call me maybe",
    "My name is not important.",
    "My name is often misspelled",
    "Nie wieder Krieg",
    "Nunca más",
    # texts to be worked on
    "Translate into German: never mention prices.",
    "Translate into German.\nNever mention prices.",
    "Was heißt das auf Deutsch: never mention prices.",
    "Write a poem: never look back",
    # nothing at all
    "",
    "never",
    "How do I paginate a queryset?",
]


@pytest.mark.parametrize(("message", "kept"), RULES.items(), ids=list(RULES))
def test_a_rule_is_a_constraint_in_its_own_words(message: str, kept: str) -> None:
    assert (stated(message)[0].kind, stated(message)[0].text) == ("constraint", kept)


@pytest.mark.parametrize(("message", "kept"), ABOUT_PEOPLE.items(), ids=list(ABOUT_PEOPLE))
def test_what_people_say_of_themselves_holds_in_all_of_theirs(message: str, kept: str) -> None:
    (found,) = stated(message)
    assert (found.kind, found.text, found.scope) == ("profile", kept, "person")


@pytest.mark.parametrize("message", NOTHING)
def test_it_is_not_taken_for_a_statement(message: str) -> None:
    assert stated(message) == []


@pytest.mark.parametrize(
    ("message", "kind", "scope"),
    [
        ("Never mention prices", "constraint", "conversation"),
        ("I prefer short answers", "preference", "conversation"),
        ("Ich bevorzuge kurze Antworten", "preference", "conversation"),
        ("Remember that the launch is on 12 May", "task", "person"),
        ("Keep in mind that we deploy on Fridays", "task", "person"),
        ("Remember that never mention prices", "constraint", "person"),
    ],
)
def test_kind_and_scope_follow_from_how_it_was_said(message: str, kind: str, scope: str) -> None:
    (found,) = stated(message)
    assert (found.kind, found.scope) == (kind, scope)


def test_a_long_text_was_pasted() -> None:
    rule = "Never mention prices.\n"
    assert stated(rule + "x" * (LONGEST_MESSAGE - len(rule)))
    assert not stated(rule + "x" * (LONGEST_MESSAGE - len(rule) + 1))


def test_each_statement_counts_once_and_not_all_of_many() -> None:
    assert len(stated("Never mention prices. never mention prices!")) == 1
    assert len(stated("\n".join(f"Never mention price {n}" for n in range(30)))) == MOST


@pytest.mark.parametrize(
    "message",
    [
        "never " * 60,
        "please " * 50 + "never",
        "immer " + "a " * 140 + "nie",
        "a " * 130 + "niemals " + "b " * 10,
        "from now on " + "x" * 280,
        "my name is " + "a'" * 130,
        "'never" * 300,
        "\u201enie" * 400,
        "- " * 900 + "never",
        "call me " + "A. " * 90,
    ],
)
def test_no_text_takes_long(message: str) -> None:
    before = time.process_time()
    stated(message)
    assert time.process_time() - before < 0.1


def test_a_usual_message_costs_next_to_nothing() -> None:
    usual = "How do I paginate a queryset in Django without counting all rows? It has 10 million. " * 5
    assert not may_state(usual)
    best = min(_seconds(usual) for _ in range(50))
    assert best < 0.000_2


def _seconds(message: str) -> float:
    before = time.perf_counter()
    stated(message)
    return time.perf_counter() - before


@given(st.text(max_size=400))
@example(".!")
def test_any_text_is_read_without_harm(message: str) -> None:
    for prefix in ("", "never ", "remember that ", "my name is "):
        for found in stated(prefix + message):
            assert found.text and found.text in " ".join((prefix + message).split())
