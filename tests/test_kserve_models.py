"""What the KServe service says of the server and its models."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import kserving
import pytest
from google.protobuf import text_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from kserving import MODEL
from serving import Running, running
from tritonclient.grpc import model_config_pb2
from tritonclient.grpc import service_pb2 as pb

import vitral_engine
from vitral import __version__
from vitral.errors import InvalidArgumentError, ModelNotFoundError, UnavailableError
from vitral_server.kserve import configuration, describe
from vitral_server.kserve.catalogue import Catalogue
from vitral_server.registry import Registry, Served

SERVICE = "inference.GRPCInferenceService"
METADATA = """
    name: "vit-embedding" versions: "1" platform: "onnxruntime_onnx"
    inputs { name: "pixel_values" datatype: "FP32" shape: [-1, 3, 32, 32] }
    outputs { name: "embeddings" datatype: "FP32" shape: [-1, 17, 16] }
    outputs { name: "patch_embeddings" datatype: "FP32" shape: [-1, 16, 16] }
"""
CONFIG = """
    name: "vit-embedding" platform: "onnxruntime_onnx" backend: "onnxruntime"
    version_policy { latest { num_versions: 1 } } max_batch_size: 32
    input { name: "pixel_values" data_type: TYPE_FP32 dims: [3, 32, 32] }
    output { name: "embeddings" data_type: TYPE_FP32 dims: [17, 16] }
    output { name: "patch_embeddings" data_type: TYPE_FP32 dims: [16, 16] }
    instance_group { name: "vit-embedding" count: 2 kind: KIND_CPU }
    default_model_filename: "model.onnx"
    dynamic_batching { preferred_batch_size: 32 }
    optimization { input_pinned_memory { enable: true } output_pinned_memory { enable: true } }
"""
IMAGE_METADATA = """
    name: "vit-embedding_image" versions: "1" platform: "vitral"
    inputs { name: "image" datatype: "BYTES" shape: [-1] }
    outputs { name: "embeddings" datatype: "FP32" shape: [-1, 17, 16] }
    outputs { name: "patch_embeddings" datatype: "FP32" shape: [-1, 16, 16] }
"""


@pytest.fixture(scope="module")
def client(kserve_server: Running) -> Iterator[Any]:
    with kserving.client(kserve_server.address) as opened:
        yield opened


@pytest.fixture(scope="module")
def stub(kserve_server: Running) -> Iterator[Any]:
    with kserving.stub(kserve_server.address) as made:
        yield made


def test_live_and_ready(client: Any, stub: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    for name, version in ((MODEL, ""), (MODEL, "1"), (f"{MODEL}_image", ""), (f"{MODEL}_image", "1")):
        assert client.is_model_ready(name, version)
    for name, version in (("other", ""), (MODEL, "2"), ("", "")):
        assert not client.is_model_ready(name, version)
    code, told = kserving.refusal(stub.ModelReady, pb.ModelReadyRequest(name=MODEL, version="x"))
    assert (code, "version should be an integral value > 0" in told) == ("INVALID_ARGUMENT", True)


def test_the_server_describes_itself(client: Any) -> None:
    told = client.get_server_metadata()
    assert (told.name, told.version) == ("vitral", __version__)
    assert {"system_shared_memory", "statistics", "model_configuration"} <= set(told.extensions)
    assert not {"cuda_shared_memory", "classification", "sequence"} & set(told.extensions)


def test_a_model_is_described_as_triton_does(client: Any) -> None:
    assert client.get_model_metadata(MODEL) == text_format.Parse(METADATA, pb.ModelMetadataResponse())
    assert client.get_model_metadata(MODEL, "1") == client.get_model_metadata(MODEL)
    config = client.get_model_config(MODEL).config
    assert config == text_format.Parse(CONFIG, model_config_pb2.ModelConfig())


def test_a_model_with_preprocessing_has_a_second_name_for_image_files(client: Any) -> None:
    told = client.get_model_metadata(f"{MODEL}_image")
    assert told == text_format.Parse(IMAGE_METADATA, pb.ModelMetadataResponse())
    config = client.get_model_config(f"{MODEL}_image").config
    assert config.max_batch_size == 0
    assert [(item.name, list(item.dims)) for item in config.input] == [("image", [-1])]
    assert [list(item.dims) for item in config.output] == [[-1, 17, 16], [-1, 16, 16]]
    names = [model.name for model in client.get_model_repository_index().models]
    assert f"{MODEL}_image" in names
    assert "position-embedding-2d" in names
    assert "position-embedding-2d_image" not in names  # its input is tokens


@pytest.mark.parametrize("method", ["ModelMetadata", "ModelConfig"])
@pytest.mark.parametrize(
    ("name", "version", "code", "words"),
    [
        ("other", "", "NOT_FOUND", "Request for unknown model: 'other' is not found"),
        ("", "", "NOT_FOUND", "Request for unknown model: '' is not found"),
        (MODEL, "7", "NOT_FOUND", "Request for unknown model: 'vit-embedding' version 7 is not found"),
        (MODEL, "x", "INVALID_ARGUMENT", "failed to get model version from specified version string 'x'"),
        (MODEL, "9" * 30, "INVALID_ARGUMENT", "failed to get model version from specified version string"),
        (MODEL, "-1", "INVALID_ARGUMENT", "invalid model version specified '-1'"),
    ],
)
def test_models_that_are_not_there(
    stub: Any, method: str, name: str, version: str, code: str, words: str
) -> None:
    request = getattr(pb, f"{method}Request")(name=name, version=version)
    got, told = kserving.refusal(getattr(stub, method), request)
    assert (got, words in told) == (code, True), told


@pytest.mark.parametrize("version", ["1", "01", "+1", " 1", "1x"])
def test_a_version_is_read_as_triton_reads_it(client: Any, version: str) -> None:
    assert client.is_model_ready(MODEL, version)
    assert client.get_model_metadata(MODEL, version).name == MODEL


def test_models_that_do_not_serve(preset_repo: Path) -> None:
    engine = vitral_engine.open(preset_repo / MODEL)
    whole = Served(MODEL, "2", engine)
    failed = [Served(MODEL, "3", reason="torn"), Served("other", "1", reason="not there")]
    catalogue = Catalogue(Registry([whole, *failed], named=()))
    assert catalogue.find(MODEL, "")[0].version == "2"
    assert catalogue.versions(MODEL) == ["2"]
    with pytest.raises(UnavailableError, match="version 3 is not at ready state: torn"):
        catalogue.find(MODEL, "3")
    with pytest.raises(ModelNotFoundError, match="'other' has no available versions"):
        catalogue.find("other", "")
    index = describe.index(catalogue, ready=False).models
    states = {(one.name, one.version): (one.state, one.reason) for one in index}
    assert states["other", "1"] == ("UNAVAILABLE", "not there")
    assert states[MODEL, "2"] == ("READY", "")
    assert len(describe.index(catalogue, ready=True).models) == 2
    with pytest.raises(InvalidArgumentError, match="requested model version is not available"):
        catalogue.chosen(MODEL, "3")
    with pytest.raises(InvalidArgumentError, match="requested model 'other' is not available"):
        catalogue.chosen("other", "")


def test_a_real_model_keeps_its_name_before_an_image_model(preset_repo: Path) -> None:
    engine = vitral_engine.open(preset_repo / MODEL)
    both = [Served(MODEL, "1", engine), Served(f"{MODEL}_image", "1", engine)]
    catalogue = Catalogue(Registry(both, named=()))
    entry, face = catalogue.find(f"{MODEL}_image", "")
    assert (entry.served, face.input.datatype) == (both[1], "FP32")


def test_what_config_pbtxt_says_is_kept(preset_repo: Path, tmp_path: Path) -> None:
    shutil.copytree(preset_repo / MODEL, tmp_path / MODEL)
    file = tmp_path / MODEL / "config.pbtxt"
    more = 'instance_group { count: 3 } instance_group { kind: KIND_CPU }\nparameters { key: "a" value {} }'
    more += "optimization { input_pinned_memory { enable: false } }"
    file.write_text(file.read_text().replace("max_batch_size: 32", "max_batch_size: 5") + more)
    config = configuration.of_model(vitral_engine.open(tmp_path / MODEL))
    groups = [(group.name, group.count, group.kind) for group in config.instance_group]
    assert groups == [("vit-embedding_0", 3, 2), ("vit-embedding_1", 2, 2)]
    assert (config.max_batch_size, list(config.parameters)) == (5, ["a"])
    pinned = config.optimization
    assert (pinned.input_pinned_memory.enable, pinned.output_pinned_memory.enable) == (False, True)
    assert config.dynamic_batching.preferred_batch_size == [5]
    file.write_text("max_batch_size: 8")
    config = configuration.of_model(vitral_engine.open(tmp_path / MODEL))
    assert [list(item.dims) for item in config.output] == [[17, 16], [16, 16]]
    assert (config.backend, config.name) == ("onnxruntime", MODEL)
    assert not config.HasField("dynamic_batching")
    file.unlink()
    assert configuration.of_model(vitral_engine.open(tmp_path / MODEL)).max_batch_size == 32


def test_every_other_method_is_refused_by_name(stub: Any) -> None:
    served = {"ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelConfig"}
    served |= {"ModelInfer", "ModelStreamInfer", "ModelStatistics", "RepositoryIndex"}
    served |= {f"SystemSharedMemory{verb}" for verb in ("Status", "Register", "Unregister")}
    served |= {f"CudaSharedMemory{verb}" for verb in ("Status", "Unregister")}
    methods = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    others = [method for method in methods if method.name not in served]
    assert len(others) == len(methods) - len(served) == 5
    for method in others:
        request = getattr(pb, method.input_type.name)()
        told = kserving.refusal(getattr(stub, method.name), request)
        assert told == ("UNIMPLEMENTED", f"{method.name} is not served")
    request = pb.RepositoryIndexRequest(repository_name="other")
    assert kserving.refusal(stub.RepositoryIndex, request)[0] == "UNIMPLEMENTED"


def test_health_and_reflection_know_the_service(kserve_server: Running) -> None:
    with grpc.insecure_channel(kserve_server.address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        reply = check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=5)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
        info = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = info(iter([asked]), timeout=5)
        assert SERVICE in {one.name for one in answer.list_services_response.service}
        asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE)
        (answer,) = info(iter([asked]), timeout=5)
        assert answer.file_descriptor_response.file_descriptor_proto


def test_readiness_follows_the_drain(preset_repo: Path, tmp_path: Path) -> None:
    args = ("--model", MODEL, "--drain-delay", "1.5")
    with (
        running(preset_repo, *args, log=tmp_path / "log") as server,
        kserving.client(server.address) as client,
    ):
        assert client.is_server_ready()
        server.process.terminate()
        while client.is_server_ready():
            pass
        assert client.is_server_live()
        assert not client.is_model_ready(MODEL)
        reply = client.infer(MODEL, kserving.floats(kserving.noise(1)))
        assert reply.as_numpy("embeddings") is not None, "calls are still answered during the drain delay"
        assert server.process.wait(20) == 0


def test_there_is_no_cuda_shared_memory(stub: Any) -> None:
    assert not stub.CudaSharedMemoryStatus(pb.CudaSharedMemoryStatusRequest()).regions
    told = kserving.refusal(stub.CudaSharedMemoryStatus, pb.CudaSharedMemoryStatusRequest(name="zz"))
    assert told == ("NOT_FOUND", "Unable to find cuda shared memory region: 'zz'")
    for name in ("", "zz"):  # as clients do for all, whatever they registered
        stub.CudaSharedMemoryUnregister(pb.CudaSharedMemoryUnregisterRequest(name=name))
