"""Wrapping text."""


def wrap(text: str, width: int) -> list[str]:
    """Break a text between its words into lines of at most `width` characters; longer words stay whole."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        if not line:
            line = word
        elif len(line) + 1 + len(word) < width:
            line = line + " " + word
        else:
            line = word
            lines.append(line)
    if line:
        lines.append(line)
    return lines


def indent(text: str, width: int, margin: int) -> list[str]:
    """Wrap a text and move it to the right by a margin, which counts as part of the width."""
    return [" " * margin + line for line in wrap(text, width - margin)]
