"""The state of a loop: its declared type, its JSON text, and the proof that the text brings it back."""

from loomc_runner.state.annotations import annotation_of, type_name, type_named
from loomc_runner.state.codec import Codec, state_codec

__all__ = ["Codec", "annotation_of", "state_codec", "type_name", "type_named"]
