"""How many tokens the body of a request comes to, estimated upwards without a tokenizer.

No tokenizer is asked, since vendors do not give away those of their newest models. Two bytes of UTF-8 are taken to be a
token, and each digit and punctuation mark to be one. By the tokenizers of GPT-4 and GPT-4o, of Claude 2 and of DeepSeek
that is 2.1 to 2.3 times what prose and code in English come to, 1.8 times for JSON and for tables of numbers (which two
bytes alone would understate), 1.2 to 1.4 for UUIDs and hexadecimal, 1.5 to 3.6 for Chinese, Russian and German, and 1.0
to 4.7 for Japanese, Korean, Arabic and Hindi. Claude since Opus 4.7 counts up to half as much again for English, for
which there is room in all but the last four and the UUIDs. More than estimated can come from long random text (base64
takes 1.4 bytes a token), rows of emoji (1.5), Thai (1.6 with Claude 2), rare characters and scripts (1.0), and from
what stands in no body: what vendors add to a prompt, beyond the allowance made for it here.
"""

from __future__ import annotations

import json
import math
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

BYTES_PER_TOKEN = 2
PAIRED = bytes(set(range(256)) - {ord(letter) for letter in string.digits + string.punctuation})
"""The bytes of which two make a token; of the others each is taken to be one."""

REQUEST = 200
"""Tokens that every request is given on top, for what frames a prompt."""

PART = 4
"""Tokens that each object in the body is given on top: a message takes three or four, a tool some eight."""

TOOLS = 1_000
"""Tokens for what vendors say about tools in general, or the form of an answer: 264 to 530 with Anthropic."""

VENDOR_TOOL = 5_000
"""Tokens for a tool that only the vendor describes: 245 for `bash`, 700 for the editor, 1,234 to use a computer."""

SCALED_IMAGE = 5_000
"""The most tokens for one image with Anthropic, which scales it down to 4,784 (1,600 before Opus 4.7)."""

IMAGE = 16_000
"""The same elsewhere: OpenAI takes up to 12,000 since GPT-5.4, and 14,364 were seen for 12 megapixels with GPT-6."""

LOW_IMAGE = 3_000
"""The same with `detail="low"`: 85 to 2,833."""

MINI_IMAGE = 50_000
"""The same with `gpt-4o-mini`, which counts 2,833 and 5,667 for each of up to eight tiles."""

LETTERS_PER_IMAGE_TOKEN = 256
"""Base64 letters of an image for one token, where that is more: large photographs are not always scaled down."""

LETTERS_PER_AUDIO_TOKEN = 32
"""Base64 letters of sound for one token: it has ten a second, which even at 8 kbit/s is more than a hundred letters."""

PAGES = 8_000
"""The least for a document. Beyond that each base64 letter of a PDF is taken to be a token: a page of 350 words has
some 2,600 letters, and takes 2,350 tokens as text and picture with Anthropic. Many almost empty pages take more."""

PICTURES = {"image", "image_url", "input_image", "computer_screenshot", "image_generation_call"}
DOCUMENTS = {"document", "file", "input_file"}
"""The types of parts that are no text, next to sound."""

BLOBS = {"data", "url", "image_url", "file_url", "file_data", "file_id", "result", "b64_json"}
"""Where the content of a picture, a sound or a document stands; it is not text."""

HOLDERS = ("source", "file", "input_audio", "image_url")
"""Where an object stands that holds it, if the content does not stand in the part itself."""

REFERRING = ("previous_response_id", "conversation", "prompt", "mcp_servers", "web_search_options")
"""Fields by which a request brings in what does not stand in it."""

PLAIN = {"input_schema", "parameters", "arguments"}
"""Where a tool is described or called: whatever stands there is text, and no picture or document."""

AT_THE_CLIENT = (
    "apply_patch",
    "bash_",
    "browser_",
    "computer",
    "custom",
    "function",
    "local_shell",
    "memory_",
    "namespace",
    "text_editor_",
)
"""How the types of tools begin that the program runs itself; all others run at the vendor's, unseen."""


@dataclass
class Weight:
    """What a body weighs in tokens, and what in it cannot be weighed."""

    image: int
    is_scaled: bool = False
    halves: int = 0
    tokens: int = 0
    sound: int = 0
    refers: list[str] = field(default_factory=list)
    lifetimes: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, body: Mapping[str, Any], kind: str) -> Weight:
        """The weight of a whole request."""
        weight = cls(MINI_IMAGE if "4o-mini" in str(body.get("model")) else IMAGE, tokens=REQUEST)
        if kind == "messages":
            weight.image, weight.is_scaled = SCALED_IMAGE, True
        weight.add(body)
        weight.refers += [name for name in REFERRING if body.get(name) not in (None, [])]
        if isinstance(thread := body.get("thread"), Mapping) and thread.get("type") == "continue":
            weight.refers.append("thread")
        if "compact" in str(body.get("context_management")):
            weight.refers.append("compaction")
        weight.add_tools(body)
        return weight

    @property
    def total(self) -> int:
        """All tokens."""
        return self.tokens + math.ceil(self.halves / BYTES_PER_TOKEN)

    def add(self, value: Any) -> None:
        """Add whatever stands in a body."""
        if isinstance(value, str):
            data = value.encode("utf-8", "surrogatepass")
            self.halves += len(data) + len(data.translate(None, PAIRED))
        elif isinstance(value, Mapping):
            self.add_part(value)
        elif isinstance(value, list | tuple):
            for part in value:
                self.add(part)
        else:
            self.halves += BYTES_PER_TOKEN * len(str(value))

    def add_part(self, part: Mapping[str, Any]) -> None:
        """Add an object: a message, a part of one, a tool, a schema."""
        self.tokens += PART
        kind = part.get("type") if isinstance(part.get("type"), str) else None  # in a schema, `type` may be a property
        if isinstance(cached := part.get("cache_control"), Mapping):
            self.lifetimes.add(str(cached.get("ttl") or "5m"))
        holder = next((inner for name in HOLDERS if isinstance(inner := part.get(name), Mapping)), part)
        data = next((text for name in BLOBS if isinstance(text := holder.get(name), str)), "")
        left_out = {*BLOBS, *HOLDERS}
        if kind in PICTURES:
            self.add_picture(part.get("detail") or holder.get("detail"), data)
        elif kind in DOCUMENTS and str(holder.get("type")) not in {"text", "content"}:
            self.add_document(holder, data)
        elif kind == "input_audio":
            self.sound += 1 + len(data) // LETTERS_PER_AUDIO_TOKEN
            self.tokens += 1 + len(data) // LETTERS_PER_AUDIO_TOKEN
        else:
            left_out = set()
            if kind == "item_reference" or (isinstance(part.get("audio"), Mapping) and "id" in part["audio"]):
                self.refers.append("an earlier item")
        for name, value in part.items():
            self.add(name)
            if name in PLAIN or (name == "input" and (kind or "").endswith("tool_use")):
                self.add(json.dumps(value, default=str))
            elif name not in left_out:
                self.add(value)

    def add_picture(self, detail: Any, data: str) -> None:
        """Add an image, whose letters are not text."""
        if detail == "low":
            self.tokens += LOW_IMAGE
        else:
            self.tokens += self.image if self.is_scaled else max(self.image, len(data) // LETTERS_PER_IMAGE_TOKEN)

    def add_document(self, holder: Mapping[str, Any], data: str) -> None:
        """Add a document, which may be elsewhere."""
        if holder.get("type") == "base64" or isinstance(holder.get("file_data"), str):
            self.tokens += max(PAGES, len(data))
        else:
            self.refers.append("a document that is elsewhere")

    def add_tools(self, body: Mapping[str, Any]) -> None:
        """Add what vendors put into the prompt for tools, and what their own tools may bring in."""
        if any(body.get(name) for name in ("tools", "functions", "response_format", "output_config", "text")):
            self.tokens += TOOLS
        for kind, _ in tools_of(body):
            self.tokens += VENDOR_TOOL if kind not in {"function", "custom", "namespace"} else 0
            if not kind.startswith(AT_THE_CLIENT):
                self.refers.append(f"the tool {kind}")


def tools_of(body: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The tools with their types; one without a type is a function of the program."""
    tools = (tool for tool in body.get("tools") or () if isinstance(tool, Mapping))
    return [(str(tool.get("type") or "function"), tool) for tool in tools]
