"""A client's work on one scan: its labels, each with a mask, prompts and a way back, and which of them are locked."""

from __future__ import annotations

import json
import logging
import math
import threading
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch

from monailabel_app.errors import RequestError
from monailabel_app.interaction.disk import SessionFolder, SessionRecord
from monailabel_app.interaction.voxels import voxel_digest
from monailabel_app.models.clicks import PromptedNetwork
from monailabel_app.models.turn import Priority
from rep3d.interactive.editing import Answer, LabelEdit
from rep3d.interactive.prompts import Prompt
from rep3d.interactive.scene import TILES, Scene

logger = logging.getLogger(__name__)

ValueT = TypeVar("ValueT")

MAX_LABELS = 255
MAX_NAME = 200  # characters of a label's name
UNPRINTED = ("Cc", "Cs", "Zl", "Zp")  # Unicode's categories of what no name has; joiners of letters are of others


class InteractiveSession:
    """One session. All its methods may be called from any thread; one at a time works.

    A request that does several things holds the session meanwhile, and changes all of it or nothing:

        with session.hold():
            session.paint("liver", mask)
            session.show("liver", prompts)

    Every change is on disk before its method returns, or where the session is held at the end of that, and what raises
    has changed nothing. Only the label that was used last is in memory.

    Args:
        folder: where it lies.
        record: what lies there.
        read_image: its voxels, as `voxels.compact` gives them.
        network: answers prompts.
        admitted: tickets of those who may wait for sessions, all together.
        use: a context in which the session is used, and has room in memory.
        room_for: the same without the session counting as used, see `Memory`.
        check_room: raises RequestError where its owner may not have so many bytes more on disk.
    """

    def __init__(
        self,
        folder: SessionFolder,
        record: SessionRecord,
        read_image: Callable[[SessionRecord], np.ndarray],
        network: PromptedNetwork,
        admitted: threading.Semaphore,
        use: Callable[[InteractiveSession], AbstractContextManager[None]],
        room_for: Callable[[InteractiveSession, float, bool], AbstractContextManager[None]],
        check_room: Callable[[str, int], None],
    ) -> None:
        self.record = record
        self._folder = folder
        self._read_image = read_image
        self._network = network
        self._admitted = admitted
        self._use = use
        self._room_for = room_for
        self._check_room = check_room
        self._lock = threading.RLock()
        self._removed = False
        self._image: torch.Tensor | None = None
        self._image_bytes = 4  # of a voxel, at most as long as nobody knows
        self._name = ""
        self._edit: LabelEdit | None = None  # of the label of that name
        self._taken: torch.Tensor | None = None  # by labels that are locked, for the label in memory
        self._submitted: tuple[object, np.ndarray] | None = None  # the label map that was read last, and its key
        self._holder: int | None = None  # the thread that holds the session
        self._is_changed = False  # whether the label in memory is not on disk yet
        self._changed: dict[str, bytes] = {}  # other labels that are not yet

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def labels(self) -> tuple[str, ...]:
        """Their names, in the order in which they were made."""
        return tuple(self.record.labels)

    @property
    def locked(self) -> tuple[str, ...]:
        """Names of the labels whose voxels no other label may take."""
        return self.record.locked

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep other threads away for as long as the context lasts. What it raises takes back all that it has changed.

        Raises:
            RequestError: 404, the session was removed meanwhile; 503, too many wait, or others take the memory; 429 or
                507, there is no room for what has changed.
            WriteError: it cannot be written.
        """
        if self._holder == threading.get_ident():
            yield
            return
        if not self._admitted.acquire(blocking=False):
            raise RequestError(503, "too many clicks are waiting already, try again later")
        try:
            with self._use(self), self._held():  # who waits for memory keeps nobody away
                self._holder = threading.get_ident()
                try:
                    with self._whole():
                        yield
                finally:
                    self._holder = None
        finally:
            self._admitted.release()

    @contextmanager
    def _held(self) -> Iterator[None]:
        """The same without a ticket, and without the session counting as used."""
        with self._lock:
            if self._removed:
                raise RequestError(404, "there is no such session")
            yield

    # --- one label. Names that are new make a label, but for `mask` and `prompts`

    def show(
        self, label: str, prompts: Sequence[Prompt], taken: np.ndarray | None = None, *, grow: bool = True
    ) -> Answer:
        """Let the network answer new prompts, all of them at once; see `LabelEdit.show`.

        Args:
            taken: voxels of other labels that the client knows of, (D, H, W) of bool, beside those that are locked.
                The answer stays when `bring_to` is called with others.
            grow: see `rep3d.interactive.Scene`.

        Raises:
            RequestError: 400, a prompt that lies outside, or too many; 404, no weights; 413, too many labels.
        """
        return self._ask(
            label, lambda edit, scene: edit.show(prompts, replace(scene, grow=grow, locks=self._locks(None))), taken
        )

    def bring_to(self, label: str, prompts: Sequence[Prompt], taken: np.ndarray | None = None) -> Answer:
        """Make these, and no others, the label's prompts; see `LabelEdit.bring_to`. Arguments and errors as `show`."""
        return self._ask(label, lambda edit, scene: edit.bring_to(prompts, scene), taken)

    def paint(self, label: str, mask: np.ndarray, *, answered: bool = True) -> Answer:
        """Take over a mask (D, H, W) of bool that the user made; see `LabelEdit.paint`.

        Raises:
            RequestError: 400, another shape or type.
        """
        painted = torch.from_numpy(np.ascontiguousarray(mask))
        return self._change(label, lambda edit: edit.paint(painted, answered=answered))

    def begin(self, label: str, mask: np.ndarray, taken: np.ndarray | None = None, origin: str = "") -> Answer:
        """Take over a mask (D, H, W) of bool that others made, but for what is locked or taken; see `LabelEdit.begin`.

        Args:
            taken: see `show`.
            origin: what the mask comes from, to be remembered of a label that begins; empty: the user's own work.

        Raises:
            RequestError: as `show`.
        """

        def begin(edit: LabelEdit) -> Answer:
            locked, begins = self._untakable(taken), torch.from_numpy(np.ascontiguousarray(mask))
            return edit.begin(begins if locked is None else begins & ~locked)

        with self.hold():
            answer = self._change(label, begin)
            if origin:
                begun = {**self.record.begun, label: (origin, self.steps(label))}
                self.record = replace(self.record, begun=begun)
            return answer

    def go_on(self, label: str, session_id: str) -> None:
        """Note that a label has gone on from a session; from this one, its mask stays, and what led to it is forgotten.

        Raises:
            RequestError: 404, there is no such label.
        """
        with self.hold():
            self._known(label)
            if session_id == self.id:
                self._change(label, LabelEdit.settle)
                begun = {name: one for name, one in self.record.begun.items() if name != label}
                background = {name: some for name, some in self.record.background.items() if name != label}
                self.record = replace(self.record, begun=begun, background=background)
            self.record = replace(self.record, went_on={**self.record.went_on, label: session_id})

    def went_on(self, label: str, session_id: str) -> bool:
        """Whether a label has gone on from that session."""
        return self.record.went_on.get(label) == session_id

    def background(self, label: str) -> set[Prompt] | None:
        """What `note_background` was told of a label last; None where that was not yet."""
        places = self.record.background.get(label)
        return None if places is None else {Prompt("point", ((x, y, z),), positive=False) for x, y, z in places}

    def note_background(self, label: str, points: Iterable[Prompt]) -> None:
        """Note which points that a label has, or gets, are those of a list of the background's."""
        with self.hold():
            places = sorted(list(prompt.positions[0]) for prompt in points)
            if places != self.record.background.get(label):
                self.record = replace(self.record, background={**self.record.background, label: places})

    def origin(self, label: str) -> str:
        """What the mask comes from that a label began with; empty where that is not known, and of the user's own."""
        return self.record.begun.get(label, ("", 0))[0]

    def is_to_begin(self, label: str, origin: str) -> bool:
        """Whether a label may begin with a mask of this origin, and none of the user's work is lost.

        That is one that is not there, or is as it began with a mask of another, known origin.
        """
        if label not in self.record.labels:
            return True
        before, steps = self.record.begun.get(label, (origin, 0))
        return before != origin and self.steps(label) == steps and not self.prompts(label)

    def undo(self, label: str, *, answered: bool = True) -> Answer:
        """Take the label's last step back, where there is one.

        Args:
            answered: whether the user sees the answer; if not, what changes is told with the next one.
        """
        return self._change(label, lambda edit: edit.undo(self._locked_voxels()), answered=answered)

    def redo(self, label: str, *, answered: bool = True) -> Answer:
        """Take the last step that was undone again, where there is one; `answered` as above."""
        return self._change(label, lambda edit: edit.redo(self._locked_voxels()), answered=answered)

    def reset(self, label: str, *, answered: bool = True) -> Answer:
        """Forget the label's mask, prompts and steps; `answered` as above."""
        return self._change(label, LabelEdit.reset, answered=answered)

    def rename(self, label: str, name: str) -> None:
        """Give a label another name, which no other one has; nothing else of it changes.

        Raises:
            RequestError: 404, there is no such label.
        """
        with self.hold():
            self._known(label)
            assert name not in self.record.labels
            self._let_go()
            record = self.record
            renamed = {one: name if one == label else one for one in record.labels}
            self.record = replace(
                record,
                labels={renamed[one]: number for one, number in record.labels.items()},
                locked=tuple(renamed[one] for one in record.locked),
                begun={renamed[one]: begun for one, begun in record.begun.items()},
                went_on={renamed[one]: session_id for one, session_id in record.went_on.items()},
                background={renamed[one]: places for one, places in record.background.items()},
                coarse=tuple(renamed[one] for one in record.coarse),
            )
            self._changed = {renamed[one]: content for one, content in self._changed.items()}

    def copy(self, label: str, name: str) -> None:
        """Make a label of this name, which no other one has, that is as the label is. A lock goes on to it.

        Raises:
            RequestError: 404, there is no such label; others as `show`.
        """
        with self.hold():
            edit = self._known(label)
            self._check_new(name)
            self._taken, record = None, self.record
            self.record = replace(
                record,
                labels={**record.labels, name: 0},
                locked=tuple(name if one == label else one for one in record.locked),
                begun=_copied(record.begun, label, name),
                went_on=_copied(record.went_on, label, name),
                background=_copied(record.background, label, name),
            )
            self._keep(name, edit)

    @property
    def is_coarse(self) -> bool:
        """Whether `refine` has something to do."""
        return bool(self.record.coarse)

    def refine(self, priority: Priority = Priority.SEGMENTATION) -> bool:
        """Redraw one cube of what the last answers left coarse. What changes is told with the next answer.

        Nobody waits for the session while it computes; where the user does something meanwhile, that counts.

        Returns:
            Whether there is more to do.

        Raises:
            RequestError: 503, others take the memory, or other weights serve by now; others as `show`.
        """
        if self.is_coarse:
            with self._room_for(self, 0, False):
                self._refine(priority)
        return self.is_coarse

    def _refine(self, priority: Priority) -> None:
        with self._held():
            edit = self._coarse_label()
            pending = None if edit is None else edit.pending
            if pending is None:
                return
            locked, view = self.record.locked, self._view()
        with self._scene(view, priority, tiles=1) as scene:
            finer = pending.refined(scene)
        with self._held():
            if edit is not None and self._edit is edit and self.record.locked == locked:
                with self._whole():
                    before = edit.coarse
                    edit.accept(pending, finer)
                    self._is_changed = edit.coarse != before

    def _coarse_label(self) -> LabelEdit | None:
        """One that is to be refined, that in memory first; None where there is none that can be read."""
        for label in sorted(self.record.coarse, key=lambda name: name != self._name):
            with suppress(RequestError):
                edit = self._get(label)
                if edit.is_coarse:
                    return edit
            self.record = replace(self.record, coarse=tuple(one for one in self.record.coarse if one != label))
        return None

    def mask(self, label: str) -> np.ndarray:
        """(D, H, W) of bool, not to be changed.

        Raises:
            RequestError: 404, there is no such label.
        """
        with self.hold():
            return self._known(label).mask.numpy()

    def told(self, label: str) -> np.ndarray:
        """The mask as answers have told it, see `LabelEdit.told`; arguments and errors as `mask`."""
        with self.hold():
            return self._known(label).told.numpy()

    def prompts(self, label: str) -> tuple[Prompt, ...]:
        """All that led to the mask, the oldest first.

        Raises:
            RequestError: 404, there is no such label.
        """
        with self._held():
            return self._known(label).prompts

    def settled(self, label: str) -> int:
        """How many of the prompts bind no longer, the oldest ones: the user has painted since.

        Raises:
            RequestError: 404, there is no such label.
        """
        with self._held():
            edit = self._known(label)
            return len(edit.prompts) - len(edit.in_force)

    def steps(self, label: str) -> int:
        """How many led to the mask, those that can be undone no more among them; none of a label that is not there."""
        with self.hold():
            return self._known(label).steps if label in self.record.labels else 0

    def undoable(self, label: str) -> tuple[int, int]:
        """How many steps can be undone, and how many redone; none of a label that is not there."""
        with self.hold():
            if label not in self.record.labels:
                return 0, 0
            edit = self._known(label)
            return edit.undoable, edit.redoable

    # --- all labels

    def lock(self, labels: Iterable[str]) -> None:
        """Lock these labels, and no others: no other label takes their voxels from now on.

        Raises:
            RequestError: 404, one is not there.
        """
        with self.hold():
            self.record = replace(self.record, locked=self.known(labels))
            self._taken = None

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

    def submitted(self, key: object, read: Callable[[], np.ndarray]) -> np.ndarray:
        """A label map of the image, (D, H, W), not to be changed; it stays in memory as long as the image does.

        Args:
            key: another one for another label map.
            read: gives it where it is not in memory.
        """
        known = self._submitted
        if known is None or known[0] != key:
            known = self._submitted = (key, read())
        return known[1]

    def describe(self) -> dict[str, object]:
        """What clients are told."""
        record = self.record
        return {
            "id": record.id,
            "owner": record.owner,
            "client": record.client,
            "kind": record.kind,
            "image": record.image,
            "shape": list(record.shape),
            "spacing": list(record.spacing),
            "created": record.created,
            "used": int(self.used),
            "labels": list(record.labels),
            "locked": list(record.locked),
            "bytes": self.stored_nbytes,
        }

    # --- what the registry needs

    @property
    def used(self) -> float:
        """When it was last used, in seconds; the beginning of time, where it is gone."""
        return self._folder.used()

    @property
    def stored_nbytes(self) -> int:
        """On disk."""
        return self._folder.nbytes()

    @property
    def nbytes(self) -> int:
        """In memory, between two requests."""
        edit = self._edit  # others may let go of it meanwhile
        submitted = self._submitted
        kept = (
            self._image,
            self._taken,
            None if edit is None else edit.mask,
            None if submitted is None else submitted[1],
        )
        coarse = 0 if edit is None else edit.coarse_nbytes
        return sum(values.nbytes for values in kept if values is not None) + coarse

    @property
    def full_nbytes(self) -> int:
        """In memory, at most, while a request is answered: the image and four masks."""
        return (4 + self._image_bytes) * math.prod(self.record.shape)

    def touch(self) -> None:
        self._folder.touch()

    def restamp(self, stamp: str) -> None:
        """Note that the image's file has changed, and its voxels have not."""
        with self._held(), self._whole():
            self.touch()
            self.record = replace(self.record, stamp=stamp)

    def leave_memory(self) -> bool:
        """Keep nothing in memory, unless somebody uses it; all is on disk."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            self._let_go()
            self._image = self._submitted = None
            return True
        finally:
            self._lock.release()

    def end(self) -> None:
        """Be used by nobody any more, once nobody uses it. Its folder is left to the caller."""
        with self._lock:
            self._removed = True
            self.leave_memory()

    # --- inside

    def _ask(self, label: str, step: Callable[[LabelEdit, Scene], Answer], taken: np.ndarray | None) -> Answer:
        self._network.check()

        def ask(edit: LabelEdit) -> Answer:
            with self._scene(self._view(taken), Priority.CLICK) as scene:
                return step(edit, replace(scene, locks=self._locks(taken)))

        return self._change(label, ask)

    def _change(self, label: str, step: Callable[[LabelEdit], Answer], *, answered: bool = True) -> Answer:
        with self.hold():
            edit = self._get(label)
            mask, rest = edit.mask, _rest(edit)
            told = None if answered else edit.told
            try:
                answer = step(edit)
                if told is not None:
                    edit.leave_untold(told)
            except ValueError as error:
                raise RequestError(400, str(error)) from error
            finally:
                self._is_changed |= edit.mask is not mask or _rest(edit) != rest
            if label not in self.record.labels:
                self.record, self._is_changed = replace(self.record, labels={**self.record.labels, label: 0}), True
            if self.record.kind == "study" and not self.record.digest:
                self.record = replace(self.record, digest=voxel_digest(self._loaded_image().numpy()))
            return answer

    def _known(self, label: str) -> LabelEdit:
        self.known([label])
        return self._get(label)

    def _get(self, label: str) -> LabelEdit:
        """The label, which takes the place of another one in memory; a new one counts once it is written."""
        if self._edit is None or self._name != label:
            if label in self.record.labels:
                edit = self._read(label)
            else:
                self._check_new(label)
                edit = LabelEdit(self.record.shape)
            self._let_go()
            self._name, self._edit = label, edit
        return self._edit

    def _let_go(self) -> None:
        """Of the label in memory; on disk, or in `_changed`, it is as it is there."""
        if self._edit is not None and self._is_changed:
            self._keep(self._name, self._edit)
        self._edit, self._taken, self._is_changed = None, None, False

    def _keep(self, label: str, edit: LabelEdit) -> None:
        """Put a label among those that are to be written."""
        self._changed[label] = edit.to_bytes()
        others = tuple(one for one in self.record.coarse if one != label)
        self.record = replace(self.record, coarse=(*others, label) if edit.is_coarse else others)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """All that changes in the context is on disk at its end; where that raises, nothing has changed."""
        record = self.record
        try:
            yield
            self._write(record)
        except BaseException:
            if self._is_changed or self._changed or self.record is not record:
                self.record = record
                self._edit, self._taken, self._is_changed, self._changed = None, None, False, {}
            raise

    def _write(self, before: SessionRecord) -> None:
        """What has changed; labels under new numbers, see `SessionFolder.write`."""
        if self._edit is not None and self._is_changed:
            self._keep(self._name, self._edit)
        if self._changed or self.record is not before:
            last = max(self.record.labels.values(), default=0)
            numbers = {name: number for number, name in enumerate(self._changed, last + 1)}
            record = replace(self.record, labels={**self.record.labels, **numbers})
            self._check_growth()
            self._folder.write({numbers[name]: content for name, content in self._changed.items()}, record)
            self.record = record
        self._is_changed, self._changed = False, {}

    def _check_growth(self) -> None:
        """Raise RequestError where there is no room on disk for the labels that have changed."""
        before = sum(self._folder.label_nbytes(self.record.labels[name]) for name in self._changed)
        growth = sum(map(len, self._changed.values())) - before
        if growth > 0:
            self._check_room(self.record.owner, growth)

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
            return self._folder.read_label(self.record.labels[label])
        except (OSError, ValueError) as error:
            logger.error("session %s: %s", self.id, error)
            raise RequestError(500, f"label {label!r} cannot be read from the server's disk") from error

    def _view(self, taken: np.ndarray | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The image, and what of it the label in memory may not take."""
        return self._loaded_image(), self._untakable(taken)

    def _loaded_image(self) -> torch.Tensor:
        if self._image is None:
            self._image = torch.from_numpy(self._read_image(self.record))
            self._image_bytes = self._image.element_size()
        return self._image

    def _untakable(self, taken: np.ndarray | None) -> torch.Tensor | None:
        """What is locked for the label in memory, and what is taken besides."""
        locked = self._locked_voxels()
        if taken is None:
            return locked
        if taken.shape != tuple(self.record.shape) or taken.dtype != bool:
            raise RequestError(400, f"taken has the shape {taken.shape}, expected {tuple(self.record.shape)} of bool")
        also = torch.from_numpy(np.ascontiguousarray(taken))
        return also if locked is None else locked | also

    def _locks(self, taken: np.ndarray | None) -> str:
        """A name of what the label in memory may not take: which labels are locked, and which voxels are taken."""
        names = sorted(name for name in self.record.locked if name != self._name)
        voxels = zlib.crc32(np.ascontiguousarray(taken).data) if taken is not None and taken.any() else None
        return json.dumps([names, voxels]) if names or voxels is not None else ""

    @contextmanager
    def _scene(
        self, view: tuple[torch.Tensor, torch.Tensor | None], priority: Priority, tiles: int = TILES
    ) -> Iterator[Scene]:
        image, locked = view
        with self._network.answering(priority) as network:
            yield Scene(network, image, self.record.spacing, locked, self._network.size, tiles)

    def _locked_voxels(self) -> torch.Tensor | None:
        """Of the labels that are locked, beside the one in memory."""
        if self._taken is None:
            for name in self.record.locked:
                if name != self._name:
                    mask = self._read(name).mask
                    self._taken = mask if self._taken is None else self._taken | mask
        return self._taken


def _rest(edit: LabelEdit) -> tuple[object, ...]:
    """What tells whether an edit has changed, beside its mask."""
    return edit.undoable, edit.redoable, edit.untold, edit.coarse


def _copied(table: Mapping[str, ValueT], label: str, name: str) -> dict[str, ValueT]:
    """A table of labels in which the name stands for what the label does."""
    return {**table, name: table[label]} if label in table else dict(table)
