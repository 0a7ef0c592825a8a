"""Put the page together: style, sections, data, and the library that draws."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from typing import Final

import msgspec

from plugengine.bench.page import sections
from plugengine.bench.page.data import script_data
from plugengine.bench.page.figures import figures_of
from plugengine.bench.results import Run
from plugengine.errors import NotSupportedError

VEGA_LITE: Final = "6.1"  # the same drawing from every release of the library that has it
_GLOBAL: Final = "window.vegaEmbed = vegaEmbed;"
_EXTRA: Final = "pip install 'plugengine[bench]'"
# What hatches a failed measurement; a pattern is the one thing that Vega cannot say.
_TEXTURES: Final = (
    '<svg class="textures" aria-hidden="true"><defs>'
    '<pattern id="hatch" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect width="2" height="7" style="fill: var(--stripe); fill-opacity: .35"/></pattern></defs></svg>'
)


def page(run: Run) -> str:
    """Return the page: one file that asks nothing of a network.

    Raises:
        NotSupportedError: The library that draws is not installed.
    """
    library = _library()
    figures = figures_of(run)
    title = sections.title(run)
    scripts = [library, _asset("page.js")]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{_asset('page.css')}</style>",
            "</head>",
            "<body>",
            _TEXTURES,
            *sections.body(figures, _download(run)),
            f'<script type="application/json" id="figures">{_json(script_data(figures))}</script>',
            *(f"<script>{script}</script>" for script in scripts),
            "</body>",
            "</html>",
            "",
        ]
    )


def _library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script."""
    try:
        import vl_convert
    except ImportError as exc:
        raise NotSupportedError("write the page: vl-convert-python is not installed", hint=_EXTRA) from exc
    bundle = str(vl_convert.javascript_bundle(_GLOBAL, vl_version=VEGA_LITE))
    # In a script only these end it or change how it is read; inside of it they can only be in strings.
    # See html.spec.whatwg.org, "Restrictions for contents of script elements".
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _asset(name: str) -> str:
    from importlib.resources import files

    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _policy(scripts: Sequence[str]) -> str:
    """Return what the browser may do: these scripts and no others, and no request to anybody."""
    from hashlib import sha256

    hashes = " ".join(f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" for text in scripts)
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:"


def _json(value: object) -> str:
    """Return JSON that cannot end the element it stands in."""
    return msgspec.json.encode(value).decode().replace("<", "\\u003c")


def _download(run: Run) -> str:
    return f"data:application/json;base64,{b64encode(msgspec.json.encode(run)).decode()}"
