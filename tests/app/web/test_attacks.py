"""The attacks of docs/security.md, over HTTP: against this app, and against a plain app of MONAI Label.

Each attack tells with its answer whether it did its damage. This app refuses each with 4xx, with 502 where another
server is at fault, or closes the connection. What MONAI Label's own server answers is written down too, so that each
check is known to be able to fail, and so that a newer MONAI Label that closes a hole makes the test tell.
`PYTHONPATH=tests:tests/app python tests/app/web/test_attacks.py` prints the table of the page.
"""

import base64
import gzip
import hashlib
import hmac
import io
import json
import pickle
import socket
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import jwt
import monailabel
import nibabel as nib
import numpy as np
import pytest
import requests
import torch
from app_helpers import ROOT, PlainServer, Server, small_bundle
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from dicom_helpers import write_series
from strangers import Stranger, stranger

from monailabel_app.web.brake import FAILURES

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs/security.md"
IMAGE = "scan"  # of the studies
NO_ANSWER = "no answer"
EVIL = "https://evil.example"
ADMIN_KEY, READER_KEY = "the chief's key", "the reader's key"
SECONDS = 120  # that a training of the plain app may take
LIMIT = 0.5  # seconds, in place of the app's half a minute and a minute
# The fixtures of this app and of the plain one: as they come; with API keys, and weights from clients; for clients that
# send slowly; with a PACS, and with an OpenID provider, of the attacker's.
PLACES = {
    "": ("ours", "plain"),
    "keys": ("ours_with_keys", "plain"),
    "slow": ("ours_among_strangers", "plain"),
    "pacs": ("ours_among_strangers", "plain_with_pacs"),
    "provider": ("ours_among_strangers", "plain_with_provider"),
}


@dataclass(frozen=True)
class Target:
    """A server under attack."""

    server: Server
    model: str
    weights: Path
    headers: tuple[tuple[str, str], ...] = ()  # of its administrator, where it asks who calls
    world: Stranger | None = None  # a PACS and a provider, where it has them

    @property
    def outside(self) -> Path:
        """A folder beside the studies, of which no client may read."""
        return self.server.folder / "outside"

    @property
    def marker(self) -> Path:
        """What code that the attacker sends would leave."""
        return self.server.folder / "marker"

    @property
    def code(self) -> str:
        return f"$__import__('pathlib').Path({str(self.marker)!r}).touch() or 0.25"

    @property
    def label(self) -> Path:
        """The image's final label."""
        return self.server.studies / f"labels/final/{IMAGE}.nii.gz"

    def send(self, method: str, path: str, **arguments) -> requests.Response:
        headers = {**dict(self.headers), **arguments.pop("headers", {})}
        return self.server.request(method, path, headers=headers, **arguments)

    def infer(self, params: dict | None = None, query: str = f"image={IMAGE}", **arguments) -> requests.Response:
        told = {"params": json.dumps({"result_extension": ".nii.gz", **(params or {})})}
        return self.send("POST", f"/infer/{self.model}?{query}&output=image", data=told, **arguments)

    def submit(self, content: bytes, query: str = f"image={IMAGE}") -> requests.Response:
        return self.send("PUT", f"/datastore/label?{query}", files={"label": ("label.nii.gz", content)})

    def add(self, name: str, content: bytes, image: str) -> requests.Response:
        return self.send("PUT", f"/datastore/image?image={image}", files={"file": (name, content)})


Attempt = Callable[[Target], tuple[requests.Response, bool]]


@dataclass(frozen=True)
class Attack:
    """One request, and what becomes of it.

    Args:
        name: what is tried.
        harm: what the attacker gets from the plain app; empty where that lets nothing through.
        attempt: makes the request; returns the answer, and whether the harm is done.
        ours: status of this app; 0 where it closes the connection.
        plain: status of MONAI Label's plain app; 0 where none comes.
        place: of PLACES, where both are attacked.
    """

    name: str
    harm: str
    attempt: Attempt
    ours: int
    plain: int
    place: str


ATTACKS: list[Attack] = []


def attack(name: str, harm: str = "", *, ours: int, plain: int = 200, place: str = ""):
    """Put the decorated function into the table."""

    def register(attempt: Attempt) -> Attempt:
        ATTACKS.append(Attack(name, harm, attempt, ours, plain, place))
        return attempt

    return register


# --- parameters


@attack("a `$` expression among the parameters of an inference", "runs code", ours=400)
def expression(target):
    return target.infer({"sw_overlap": target.code}), target.marker.exists()


@attack("a `$` expression as the device of a training", "runs code", ours=400)
def training_expression(target):
    answer = target.send("POST", f"/train/{target.model}", json={"device": target.code, "val_split": -1})
    deadline = time.monotonic() + SECONDS
    while answer.ok and time.monotonic() < deadline:
        if target.send("GET", "/train/").json()["status"] not in ("SUBMITTED", "RUNNING"):
            break
        time.sleep(0.2)
    return answer, target.marker.exists()


@attack("a `%` reference to a file of the server, which holds an expression", "reads the file, runs code", ours=400)
def macro(target):
    (target.outside / "config.json").write_text(json.dumps({"overlap": target.code}))
    return target.infer({"sw_overlap": f"%{target.outside}/config.json::overlap"}), target.marker.exists()


@attack("an `@` reference to another part of the config", ours=400, plain=500)
def reference(target):
    answer = target.infer({"sw_overlap": "@network_def"})
    return answer, answer.ok


@attack("`image` among the parameters: a path of the server", "reads any image of the server", ours=400)
def image_among_parameters(target):
    answer = target.infer({"image": str(target.outside / "secret.nii.gz")})
    return answer, shows_secret(answer)


@attack("`image` of an inference: a path of the server", "reads any image of the server", ours=404)
def image_path(target):
    answer = target.infer(query=f"image={target.outside / 'secret.nii.gz'}")
    return answer, shows_secret(answer)


@attack("`model_filename` among the parameters", "other weights compute", ours=400)
def other_weights(target):
    answer = target.infer({"model_filename": "../../../outside/foreground.pt"})
    return answer, answer.ok and bool(voxels_of(answer).all())


# --- ids and names


@attack("an image named `../escaped` is added", "writes outside the studies", ours=400)
def image_outside(target):
    answer = target.add("a.nii.gz", nifti(np.ones((4, 4, 4))), "../escaped")
    return answer, (target.server.studies / "../escaped.nii.gz").exists()


@attack("the same from a folder that is there, `labels/../../escaped`", "writes outside the studies", ours=400)
def image_outside_by_a_folder(target):
    (target.server.studies / "labels").mkdir(exist_ok=True)
    answer = target.add("a.nii.gz", nifti(np.ones((4, 4, 4))), "labels/../../escaped_by_a_folder")
    return answer, (target.server.studies / "../escaped_by_a_folder.nii.gz").exists()


@attack("a label with the tag `../../escaped`", "writes outside the studies", ours=400)
def tag_outside(target):
    answer = target.submit(nifti(right_label(target)), f"image={IMAGE}&tag=../../escaped")
    return answer, (target.server.folder / "escaped").exists()


@attack("a download of the image `../outside/secret`", ours=404, plain=404)
def download_outside(target):
    answer = target.send("GET", "/datastore/image?image=../outside/secret")
    return answer, answer.ok


@attack("a download of the label `../../../outside/secret`", ours=400, plain=404)
def download_label_outside(target):
    answer = target.send("GET", "/datastore/label?label=../../../outside/secret&tag=final")
    return answer, answer.ok


@attack("removing the image `../outside/secret`", ours=404, plain=500)
def remove_outside(target):
    answer = target.send("DELETE", "/datastore/image?id=../outside/secret")
    return answer, not (target.outside / "secret.nii.gz").exists()


@attack("a link in the studies folder that leads out of it", "reads any image of the server", ours=404)
def link(target):
    answer = target.send("GET", "/datastore/image?image=link")
    return answer, answer.content == (target.outside / "secret.nii.gz").read_bytes()


@attack("a DICOM series whose slices are links out of the studies", ours=400, plain=404)
def linked_slices(target):
    answer = target.send("GET", "/datastore/image?image=series")
    return answer, answer.ok


# --- notes


def noted(target: Target, note: str) -> tuple[requests.Response, bool]:
    """A note in JSON, and whether it keeps everybody from listing the studies; if so, it is replaced."""
    answer = target.send("PUT", "/datastore/image/info?image=spare", data={"info": f'{{"note": {note}}}'})
    broken = target.send("GET", "/datastore/?output=all").status_code == 500
    if broken:
        target.send("PUT", "/datastore/image/info?image=spare", data={"info": '{"note": ""}'})
    return answer, broken


@attack("half a character (`\\ud800`) in a note on an image", "nobody can list the studies any more", ours=400)
def half_a_character(target):
    return noted(target, r'"\ud800"')


@attack("NaN in a note on an image", "nobody can list the studies any more", ours=400)
def note_of_nan(target):
    return noted(target, "NaN")


# --- labels


def stored(target: Target, content: bytes) -> tuple[requests.Response, bool]:
    answer = target.submit(content)
    return answer, target.label.exists() and target.label.read_bytes() == content


@attack("a label that is no image", "is stored as final", ours=400)
def junk_label(target):
    return stored(target, b"junk")


@attack("an empty label", "is stored as final", ours=400)
def empty_label(target):
    return stored(target, nifti(right_label(target) * 0))


@attack("a label of another shape than its image", "is stored as final", ours=400)
def label_of_another_shape(target):
    return stored(target, nifti(right_label(target)[1:]))


@attack("a label in another place than its image", "is stored as final", ours=400)
def label_elsewhere(target):
    return stored(target, nifti(right_label(target), shift=50))


@attack("a label with ids that are no whole numbers", "is stored as final", ours=400)
def fractions(target):
    return stored(target, nifti(right_label(target) * 0.5))


@attack("a label with ids that no model has", "is stored as final", ours=400)
def unknown_ids(target):
    return stored(target, nifti(right_label(target) * 70))


# --- images


def added(target: Target, name: str, content: bytes, image: str) -> tuple[requests.Response, bool]:
    return target.add(name, content, image), any(target.server.studies.glob(f"{image}.*"))


@attack("an image that is none", "is stored among the studies", ours=400)
def junk_image(target):
    return added(target, "a.nii.gz", b"junk", "junk")


@attack("a script as an image", "is stored among the studies", ours=400)
def script(target):
    return added(target, "a.sh", b"#!/bin/sh", "script")


@attack("an image with a NaN voxel", "is stored among the studies", ours=400)
def nan_image(target):
    return added(target, "a.nii.gz", nifti(np.full((4, 4, 4), np.nan, np.float32)), "nan")


@attack("a small file that declares 4000 x 4000 x 4000 voxels", "is stored among the studies", ours=413)
def declared_size(target):
    header = nib.Nifti1Header()
    header.set_data_shape((4000, 4000, 4000))
    header.set_data_dtype(np.uint8)
    return added(target, "a.nii", header.binaryblock + bytes(104), "declared")


@attack("an upload above the limit", "is stored, however large", ours=413)
def large(target):
    return added(target, "a.nii.gz", bytes(2 * 2**20), "large")


@attack("the same without telling its length", "is stored, however large", ours=413)
def large_without_length(target):
    def body():
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.nii.gz"\r\n\r\n'
        for _ in range(32):
            yield bytes(2**16)
        yield b"\r\n--x--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = target.send("PUT", "/datastore/image?image=chunked", data=body(), headers=headers)
    return answer, any(target.server.studies.glob("chunked.*"))


@attack("a detached header (.nhdr) that names a file of the server", "reads any file of the server", ours=400)
def detached_header(target):
    return read_raw(target, ".nhdr")


@attack("the same as .nrrd", ours=400, plain=500)
def detached_nrrd(target):
    return read_raw(target, ".nrrd")


@attack("the same as .nrrd, hidden behind a lone carriage return", ours=400, plain=500)
def hidden_data_file(target):
    return read_raw(target, ".nrrd", before="content: x\r")


def read_raw(target: Target, suffix: str, before: str = "") -> tuple[requests.Response, bool]:
    secret = target.outside / "secret.raw"
    header = f"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 3 4\nencoding: raw\n{before}data file: {secret}\n\n"
    answer = target.infer(query="x=", files={"file": (f"a{suffix}", header.encode())})
    return answer, answer.ok and voxels_of(answer).astype(np.uint8).tobytes("F") == secret.read_bytes()


# --- weights


@attack("weights are replaced", "the attacker's network segments", ours=403)
def replaced_weights(target):
    return send_weights(target, (target.outside / "foreground.pt").read_bytes())


@attack("weights are removed", "nothing segments any more", ours=405)
def removed_weights(target):
    return target.send("DELETE", f"/model/{target.model}"), not target.weights.exists()


class Malice:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@attack(
    "weights that are a pickle with code, uploads being allowed",
    "replaces the weights (PyTorch does not run the code)",
    ours=400,
    place="keys",
)
def malicious_weights(target):
    answer, done = send_weights(target, pickle.dumps({"weight": Malice(target.marker)}))
    target.infer(query="x=", files={"file": ("a.nii.gz", nifti(np.ones((8, 8, 8))))})  # reads them
    return answer, done or target.marker.exists()


@attack("weights of another network, uploads being allowed", "replaces the weights", ours=400, place="keys")
def weights_of_another_network(target):
    content = io.BytesIO()
    torch.save({"weight": torch.zeros(3)}, content)
    return send_weights(target, content.getvalue())


@attack(
    "weights from somebody who may only read, uploads being allowed", "replaces the weights", ours=403, place="keys"
)
def weights_without_role(target):
    content = (target.outside / "foreground.pt").read_bytes()
    return send_weights(target, content, {"X-API-Key": READER_KEY})


def send_weights(
    target: Target, content: bytes, headers: dict[str, str] | None = None
) -> tuple[requests.Response, bool]:
    answer = target.send("PUT", f"/model/{target.model}", files={"file": ("model.pt", content)}, headers=headers or {})
    return answer, target.weights.read_bytes() == content


# --- sessions


@attack("an archive as a session, whose members lead out of its folder", "writes anywhere on the server", ours=400)
def archive(target):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as file:
        member = tarfile.TarInfo(str(target.marker))
        file.addfile(member, io.BytesIO())
    answer = target.send("PUT", "/session/?uncompress=true", files={"files": ("a.tar.gz", content.getvalue())})
    return answer, target.marker.exists()


def session_of_the_administrator(target: Target, content: bytes) -> str:
    answer = target.send("PUT", "/session/", files={"files": ("a.nii.gz", content)})
    return answer.json()["session_id"]


@attack("the session of another user is downloaded", "reads their image", ours=404, place="keys")
def session_of_another(target):
    content = nifti(np.ones((4, 4, 4)))
    path = f"/session/{session_of_the_administrator(target, content)}?image=true"
    answer = target.send("GET", path, headers={"X-API-Key": READER_KEY})
    return answer, answer.content == content


@attack("the session of another user is segmented", "reads their image", ours=404, place="keys")
def segmented_session_of_another(target):
    query = f"session_id={session_of_the_administrator(target, nifti(secret_voxels()))}"
    answer = target.infer(query=query, headers={"X-API-Key": READER_KEY})
    return answer, shows_secret(answer)


# --- who calls


def listed(target: Target, **headers: str) -> tuple[requests.Response, bool]:
    answer = target.send("GET", "/datastore/?output=all", headers=headers)
    return answer, answer.ok and IMAGE in answer.json()["objects"]


@attack("no credentials, though keys are set", "reads the studies", ours=401, place="keys")
def no_credentials(target):
    answer = target.server.request("GET", "/datastore/?output=all")
    return answer, answer.ok and IMAGE in answer.json()["objects"]


@attack("many keys are tried, though keys are set", "reads the studies", ours=429, place="keys")
def guessed_keys(target):
    headers = {"X-Forwarded-For": "192.0.2.1"}  # not to shut the other attacks out
    for guess in range(FAILURES):
        target.server.request("GET", "/datastore/?output=all", headers={"X-API-Key": f"{guess}", **headers})
    return listed(target, **headers)


@attack("somebody who may only read removes an image", "removes it", ours=403, place="keys")
def without_role(target):
    headers = {"X-API-Key": READER_KEY}
    spare = target.server.studies / "spare.nii.gz"
    answer = target.send("DELETE", "/datastore/image?id=spare", headers=headers)
    return answer, not spare.exists()


@attack("a web page of another server reads, with the user's cookies", "reads the studies", ours=403)
def page_reads(target):
    answer, told = listed(target, Origin=EVIL, Cookie="session=1")
    allowed = answer.headers.get("Access-Control-Allow-Origin") == EVIL
    return answer, told and allowed and answer.headers["Access-Control-Allow-Credentials"] == "true"


@attack("a page without an address (`Origin: null`) reads", "reads the studies", ours=403)
def nameless_page_reads(target):
    answer, told = listed(target, Origin="null")
    return answer, told and answer.headers.get("Access-Control-Allow-Origin") in ("null", "*")


@attack("a web page of another server sends a form", "is carried out", ours=403)
def page_sends_a_form(target):
    answer = target.infer(headers={"Origin": EVIL})
    return answer, answer.ok


@attack("a web page of another server asks for a file, as for a picture", "is carried out", ours=403)
def page_shows_a_picture(target):
    return listed(target, **{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"})


@attack("a web page that rebinds its name to this computer (`Host: evil.example`)", "reads the studies", ours=403)
def rebound_name(target):
    return listed(target, Host="evil.example")


# --- slow senders


def begun(target: Target, begin: str, drops: int = 0) -> tuple[requests.Response, bool]:
    """A request that does not end, and whether the server still waits for it long after LIMIT."""
    head = f"PUT /datastore/image?image=slow HTTP/1.1\r\nHost: 127.0.0.1\r\n{begin}"
    told = "".join(f"{name}: {value}\r\n" for name, value in target.headers)
    answer, content = requests.Response(), b""
    answer.status_code = 0
    with socket.create_connection(("127.0.0.1", int(target.server.url.rpartition(":")[2])), timeout=10) as client:
        client.sendall(head.replace("\r\n", f"\r\n{told}", 1).encode())
        client.settimeout(6 * LIMIT / (drops + 1))
        for _ in range(drops + 1):
            try:
                content = client.recv(2**16)
                break
            except TimeoutError:
                client.sendall(b"x" if drops else b"")
        else:
            return answer, True
    if content:
        answer.status_code, answer._content = int(content.split()[1]), content
    return answer, False


FORM = "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000\r\n"


@attack("a request whose header does not end", "holds a connection as long as it likes", ours=0, plain=0, place="slow")
def endless_header(target):
    return begun(target, "X-Slow: ")


@attack("a body that does not come", "holds a connection as long as it likes", ours=408, plain=0, place="slow")
def absent_body(target):
    return begun(target, f"{FORM}\r\n")


@attack("a body that comes in drops", "holds a connection as long as it likes", ours=408, plain=0, place="slow")
def dripping_body(target):
    part = '--x\r\nContent-Disposition: form-data; name="file"; filename="a.nii.gz"\r\n\r\n'
    return begun(target, f"{FORM}\r\n{part}", drops=30)


# --- servers of the attacker's


@attack("the PACS sends a viewer on to another address", "reads what only the server may", ours=502, place="pacs")
def viewer_sent_on(target):
    answer = target.send("GET", "/proxy/dicom/qido/studies")
    return answer, SECRET in answer.text


@attack("the PACS sends the server's own search on", "has the server ask any address", ours=502, place="pacs")
def search_sent_on(target):
    answer = target.send("GET", "/info/")
    return answer, any(path.startswith("/secret/series") for path, _ in target.world.asked)


def login(target: Target, status: int, content: object) -> requests.Response:
    """What becomes of a login while the provider gives this answer."""
    target.world.answers["/token"] = (status, content)
    return target.server.request("POST", "/auth/token", data={"username": "ann", "password": PASSWORD})


@attack("the provider answers a login with a web page", ours=502, plain=500, place="provider")
def page_for_a_login(target):
    answer = login(target, 200, "<html>Please sign in</html>")
    return answer, answer.ok


@attack("the provider sends a login on to another address", "gets names and passwords", ours=502, place="provider")
def login_sent_on(target):
    answer = login(target, 307, f"{target.world.url}/secret/token")
    return answer, any(path == "/secret/token" and PASSWORD.encode() in body for path, body in target.world.asked)


def with_token(target: Target, token: str) -> tuple[requests.Response, bool]:
    answer = target.server.request("GET", "/info/", headers={"Authorization": f"Bearer {token}"})
    return answer, answer.ok


@attack("a token whose algorithm is not that of the provider's key", ours=401, plain=401, place="provider")
def token_of_another_algorithm(target):
    return with_token(target, make_token(target.world, ec.generate_private_key(ec.SECP256R1()), "ES256"))


@attack("a token signed with the provider's public key as a shared secret", ours=401, plain=401, place="provider")
def token_of_the_public_key(target):
    head, claims, _ = make_token(target.world, "a secret of no less than 32 bytes", "HS256").split(".")
    signature = hmac.digest(public_pem(), f"{head}.{claims}".encode(), "sha256")
    encoded = base64.urlsafe_b64encode(signature).decode().rstrip("=")
    return with_token(target, f"{head}.{claims}.{encoded}")


@attack("a token without a signature (`alg: none`)", ours=401, plain=401, place="provider")
def token_without_a_signature(target):
    return with_token(target, make_token(target.world, None, "none"))


# --- what is not there


def posted(path: str) -> Attempt:
    def attempt(target: Target) -> tuple[requests.Response, bool]:
        answer = target.send("POST", path.format(model=target.model))
        return answer, answer.ok

    return attempt


for what, path in (
    ("an unknown model is asked to segment", f"/infer/absent?image={IMAGE}"),
    ("an unknown strategy picks the next sample", "/activelearning/absent"),
    ("an unknown image is segmented", "/infer/{model}?image=absent"),
):
    attack(what, ours=404, plain=500)(posted(path))
for what, path in (
    ("an unknown model is trained", "/train/absent"),
    ("an unknown model segments all images", "/batch/infer/absent"),
    ("an unknown method scores", "/scoring/absent"),
):
    attack(what, "starts a task that fails", ours=404)(posted(path))


@attack("an unknown image is labelled", ours=404, plain=500)
def label_of_no_image(target):
    answer = target.submit(nifti(right_label(target)), "image=absent")
    return answer, answer.ok


@attack("a request that fails, to see the server's code or paths in the answer", ours=400, plain=500)
def trace(target):
    answer = target.infer(query="x=", files={"file": ("a.nii.gz", b"junk")})
    return answer, "Traceback" in answer.text or ".py" in answer.text or str(target.server.folder) in answer.text


@attack("`POST /reload`", "the server forgets and loads its app anew", ours=404)
def reload(target):
    answer = target.send("POST", "/reload")
    return answer, answer.ok


# --- material


def nifti(voxels: np.ndarray, shift: float = 0) -> bytes:
    affine = np.diag([1.5, 1.5, 3.0, 1.0])
    affine[0, 3] = shift
    return gzip.compress(nib.Nifti1Image(voxels.astype(np.float32), affine).to_bytes())


def right_label(target: Target) -> np.ndarray:
    label = np.zeros(nib.load(target.server.studies / f"{IMAGE}.nii.gz").shape)
    label[2:4, 2:4, 2:4] = 1
    return label


def voxels_of(answer: requests.Response) -> np.ndarray:
    return np.asarray(nib.Nifti1Image.from_bytes(gzip.decompress(answer.content)).dataobj)


def secret_voxels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2, (7, 8, 9))


def shows_secret(answer: requests.Response) -> bool:
    """Whether the plain model's answer, a threshold at 0.5, is the secret itself."""
    return answer.ok and np.array_equal(voxels_of(answer), secret_voxels())


def threshold_network(foreground: float = 0.0) -> dict[str, torch.Tensor]:
    """Weights of the plain model: label 1 above 0.5, or everywhere where `foreground` is large."""
    weight = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1, 1)
    return {"weight": weight, "bias": torch.tensor([0.5, foreground])}


def fill(folder: Path) -> None:
    """A studies folder with a scan and links that lead out, and secrets beside it."""
    studies, outside = folder / "studies", folder / "outside"
    studies.mkdir(parents=True)
    outside.mkdir()
    for name in (IMAGE, "spare"):
        (studies / f"{name}.nii.gz").write_bytes(nifti(np.random.default_rng(1).random((12, 12, 12))))
    (outside / "secret.nii.gz").write_bytes(nifti(secret_voxels()))
    (outside / "secret.raw").write_bytes(secret_voxels().astype(np.uint8).tobytes()[:24])
    torch.save(threshold_network(foreground=1e9), outside / "foreground.pt")
    (studies / "link.nii.gz").symlink_to(outside / "secret.nii.gz")
    (studies / "series").mkdir()
    for path in write_series(outside / "slices"):
        (studies / "series" / path.name).symlink_to(path)


@contextmanager
def start_plain(folder: Path, **arguments: str) -> Iterator[Target]:
    """MONAI Label's own server with a plain app."""
    fill(folder)
    server = PlainServer(folder, **arguments)
    weights = server.app / "bundle/models/model.pt"
    weights.parent.mkdir()
    torch.save(threshold_network(), weights)
    (server.app / "bin").mkdir()
    (server.app / "bin/itkimage2segimage").touch()  # it would be downloaded for a PACS
    with server:
        yield Target(server, "plain", weights)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    with start_plain(tmp_path_factory.mktemp("plain")) as target:
        yield target


def start_ours(folder: Path, **arguments) -> Target:
    fill(folder)
    model = "msd_hippocampus"
    bundle = small_bundle(folder / "bundles", model)
    server = Server(
        folder, bundles=str(bundle.parent), models=model, warm_up="false", scoring="false", max_upload="1", **arguments
    )
    return Target(server.start(), model, bundle / "models/model.pt")


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """This app as it comes."""
    target = start_ours(tmp_path_factory.mktemp("ours"))
    yield target
    target.server.stop()


@pytest.fixture(scope="module")
def ours_with_keys(tmp_path_factory):
    """This app with two users, whose administrator may send weights."""
    folder = tmp_path_factory.mktemp("ours_with_keys")
    keys = {
        ADMIN_KEY: {"name": "chief", "roles": ["monailabel-admin", "monailabel-annotator", "monailabel-user"]},
        READER_KEY: {"name": "reader", "roles": ["monailabel-user"]},
    }
    file = folder / "keys.json"
    file.write_text(json.dumps({hashlib.sha256(key.encode()).hexdigest(): user for key, user in keys.items()}))
    target = start_ours(folder, api_keys=str(file), model_upload="true")
    yield Target(target.server, target.model, target.weights, headers=(("X-API-Key", ADMIN_KEY),))
    target.server.stop()


# --- somebody else's servers

PASSWORD = "open-sesame"
SECRET = "what only the server and its users may know"
PROVIDERS_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def public_pem() -> bytes:
    return PROVIDERS_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def make_token(world: Stranger, key: object, algorithm: str) -> str:
    claims = {
        "iss": world.url,
        "exp": time.time() + 3600,
        "azp": "monailabel-app",
        "preferred_username": "ann",
        "realm_access": {"roles": ["monailabel-admin", "monailabel-annotator", "monailabel-user"]},
    }
    return jwt.encode(claims, key, algorithm, headers={"kid": "1"})


@pytest.fixture(scope="module")
def world():
    """A PACS at /dicom-web that sends everybody on to /secret by another name of this computer, and a provider."""
    with stranger() as server:
        elsewhere = f"http://localhost:{server.server_port}/secret"
        key = {**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(PROVIDERS_KEY.public_key())), "kid": "1"}
        addresses = {"issuer": server.url, "jwks_uri": f"{server.url}/keys", "token_endpoint": f"{server.url}/token"}
        server.answers = {
            "/": (200, {"public_key": "".join(public_pem().decode().splitlines()[1:-1])}),
            "/.well-known/openid-configuration": (200, addresses),
            "/keys": (200, {"keys": [key]}),
            **{f"/dicom-web/{what}": (302, f"{elsewhere}/{what}") for what in ("studies", "series", "instances")},
            "/secret/studies": (200, SECRET),
            "/secret/series": (200, []),
            "/secret/instances": (200, []),
            "/secret/token": (200, {"access_token": "x", "token_type": "bearer"}),
        }
        yield server


@pytest.fixture(scope="module")
def ours_among_strangers(world, tmp_path_factory):
    """This app with a PACS and a provider of the attacker's."""
    folder = tmp_path_factory.mktemp("ours_among_strangers")
    hasty = {"monailabel_app.web.connections.HEADER_SECONDS": LIMIT, "monailabel_app.web.security.BODY_SECONDS": LIMIT}
    target = start_ours(folder, constants=hasty, studies=f"{world.url}/dicom-web", realm=world.url)
    bearer = f"Bearer {make_token(world, PROVIDERS_KEY, 'RS256')}"
    yield replace(target, headers=(("Authorization", bearer),), world=world)
    target.server.stop()


@pytest.fixture(scope="module")
def plain_with_pacs(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain_with_pacs")
    with start_plain(folder, studies=f"{world.url}/dicom-web") as target:
        yield replace(target, world=world)


@pytest.fixture(scope="module")
def plain_with_provider(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain_with_provider")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MONAI_LABEL_AUTH_ENABLE", "true")
        patch.setenv("MONAI_LABEL_AUTH_REALM_URI", world.url)
        with start_plain(folder) as target:
            yield replace(target, world=world)


def contents(folder: Path) -> dict[Path, str]:
    """The files below a folder, without what the server writes of its own accord: records and sessions."""
    files = [path for path in folder.rglob("*") if path.is_file() and not {"logs", "sessions"} & set(path.parts)]
    kept = [path for path in files if path.suffix not in (".log", ".pyc")]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


# --- tests


@pytest.mark.parametrize("tried", ATTACKS, ids=lambda tried: tried.name)
def test_this_app_refuses(tried, request):
    target = request.getfixturevalue(PLACES[tried.place][0])
    (target.outside / "config.json").write_text(json.dumps({"overlap": target.code}))  # as an attack would
    before = contents(target.server.folder)
    answer, done = tried.attempt(target)
    assert (answer.status_code, done) == (tried.ours, False), answer.text[:500]
    assert 400 <= tried.ours < 500 or tried.ours in (0, 502)
    told = ("Traceback", ".py", str(target.server.app), str(target.server.studies))
    assert not any(text in answer.text for text in told)
    assert contents(target.server.folder) == before


@pytest.mark.parametrize("tried", ATTACKS, ids=lambda tried: tried.name)
def test_monai_label_alone(tried, request):
    """An attack that must work here shows that it is one; where MONAI Label has closed it, the table changes."""
    plain = request.getfixturevalue(PLACES[tried.place][1])
    kept = plain.weights.read_bytes()
    plain.marker.unlink(missing_ok=True)
    try:
        answer, done = tried.attempt(plain)
    finally:
        plain.weights.write_bytes(kept)
    assert (answer.status_code, done) == (tried.plain, bool(tried.harm)), answer.text[:500]


def test_own_pages_may_call(ours):
    """The viewer that this server hands out; a broken Host header is refused like a foreign one."""
    answer = ours.send("GET", "/info/", headers={"Origin": ours.server.url})
    assert answer.status_code == 200 and "access-control-allow-origin" not in answer.headers
    assert ours.send("GET", "/info/", headers={"Host": "["}).status_code == 403


def test_the_page_has_the_table():
    assert table() in PAGE.read_text(encoding="utf-8"), f"print it: PYTHONPATH=tests:tests/app python {__file__}"


def table() -> str:
    """The attacks with both answers, in Markdown."""
    rows = [f"| attack | MONAI Label {monailabel.__version__}, plain app | this app |", "|---|---|---|"]
    for tried in ATTACKS:
        plain = f"**{tried.harm}** ({tried.plain or NO_ANSWER})" if tried.harm else f"fails ({tried.plain})"
        rows.append(f"| {tried.name} | {plain} | refused ({tried.ours or NO_ANSWER}) |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table())
