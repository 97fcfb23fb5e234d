"""A state comes back from storage as what it was, or is refused with the path of the part that would not."""

from __future__ import annotations

import dataclasses
import enum
import math
import string
from collections import OrderedDict, defaultdict
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from typing import Any, Generic, Literal, NamedTuple, NotRequired, Optional, TypeVar, Union
from uuid import UUID

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    RootModel,
    computed_field,
    field_serializer,
    field_validator,
    model_serializer,
)
from typing_extensions import TypedDict

from loomc_runner.errors import StateError
from loomc_runner.records import Done
from loomc_runner.state import Codec, annotation_of, state_codec, type_name, type_named

T = TypeVar("T")

NAN, INF = math.nan, math.inf
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HUGE = 10**5000


class Color(enum.Enum):
    RED = 1
    BLUE = "blue"


class Name(enum.StrEnum):
    ADA = "ada"


class Item(BaseModel):
    when: datetime | None = None
    size: int = 0
    tags: list[str] = []


class SpecialItem(Item):
    extra: str = "kept by nobody"


class Point(NamedTuple):
    x: int
    y: int


class Draft(BaseModel):
    text: str = ""
    score: float = 0.0
    best: float | None = None
    items: list[Item] = []
    notes: dict[str, Any] = {}


class Plain(BaseModel):
    """Only what the serializer alone can vouch for."""

    text: str = ""
    score: float = 0.0
    size: int = 0
    done: bool = False
    best: float | None = None
    tags: list[str] = []
    counts: dict[str, int] = {}


class Rich(BaseModel):
    when: datetime = NOON
    day: date = date(2026, 1, 1)
    clock: time = time(12, 30)
    span: timedelta = timedelta(days=-1, microseconds=3)
    price: Decimal = Decimal("1.10")
    color: Color = Color.BLUE
    id: UUID = UUID(int=7)
    raw: bytes = b"raw"
    pair: tuple[int, str] = (1, "a")
    words: set[str] = {"a", "b"}
    fixed: frozenset[int] = frozenset({1})
    point: Point = Point(1, 2)
    by_number: dict[int, str] = {1: "a"}
    either: int | str = "1"
    kind: Literal["a", "b"] = "a"
    half: complex = 1 + 2j


class Measure(RootModel[float]):
    """A number, in a class of its own."""


class Word(RootModel[str | None]):
    """A text or nothing, in a class of its own."""


class Measured(BaseModel):
    last: Measure | None = None
    words: list[Word | None] = []


class Node(BaseModel):
    children: list[Node] = []
    value: int = 0


class Box(BaseModel, Generic[T]):
    content: T


class Aliased(BaseModel):
    text: str = Field(default="", alias="TEXT")
    size: int = Field(default=0, validation_alias="in", serialization_alias="out")


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    text: str = ""


class Computed(BaseModel):
    width: int = 2

    @computed_field  # type: ignore[prop-decorator]
    @property
    def area(self) -> int:
        """Worked out anew, and shown by Pydantic."""
        return self.width**2

    @cached_property
    def half(self) -> float:
        """Worked out once, and kept."""
        return self.width / 2


class Hidden(BaseModel):
    text: str = ""
    shown: int = Field(default=0, exclude=True)
    _private: int = PrivateAttr(0)


class Rounded(BaseModel):
    score: float = 0.0

    @field_serializer("score")
    def rounded(self, score: float) -> float:
        """Write less than there is."""
        return round(score, 1)


class Stripped(BaseModel):
    text: str = ""

    @field_validator("text")
    @classmethod
    def stripped(cls, text: str) -> str:
        """Read less than there is."""
        return text.strip()


class Positive(BaseModel):
    size: int = Field(default=1, gt=0)


class NanAsText(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="strings")
    score: float = 0.0
    scores: list[float | None] = []


class AnyPrice(BaseModel):
    price: Decimal = Field(default=Decimal(0), allow_inf_nan=True)


class Chatty(BaseModel):
    model_config = ConfigDict(extra="allow")

    @model_serializer
    def more(self) -> dict[str, Any]:
        """Write more than there is."""
        return {"more": 1}


@dataclasses.dataclass
class Card:
    title: str
    items: list[Item] = dataclasses.field(default_factory=list)
    score: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    when: datetime
    size: int = dataclasses.field(init=False, default=3)


class Row(TypedDict):
    text: str
    when: NotRequired[datetime]


class Unrelated:
    """Nothing that JSON knows."""


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no words for it")


def changed(model: Any, **fields: Any) -> Any:
    """A model with values put into it that Pydantic would not have let through."""
    model.__dict__.update(fields)
    return model


def refusal(codec: Codec[Any], state: Any) -> str:
    """What both ways to encode say against the state."""
    messages = set()
    for encode in (codec.encode, codec.encode_checked):
        with pytest.raises(StateError) as caught:
            encode(state)
        messages.add(str(caught.value))
    (message,) = messages
    return message


def came_back(codec: Codec[Any], state: Any) -> bool:
    """Whether the state was taken; then it is read back as it was."""
    try:
        text = codec.encode(state)
    except StateError:
        return False
    assert codec.decode(text) == state
    return True


@pytest.mark.parametrize(
    ("annotation", "state"),
    [
        (Draft, Draft(text="é\n\x00", best=1e-300, items=[Item(when=NOON)], notes={"a": [1, {"b": None}]})),
        (Rich, Rich()),
        (Rich, Rich(either=1, when=datetime(2026, 1, 1, 1, 1, 1, 123456, timezone(timedelta(hours=2))))),
        (Node, Node(children=[Node(children=[Node(value=2)])])),
        (Box[int], Box[int](content=1)),
        (Box[list[Item]], Box[list[Item]](content=[Item(size=2)])),
        (Aliased, Aliased(TEXT="a", **{"in": 3})),
        (Open, Open.model_validate({"text": "a", "more": [1]})),
        (Hidden, Hidden(text="a")),
        (Card, Card("a", [Item(size=1)], 0.5)),
        (Slotted, Slotted(NOON)),
        (Row, {"text": "a", "when": NOON}),
        (Row, {"text": "a"}),
        (Optional[Item], None),  # noqa: UP045
        (Item | None, Item(size=1)),
        (Union[Card, Item], Item(size=1)),  # noqa: UP007
        (dict[str, Item], {"a": Item()}),
        (list[datetime], [NOON]),
        (dict[str, Any], {"a": {"b": [1, 2.5, "c", None, True]}}),
        (tuple[int, ...], (1, 2)),
        (set[int], {1, 2}),
        (float, 1),
        (int, 10**30),
        (Color, Color.RED),
        (Any, {"null": "NaN"}),
        (Any, "Infinity"),
        (Any, "9" * 9000),
        (object, [1]),
        (T, {"a": 1}),
        (dict, {"a": 1}),
    ],
)
def test_a_state_comes_back_as_it_was(annotation: Any, state: Any) -> None:
    """What a declared type can hold is read back equal and of the same type."""
    codec: Codec[Any] = Codec(annotation)
    back = codec.decode(codec.encode(state))
    assert (back, codec.encode_checked(state)) == (state, codec.encode(state))
    assert type(back) is type(state) or annotation is float


@pytest.mark.parametrize(
    ("state", "path"),
    [
        ({"items": [0, 1, {"when": NOON}]}, "state.items[2].when would not come back as it was"),
        ({"a": (1, 2)}, "state.a would not come back as it was: (1, 2) (tuple) is read back as [1, 2] (list)"),
        ({"a": {1}}, "state.a would not"),
        ({"a": b"raw"}, "state.a would not"),
        ({"a": {1: 2}}, "state.a[1] would not come back as it was: 2 (int) is read back as nothing"),
        ({"a": Item()}, "state.a would not"),
        ({"a": Name.ADA}, "state.a would not"),
        ({"a": OrderedDict(b=1)}, "state.a would not"),
        ({"a": defaultdict(list)}, "state.a would not"),
        ({"a": Point(1, 2)}, "state.a would not"),
        ({"a": Decimal(1)}, "state.a would not"),
        ({"a": Unrelated()}, "state.a is not JSON"),
        ({"a": Broken()}, "state.a is not JSON"),
        ({"a": Fraction(1, 2)}, "state.a would not"),
        ({"a": "\ud800"}, r"state.a is not JSON: '\ud800'"),
        ({"\ud800": 1}, r"state has a key that is not JSON: '\ud800'"),
        ({"a": b"\xff"}, r"state.a is not JSON: b'\xff'"),
        ({"a": [1, HUGE]}, "state.a[1] is not JSON"),
        ({"a": {Unrelated: 1}}, "state.a has a key that is not JSON"),
        ({"a": NAN}, "state.a is nan; a state holds finite numbers only"),
        ({"a": [-INF]}, "state.a[0] is -inf;"),
    ],
)
@pytest.mark.parametrize(
    ("annotation", "wrap"),
    [(Any, lambda it: it), (dict[str, Any], lambda it: it), (Open, lambda it: Open.model_validate({"more": it}))],
    ids=["Any", "dict", "extra"],
)
def test_what_is_not_plain_json_is_refused_where_no_type_is_declared(
    annotation: Any, wrap: Any, state: Any, path: str
) -> None:
    """In an undeclared part of a state only plain JSON is taken; the message begins with the path of the culprit."""
    within = path if annotation is not Open else path.replace("state", "state.more", 1)
    assert refusal(Codec(annotation), wrap(state)).startswith(within)


@pytest.mark.parametrize(
    ("state", "path"),
    [
        (changed(Draft(), score=NAN), "state.score is nan"),
        (changed(Draft(), best=NAN), "state.best is nan"),
        (changed(Draft(), best=INF), "state.best is inf"),
        (changed(Draft(), notes={"a": [NAN]}), "state.notes.a[0] is nan"),
        (changed(Plain(), best=-INF), "state.best is -inf"),
        (changed(Plain(), score=INF), "state.score is inf"),
        (changed(NanAsText(), score=NAN), "state.score is nan"),
        (changed(NanAsText(), scores=[1.0, INF]), "state.scores[1] is inf"),
        (changed(Rich(), price=Decimal("NaN")), "state.price is NaN"),
        (changed(Rich(), price=Decimal("-Infinity")), "state.price is -Infinity"),
        (changed(Rich(), half=complex(NAN, 1)), "state.half is (nan+1j)"),
        (AnyPrice(price=Decimal("NaN")), "state.price is NaN"),
        (AnyPrice(price=Decimal("Infinity")), "state.price is Infinity"),
        (Card("a", score=NAN), "state.score is nan"),
        ([1.0, NAN], "state[1] is nan"),
        ({"a": INF}, "state.a is inf"),
        ({INF}, "state{inf} is inf"),
        (INF, "state is inf"),
    ],
)
def test_nan_and_infinity_are_refused_wherever_they_stand(state: Any, path: str) -> None:
    """A number that is not finite is refused by its path, also where JSON would silently make it null or text."""
    kinds: dict[type, Any] = {list: list[float], dict: dict[str, float], set: set[float], float: float}
    assert refusal(Codec(kinds.get(type(state), type(state))), state) == f"{path}; a state holds finite numbers only"


@pytest.mark.parametrize(
    ("state", "path"),
    [
        (changed(Draft(), text=1), "state.text"),
        (changed(Draft(), text=None), "state.text"),
        (changed(Draft(), score="high"), "state.score"),
        (changed(Draft(), items=[Item(), SpecialItem()]), "state.items[1] "),
        (changed(Draft(), items=[None]), "state.items[0]"),
        (changed(Draft(), items=[{"size": 1}]), "state.items[0] "),
        (changed(Draft(), items=(Item(),)), "state.items "),
        (changed(Draft(), items=[changed(Item(), when="2026-01-01")]), "state.items[0].when "),
        (changed(Plain(), size=1.5), "state.size"),
        (changed(Plain(), size=HUGE), "state.size is not JSON"),
        (changed(Plain(), tags=["a", None]), "state.tags[1]"),
        (changed(Plain(), counts={1: 1}), "state.counts[1] "),
        (changed(Plain(), text=None), "state.text"),
        (changed(Rich(), price=1), "state.price "),
        (changed(Rich(), kind="c"), "state.kind"),
        (changed(Rich(), color="blue"), "state.color "),
        (changed(Rich(), pair=[1, "a"]), "state.pair "),
        (changed(Rich(), raw="raw"), "state.raw "),
        (changed(Rich(), raw=b"\xff"), "state.raw is not JSON"),
        (changed(Rich(), point=(1, 2)), "state.point "),
        (changed(Hidden(), shown=1), "state.shown "),
        (changed(Box[Item](content=Item()), content=SpecialItem()), "state.content "),
        (changed(Positive(), size=-1), "state.size"),
        (Rounded(score=1.23), "state.score "),
        (Chatty(), "state.more would not come back as it was: nothing is read back as 1 (int)"),
        (AnyPrice(price=Decimal("sNaN")), "state.price would not"),
        (changed(Stripped(), text=" a "), "state.text "),
        (changed(Open(text="a"), surprise=1), "state.surprise "),
        (Card("a", [SpecialItem()]), "state.items[0] "),
        (Card(1), "state.title"),  # type: ignore[arg-type]
        (SpecialItem(), "state would"),
    ],
)
def test_what_a_declared_type_would_not_bring_back_is_refused(state: Any, path: str) -> None:
    """Wrong types, lost subclasses, excluded and invalid values are refused at every step, with their path."""
    annotation = Item if isinstance(state, Item) else type(state)
    assert refusal(Codec(annotation), state).startswith(path)


def test_a_private_attribute_must_come_back_too() -> None:
    """What a model keeps in private attributes is state: changed, it would be lost without a word."""
    state = Hidden()
    state._private = 5
    assert refusal(Codec(Hidden), state).startswith("state._private would not come back as it was: 5 (int)")


def test_an_undeclared_attribute_of_a_dataclass_is_refused() -> None:
    """An attribute that was set without being declared would be lost without a word."""
    card = Card("a")
    card.surprise = 1  # type: ignore[attr-defined]
    assert refusal(Codec(Card), card).startswith("state.surprise would not come back as it was: 1 (int)")


def test_computed_and_cached_values_are_no_part_of_the_state() -> None:
    """What follows from the fields is worked out again and does not keep a state from being stored."""
    state = Computed(width=4)
    assert (state.area, state.half) == (16, 2.0)
    assert Codec[Computed](Computed).encode_checked(state) == '{"width":4}'


@pytest.mark.parametrize("annotation", [Any, Node, list[Any]])
def test_a_state_that_contains_itself_is_refused(annotation: Any) -> None:
    """A cycle has no end in JSON; the message says where it closes."""
    state: Any = Node() if annotation is Node else [0]
    (state.children if annotation is Node else state).append(state)
    where = "state.children[0]" if annotation is Node else "state[1]"
    assert refusal(Codec(annotation), state) == f"{where} contains itself"


@pytest.mark.parametrize("depth", [210, 5000])
def test_a_state_too_deep_to_be_read_back_is_refused(depth: int) -> None:
    """A nesting that JSON parsers give up on is refused when it is written, not when it is needed."""
    state: Any = []
    for _ in range(depth):
        state = [state]
    assert "limit exceeded" in refusal(Codec(Any), state) or "depth exceeded" in refusal(Codec(Any), state)


@pytest.mark.parametrize(
    ("annotation", "state", "path"),
    [
        (Measured, Measured(last=Measure(INF)), "state.last.root is inf"),
        (Measured, Measured(last=Measure(NAN)), "state.last.root is nan"),
        (Measured, Measured(words=[Word("a"), Word(None)]), "state.words[1] would not"),
        (Optional[Word], Word(None), "state would not"),  # noqa: UP045
        (list[bytes], [b"a", bytearray(b"b")], "state[1] would not"),
        (dict[str, bytes], {"a": bytearray(b"b")}, "state.a would not"),
        (dict[float, int], {NAN: 1}, "state[nan] would not"),
        (list[complex], [complex(INF, 0)], "state[0] is (inf+0j)"),
        (dict[str, complex], {"a": complex(NAN, 1)}, "state.a is (nan+1j)"),
    ],
    ids=str,
)
def test_what_equal_texts_or_bytes_would_hide_is_refused(annotation: Any, state: Any, path: str) -> None:
    """A null that stands for a model, bytes of another type, numbers that are not finite outside of plain floats."""
    assert refusal(Codec(annotation), state).startswith(path)


@pytest.mark.parametrize(
    ("annotation", "state"),
    [(Item, {"size": 1}), (Item, None), (Card, Item()), (Item, Card("a")), (Plain, Card("a")), (Plain, Item())],
    ids=repr,
)
def test_a_state_of_another_type_is_refused(annotation: Any, state: Any) -> None:
    """A state is of the declared type, and is not silently turned into it."""
    assert refusal(Codec(annotation), state).startswith(f"the state must be of type {annotation.__name__}, not ")


@pytest.mark.parametrize("annotation", [Unrelated, list[Unrelated], "Missing"])
def test_a_type_without_a_schema_is_refused_by_name(annotation: Any) -> None:
    """A declared type that Pydantic knows nothing about cannot be a state."""
    with pytest.raises(StateError, match=r"^a state of type .*(Unrelated|Missing).* cannot be stored"):
        Codec[Any](annotation).encode(None)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('{"items":[{},{"size":"big"}]}', "state.items[1].size: Input should be a valid integer"),
        ('{"text":1}', "state.text: Input should be a valid string"),
        ("[]", "state: Input should be an object"),
        ("{", "state: Invalid JSON"),
    ],
)
def test_a_stored_state_that_fits_no_more_names_the_field(text: str, path: str) -> None:
    """When the type has changed since, the error says which field of the stored state does not fit it."""
    with pytest.raises(StateError) as caught:
        Codec(Draft).decode(text)
    assert str(caught.value).startswith(f"the stored state does not fit Draft: {path}")


class CountingCodec(Codec[Any]):
    """A codec that counts how often it reads back what it wrote."""

    passes = 0

    def compare(self, state: Any, text: str) -> None:
        """Count, and compare."""
        self.passes += 1
        super().compare(state, text)


@pytest.mark.parametrize(
    ("annotation", "state", "passes"),
    [
        (Plain, Plain(best=1.0, tags=["a"]), 0),
        (dict[str, list[Plain]], {"a": [Plain(best=1.0)]}, 0),
        (Plain, Plain(best=None), 0),
        (RootModel[list[Plain]], RootModel[list[Plain]]([Plain(best=None)]), 0),
        (Draft, Draft(), 1),
        (Rich, Rich(), 1),
        (Any, {}, 1),
    ],
)
def test_a_typed_state_is_written_without_a_second_pass(annotation: Any, state: Any, passes: int) -> None:
    """Where the declared type says all, strict serialization is the proof; elsewhere the text is read back."""
    codec = CountingCodec(annotation)
    codec.encode(state)
    assert codec.passes == passes


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**4000), 10**4000)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
@settings(deadline=None)
def test_any_json_value_round_trips(state: Any) -> None:
    """Without a declared type every JSON value is a state."""
    codec: Codec[Any] = Codec(Any)
    assert codec.decode(codec.encode(state)) == state


ANYTHING = (
    JSON
    | st.floats()
    | st.datetimes(timezones=st.none() | st.just(UTC))
    | st.timedeltas()
    | st.decimals()
    | st.uuids()
    | st.binary(max_size=4)
    | st.sampled_from(
        [*Color, Name.ADA, Item(), SpecialItem(), Item(size=3), Point(1, 2), HUGE, (1, 2), {1}, Unrelated()]
    )
    | st.text(st.characters(), max_size=3)
)
MODELS = st.builds(
    Draft, text=st.text(), score=st.floats(), best=st.none() | st.floats(), notes=st.just({})
) | st.builds(
    Plain,
    text=st.text(),
    size=st.integers(),
    tags=st.lists(st.text()),
    counts=st.dictionaries(st.text(), st.integers()),
)


@given(state=MODELS | st.builds(Rich), value=ANYTHING | st.lists(ANYTHING, max_size=2), data=st.data())
@settings(deadline=None, max_examples=150)
def test_any_state_of_a_model_round_trips_or_is_refused(state: Any, value: Any, data: st.DataObject) -> None:
    """Whatever is assigned to a field of a model: it comes back equal, or it is refused with a path."""
    field = data.draw(st.sampled_from(list(type(state).model_fields)))
    assume(field not in {"score", "best"} or not isinstance(value, int | Decimal))  # they come back as floats
    codec: Codec[Any] = Codec(type(state))
    state = changed(state.model_copy(), **{field: value})
    assert came_back(codec, state) or refusal(codec, state).startswith("state")


FINITE = {"half": st.complex_numbers(allow_nan=False, allow_infinity=False), "raw": st.just(b"raw")}
FINITE["price"] = st.decimals(allow_nan=False, allow_infinity=False)


@given(st.builds(Rich, **{name: FINITE.get(name, ...) for name in Rich.model_fields}))
@settings(deadline=None)
def test_every_declared_type_round_trips(state: Rich) -> None:
    """Dates, spans, enums, sets and tuples come back exactly where they are declared."""
    assert came_back(Codec(Rich), state)


def test_without_an_annotation_the_type_of_the_first_state_is_used() -> None:
    """A model or dataclass given first is the type of the state; anything else is plain JSON."""
    assert [state_codec(None, state).annotation for state in (Item(), Card("a"), {"a": 1})] == [Item, Card, Any]
    assert state_codec(Draft, Item()).annotation is Draft


@pytest.mark.parametrize("state", [Item(), Card("a"), {"a": 1}, None, Box[int](content=1)])
def test_the_type_of_a_first_state_is_found_again_by_its_name(state: Any) -> None:
    """A resume in another process finds the type where `module:qualname` says it is."""
    assert type_named(type_name(state)) is (type(state) if hasattr(state, "__dict__") else Any)


@pytest.mark.parametrize("name", ["no_such_module:Item", f"{__name__}:NoSuch", f"{__name__}:outer.<locals>.Item"])
def test_a_type_that_is_gone_is_named_with_the_way_out(name: str) -> None:
    """When the type of a stored state cannot be imported, the error says to annotate the parameter."""
    with pytest.raises(StateError, match="annotate the loop's parameter with its type") as caught:
        type_named(name)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("hints", "declared"),
    [
        ({"state": Draft, "return": Any}, (Draft, None)),
        ({"state": Draft | Card, "return": Draft | Card | Done[Draft, None]}, (Draft | Card, type(None))),
        ({"return": Draft}, (Draft, None)),
        ({"return": Box[Draft]}, (Box[Draft], None)),
        ({"return": Draft | None}, (Draft | None, None)),
        ({"return": Draft | Done[Draft, Item]}, (Draft, Item)),
        ({"return": Union[Draft, Card, Done[Draft, Item]]}, (Draft | Card, Item)),  # noqa: UP007
        ({"return": Draft | Done}, (Draft, None)),
        ({"return": Done[Draft, Item]}, (Draft, Item)),
        ({"return": Done}, (None, None)),
        ({"return": None}, (None, None)),
        ({}, (None, None)),
    ],
    ids=str,
)
def test_the_types_are_read_from_the_annotations(hints: dict[str, Any], declared: tuple[Any, Any]) -> None:
    """The state's type is the parameter's, else the return's without `Done`; `Done` names the result's type."""

    def step(state: Any) -> Any:
        raise NotImplementedError

    step.__annotations__ = hints
    assert annotation_of(step, 0, {}) == declared


def test_a_class_local_to_a_function_is_found_by_the_names_around_it() -> None:
    """With postponed annotations a local class is only a name, and is looked up where the function was defined."""

    class Local(BaseModel):
        text: str = string.ascii_letters

    def step(state: Local) -> list[Local]:
        raise NotImplementedError

    assert annotation_of(step, 0, locals()) == (Local, None)
    with pytest.raises(NameError):
        annotation_of(step, 0, {})
