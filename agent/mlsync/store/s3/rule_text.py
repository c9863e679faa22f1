"""Rules of a bucket as text: those of others are kept as they are to the byte, and ours are written beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final
from xml.sax.saxutils import escape, unescape

_RULE: Final = re.compile(r"<Rule>.*?</Rule>", re.DOTALL)
_ID: Final = re.compile(r"<ID>(.*?)</ID>", re.DOTALL)
_NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"
# Elements that come several times, by what AWS's API calls the list of them.
_SINGULAR: Final = {
    "Transitions": "Transition",
    "NoncurrentVersionTransitions": "NoncurrentVersionTransition",
    "Tags": "Tag",
}


def texts_of(document: str) -> dict[str, str]:
    """Return the text of each rule of a document by the rule's name; one without gets a name by its place."""
    texts: dict[str, str] = {}
    for number, text in enumerate(_RULE.findall(document)):
        name = _ID.search(text)
        texts[unescape(name[1]) if name and name[1] not in texts else f"#{number}"] = text
    return texts


def text_of(rule: Mapping[str, object]) -> str:
    """Return a rule of AWS's API as text."""
    return f"<Rule>{_children(rule)}</Rule>"


def document_of(root: str, texts: Sequence[str], *, role: str | None = None) -> str:
    """Return the document of those rules."""
    head = "" if role is None else f"<Role>{escape(role)}</Role>"
    return f'<{root} xmlns="{_NAMESPACE}">{head}{"".join(texts)}</{root}>'


def _children(values: Mapping[str, object]) -> str:
    parts: list[str] = []
    for name, value in values.items():
        tag = _SINGULAR.get(name, name)
        each = value if isinstance(value, list | tuple) else [value]
        parts += [f"<{tag}>{_content(one)}</{tag}>" for one in each]
    return "".join(parts)


def _content(value: object) -> str:
    if isinstance(value, Mapping):
        return _children(value)
    return str(value).lower() if isinstance(value, bool) else escape(str(value))
