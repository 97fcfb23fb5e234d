"""Run-length encoding."""


def encode(text: str) -> list[tuple[str, int]]:
    """Return each run of equal characters with its length: "aab" is a twice, b once."""
    runs: list[tuple[str, int]] = []
    if not text:
        return runs
    current, count = text[0], 0
    for character in text:
        if character != current:
            current = character
            runs.append((current, count))
            count = 0
        count += 1
    runs.append((current, count))
    return runs


def decode(runs: list[tuple[str, int]]) -> str:
    """Return the text again."""
    return "".join(character * count for character, count in runs)
