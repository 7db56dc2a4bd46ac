"""A client's work on one scan: its labels, each with a mask, prompts and a way back, and which of them are locked."""

from __future__ import annotations

import json
import math
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import numpy as np
import torch

from monailabel_app.errors import RequestError
from monailabel_app.interaction.disk import SessionFolder
from monailabel_app.interaction.record import SessionRecord
from monailabel_app.interaction.stored_labels import StoredLabels
from monailabel_app.interaction.voxels import voxel_digest
from monailabel_app.models.clicks import PromptedNetwork
from monailabel_app.models.turn import Priority
from rep3d.interactive.editing import Answer, LabelEdit
from rep3d.interactive.prompts import Prompt
from rep3d.interactive.scene import TILES, Scene


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
        self._folder = folder
        self._labels = StoredLabels(folder, record, check_room)
        self._read_image = read_image
        self._network = network
        self._admitted = admitted
        self._use = use
        self._room_for = room_for
        self._lock = threading.RLock()
        self._removed = False
        self._image: torch.Tensor | None = None
        self._image_bytes = 4  # of a voxel, at most as long as nobody knows
        self._submitted: tuple[object, np.ndarray] | None = None  # the label map that was read last, and its key
        self._holder: int | None = None  # the thread that holds the session

    @property
    def record(self) -> SessionRecord:
        """What the session is of, and what is recorded of its labels."""
        return self._labels.record

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
                    with self._labels.whole():
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
        self, label: str, prompts: Sequence[Prompt], limits: np.ndarray | None = None, *, grow: bool = True
    ) -> Answer:
        """Let the network answer new prompts, all of them at once; see `LabelEdit.show`.

        Args:
            limits: voxels that the answer is not to take, (D, H, W) of bool, beside those of locked labels; also where
                `bring_to` shows these prompts again.
            grow: see `rep3d.interactive.Scene`.

        Raises:
            RequestError: 400, a prompt that lies outside, or too many; 404, no weights; 413, too many labels.
        """
        kept_out = self._voxels(limits)
        return self._ask(label, lambda edit, scene: edit.show(prompts, replace(scene, grow=grow), kept_out), None)

    def bring_to(self, label: str, prompts: Sequence[Prompt], taken: np.ndarray | None = None) -> Answer:
        """Make these, and no others, the label's prompts; see `LabelEdit.bring_to`.

        Args:
            taken: voxels of other labels that the client knows of, (D, H, W) of bool, beside those that are locked.

        Raises:
            RequestError: as `show`.
        """
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
            taken: see `bring_to`.
            origin: what the mask comes from, to be remembered of a label that begins; empty: the user's own work.

        Raises:
            RequestError: as `show`.
        """
        begins = torch.from_numpy(np.ascontiguousarray(mask))

        def begin(edit: LabelEdit) -> Answer:
            locked = self._untakable(taken)
            return edit.begin(begins if locked is None else begins & ~locked)

        with self.hold():
            answer = self._change(label, begin)
            if origin:
                self._labels.note(label, origin=origin, checksum=_checksum(answer.mask))
            return answer

    def go_on(self, label: str, session_id: str) -> None:
        """Note that a label has gone on from a session; from this one, its mask stays without the steps that led to it.

        Raises:
            RequestError: 404, there is no such label.
        """
        with self.hold():
            self._labels.get(label)
            if session_id == self.id:
                self._change(label, LabelEdit.settle)
                self._labels.note(label, origin="", checksum=0, background=None)
            self._labels.note(label, went_on=session_id)

    def went_on(self, label: str, session_id: str) -> bool:
        """Whether a label has gone on from that session."""
        return self.record.label(label).went_on == session_id

    def background(self, label: str) -> set[Prompt] | None:
        """What `note_background` was told of a label last; None where that was not yet."""
        places = self.record.label(label).background
        return None if places is None else {Prompt("point", ((x, y, z),), positive=False) for x, y, z in places}

    def note_background(self, label: str, points: Iterable[Prompt]) -> None:
        """Note which points that a label has are those of a list of the background's.

        Raises:
            RequestError: 404, there is no such label.
        """
        with self.hold():
            places = sorted(list(prompt.positions[0]) for prompt in points)
            if places != self.record.label(label).background:
                self._labels.note(label, background=places)

    def origin(self, label: str) -> str:
        """What the mask comes from that a label began with; empty where that is not known, and of the user's own."""
        return self.record.label(label).origin

    def is_to_begin(self, label: str, origin: str) -> bool:
        """Whether a label may begin with a mask of this origin, and none of the user's work is lost.

        That is one that is not there, or is as it began with a mask of another, known origin.
        """
        if label not in self.record.labels:
            return True
        return self.origin(label) not in ("", origin) and self._is_as_begun(label)

    def _is_as_begun(self, label: str) -> bool:
        """Whether the mask is that which others made of a label, and the user has shown nothing since."""
        with self.hold():
            edit = self._labels.get(label)
            return not edit.prompts and _checksum(edit.mask) == self.record.label(label).checksum

    def undo(self, label: str, *, answered: bool = True) -> Answer:
        """Take the label's last step back, where there is one.

        Args:
            answered: whether the user sees the answer; if not, what changes is told with the next one.
        """
        return self._change(label, lambda edit: edit.undo(self._labels.locked_voxels()), answered=answered)

    def redo(self, label: str, *, answered: bool = True) -> Answer:
        """Take the last step that was undone again, where there is one; `answered` as above."""
        return self._change(label, lambda edit: edit.redo(self._labels.locked_voxels()), answered=answered)

    def reset(self, label: str, *, answered: bool = True) -> Answer:
        """Forget the label's mask, prompts and steps; `answered` as above."""
        return self._change(label, LabelEdit.reset, answered=answered)

    def rename(self, label: str, name: str) -> None:
        """Give a label another name, which no other one has; nothing else of it changes.

        Raises:
            RequestError: 404, there is no such label.
        """
        with self.hold():
            self._labels.rename(label, name)

    def copy(self, label: str, name: str) -> None:
        """Make a label of this name, which no other one has, that is as the label is. A lock goes on to it.

        Raises:
            RequestError: 404, there is no such label; others as `show`.
        """
        with self.hold():
            self._labels.copy(label, name)

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
        labels = self._labels
        with self._held():
            edit = labels.coarse_edit()
            if edit is None or (pending := edit.pending) is None:
                return
            locked, view = self.record.locked, self._view()
        with self._scene(view, priority, tiles=1) as scene:
            finer = pending.refined(scene)
        with self._held():
            if labels.edit is edit and self.record.locked == locked:
                with labels.whole(), labels.changing(labels.name):
                    edit.accept(pending, finer)

    def mask(self, label: str) -> np.ndarray:
        """(D, H, W) of bool, not to be changed.

        Raises:
            RequestError: 404, there is no such label.
        """
        with self.hold():
            return self._labels.get(label).mask.numpy()

    def told(self, label: str) -> np.ndarray:
        """The mask as answers have told it, see `LabelEdit.told`; arguments and errors as `mask`."""
        with self.hold():
            return self._labels.get(label).told.numpy()

    def prompts(self, label: str) -> tuple[Prompt, ...]:
        """All that led to the mask, the oldest first.

        Raises:
            RequestError: 404, there is no such label.
        """
        with self._held():
            return self._labels.get(label).prompts

    def shown(self, label: str) -> tuple[Prompt, ...]:
        """All that the user has shown of a label: its prompts, and before them those from which it has gone on.

        Raises:
            RequestError: 404, there is no such label.
        """
        with self._held():
            edit = self._labels.get(label)
            return edit.earlier + edit.prompts

    def settled(self, label: str) -> int:
        """How many of the prompts bind no longer, the oldest ones: the user has painted since.

        Raises:
            RequestError: 404, there is no such label.
        """
        with self._held():
            edit = self._labels.get(label)
            return len(edit.prompts) - len(edit.in_force)

    def steps(self, label: str) -> int:
        """How many led to the mask, those that can be undone no more among them; none of a label that is not there."""
        with self.hold():
            return self._labels.get(label).steps if label in self.record.labels else 0

    def undoable(self, label: str) -> tuple[int, int]:
        """How many steps can be undone, and how many redone; none of a label that is not there."""
        with self.hold():
            if label not in self.record.labels:
                return 0, 0
            edit = self._labels.get(label)
            return edit.undoable, edit.redoable

    # --- all labels

    def lock(self, labels: Iterable[str]) -> None:
        """Lock these labels, and no others: no other label takes their voxels from now on.

        Raises:
            RequestError: 404, one is not there.
        """
        with self.hold():
            self._labels.lock(labels)

    def known(self, labels: Iterable[str]) -> tuple[str, ...]:
        """These labels, each once.

        Raises:
            RequestError: 404, one is not there.
        """
        return self._labels.known(labels)

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
        image, submitted = self._image, self._submitted  # others may let go of them meanwhile
        of_image = 0 if image is None else image.nbytes
        return self._labels.nbytes + of_image + (0 if submitted is None else submitted[1].nbytes)

    @property
    def full_nbytes(self) -> int:
        """In memory, at most, while a request is answered: the image and four masks."""
        return (4 + self._image_bytes) * math.prod(self.record.shape)

    def touch(self) -> None:
        self._folder.touch()

    def restamp(self, stamp: str) -> None:
        """Note that the image's file has changed, and its voxels have not."""
        with self._held(), self._labels.whole():
            self.touch()
            self._labels.record = replace(self.record, stamp=stamp)

    def leave_memory(self) -> bool:
        """Keep nothing in memory, unless somebody uses it; all is on disk."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            self._labels.let_go()
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
            with self._labels.changing(label) as edit:
                told = None if answered else edit.told
                try:
                    answer = step(edit)
                    if told is not None:
                        edit.leave_untold(told)
                except ValueError as error:
                    raise RequestError(400, str(error)) from error
            if self.record.kind == "study" and not self.record.digest:
                digest = voxel_digest(self._loaded_image().numpy())
                self._labels.record = replace(self.record, digest=digest)
            return answer

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
        locked, also = self._labels.locked_voxels(), self._voxels(taken)
        if locked is None or also is None:
            return also if locked is None else locked
        return locked | also

    def _voxels(self, taken: np.ndarray | None) -> torch.Tensor | None:
        """What a client knows to be taken."""
        if taken is None:
            return None
        if taken.shape != tuple(self.record.shape) or taken.dtype != bool:
            raise RequestError(400, f"taken has the shape {taken.shape}, expected {tuple(self.record.shape)} of bool")
        return torch.from_numpy(np.ascontiguousarray(taken))

    def _locks(self, taken: np.ndarray | None) -> str:
        """A name of what the label in memory may not take: which labels are locked, and which voxels are taken."""
        names = sorted(self._labels.locked_for_edit())
        voxels = zlib.crc32(np.ascontiguousarray(taken).data) if taken is not None and taken.any() else None
        return json.dumps([names, voxels]) if names or voxels is not None else ""

    @contextmanager
    def _scene(
        self, view: tuple[torch.Tensor, torch.Tensor | None], priority: Priority, tiles: int = TILES
    ) -> Iterator[Scene]:
        image, locked = view
        with self._network.answering(priority) as network:
            yield Scene(network, image, self.record.spacing, locked, self._network.size, tiles)


def _checksum(mask: torch.Tensor) -> int:
    return zlib.crc32(np.ascontiguousarray(mask.numpy()).data)
