"""What is recorded of a session and of each of its labels, beside the labels' masks, prompts and steps."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

Kind = Literal["study", "lent", "array"]

BEGUN = ("origin", "checksum")  # what is recorded of a label that others made


@dataclass(frozen=True)
class LabelRecord:
    """What is recorded of a label.

    Args:
        number: of its file; 0 of one without a file yet.
        origin: what the mask comes from that it began with, where others made that; else empty.
        checksum: of that mask, see `monailabel_app.interaction.session`.
        went_on: the id of the session that it was told to go on from, also where that had nothing for it.
        background: where those of its points lie that are of a list of the background's; None: no list was for it yet.
    """

    number: int = 0
    origin: str = ""
    checksum: int = 0
    went_on: str | None = None
    background: list[list[float]] | None = None


@dataclass(frozen=True)
class SessionRecord:
    """What a session is of, and what is recorded of its labels.

    Args:
        owner: the user who may use it.
        client: the program in whose hands it is, by the name that it gives itself, or an empty text.
        kind: where its image is: among the studies, lent (`monailabel_app.studies.sessions`), or in the session itself.
        image: the id among the studies, or of the lent scan; empty where the image is the session's own.
        stamp: of the image's file, where it is of the studies.
        shape: voxels along each axis.
        spacing: millimetres between them along each axis.
        id: its own, and its folder's name.
        created: seconds.
        digest: of its voxels among the studies, once they were read.
        labels: by name, in the order in which they were made.
        locked: names of labels, in the order in which they were told.
        coarse: names of labels that are to be refined, the one that has changed last last.
    """

    owner: str
    client: str
    kind: Kind
    image: str
    stamp: str
    shape: Sequence[int]
    spacing: Sequence[float]
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    created: int = field(default_factory=lambda: int(time.time()))
    digest: str = ""
    labels: dict[str, LabelRecord] = field(default_factory=dict)
    locked: tuple[str, ...] = ()
    coarse: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        kinds = {"shape": int, "spacing": float, "locked": str, "coarse": str}
        for name, kind in kinds.items():  # lists, where they come from JSON
            object.__setattr__(self, name, tuple(map(kind, getattr(self, name))))

    @property
    def origin(self) -> tuple[str, ...]:
        """Whose it is and of which image; the same of two sessions only where the image is their own."""
        return self.owner, self.client, self.kind, self.image, self.stamp

    def label(self, name: str) -> LabelRecord:
        """What is recorded of a label: nothing of one that is not there."""
        return self.labels.get(name, LabelRecord())

    def with_label(self, name: str, **facts: Any) -> SessionRecord:
        """With these facts of a label, which is added where it is not there."""
        return replace(self, labels={**self.labels, name: replace(self.label(name), **facts)})

    def renamed(self, label: str, name: str) -> SessionRecord:
        """With another name for a label, which no other one has."""
        names = {one: name if one == label else one for one in self.labels}
        return replace(
            self,
            labels={names[one]: told for one, told in self.labels.items()},
            locked=tuple(names[one] for one in self.locked),
            coarse=tuple(names[one] for one in self.coarse),
        )

    def copied(self, label: str, name: str) -> SessionRecord:
        """With a label of this name, which no other one has, that is as the label is, without a file yet.

        A lock goes on to it, which would leave it without a voxel; whether it is to be refined is not recorded yet.
        """
        return replace(
            self,
            labels={**self.labels, name: replace(self.labels[label], number=0)},
            locked=tuple(name if one == label else one for one in self.locked),
        )

    def to_json(self) -> dict[str, object]:
        """As `from_json` reads it: a table by label for each thing, of the labels of which there is something."""
        labels = self.labels.items()
        return {
            **asdict(self),
            "labels": {name: label.number for name, label in labels},
            "begun": {name: [getattr(label, one) for one in BEGUN] for name, label in labels if label.origin},
            "went_on": {name: label.went_on for name, label in labels if label.went_on is not None},
            "background": {name: label.background for name, label in labels if label.background is not None},
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> SessionRecord:
        """Fields of other versions are left out.

        Raises:
            TypeError: others are missing, or what is of labels is no table.
        """
        known = {one.name: content[one.name] for one in fields(cls) if one.name in content}
        numbers, begun, went_on, background = (
            dict(content.get(table, {})) for table in ("labels", "begun", "went_on", "background")
        )
        labels = {}
        for name, number in numbers.items():
            # Earlier versions have the number of steps in the place of the checksum: the label counts as edited.
            begins: dict[str, Any] = dict(zip(BEGUN, begun.get(name, ()), strict=False))
            labels[name] = LabelRecord(number, **begins, went_on=went_on.get(name), background=background.get(name))
        return cls(**{**known, "labels": labels})
