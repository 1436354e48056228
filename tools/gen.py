"""Generate gen/ from protos/: Python messages, gRPC stubs, their types, and the contract image.

`gen/contract.binpb` is one FileDescriptorSet of every proto with its imports and comments; the gateway,
the checks and `buf` read it. Nothing is generated when protos, generators and this file are unchanged.
"""

import fcntl
import hashlib
import importlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import google.api
import grpc_tools
from google.protobuf import descriptor_pb2
from protovalidate._gen.buf.validate import validate_pb

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
GEN = ROOT / "gen"
VALIDATE = "buf/validate/validate.proto"
GENERATORS = ("grpcio-tools", "mypy-protobuf", "protobuf", "protovalidate", "googleapis-common-protos")


def fingerprint(sources: list[Path]) -> str:
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for package in GENERATORS:
        digest.update(f"{package}={importlib.metadata.version(package)}\n".encode())
    for source in sources:
        digest.update(f"{source.relative_to(PROTOS)}\n".encode())
        digest.update(source.read_bytes())
    return digest.hexdigest()


def write_validate_image(path: Path) -> None:
    """Write validate.proto and its imports as a descriptor set.

    No package ships the file itself; protovalidate's wheel ships its descriptor.
    """
    image = descriptor_pb2.FileDescriptorSet()
    for dependency in validate_pb._DESC.proto.dependency:
        module = importlib.import_module(dependency.removesuffix(".proto").replace("/", ".") + "_pb2")
        module.DESCRIPTOR.CopyToProto(image.file.add())
    image.file.add().ParseFromString(validate_pb._DESC.proto.to_binary())
    path.write_bytes(image.SerializeToString(deterministic=True))


def protoc(out: Path, sources: list[Path]) -> None:
    validate = out / "validate.binpb"
    write_validate_image(validate)
    googleapis = Path(google.api.__path__[0]).parent.parent
    common = [
        *(sys.executable, "-m", "grpc_tools.protoc"),
        f"--descriptor_set_in={validate}",
        f"-I{PROTOS}",
        f"-I{googleapis}",
        f"-I{Path(grpc_tools.__file__).parent / '_proto'}",
    ]
    names = [str(source.relative_to(PROTOS)) for source in sources]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def run(*arguments: str) -> None:
        subprocess.run([*common, *arguments], check=True, env=environment)

    run("--include_imports", "--include_source_info", f"--descriptor_set_out={out / 'contract.binpb'}", *names)
    run(f"--python_out={out}", f"--mypy_out=quiet:{out}", VALIDATE, *names)
    run(f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}", *names)


def replace_changed(new: Path, old: Path) -> None:
    """Make `old` equal to `new` file by file, so that what runs from it meanwhile never misses a module."""
    fresh = {path.relative_to(new) for path in new.rglob("*") if path.is_file()}
    for name in fresh:
        target = old / name
        if not target.exists() or target.read_bytes() != (new / name).read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(new / name, target)
    for path in list(old.rglob("*")):
        if path.is_file() and path.suffix in {".py", ".pyi", ".binpb"} and path.relative_to(old) not in fresh:
            path.unlink()


def main() -> None:
    GEN.mkdir(exist_ok=True)
    with (GEN / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sources = sorted(PROTOS.rglob("*.proto"))
        stamp = GEN / ".fingerprint"
        wanted = fingerprint(sources)
        if not sources:
            sys.exit("protos/ holds no .proto file")
        if stamp.exists() and stamp.read_text() == wanted:
            return
        print(f"generating from {len(sources)} protos")
        scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=GEN))
        try:
            protoc(scratch, sources)
            replace_changed(scratch, GEN)
        except subprocess.CalledProcessError as error:
            sys.exit(error.returncode)
        finally:
            shutil.rmtree(scratch)
        stamp.write_text(wanted)


if __name__ == "__main__":
    main()
