"""nnInteractive's protocol, which its modules for 3D Slicer and napari speak: prompts come one by one, and what has
changed of the mask goes back.

Paths, headers and answers are the protocol's, of version 2.6; `interaction.packing` has the form of its arrays. Axes
are those of the image that the client sent.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Annotated, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Depends, Header, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from monailabel_app.errors import RequestError
from monailabel_app.interaction.conversation import UNANSWERED, Change, Conversation
from monailabel_app.interaction.leases import Leases
from monailabel_app.interaction.packing import Declared, pack, unpack, unpack_mask
from monailabel_app.interaction.prompting import box_of, check_sides, lasso_round, point_at, scribble_over
from monailabel_app.studies.volumes import MAX_BYTES, MAX_EDGE, admitted
from monailabel_app.web.arguments import AnyUser, AppServices
from monailabel_app.web.uploads import received_body
from rep3d.interactive import CHANNELS
from rep3d.interactive.grid import Grid
from rep3d.interactive.prompts import FADING

VERSION = "2.6.0"
PREFIX = "/nninteractive"
OCTETS = "application/octet-stream"
SCRIBBLE_VOXELS = [2, 2, 2]  # how thick clients draw scribbles
SMALL_BYTES = 2**27  # of a mask, unpacked: larger ones come one at a time, as uploads do
ANSWERING = CHANNELS[1:]  # all but the image, in the protocol's count

router = APIRouter(prefix=PREFIX)

logger = logging.getLogger(__name__)

Mask = npt.NDArray[np.bool_]
SchemaT = TypeVar("SchemaT", bound=BaseModel)


class _Schema(BaseModel):  # type: ignore[explicit-any]  # pydantic's
    model_config = ConfigDict(strict=True)


Three = Field(min_length=3, max_length=3)
Side = Annotated[list[FiniteFloat], Field(min_length=2, max_length=2)]
VoxelSide = Annotated[list[int], Field(min_length=2, max_length=2)]


class _Shown(_Schema):  # type: ignore[explicit-any]
    """What comes with every prompt: whether it shows the structure or the rest, and whether to answer it now."""

    include_interaction: bool
    run_prediction: bool = True


class PointMeta(_Shown):  # type: ignore[explicit-any]
    coordinates: Annotated[list[FiniteFloat], Three]


class BoxMeta(_Shown):  # type: ignore[explicit-any]
    bbox_coords: Annotated[list[Side], Three]


class MaskMeta(_Shown):  # type: ignore[explicit-any]
    interaction_bbox: Annotated[list[VoxelSide], Three] | None = None


class ImageProperties(_Schema):  # type: ignore[explicit-any]
    spacing: Annotated[list[FiniteFloat], Three] = [1.0, 1.0, 1.0]


class ImageMeta(_Schema):  # type: ignore[explicit-any]
    image_properties: ImageProperties = ImageProperties()


class BufferMeta(_Schema):  # type: ignore[explicit-any]
    shape: Annotated[list[int], Three]


class AutozoomMeta(_Schema):  # type: ignore[explicit-any]
    do_autozoom: bool


@dataclass(frozen=True)
class Caller:
    """Who holds a lease."""

    leases: Leases[Conversation]
    token: str
    owner: str

    @contextmanager
    def acting(self) -> Iterator[Conversation]:
        """What the lease holds; why it refuses stands in the log, since clients show the status alone."""
        try:
            with self.leases.acting(self.token, self.owner) as conversation:
                yield conversation
        except RequestError as error:
            logger.info("%s refused %s: %s", PREFIX, self.owner, error.message)
            raise


Token = Annotated[str, Header(alias="X-Lease-Token", max_length=100)]


async def caller_of(user: AnyUser, services: AppServices, token: Token = "") -> Caller:
    """A dependency; raises RequestError: 410, the caller holds no lease."""
    services.leases.remaining(token, user.username, alive=True)
    return Caller(services.leases, token, user.username)


LeaseHolder = Annotated[Caller, Depends(caller_of)]


async def body_of(request: Request, caller: LeaseHolder) -> AsyncIterator[BinaryIO]:
    """A dependency: the packed array that a holder of a lease sends."""
    async with received_body(request) as file:
        yield file


PackedBody = Annotated[BinaryIO, Depends(body_of)]
Meta = Annotated[str, Header(alias="X-Meta")]


# --- leases. None of these computes, nor waits for who does


@router.get("/healthz")
async def healthz() -> dict[str, object]:
    return {"ok": True}


@router.post("/claim")
def claim(user: AnyUser, services: AppServices) -> dict[str, object]:
    services.interaction.network.check()
    leases = services.leases
    return {
        "lease_token": leases.claim(user.username, Conversation(services.interaction, user.username)),
        "idle_timeout_seconds": leases.idle,
        "liveness_timeout_seconds": leases.liveness,
        "max_sessions": leases.most,
    }


@router.post("/release")
def release(user: AnyUser, services: AppServices, token: Token = "") -> dict[str, object]:
    services.leases.release(token, user.username)
    return {"released": True}


@router.post("/heartbeat")
async def heartbeat(caller: LeaseHolder) -> dict[str, object]:
    return {"remaining_seconds": caller.leases.remaining(caller.token, caller.owner)}


@router.get("/lease_status")
async def lease_status(user: AnyUser, services: AppServices, token: Token = "") -> dict[str, object]:
    remaining = services.leases.remaining(token, user.username)
    return {"remaining_seconds": remaining, "idle_timeout_seconds": services.leases.idle}


@router.get("/capabilities")
def capabilities(user: AnyUser, services: AppServices) -> dict[str, object]:
    network = services.interaction.network
    network.check()
    kinds = ("points", "scribble", "lasso", "bbox2d", "bbox3d")
    signs = [ANSWERING.index("positive prompts"), ANSWERING.index("negative prompts")]
    return {
        "supported_interactions": dict.fromkeys(kinds, True),
        "channel_mapping": {"prev_seg": ANSWERING.index("previous mask"), **dict.fromkeys(kinds, signs)},
        "num_interaction_channels": len(ANSWERING),
        "supports_initial_label": True,
        "supports_zero_shot_label_refinement": False,
        "preferred_scribble_thickness": SCRIBBLE_VOXELS,
        "interaction_decay": FADING,
        "patch_size": [network.size] * 3,
        "do_autozoom": True,
        "inference_session_version": VERSION,
        "license": network.licence,
        "supports_undo": True,
    }


# --- the image


@router.post("/set_image")
def set_image(caller: LeaseHolder, body: PackedBody, x_meta: Meta = "{}") -> dict[str, object]:
    meta = _read_meta(ImageMeta, x_meta)
    with caller.acting() as conversation, admitted():  # a small body may unpack to gigabytes: one at a time
        image = unpack(body, _check_image)
        spacing = [abs(step) for step in meta.image_properties.spacing]  # napari's is negative along a flipped axis
        conversation.set_image(image[0], spacing)
        return {"original_image_shape": list(image.shape)}


@router.post("/set_target_buffer")
def set_target_buffer(caller: LeaseHolder, meta: BufferMeta) -> dict[str, object]:
    """Masks go to the client as what has changed, so that there is no buffer here; but its own must take them."""
    with caller.acting() as conversation:
        shape = list(conversation.scan.shape)
        if meta.shape != shape:
            raise RequestError(400, f"the target buffer has the shape {meta.shape}, expected the image's, {shape}")
    return {}


@router.post("/set_do_autozoom")
def set_do_autozoom(caller: LeaseHolder, meta: AutozoomMeta) -> dict[str, object]:
    with caller.acting() as conversation:
        conversation.zooms_out = meta.do_autozoom
    return {}


# --- prompts


@router.post("/add_point_interaction")
def add_point(caller: LeaseHolder, meta: PointMeta) -> Response:
    with caller.acting() as conversation:
        prompt = point_at(meta.coordinates, conversation.scan, meta.include_interaction)
        return _answer(conversation.show(prompt, answer=meta.run_prediction))


@router.post("/add_bbox_interaction")
def add_box(caller: LeaseHolder, meta: BoxMeta) -> Response:
    with caller.acting() as conversation:
        prompt = box_of(meta.bbox_coords, conversation.scan, meta.include_interaction)
        return _answer(conversation.show(prompt, answer=meta.run_prediction))


@router.post("/add_scribble_interaction")
def add_scribble(caller: LeaseHolder, body: PackedBody, x_meta: Meta) -> Response:
    meta = _read_meta(MaskMeta, x_meta)
    with caller.acting() as conversation:
        scan = conversation.scan
        prompt = scribble_over(*_part(body, meta, scan), scan, meta.include_interaction)
        return _answer(conversation.show(prompt, answer=meta.run_prediction))


@router.post("/add_lasso_interaction")
def add_lasso(caller: LeaseHolder, body: PackedBody, x_meta: Meta) -> Response:
    meta = _read_meta(MaskMeta, x_meta)
    with caller.acting() as conversation:
        scan = conversation.scan
        prompt = lasso_round(*_part(body, meta, scan), scan, meta.include_interaction)
        return _answer(conversation.show(prompt, answer=meta.run_prediction))


@router.post("/add_initial_seg_interaction")
def add_mask(caller: LeaseHolder, body: PackedBody) -> Response:
    """A mask to go on from. It is not answered, whatever `run_prediction` says: nothing shows what is wrong with it."""
    with caller.acting() as conversation:
        conversation.paint(_mask(body, conversation.scan.shape))
    return _answer(UNANSWERED)


@router.post("/predict")
def predict(caller: LeaseHolder) -> Response:
    with caller.acting() as conversation:
        return _answer(conversation.answer())


@router.post("/undo")
def undo(caller: LeaseHolder) -> Response:
    with caller.acting() as conversation:
        return _answer(conversation.undo())


@router.post("/reset_interactions")
def reset_interactions(caller: LeaseHolder) -> dict[str, object]:
    with caller.acting() as conversation:
        conversation.reset()
    return {}


def _read_meta(schema: type[SchemaT], text: str) -> SchemaT:
    try:
        meta: SchemaT = schema.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise RequestError(400, f"X-Meta: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    return meta


def _check_image(declared: Declared) -> None:
    if len(declared.shape) != 4 or declared.shape[0] != 1:
        raise RequestError(400, f"the image is {declared}, expected one channel and three axes: [1, X, Y, Z]")
    if declared.nbytes > MAX_BYTES or max(declared.shape) > MAX_EDGE:
        raise RequestError(413, f"the image is {declared}: at most {MAX_EDGE} voxels an axis, and {MAX_BYTES} bytes")


def _part(body: BinaryIO, meta: MaskMeta, scan: Grid) -> tuple[Mask, list[list[int]]]:
    """A mask of a part of the scan, or of all of it, and where that part lies."""
    sides = meta.interaction_bbox or [[0, voxels] for voxels in scan.shape]
    return _mask(body, check_sides(sides, scan)), sides


def _mask(body: BinaryIO, shape: tuple[int, ...]) -> Mask:
    """The packed mask as bool.

    Raises:
        RequestError: 400, it is no mask of that shape; 413, it is too large; 503, too many large ones wait.
    """
    with ExitStack() as waiting:

        def check(declared: Declared) -> None:
            if declared.shape != shape or declared.dtype.kind not in "biu":
                raise RequestError(400, f"the mask is {declared}, expected whole numbers of shape {list(shape)}")
            if declared.nbytes > MAX_BYTES:
                raise RequestError(413, f"the mask is {declared}: at most {MAX_BYTES} bytes, send it as uint8")
            if declared.nbytes > SMALL_BYTES:
                waiting.enter_context(admitted())

        return unpack_mask(body, check)


def _answer(change: Change) -> Response:
    meta: dict[str, object] = {"ran_prediction": change.answered, "bbox": None}
    if change.box is None or change.part is None:
        return Response(media_type=OCTETS, headers={"X-Meta": json.dumps(meta)})
    voxels = change.part.astype(np.uint8)
    meta |= {
        "bbox": [[side.start, side.stop] for side in change.box],
        "dtype": voxels.dtype.name,
        "shape": list(voxels.shape),
    }
    return Response(pack(voxels), media_type=OCTETS, headers={"X-Meta": json.dumps(meta)})
