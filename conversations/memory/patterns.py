"""How people state what is to be remembered, as data: for each language the ways to say it, and what is none.

Each pattern is tried on a whole sentence, in any case; `fact` is the part of it that is kept. Precision before recall:
what is not listed is left to a model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from conversations.models import MemoryItem

Kind, Scope = MemoryItem.Kind, MemoryItem.Scope


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to state something."""

    kind: MemoryItem.Kind
    pattern: re.Pattern[str]
    scope: MemoryItem.Scope = Scope.CONVERSATION
    #: Of facts with the same slot only the newest holds: there is one name, one language of the answers.
    slot: str = ""


#: A message without any of these, in small letters, states nothing: looked for before anything else.
TRIGGERS = (
    *(
        "never",
        "always",
        "remember",
        "in mind",
        "forget",
        "my name",
        "call me",
        "from now",
        "ever ",
        "i prefer",
    ),
    *(
        "nie",
        "immer",
        "merk",
        "denk",
        "vergiss",
        "vergessen sie",
        "mein name",
        "ich heiße",
        "nenn",
        "ab jetzt",
    ),
    *("ab sofort", "ab nun", "ab heute", "von nun", "von jetzt", "auf keinen fall", "ich bevorzuge"),
    *(
        "jamais",
        "toujours",
        "souvien",
        "souvenez",
        "retiens",
        "retenez",
        "rappelle",
        "oublie",
        "je m'appelle",
        "je m\u2019appelle",
    ),
    *("mon nom", "appelle", "appelez", "à partir de", "désormais", "dorénavant", "je préfère"),
    *("nunca", "jamás", "siempre", "recuerd", "en cuenta", "olvides", "olvide ", "me llamo", "mi nombre"),
    *("llámame", "llamame", "a partir de", "de ahora en", "prefiero"),
)

_POLITE = {
    "en": r"(?:(?:and|but|also|so|ok|okay|oh|please|important|note|rule|hi|hello|hey|btw|by the way)[,:!]?\s+){0,3}",
    "de": r"(?:(?:und|aber|auch|ok|okay|bitte|wichtig|hinweis|regel|hallo|hi|übrigens)[,:!]?\s+){0,3}",
    "fr": r"(?:(?:et|mais|aussi|ok|important|note|règle|bonjour|salut|s['\u2019]il (?:te|vous) plaît)[,:!]?\s+){0,3}",
    "es": r"(?:(?:y|pero|también|ok|importante|nota|regla|hola|por favor)[,:!]?\s+){0,3}",
}

#: The rest of a sentence: at least two visible characters.
_REST = r"[^\s].*[^\s]"

# A name: up to four words of letters; none of them may be the beginning of something else.
_NAME = r"(?P<name>(?!(?:{no})\b)[^\W\d_][\w'\u2019.-]*(?:\s+(?!(?:{end})\b)[^\W\d_][\w'\u2019.-]*){{0,3}})"
_AFTER_NAME = r"(?:\s*[,;:\u2013\u2014(].*|\s+(?:{end})\b.*)?"


def _way(language: str, pattern: str, kind: MemoryItem.Kind, **more: object) -> Way:
    whole = re.compile(rf"{_POLITE[language]}{pattern}\s*[.!]*", re.IGNORECASE | re.DOTALL)
    return Way(kind=kind, pattern=whole, **more)  # type: ignore[arg-type]


def _rule(language: str, pattern: str, *, slot: str = "") -> Way:
    return _way(language, rf"(?P<fact>{pattern})", Kind.CONSTRAINT, slot=slot)


def _asked(language: str, pattern: str) -> Way:
    """ "Remember that ...": the kind follows from what comes after it."""
    return _way(language, rf"{pattern}(?P<fact>{_REST})", Kind.TASK, scope=Scope.PERSON)


def _name(language: str, pattern: str, *, no: str, end: str) -> Way:
    name, after = _NAME.format(no=no, end=end), _AFTER_NAME.format(end=end)
    whole = rf"(?P<fact>{pattern}\s+{name}){after}"
    return _way(language, whole, Kind.PROFILE, scope=Scope.PERSON, slot="name")


def _preference(language: str, pattern: str) -> Way:
    return _way(language, rf"(?P<fact>{pattern})", Kind.PREFERENCE)


# --- English ----------------------------------------------------------------------------------------------------

#: What stands after "never" in a sentence that is no order: "Never mind", "Never seen that".
_NO_ORDER = (
    r"mind|again|ever|once|before|a|an|the|in|at|on|to|too|so|that|this|it|i|we|he|she|they|you|my|been|had|has|"
    r"have(?!\s+(?:a|an|the|more|any)\b)|was|were|is|are|did|does|knew|known|thought|said|seen|heard|got|gotten|gone|went|"
    r"saw|lost|won|left|ran|kept|bought|grew|give up|"
    r"came|met|found|felt|made|took|taken|told|gave|given|understood|wrote|written|ate|eaten|done|will|would|"
    r"could|should|really|quite|even|more|less|better|know(?:s|n)?|say never|ending|gonna|happens?"
)
_PAST = r"(?!(?:embed|need|feed|exceed|proceed|succeed|shed|speed|breed|bleed|heed|seed|weed)\b)\w+ed"
_NEVER = rf"never(?:\s+ever)?,?\s+(?!(?:{_NO_ORDER}|{_PAST})\b)\w[\w'\u2019-]*"
_ALWAYS = (
    r"add|address|answer|apply|ask|assume|avoid|be|begin|call|check|cite|comment|convert|count|describe|do|double-check|end|"
    r"explain|finish|follow|format|give|greet|include|indent|keep|label|leave|list|mark|mention|name|number|offer|order|"
    r"output|point|prefer|prefix|provide|put|quote|refer|remind|render|reply|respond|return|round|say|send|show|sign|"
    r"sort|speak|start|state|stay|stick|suggest|talk|tell|test|translate|treat|use|verify|wrap|write"
)
_TONGUES = r"(?:(?:answer|reply|respond|write|speak|talk)\s+(?:to me\s+)?in)"
_EN_NOT_NAME = (
    r"not|often|in|on|at|the|a|an|also|too|hard|difficult|easy|usually|sometimes|never|always|pronounced|spelled|spelt|"
    r"mentioned|irrelevant|unimportant|wrong|stored|back|later|tomorrow|today|tonight|now|when|if|maybe|crazy|old|whatever|"
    r"anything|what|by|before|after|as|so|once|again|and|or"
)
_EN_END = r"and|but|so|from|by|from|because|in|on|at|instead|please|not|by the way|or|when|if|now|i|who|with"

ENGLISH = (
    _rule(
        "en",
        rf"(?:from now on|in future|in the future),?\s+(?:please\s+)?always\s+{_TONGUES}\s+.+",
        slot="language",
    ),
    _rule(
        "en",
        r"from now on,?\s+(?!(?:i|it|he|she|they|we|there|this|that|the|my|our|his|her|a|an)\b)\w.+",
    ),
    _rule("en", rf"always\s+{_TONGUES}\s+.+", slot="language"),
    _rule("en", rf"always\s+(?:please\s+)?(?:{_ALWAYS})\b.+"),
    _rule("en", rf"(?:you\s+(?:must|should|may)\s+)?{_NEVER}(?:\s.+)?"),
    _rule("en", r"(?:do\s+not|don['\u2019]?t)\s+ever\s+\w.+"),
    _rule("en", rf"you\s+(?:must|should)\s+always\s+{_TONGUES}\s+.+", slot="language"),
    _rule("en", r"you\s+(?:must|should)\s+always\s+\w.+"),
    _rule(
        "en",
        r"i(?:['\u2019]d\s+like|\s+would\s+like|\s+want)\s+you\s+to\s+(?:always|never)\s+(?!have\b|be\b)\w.+",
    ),
    _asked(
        "en",
        r"(?:always\s+)?remember(?:\s+this)?(?:\s*:\s*|,?\s+that\s+)"
        r"(?!(?:time|day|night|one|guy|girl|song|movie|film|book|show|place|game|episode|feeling)\b)",
    ),
    _asked("en", r"i\s+want\s+you\s+to\s+remember(?:\s*:\s*|,?\s+that\s+)"),
    _asked(
        "en",
        r"remember\s+(?=(?:i['\u2019]m|i\s+am|we['\u2019]re|we\s+are|(?:my|our)\s+(?:\S+\s+){1,3}(?:is|are))\s)",
    ),
    _asked("en", r"(?:keep|bear)\s+in\s+mind(?:\s*:\s*|,?\s+that\s+)"),
    _asked("en", r"(?:do\s+not|don['\u2019]?t)\s+forget(?:\s*:\s*|,?\s+that\s+)"),
    _way("en", rf"remember\s+to\s+(?P<fact>{_REST})", Kind.CONSTRAINT, scope=Scope.PERSON),
    _name("en", r"my\s+name(?:\s+is|['\u2019]s)", no=_EN_NOT_NAME, end=_EN_END),
    _name("en", r"(?:you\s+can\s+|just\s+)?call\s+me", no=_EN_NOT_NAME, end=_EN_END),
    _preference("en", r"i\s+prefer\s+(?!not\s+to\s+say)\w.+"),
)

# --- German -----------------------------------------------------------------------------------------------------

_DE_VERBS = (
    r"antworten?|antwort|erwähnen?|nennen?|nenn|verwenden?|benutzen?|nutzen?|schreiben?|schreib|sagen?|sag|sprich|sprechen|"
    r"gib|geben|zeigen?|zeig|machen?|mach|fragen?|frag|erklären?|erklär|nimm|nehmen|lassen?|lass|fügen?|setzen?|setz|beginnen?|"
    r"starten?|beenden?|vermeiden?|formatieren?|erzählen?|erzähl|reden?|duzen?|duz|siezen?|siez|übersetzen?|kürzen?|halten?|"
    r"halt|löschen?|ändern|ändere|bleiben?|bleib|teilen?|teil|rechnen?|zitieren?|runden?|prüfen?|empfehlen|empfiehl|schlagen?"
)
_DE_NEVER = (
    r"(?:nie|niemals|nie\s+wieder|nie\s+mehr|auf\s+keinen\s+fall|unter\s+keinen\s+umständen|keinesfalls)"
)
_DE_BETWEEN = r"(?:\s+(?:sie|bitte|mir|uns|mich|dabei|hier|dazu|ab\s+jetzt)){0,3}"
_DE_TONGUE = r"(?:auf|in)\s+\w+(?:isch|tsch|nisch)\w*"
_DE_NOT_NAME = (
    r"nicht|auch|oft|das|der|die|ein|eine|egal|unwichtig|immer|nie|bitte|es|wie|so|in|auf|später|morgen"
)
_DE_END = r"und|aber|oder|aus|bitte|statt|nicht|weil|wenn|ich|in|von|bin|auf"

GERMAN = (
    _rule("de", rf"(?:{_DE_VERBS}){_DE_BETWEEN}\s+immer\s+{_DE_TONGUE}(?:\s.*)?", slot="language"),
    _rule("de", rf"(?:{_DE_VERBS}){_DE_BETWEEN}\s+immer\s+\w.+"),
    _rule("de", rf"(?:{_DE_VERBS}){_DE_BETWEEN}\s+{_DE_NEVER}(?:\s.+)?"),
    _rule("de", rf"immer\s+{_DE_TONGUE}\s+(?:antworten|schreiben|sprechen)", slot="language"),
    _rule("de", rf"(?:immer|{_DE_NEVER})\s+(?!noch\b|wieder\b|mehr\b)(?:\S+\s+){{1,12}}(?:{_DE_VERBS})"),
    _rule(
        "de",
        rf"(?:\w+\s+){{1,4}}{_DE_NEVER}\s+(?:\S+\s+){{0,6}}(?:erwähnen|nennen|verwenden|benutzen|nutzen)",
    ),
    _rule(
        "de",
        r"(?:ab\s+(?:jetzt|sofort|nun|heute)|von\s+(?:nun|jetzt)\s+an),?\s+"
        rf"(?:bitte\s+)?(?:(?:{_DE_VERBS})\b.*|(?:\S+\s+){{1,12}}(?:{_DE_VERBS}))",
    ),
    _asked("de", r"(?:merke?\s+dir|merken\s+sie\s+sich)(?:\s+bitte)?(?:\s*:\s*|,?\s+dass?\s+)"),
    _asked("de", r"(?:denke?|denken\s+sie)(?:\s+bitte)?\s+daran(?:\s*:\s*|,?\s+dass?\s+)"),
    _asked("de", r"(?:vergiss|vergessen\s+sie)(?:\s+bitte)?\s+nicht(?:\s*:\s*|,?\s+dass?\s+)"),
    _name("de", r"(?:mein\s+name\s+ist|ich\s+heiße)", no=_DE_NOT_NAME, end=_DE_END),
    _name("de", r"(?:nenne?|nennen\s+sie)\s+mich(?:\s+bitte)?", no=_DE_NOT_NAME, end=_DE_END),
    _preference("de", r"ich\s+bevorzuge\s+\w.+"),
)

# --- French -----------------------------------------------------------------------------------------------------

_FR_VERBS = (
    r"réponds|répondez|utilise|utilisez|écris|écrivez|parle|parlez|donne|donnez|tutoie|tutoyez|vouvoie|vouvoyez|commence|"
    r"commencez|termine|terminez|mets|mettez|ajoute|ajoutez|explique|expliquez|cite|citez|indique|indiquez|emploie|employez|"
    r"montre|montrez|fais|faites|dis|dites|appelle|appelez|garde|gardez|vérifie|vérifiez|demande|demandez|évite|évitez"
)
_FR_TONGUE = r"(?:réponds|répondez|écris|écrivez|parle|parlez)(?:-moi)?\s+toujours\s+en\s+\w+"
_FR_NOT_NAME = r"pas|souvent|plus|quand|si|demain|un|une|le|la|les|aussi|toujours|comme|ce|que"
_FR_END = r"et|mais|ou|de|du|je|parce|plutôt|pas|svp|à|en|au"

FRENCH = (
    _rule("fr", rf"{_FR_TONGUE}(?:\s.*)?", slot="language"),
    _rule("fr", rf"(?:{_FR_VERBS})(?:-\w+)?\s+toujours\s+\w.+"),
    _rule(
        "fr", r"(?:ne\s+|n['\u2019])(?!(?:ai|as|a|est|suis|sait|peut)\b)[\w-]+\s+(?:plus\s+)?jamais(?:\s.+)?"
    ),
    _rule("fr", r"ne\s+jamais\s+\w+(?:er|ir|re)\b.*"),
    _rule("fr", r"toujours\s+(?:répondre|écrire|parler)\s+en\s+\w+(?:\s.*)?", slot="language"),
    _rule(
        "fr",
        r"toujours\s+(?:répondre|utiliser|écrire|donner|citer|indiquer|vérifier|ajouter|expliquer)\s+\w.+",
    ),
    _rule(
        "fr",
        rf"(?:à\s+partir\s+de\s+maintenant|à\s+partir\s+d['\u2019]aujourd['\u2019]hui|désormais|dorénavant),?\s+(?:{_FR_VERBS}|ne|n['\u2019])"
        r"[\s\w-].+",
    ),
    _asked(
        "fr",
        r"(?:souviens-toi|souvenez-vous|rappelle-toi|rappelez-vous)(?:\s*:\s*|\s+(?:que\s+|qu['\u2019]))",
    ),
    _asked("fr", r"(?:retiens|retenez)(?:\s+bien)?(?:\s*:\s*|\s+(?:que\s+|qu['\u2019]))"),
    _asked("fr", r"n['\u2019]oublie[zs]?\s+pas(?:\s*:\s*|\s+(?:que\s+|qu['\u2019]))"),
    _name("fr", r"(?:je\s+m['\u2019]appelle|mon\s+nom\s+est)", no=_FR_NOT_NAME, end=_FR_END),
    _name("fr", r"(?:appelle|appelez)-moi", no=_FR_NOT_NAME, end=_FR_END),
    _preference("fr", r"je\s+préfère\s+(?!ne\s+pas)\w.+"),
)

# --- Spanish ----------------------------------------------------------------------------------------------------

_ES_VERBS = (
    r"responde|responda|contesta|conteste|usa|use|utiliza|utilice|escribe|escriba|habla|hable|di|diga|da|dame|muestra|muestre|"
    r"explica|explique|incluye|incluya|añade|añada|cita|cite|empieza|empiece|termina|termine|pon|ponga|haz|haga|evita|evite|"
    r"pregunta|pregunte|tutéame|indica|indique|comprueba|compruebe|trátame"
)
_ES_TONGUE = r"(?:responde|responda|contesta|conteste|escribe|escriba|habla|hable)"
_ES_NEVER_VERB = (
    r"(?!(?:has|antes|más|además|es|eres|supiste|fuiste|nadie|estás|estas|ves|vas|dos|tres)\b)\w+(?:es|as)|"
    r"mencione|use|utilice|diga|escriba|responda|hable|incluya|muestre|borre|cambie|haga|ponga"
)
_ES_NOT_NAME = r"no|cuando|si|luego|mañana|un|una|el|la|los|también|siempre|nunca|mucho|por|después|así|como"
_ES_END = r"y|e|pero|o|de|del|soy|porque|en|no|por|desde"

SPANISH = (
    _rule("es", rf"{_ES_TONGUE}\s+siempre\s+en\s+\w+(?:\s.*)?", slot="language"),
    _rule("es", rf"siempre\s+{_ES_TONGUE}\s+en\s+\w+(?:\s.*)?", slot="language"),
    _rule("es", rf"(?:{_ES_VERBS})\s+siempre\s+\w.+"),
    _rule("es", rf"siempre\s+(?:{_ES_VERBS})\b.+"),
    _rule("es", rf"(?:nunca|jamás)\s+(?:me\s+|nos\s+|lo\s+|la\s+)?(?:{_ES_NEVER_VERB})\b.*"),
    _rule("es", rf"no\s+(?:me\s+)?(?:{_ES_NEVER_VERB})\s+(?:nunca|jamás)\b.*"),
    _rule(
        "es",
        rf"(?:a\s+partir\s+de\s+ahora|de\s+ahora\s+en\s+adelante),?\s+(?:{_ES_VERBS}|no|nunca|siempre)\s+\w.+",
    ),
    _asked("es", r"(?:recuerda|recuerde)(?:\s*:\s*|\s+que\s+)"),
    _asked("es", r"(?:ten|tenga)\s+en\s+cuenta(?:\s*:\s*|\s+que\s+)"),
    _asked("es", r"no\s+olvides?(?:\s*:\s*|\s+que\s+)"),
    _name("es", r"(?:me\s+llamo|mi\s+nombre\s+es)", no=_ES_NOT_NAME, end=_ES_END),
    _name("es", r"ll[aá]mame", no=_ES_NOT_NAME, end=_ES_END),
    _preference("es", r"prefiero\s+(?!no\s+decir)\w.+"),
)

WAYS = (*ENGLISH, *GERMAN, *FRENCH, *SPANISH)

#: "Remember that I ...": what a person says of themselves is about them, in any of the languages.
ABOUT_ME = re.compile(
    r"\b(?:i|i'm|i\u2019m|my|me|mine|ich|mein\w*|mich|mir|je|j'\w+|j\u2019\w+|mon|ma|mes|moi|yo|mi|mis|soy|tengo|me|nací|vivo)\b",
    re.IGNORECASE,
)

#: A text to be worked on follows: what it says is not meant.
WORK_ON = re.compile(
    r"\b(?:translate|proof-?read|what\s+does|what\s+is\s+meant|how\s+do\s+(?:you|i)\s+say|grammar|übersetz\w*|korrigier\w*|was\s+(?:heißt|bedeutet)|"
    r"tradui\w+|traduction|corrige\w*|que\s+(?:veut\s+dire|signifie)|comment\s+dit-on|traduc\w+|tradúc\w+|qué\s+significa|"
    r"cómo\s+se\s+dice|lyrics|poem|poème|poema|gedicht|song|proverb)\b",
    re.IGNORECASE,
)
