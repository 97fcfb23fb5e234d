"""A tree as one HTML file: flow-xray's page, which here loads nothing by itself and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

from loomc_runner.trace.nodes import Node

SLOW_MS = 10_000.0
"""Above that flow-xray's page shows a node in yellow."""

HOST = "https://cdn.jsdelivr.net"
"""Where flow-xray's page loads from what draws the graph."""

NOTICE = (
    '<div id="hint">The graph is drawn by Graphviz, which is not in this file: it needs the network.<br><br>'
    f'<button class="modebtn" id="loadgraph" type="button">Load it from {HOST.removeprefix("https://")}</button></div>'
)

CHANGES = {
    '<div id="hint">Rendering graph…</div>': NOTICE,
    "bindToolbar();\nrenderGraph();\n": (
        'bindToolbar();\ndocument.getElementById("loadgraph").addEventListener("click",renderGraph);\n'
    ),
    "step ${n.order+1} · ": "${n.kind?esc(n.kind):''} · ",  # it counts nodes, and here a step is something else
}
"""What is changed in flow-xray's page: each text stands in it once."""

SCRIPT = re.compile(r"<script[^>]*>(.*?)</script>", re.DOTALL)


def html(root: Node) -> str:
    """The page of a tree, called after its root."""
    from flow_xray import TraceResult
    from flow_xray.export_html import trace_to_standalone_html  # type: ignore[import-untyped]

    result = TraceResult([_traced(root)], t0=min(node.start for node in root.walk()) * 1000)
    return adapted(trace_to_standalone_html(result, title=root.name, slow_ms=SLOW_MS))


def adapted(page: str) -> str:
    """flow-xray's page with our changes, and with a policy under which nothing else is run or loaded.

    The host is allowed only where the page asks before it loads from there; a browser stops everything else.
    """
    for text, change in CHANGES.items():
        page = page.replace(text, change)
    host = f" {HOST}" if NOTICE in page and CHANGES["bindToolbar();\nrenderGraph();\n"] in page else ""
    digests = " ".join(f"'sha256-{_digest(script)}'" for script in SCRIPT.findall(page))
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src {digests} 'wasm-unsafe-eval'{host}"
    return page.replace("<head>", f'<head>\n<meta http-equiv="Content-Security-Policy" content="{policy}">', 1)


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _traced(root: Node) -> Any:
    """The node as one of flow-xray's, with an id of our own, and with its texts as they are."""
    from flow_xray import TraceNode

    class Page(TraceNode):  # type: ignore[misc]
        """A node whose inputs and output are texts already: they are not encoded and cut once more."""

        def to_dict(self, t0: float = 0.0) -> dict[str, Any]:
            """As flow-xray writes it, with the texts."""
            plain: dict[str, Any] = super().to_dict(t0)
            return {**plain, "inputs": self.inputs, "output": self.output}

    numbers = iter(range(root.size))

    def made(node: Node) -> TraceNode:
        return Page(
            name=node.name,
            node_id=f"n{next(numbers)}",
            inputs=node.inputs,
            output=node.output,
            error=node.error,
            start_ms=node.start * 1000,
            latency_ms=node.duration * 1000,
            children=[made(child) for child in node.children],
            meta=_meta(node),
            kind=node.kind,
            tags={name: text or True for name, text in node.tags.items()},
        )

    return made(root)


def _meta(node: Node) -> dict[str, Any]:
    """What flow-xray's page adds up: each token and each dollar stands in one node only."""
    known = {"model": node.model, "total_tokens": node.tokens, "estimated_cost_usd": node.usd}
    return {**node.meta, **{name: value for name, value in known.items() if value}}
