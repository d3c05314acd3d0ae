"""gossamer.json, the manifest of a model directory (docs/checkpoint-format.md)."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

from gossamer.checkpoint.digest import CHUNK_BYTES, FileRecord, digest_of_chunks, model_id
from gossamer.checkpoint.dtypes import SCALED_DTYPES, STORED_DTYPES
from gossamer.checkpoint.faults import fault
from gossamer.checkpoint.scaled import SCALE_GROUP_UNIT
from gossamer.checkpoint.strict_json import parse_object
from gossamer.errors import CheckpointVersionError, ChecksumError

__all__ = ["FORMAT_VERSION", "MANIFEST_NAME", "Manifest", "TensorRecord", "is_file_name"]

MANIFEST_NAME = "gossamer.json"
FORMAT = "gossamer-checkpoint"
FORMAT_VERSION = 1
KNOWN_FEATURES = frozenset({"bitmap", "scales"})
_MAX_BYTES = 64 * 1024 * 1024
_MAX_DEPTH = 8
_PREFIX = b'{"digest": "sha256:'
_DIGEST_END = len(_PREFIX) + 64
_HEX = re.compile(r"[0-9a-f]{64}")
_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_RECONVERT = "Download or convert the model again"


def is_file_name(name: object) -> bool:
    """Whether `name` is a bare file name that a model directory may hold."""
    return isinstance(name, str) and _FILE_NAME.fullmatch(name) is not None


@dataclass(frozen=True)
class TensorRecord:
    """One logical tensor.

    Attributes
    ----------
    encoding : "dense" or "bitmap"
    dtype : "f32", "f16", "bf16"; "i8", "e4m3" or "i4", which have scales
    shape : logical, whatever the encoding
    shard : file name
    nnz : stored values, for a bitmap only
    scale_group : of a scaled dtype: columns that share a scale, None for all of a row
    """

    encoding: str
    dtype: str
    shape: tuple[int, ...]
    shard: str
    nnz: int | None = None
    scale_group: int | None = None

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def is_scaled(self) -> bool:
        return self.dtype in SCALED_DTYPES

    @property
    def stored_bytes(self) -> int:
        """What the tensor takes on disk, but for its names."""
        rows, cols = self.shape if len(self.shape) == 2 else (1, self.size)
        scale_bytes = 4 * rows * (1 if self.scale_group is None else -(-cols // self.scale_group)) if self.is_scaled else 0
        item = STORED_DTYPES[self.dtype].itemsize
        if self.nnz is None:
            return rows * ((cols + 1) // 2 if self.dtype == "i4" else cols * item) + scale_bytes
        values = self.nnz // 2 if self.dtype == "i4" else self.nnz * item
        return values + rows * ((cols + 7) // 8) + 8 * rows + 16 + scale_bytes

    def as_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"encoding": self.encoding, "dtype": self.dtype, "shape": list(self.shape), "shard": self.shard}
        if self.nnz is not None:
            out["nnz"] = self.nnz
        return out | {"scale_group": self.scale_group} if self.is_scaled else out


@dataclass(frozen=True)
class Manifest:
    """The manifest's content; `digest` is that of the file it was parsed from, or ""."""

    producer: str
    architecture: str
    source: dict[str, str]
    tensors: dict[str, TensorRecord]
    files: dict[str, FileRecord]
    pruning: dict[str, Any] | None = None
    digest: str = field(default="", compare=False)

    @property
    def model_id(self) -> str:
        return model_id(self.files)

    @property
    def shards(self) -> list[str]:
        return sorted({record.shard for record in self.tensors.values()})

    def render(self) -> bytes:
        """The file's bytes: one line per member, tensor and file, so that people and diffs can read it."""

        def line(value: Any) -> str:
            return json.dumps(value, ensure_ascii=False, allow_nan=False)

        def table(rows: dict[str, Any]) -> str:
            return "{\n" + ",\n".join(f"    {line(name)}: {line(value)}" for name, value in rows.items()) + "\n  }"

        features = _features(self.tensors)
        files = {name: {"bytes": f.bytes, "sha256": f.sha256, "chunks": list(f.chunks)} for name, f in sorted(self.files.items())}
        members = [
            ("format", line(FORMAT)),
            ("format_version", line(FORMAT_VERSION)),
            ("required_features", line(features)),
            ("model_id", line(self.model_id)),
            ("producer", line(self.producer)),
            ("architecture", line(self.architecture)),
            ("source", line(self.source)),
            ("pruning", line(self.pruning)),
            ("tensors", table({name: record.as_json() for name, record in self.tensors.items()})),
            ("files", table(files)),
        ]
        rest = ('"' + "".join(f',\n  "{name}": {value}' for name, value in members) + "\n}\n").encode()
        return _PREFIX + hashlib.sha256(rest).hexdigest().encode() + rest

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Check the digest, the version, then every member; CheckpointError says what is wrong."""
        if len(data) > _MAX_BYTES:
            raise _wrong("The manifest is too large", expected=f"at most {_MAX_BYTES} bytes", found=len(data))
        stated = data[len(_PREFIX) : _DIGEST_END]
        if not data.startswith(_PREFIX) or _HEX.fullmatch(stated.decode("latin-1")) is None:
            raise _wrong("The manifest does not begin with its digest", field="digest", offset=0)
        actual = hashlib.sha256(data[_DIGEST_END:]).hexdigest()
        if stated.decode() != actual:
            raise fault(
                "The manifest was changed or damaged after it was written",
                kind=ChecksumError,
                file=MANIFEST_NAME,
                field="digest",
                expected=stated.decode(),
                found=actual,
                fix=_RECONVERT,
            )
        raw = parse_object(data, MANIFEST_NAME, max_depth=_MAX_DEPTH)
        _check_version(raw)
        tensors = {name: _tensor(name, record) for name, record in _member(raw, "tensors", dict).items()}
        files = {name: _file(name, record) for name, record in _member(raw, "files", dict).items()}
        for name, record in tensors.items():
            if record.shard not in files:
                raise _wrong("A tensor lies in a file that the manifest does not list", tensor=name, field="shard", found=record.shard)
        for feature in _features(tensors):
            if feature not in raw["required_features"]:
                raise _wrong(f'A tensor uses "{feature}", which is not a required feature', field="required_features")
        pruning = raw.get("pruning")
        if pruning is not None and not isinstance(pruning, dict):
            raise _wrong("A member has the wrong type", field="pruning", expected="an object or null", found=type(pruning).__name__)
        manifest = cls(
            producer=_member(raw, "producer", str),
            architecture=_member(raw, "architecture", str),
            source=_member(raw, "source", dict),
            tensors=tensors,
            files=files,
            pruning=pruning,
            digest=actual,
        )
        if raw.get("model_id") != manifest.model_id:
            raise _wrong("The model's id is not that of its files", field="model_id", expected=manifest.model_id, found=raw.get("model_id"))
        return manifest


def _features(tensors: dict[str, TensorRecord]) -> list[str]:
    used = {"bitmap": any(t.encoding == "bitmap" for t in tensors.values()), "scales": any(t.is_scaled for t in tensors.values())}
    return [feature for feature, is_used in used.items() if is_used]


def _wrong(what: str, **where: Any) -> Exception:
    return fault(what, file=MANIFEST_NAME, fix=_RECONVERT, **where)


def _member(raw: dict[str, Any], name: str, kind: type) -> Any:
    value = raw.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise _wrong("A member is missing or has the wrong type", field=name, expected=kind.__name__, found=type(value).__name__)
    return value


def _check_version(raw: dict[str, Any]) -> None:
    if raw.get("format") != FORMAT:
        raise _wrong("This is no Gossamer manifest", field="format", expected=FORMAT, found=raw.get("format"))
    version = _member(raw, "format_version", int)
    features = _member(raw, "required_features", list)
    unknown = sorted(str(f) for f in features if not isinstance(f, str) or f not in KNOWN_FEATURES)
    if version > FORMAT_VERSION or unknown:
        raise fault(
            "The checkpoint was written for a newer Gossamer",
            kind=CheckpointVersionError,
            file=MANIFEST_NAME,
            field="required_features" if unknown else "format_version",
            expected=", ".join(sorted(KNOWN_FEATURES)) if unknown else f"1 to {FORMAT_VERSION}",
            found=", ".join(unknown) if unknown else version,
            fix="Upgrade gossamer, or convert the model again with this version",
        )
    if version < 1:
        raise _wrong("There is no such format version", field="format_version", expected=f"1 to {FORMAT_VERSION}", found=version)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _tensor(name: str, raw: Any) -> TensorRecord:
    encoding = raw.get("encoding") if isinstance(raw, dict) else None
    if encoding not in ("dense", "bitmap"):
        raise _wrong("Unknown encoding", tensor=name, field="encoding", expected="dense or bitmap", found=encoding)
    dtype = raw.get("dtype")
    if not isinstance(dtype, str) or dtype not in STORED_DTYPES:
        raise _wrong("Unknown dtype", tensor=name, field="dtype", expected=", ".join(STORED_DTYPES), found=dtype)
    members = {"encoding", "dtype", "shape", "shard"}
    members |= {"nnz"} if encoding == "bitmap" else set()
    members |= {"scale_group"} if dtype in SCALED_DTYPES else set()
    if set(raw) != members:
        raise _wrong("A tensor's record has the wrong members", tensor=name, expected=sorted(members), found=sorted(raw))
    shape = raw["shape"]
    if not isinstance(shape, list) or len(shape) > 8 or not all(_is_count(n) for n in shape) or math.prod(shape) >= 2**63:
        raise _wrong("Not a shape", tensor=name, field="shape", found=shape)
    if not is_file_name(raw["shard"]):
        raise _wrong("Not a bare file name", tensor=name, field="shard", found=raw["shard"])
    if (encoding == "bitmap" or dtype in SCALED_DTYPES) and (len(shape) != 2 or not name.endswith(".weight")):
        raise _wrong("Only matrices named *.weight can be bitmaps or have scales", tensor=name, field="shape", found=shape)
    record = TensorRecord(encoding, dtype, tuple(shape), raw["shard"], raw.get("nnz"), raw.get("scale_group"))
    if encoding == "bitmap":
        _check_nnz(name, record)
    if record.scale_group is not None:
        group = record.scale_group
        if not _is_count(group) or not 0 < group < shape[1] or group % SCALE_GROUP_UNIT:
            raise _wrong("Not a number of columns that can share a scale", tensor=name, field="scale_group",
                         expected=f"null, or less than {shape[1]} and a multiple of {SCALE_GROUP_UNIT}", found=group)  # fmt: skip
    return record


def _check_nnz(name: str, record: TensorRecord) -> None:
    rows, cols = record.shape
    most = rows * ((cols + 1) // 2 * 2 if record.dtype == "i4" else cols)
    if not _is_count(record.nnz) or record.nnz is None or record.nnz > most:
        raise _wrong("Not a count of kept values", tensor=name, field="nnz", expected=f"0 to {most}", found=record.nnz)
    if record.dtype == "i4" and record.nnz % 2:
        raise _wrong("Rows of i4 take an even number of values", tensor=name, field="nnz", expected="an even number", found=record.nnz)


def _file(name: str, raw: Any) -> FileRecord:
    if not is_file_name(name) or name == MANIFEST_NAME:
        raise _wrong("Not a bare file name", field="files", found=name)
    if not isinstance(raw, dict) or set(raw) != {"bytes", "sha256", "chunks"}:
        raise _wrong("A file's record has the wrong members", field=f"files.{name}", expected="bytes, chunks, sha256")
    chunks = raw["chunks"]
    if not _is_count(raw["bytes"]) or not isinstance(chunks, list) or len(chunks) != -(-raw["bytes"] // CHUNK_BYTES):
        raise _wrong("A file's size and number of chunks do not fit", field=f"files.{name}.chunks")
    if not all(isinstance(c, str) and _HEX.fullmatch(c) for c in chunks):
        raise _wrong("Not a SHA-256", field=f"files.{name}.chunks")
    if raw["sha256"] != digest_of_chunks(bytes.fromhex(c) for c in chunks):
        raise _wrong("A file's digest is not that of its chunks", field=f"files.{name}.sha256", found=raw["sha256"])
    return FileRecord(raw["bytes"], raw["sha256"], tuple(chunks))
