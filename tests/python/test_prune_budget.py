"""From a size or a speed to a sparsity; which projections stay."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_model as tiny
from test_prune_pipeline import make_model

from gossamer import _core
from gossamer.checkpoint import ModelReader
from gossamer.prune import prune
from gossamer.prune.budget import sparsity_for_bytes, sparsity_for_speedup, stored_bytes
from gossamer.prune.select import select
from gossamer.prune.speed import device_here, product_time, products_of, sparsity_for


def parts_of(model):
    with ModelReader(model) as reader:
        records = {name: reader.record(name) for name in reader.names()}
        return records, select({name: record.shape for name, record in records.items()}), reader.side_files()


def bytes_of(directory):
    return sum(file.stat().st_size for file in directory.iterdir())


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.9])
def test_stored_bytes_bound_what_is_written(tmp_path, sparsity):
    records, targets, side_files = parts_of(make_model(tmp_path / "dense"))
    prune(tmp_path / "dense", {sparsity: tmp_path / "out"}, method="magnitude")
    bound = stored_bytes(records, targets, sparsity, side_files)
    assert bytes_of(tmp_path / "out") <= bound
    assert bound - bytes_of(tmp_path / "out") < 1.1 * 2**20
    again, _, _ = parts_of(tmp_path / "out")
    assert abs(stored_bytes(again, [], 0.5, side_files) - bound) < 4096  # what is sparse already counts as it is


def test_the_least_sparsity_that_fits(tmp_path):
    records, targets, side_files = parts_of(tiny.write_model(tmp_path / "model"))
    target = stored_bytes(records, targets, 0.6, side_files)
    found = sparsity_for_bytes(records, targets, side_files, target)
    assert found == pytest.approx(0.6, abs=2e-4)
    assert stored_bytes(records, targets, found, side_files) <= target
    assert stored_bytes(records, targets, found - 1e-4, side_files) > target
    with pytest.raises(ValueError, match="cannot be reached: at 95% sparsity the model takes"):
        sparsity_for_bytes(records, targets, side_files, 1000)


def test_the_least_sparsity_that_is_fast_enough():
    def time(m, k, sparsity):
        return m * k * (1 - sparsity)

    found = sparsity_for_speedup({(10, 20): 3, (5, 20): 1}, 100.0, time, 1.5)
    assert found == pytest.approx((1 - 1 / 1.5) * 800 / 700, abs=2e-4)
    with pytest.raises(ValueError, match=r"cannot be reached: .* 1 / 5\.\d\d of their dense time"):
        sparsity_for_speedup({(10, 20): 3, (5, 20): 1}, 100.0, time, 9.0)


def test_products_are_stacked_as_the_runtime_stacks_them():
    shapes = {name: tensor.shape for name, tensor in tiny.weights().items()}
    targets = select(shapes)
    found = products_of(shapes, targets)
    qkv = (tiny.HEADS + 2 * tiny.KV_HEADS) * tiny.HEAD_DIM
    wanted = {
        (qkv, tiny.HIDDEN): tiny.LAYERS,
        (tiny.HIDDEN, tiny.HEADS * tiny.HEAD_DIM): tiny.LAYERS,
        (2 * tiny.INNER, tiny.HIDDEN): tiny.LAYERS,
        (tiny.HIDDEN, tiny.INNER): tiny.LAYERS,
    }
    assert found == wanted


LLAMA = {
    f"model.layers.{i}.{name}.weight": shape
    for i in range(32)
    for name, shape in {
        "self_attn.q_proj": (4096, 4096),
        "self_attn.k_proj": (1024, 4096),
        "self_attn.v_proj": (1024, 4096),
        "self_attn.o_proj": (4096, 4096),
        "mlp.gate_proj": (14336, 4096),
        "mlp.up_proj": (14336, 4096),
        "mlp.down_proj": (4096, 14336),
    }.items()
}


@pytest.mark.parametrize("device", ["cpu", "h100"])
def test_more_speed_takes_more_sparsity_and_kept_layers_more_of_the_rest(device):
    targets = select(LLAMA)
    found = [sparsity_for(target, device, LLAMA, targets, (128256, 4096)) for target in (1.1, 1.3, 1.5)]
    assert found == sorted(found)
    assert 0 < found[0] < found[2] < 0.8
    assert sparsity_for(1.3, device, LLAMA, select(LLAMA, ["*.layers.0.*", "*.layers.1.*"]), (128256, 4096)) > found[1]


def test_the_cpu_goes_by_bytes():
    time = product_time("cpu")
    assert time(10, 20, 0.0) == 400
    assert time(10, 20, 0.5) == 225
    assert time(10, 20, 0.01) == 400  # a bitmap larger than the dense weight is not used
    assert device_here() in ("cpu", "h100")
    with pytest.raises(ValueError, match="cpu, h100, not 'tpu'"):
        product_time("tpu")


def test_the_gpu_goes_by_the_measured_times():
    """A point of the grid of cost_h100.json, and dense where sparse does not pay."""
    assert _core.product_us(12288, 4096, 8, 0.8) == pytest.approx(min(20.59, 21.75, 17.89))
    assert _core.product_us(12288, 4096, 8, 0.0) == pytest.approx(36.52)
    assert _core.product_us(12288, 4096, 8, 0.05) == pytest.approx(36.52)
    times = [_core.product_us(4096, 14336, 8, s) for s in np.linspace(0.0, 0.95, 20)]
    assert times == sorted(times, reverse=True)
    with pytest.raises(ValueError, match="n must be at least 1"):
        _core.product_us(12288, 4096, 0, 0.8)


def test_kept_projections_stay(tmp_path):
    model = make_model(tmp_path / "dense")
    prune(model, {0.5: tmp_path / "out"}, method="magnitude", keep=["*.down_proj.*", "*layers.0.*"])
    with ModelReader(model) as before, ModelReader(tmp_path / "out") as after:
        assert after.manifest.pruning["keep"] == ["*.down_proj.*", "*layers.0.*"]
        pruned = [name for name in after.names() if after.record(name).encoding == "bitmap"]
        assert pruned == ["model.layers.1.self_attn.q_proj.weight", "model.layers.1.mlp.up_proj.weight"]
        for name in set(after.names()) - set(pruned):
            assert before.dense(name).tobytes() == after.dense(name).tobytes()
    with pytest.raises(ValueError, match=r"no projection is called like '\*\.up_projj\.\*'"):
        prune(model, {0.5: tmp_path / "other"}, method="magnitude", keep=["*.up_projj.*"])
