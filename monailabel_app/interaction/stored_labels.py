"""The labels of a session on disk, where all that a request changes is written at once, or nothing of it."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch

from monailabel_app.errors import RequestError
from monailabel_app.interaction.disk import SessionFolder
from monailabel_app.interaction.record import SessionRecord
from rep3d.interactive.editing import LabelEdit

logger = logging.getLogger(__name__)

MAX_LABELS = 255
MAX_NAME = 200  # characters of a label's name
UNPRINTED = ("Cc", "Cs", "Zl", "Zp")  # Unicode's categories of what no name has; joiners of letters are of others


class StoredLabels:
    """All labels of a session. Only the one that was used last is in memory.

    Who uses them keeps other threads away meanwhile, and changes them within `whole`: there is no lock here.

    Attributes:
        record: what is recorded of them; another one takes its place where something changes.
        edit: the label in memory; None: none is.
        name: of that, or of the one that was in memory last.

    Args:
        folder: where they lie.
        record: what lies there.
        check_room: raises RequestError where this owner may not have so many bytes more on disk.
    """

    def __init__(self, folder: SessionFolder, record: SessionRecord, check_room: Callable[[str, int], None]) -> None:
        self.record = record
        self.edit: LabelEdit | None = None
        self.name = ""
        self._folder = folder
        self._check_room = check_room
        self._is_changed = False  # whether the label in memory is not on disk yet
        self._changed: dict[str, bytes] = {}  # other labels that are not yet
        self._locked: torch.Tensor | None = None  # voxels of the labels that are locked for the one in memory

    @contextmanager
    def whole(self) -> Iterator[None]:
        """All that changes in the context is on disk at its end; where that raises, nothing has changed.

        Raises:
            RequestError: there is no room for it.
            WriteError: it cannot be written.
        """
        before = self.record
        try:
            yield
            self._write(before)
        except BaseException:
            if self._is_changed or self._changed or self.record is not before:
                self.record = before
                self.edit, self._locked, self._is_changed, self._changed = None, None, False, {}
            raise

    def known(self, labels: Iterable[str]) -> tuple[str, ...]:
        """These labels, each once.

        Raises:
            RequestError: 404, one is not there.
        """
        wanted = tuple(dict.fromkeys(labels))
        missing = [name for name in wanted if name not in self.record.labels]
        if missing:
            raise RequestError(404, f"there is no label {missing[0][:MAX_NAME]!r} in this session")
        return wanted

    def get(self, label: str) -> LabelEdit:
        """A label, which takes the place of another one in memory.

        Raises:
            RequestError: 404, it is not there; 500, it cannot be read.
        """
        self.known([label])
        return self._take(label)

    @contextmanager
    def changing(self, label: str) -> Iterator[LabelEdit]:
        """A label, which the context may change; a new one is there from its end on.

        Raises:
            RequestError: 400 or 413, there can be no label of this name; as `get`.
        """
        edit = self._take(label)
        mask, rest = edit.mask, _rest(edit)
        try:
            yield edit
        finally:
            self._is_changed |= edit.mask is not mask or _rest(edit) != rest
        if label not in self.record.labels:
            self.record, self._is_changed = self.record.with_label(label), True

    def note(self, label: str, **facts: Any) -> None:
        """Record these facts of a label, see `LabelRecord`.

        Raises:
            RequestError: 404, it is not there.
        """
        self.known([label])
        self.record = self.record.with_label(label, **facts)

    def rename(self, label: str, name: str) -> None:
        """Give a label another name, which no other one has.

        Raises:
            RequestError: as `get`.
        """
        self.get(label)
        assert name not in self.record.labels
        self.let_go()
        self.record = self.record.renamed(label, name)
        self._changed = {name if one == label else one: content for one, content in self._changed.items()}

    def copy(self, label: str, name: str) -> None:
        """Make a label of this name, which no other one has, that is as the label is. A lock goes on to it.

        Raises:
            RequestError: as `changing`.
        """
        edit = self.get(label)
        self._check_new(name)
        self.record, self._locked = self.record.copied(label, name), None
        self._keep(name, edit)

    def lock(self, labels: Iterable[str]) -> None:
        """Lock these labels, and no others.

        Raises:
            RequestError: 404, one is not there.
        """
        self.record, self._locked = replace(self.record, locked=self.known(labels)), None

    def locked_for_edit(self) -> tuple[str, ...]:
        """Names of the labels that are locked, beside the one in memory."""
        return tuple(name for name in self.record.locked if name != self.name)

    def locked_voxels(self) -> torch.Tensor | None:
        """Those of the labels that are locked, beside the one in memory, (D, H, W) of bool; None: there are none."""
        if self._locked is None:
            for name in self.locked_for_edit():
                mask = self._read(name).mask
                self._locked = mask if self._locked is None else self._locked | mask
        return self._locked

    def coarse_edit(self) -> LabelEdit | None:
        """A label that is to be refined, that in memory first; None where there is none that can be read."""
        for label in sorted(self.record.coarse, key=lambda name: name != self.name):
            with suppress(RequestError):
                edit = self.get(label)
                if edit.is_coarse:
                    return edit
            self.record = replace(self.record, coarse=tuple(one for one in self.record.coarse if one != label))
        return None

    def let_go(self) -> None:
        """Of the label in memory; on disk, or in `_changed`, it is as it is there."""
        if self.edit is not None and self._is_changed:
            self._keep(self.name, self.edit)
        self.edit, self._locked, self._is_changed = None, None, False

    @property
    def nbytes(self) -> int:
        """In memory."""
        edit, locked = self.edit, self._locked  # others may let go of them meanwhile
        of_edit = 0 if edit is None else edit.mask.nbytes + edit.coarse_nbytes
        return of_edit + (0 if locked is None else locked.nbytes)

    def _take(self, label: str) -> LabelEdit:
        """The label, in the place of another one in memory; a new one counts once it is written."""
        if self.edit is None or self.name != label:
            if label in self.record.labels:
                edit = self._read(label)
            else:
                self._check_new(label)
                edit = LabelEdit(self.record.shape)
            self.let_go()
            self.name, self.edit = label, edit
        return self.edit

    def _check_new(self, label: str) -> None:
        """Raise RequestError where there can be no label of this name."""
        if not label.strip() or len(label) > MAX_NAME:
            raise RequestError(400, f"the label is {label[:MAX_NAME]!r}, expected a name of 1 to {MAX_NAME} characters")
        if any(unicodedata.category(character) in UNPRINTED for character in label):
            raise RequestError(400, f"the label is {label!r}, expected a name without control characters or line ends")
        if len(self.record.labels) >= MAX_LABELS:
            raise RequestError(413, f"the session has {MAX_LABELS} labels, which is the most")

    def _read(self, label: str) -> LabelEdit:
        if label in self._changed:
            return LabelEdit.from_bytes(self._changed[label])
        try:
            return self._folder.read_label(self.record.labels[label].number)
        except (OSError, ValueError) as error:
            logger.error("session %s: %s", self.record.id, error)
            raise RequestError(500, f"label {label!r} cannot be read from the server's disk") from error

    def _keep(self, label: str, edit: LabelEdit) -> None:
        """Put a label among those that are to be written."""
        self._changed[label] = edit.to_bytes()
        others = tuple(one for one in self.record.coarse if one != label)
        self.record = replace(self.record, coarse=(*others, label) if edit.is_coarse else others)

    def _write(self, before: SessionRecord) -> None:
        """What has changed; labels under new numbers, see `SessionFolder.write`."""
        if self.edit is not None and self._is_changed:
            self._keep(self.name, self.edit)
        if self._changed or self.record is not before:
            record, contents = self.record, dict[int, bytes]()
            last = max((label.number for label in record.labels.values()), default=0)
            for number, (name, content) in enumerate(self._changed.items(), last + 1):
                contents[number] = content
                record = record.with_label(name, number=number)
            self._check_growth()
            self._folder.write(contents, record)
            self.record = record
        self._is_changed, self._changed = False, {}

    def _check_growth(self) -> None:
        """Raise RequestError where there is no room on disk for the labels that have changed."""
        before = sum(self._folder.label_nbytes(self.record.labels[name].number) for name in self._changed)
        growth = sum(map(len, self._changed.values())) - before
        if growth > 0:
            self._check_room(self.record.owner, growth)


def _rest(edit: LabelEdit) -> tuple[object, ...]:
    """What tells whether an edit has changed, beside its mask."""
    return edit.undoable, edit.redoable, edit.untold, edit.coarse
