"""Cleaning of matplotlib's SVG: one element with drawing instructions only, for pages and files.

matplotlib writes a document with a prolog, a style sheet, metadata and identifiers that are not unique on a page. A
figure that is read from disk may have been changed by anybody. Only drawing elements and their attributes are kept.
"""

import re
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from ...datamodules.visible_text import visible
from .smaller_svg import shorten

SVG = "{http://www.w3.org/2000/svg}"
HREF = "{http://www.w3.org/1999/xlink}href"
DRAWING = frozenset("svg g defs path use text tspan title rect circle line polyline polygon ellipse clipPath".split())
AUTOMATIC_ID = re.compile(r"[A-Za-z0-9]+_\d+$")
"""Identifiers that matplotlib numbers, e.g. axes_1; they are not referenced."""


def clean_svg(document: str, title: str) -> str:
    """Return the SVG element of a document with a title for screen readers, without prolog, scripts and styles.

    Raises:
        ValueError: The document is not SVG.
    """
    try:
        root = ElementTree.fromstring(document)
    except ElementTree.ParseError as error:
        raise ValueError(f"the figure {title!r} is not well-formed XML ({error}): draw it again") from error
    if root.tag != f"{SVG}svg":
        raise ValueError(f"the figure {title!r} is not SVG but <{root.tag}>: draw it again")
    _keep_drawing(root)
    shorten(root)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)  # the page decides the size, from viewBox
    # matplotlib's style sheet, as attributes that other figures and the page do not inherit
    root.attrib |= {"role": "img", "aria-label": visible(title), "stroke-linejoin": "round", "stroke-linecap": "butt"}
    for old in root.findall(f"{SVG}title"):
        root.remove(old)
    label = Element(f"{SVG}title")
    label.text = visible(title)
    root.insert(0, label)
    return _serialized(root)


def _keep_drawing(parent: Element) -> None:
    """Remove elements that do not draw, and attributes that run or load something."""
    _clean_attributes(parent)
    for child in list(parent):
        tag = child.tag if isinstance(child.tag, str) else ""
        if tag.removeprefix(SVG) in DRAWING and tag.startswith(SVG):
            _keep_drawing(child)
        else:
            parent.remove(child)


def _clean_attributes(element: Element) -> None:
    href = element.attrib.pop(HREF, element.attrib.pop("href", ""))
    name = element.attrib.pop("id", None) if element.tag == f"{SVG}g" else None
    for attribute in list(element.attrib):
        if attribute.startswith(("{", "on")):
            del element.attrib[attribute]
    if href.startswith("#"):
        element.set("href", href)
    if name is not None and not AUTOMATIC_ID.match(name):
        element.set("class", name)  # a class may occur in several figures of a page, an identifier may not


def _serialized(root: Element) -> str:
    # A default namespace instead of a prefix: HTML parses `<svg>`, not `<svg:svg>`.
    for element in root.iter():
        element.tag = element.tag.removeprefix(SVG)
    root.set("xmlns", SVG.strip("{}"))
    return ElementTree.tostring(root, encoding="unicode") + "\n"
