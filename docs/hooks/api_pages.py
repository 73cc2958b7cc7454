"""This module writes the pages of the API reference: all public names of the package and its rooms."""

import importlib
import inspect
import re

import eproxy_jax as ep


def pages() -> dict[str, str]:
    """Return the Markdown of each page by its place below docs/."""
    rooms = [name for name in ep.__all__ if inspect.ismodule(getattr(ep, name))]
    lines = ["# API", "", inspect.getdoc(ep) or "", ""]
    lines += ["The rooms below have pages of their own:", ""]
    for room in rooms:
        lines.append(f"- [ep.{room}]({room}.md): {_first(importlib.import_module(f'eproxy_jax.{room}'))}")
    found = {}
    for name in ep.__all__:
        if name not in rooms and not name.startswith("__"):
            lines += ["", *_entry(name, getattr(ep, name), f"ep.{name}")]
    found["api/index.md"] = "\n".join(lines) + "\n"
    for room in rooms:
        found[f"api/{room}.md"] = _room(room)
    return found


def _room(room: str) -> str:
    module = importlib.import_module(f"eproxy_jax.{room}")
    lines = [f"# ep.{room}", "", re.sub(r":\w+:`([^`]*)`", r"`\1`", inspect.getdoc(module) or "")]
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.ismodule(value):
            lines += ["", f"::: {value.__name__}", "    options:", f'      heading: "ep.{room}.{name}"']
        else:
            lines += ["", *_entry(name, value, f"ep.{room}.{name}", f"eproxy_jax.{room}.{name}")]
    return "\n".join(lines) + "\n"


def _entry(name: str, value: object, heading: str, fallback: str = "") -> list[str]:
    """Return the directive of a name; what is data has no docstring, so its module's own line stands for it."""
    home = getattr(value, "__module__", None)
    path = f"{home}.{name}" if home and home.startswith("eproxy_jax") else fallback
    return [f"::: {path}", "    options:", f'      heading: "{heading}"', f'      toc_label: "{name}"']


def _first(module: object) -> str:
    text = re.sub(r":\w+:`([^`]*)`", r"`\1`", (inspect.getdoc(module) or "").split("\n\n")[0])
    return " ".join(text.split())
