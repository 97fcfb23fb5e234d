"""What a module of the package needs from another one."""

STROKES = 3
