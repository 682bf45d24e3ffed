"""Fine-tuning from a checkpoint, as the original does it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from published import load_published

from train_jax.checkpoint import save_once
from train_jax.errors import UserError
from train_jax.sharding import flat_names
from train_jax.transfer import make_plan
from vit_jax.convert import convert
from vit_jax.init_from import nested, transfer_model
from vit_jax.models import api
from vit_jax.models.bit import BiTConfig
from vit_jax.models.config import ViTConfig
from vit_jax.models.efficientnet_config import EfficientNetConfig
from vit_jax.npz import write_npz
from vit_jax.transfer import TransferConfig, transfer_rules
from vit_jax.weights import POSITION_TABLE, save_published

TINY = ViTConfig(
    patch_size=(4, 4), width=24, depth=2, mlp_dim=48, num_heads=3, num_classes=7, remat="none"
)
TINY_BIT = BiTConfig(stages=(1,), width=32, num_classes=7)
TINY_EFFICIENTNET = EfficientNetConfig(width=0.1, depth=0.1, num_classes=7)
IMAGE = (24, 24, 3)


def shape(*dims):
    return jax.ShapeDtypeStruct(dims, jnp.float32)


@functools.cache
def shapes(model, image_shape=IMAGE):
    return jax.eval_shape(lambda key: api.init(model, key, image_shape), jax.random.key(0))[0]


@functools.cache
def fresh(model, image_shape=IMAGE):
    """Stands for initial parameters, of which almost only the shapes and places matter."""
    return jax.tree.map(
        lambda leaf: jnp.asarray(np.full(leaf.shape, 0.5, leaf.dtype)), shapes(model, image_shape)
    )


def started_from(path, params, **options):
    params, model_state = transfer_model(path, params, {}, **options)
    assert model_state == {}
    return params


def logits_of(model, params, images):
    with jax.default_matmul_precision("highest"):
        return jax.jit(lambda params, images: api.apply(model, params, {}, images)[0])(
            params, images
        )


@pytest.fixture
def pretrained(data_dir):
    return data_dir / "vit" / "ft_tiny.pretrained.npz"


@pytest.fixture
def original(data_dir):
    with np.load(data_dir / "vit" / "ft_tiny.finetune.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize(("case", "size"), [("drop", None), ("keep", 20)])
def test_fine_tuning_starts_as_in_the_original(pretrained, original, tmp_path, case, size):
    model = dataclasses.replace(TINY, representation_size=size)
    params = started_from(pretrained, fresh(model), model=model, image_shape=IMAGE)
    save_published(tmp_path / "out.npz", params, names="linen")
    with np.load(tmp_path / "out.npz") as file:
        assert sorted(file.files) == sorted(original[f"{case}/names"])
        table = file[POSITION_TABLE]
        np.testing.assert_allclose(table, original[f"{case}/pos_embedding"], rtol=0, atol=1e-6)
        assert not file["head/kernel"].any()
        np.testing.assert_array_equal(file["head/bias"], original[f"{case}/head_bias"])
        before = load_published(pretrained)
        for name, array in load_published(tmp_path / "out.npz").items():
            if name != POSITION_TABLE and not name.startswith("head/"):
                np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(("case", "size"), [("drop", None), ("keep", 20)])
def test_logits_of_the_transferred_model(pretrained, original, case, size):
    model = dataclasses.replace(TINY, representation_size=size)
    params = started_from(pretrained, fresh(model), model=model, image_shape=IMAGE)
    images = jnp.asarray(seeded.images(1, 24, 4))
    np.testing.assert_array_equal(logits_of(model, params, images), np.zeros((1, 7)))
    kernel = params["head"]["kernel"]
    params["head"]["kernel"] = jnp.asarray(seeded.draw("newhead/kernel", kernel.shape, 17))
    logits = logits_of(model, params, images)
    expected = original[f"{case}/logits_with_seeded_head"]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5)


def test_the_first_loss_is_log_of_the_number_of_classes(pretrained):
    params = started_from(pretrained, fresh(TINY), model=TINY, image_shape=IMAGE)
    logits = logits_of(TINY, params, jnp.asarray(seeded.images(4, 24, 0)))
    losses = -jax.nn.log_softmax(logits)
    np.testing.assert_allclose(losses, np.full((4, 7), np.log(7)), rtol=1e-6)


def test_a_fine_tuned_model_is_continued_with_its_head(data_dir):
    model = dataclasses.replace(TINY, num_classes=10)
    path, image_shape = data_dir / "vit" / "tiny_token.npz", (16, 16, 3)
    params = started_from(
        path,
        fresh(model, image_shape),
        model=model,
        image_shape=image_shape,
        config=TransferConfig(keep_head=True),
    )
    with np.load(data_dir / "vit" / "tiny_token.io.npz") as file:
        logits = logits_of(model, params, jnp.asarray(file["images"]))
        np.testing.assert_allclose(logits, file["logits"], rtol=0, atol=2e-5)


def test_a_table_without_class_row_gives_the_same_logits(data_dir, tmp_path):
    """Where positions are added before the class token joins, the row of zeros changes nothing."""
    arrays = load_published(data_dir / "vit" / "tiny_token.npz")
    model = dataclasses.replace(TINY, num_classes=10)
    image_shape = (16, 16, 3)
    images = jnp.asarray(seeded.images(2, 16, 3))
    table = arrays.pop(POSITION_TABLE)
    # Folded as big_vision does it: what the class row added is added to the token itself.
    arrays["cls"] = arrays["cls"] + table[:, :1]
    write_npz(tmp_path / "folded.npz", {**arrays, "pos_embedding": table[:, 1:]}.items())
    config = TransferConfig(keep_head=True)
    results = []
    for path in (data_dir / "vit" / "tiny_token.npz", tmp_path / "folded.npz"):
        params = started_from(
            path, fresh(model, image_shape), model=model, image_shape=image_shape, config=config
        )
        results.append(logits_of(model, params, images))
    np.testing.assert_allclose(results[0], results[1], rtol=0, atol=1e-6)


class TestWhatDoesNotFit:
    """Everything unexplained is one error with the remedy."""

    def plan(self, source_model, target_model, *, source_image=IMAGE, target_image=IMAGE, **kwargs):
        source = jax.eval_shape(lambda: fresh(source_model, source_image))
        target = jax.eval_shape(lambda: fresh(target_model, target_image))
        grids = {
            "source_grid": source_model.grid(source_image),
            "target_grid": target_model.grid(target_image),
        }
        rules = transfer_rules(source, target, config=TransferConfig(**kwargs), **grids)
        return make_plan(source, target, rules)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"depth": 3}, "model.depth"),
            ({"width": 48}, "model.width"),
            ({"width": 48}, r"cls: does not fit \(.*\); the checkpoint is of another variant"),
            ({"patch_size": (8, 8)}, "embedding/kernel: .* model.patch_size"),
            ({"pool": "gap"}, "cls: not in the model .* model.pool"),
            ({"pool": "map"}, "MAPHead_0/probe: missing in the checkpoint .* model.pool"),
            ({"position": "sincos2d"}, "pos_embedding: not in the model .* model.position"),
            ({"representation_size": 9}, "pre_logits/kernel: missing .*representation_size"),
        ],
    )
    def test_another_architecture(self, change, message):
        with pytest.raises(UserError, match=message):
            self.plan(TINY, dataclasses.replace(TINY, **change))

    @pytest.mark.parametrize(
        ("change", "table"),
        [
            ({"position": "learned2d"}, "posembed_input/column_embedding"),
            ({"position": "relative"}, "relative_embedding"),
            ({"position_at": "layers"}, "encoderblock/posembed_input/pos_embedding"),
        ],
    )
    def test_another_size_where_positions_are_not_resized(self, change, table):
        model = dataclasses.replace(TINY, **change)
        assert self.plan(model, model)
        with pytest.raises(UserError, match=f"{table}: does not fit .*; only a position table at"):
            self.plan(model, model, target_image=(32, 32, 3))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"stages": (1, 2)}, "block2/unit1/conv1/kernel: missing .* model.stages"),
            ({"width": 64}, "conv_root/kernel: does not fit .* model.stages and model.width"),
        ],
    )
    def test_another_bit(self, change, message):
        source, target = map(shapes, (TINY_BIT, dataclasses.replace(TINY_BIT, **change)))
        with pytest.raises(UserError, match=message):
            make_plan(source, target, transfer_rules(source, target))

    @pytest.mark.parametrize(
        ("source", "target", "message"),
        [
            (TINY, TINY_BIT, "holds a Vision Transformer and config.model is a BiT"),
            (TINY_BIT, TINY, "holds a BiT and config.model is a Vision Transformer"),
            (TINY, TINY_EFFICIENTNET, "config.model is an EfficientNet"),
            (TINY_EFFICIENTNET, TINY_BIT, "holds an EfficientNet"),
        ],
    )
    def test_another_kind_of_model_is_one_sentence(self, source, target, message):
        with pytest.raises(UserError, match=message):
            transfer_rules(shapes(source), shapes(target))

    def test_batch_norm_does_not_start_from_a_published_file(self, data_dir):
        with pytest.raises(UserError, match=r"no running statistics .* directory of a run"):
            transfer_model(
                data_dir / "vit" / "tiny_token.npz",
                *jax.eval_shape(lambda: api.init(TINY_EFFICIENTNET, jax.random.key(0), IMAGE)),
                model=TINY_EFFICIENTNET,
                image_shape=IMAGE,
            )

    def test_a_head_of_another_size_cannot_be_kept(self):
        other = dataclasses.replace(TINY, num_classes=8)
        message = (
            r"head/bias: does not fit \(checkpoint float32\(7\), model float32\(8\)\); set model"
        )
        with pytest.raises(UserError, match=message):
            self.plan(TINY, other, keep_head=True)
        assert self.plan(TINY, other).names("zero-initialised") == ("head/bias", "head/kernel")

    def test_pooling_changes_only_when_asked_for(self):
        gap = dataclasses.replace(TINY, pool="gap")
        plan = self.plan(TINY, gap, drop=("cls",))
        assert plan.names("resized") == (POSITION_TABLE,)
        assert "cls" in plan.names("dropped")
        plan = self.plan(gap, TINY, fresh=("cls",))
        assert plan.names("fresh") == ("cls",)
        plan = self.plan(
            TINY, dataclasses.replace(TINY, pool="map"), drop=("cls",), fresh=("MAP.*",)
        )
        assert len(plan.names("fresh")) == 15

    def test_a_model_without_a_head_leaves_it(self):
        plan = self.plan(TINY, dataclasses.replace(TINY, num_classes=0))
        assert plan.names("dropped") == ("head/bias", "head/kernel")

    def test_the_same_number_of_patches_in_another_shape_is_another_grid(self):
        plan = self.plan(TINY, TINY, source_image=(24, 24, 3), target_image=(16, 36, 3))
        assert plan.names("resized") == (POSITION_TABLE,)
        assert self.plan(TINY, TINY).names("resized") == ()

    def test_a_pattern_must_match_something(self):
        with pytest.raises(UserError, match=r"transfer.drop: 'cl' matches no whole name"):
            self.plan(TINY, dataclasses.replace(TINY, pool="gap"), drop=("cl",))

    def test_a_pattern_must_be_one(self):
        with pytest.raises(UserError, match=r"'\(' is not a regular expression"):
            TransferConfig(drop=("(",))


def test_a_grid_that_is_not_square_must_be_given(tmp_path):
    wide = (16, 36, 3)
    save_published(tmp_path / "wide.npz", fresh(TINY, (16, 32, 3)))
    start = fresh(TINY, wide)
    with pytest.raises(UserError, match="The checkpoint has position embeddings for 32 patches"):
        started_from(tmp_path / "wide.npz", start, model=TINY, image_shape=wide)
    config = TransferConfig(source_grid=(5, 5))
    with pytest.raises(UserError, match=r"checkpoint's position table has 32 rows .* as 5x5"):
        started_from(tmp_path / "wide.npz", start, model=TINY, image_shape=wide, config=config)
    config = TransferConfig(source_grid=(4, 8))
    params = started_from(tmp_path / "wide.npz", start, model=TINY, image_shape=wide, config=config)
    table = load_published(tmp_path / "wide.npz")[POSITION_TABLE]
    resized = params["Transformer"]["posembed_input"]["pos_embedding"]
    # A checkpoint of ours says what its grid was.
    convert(tmp_path / "wide.npz", tmp_path / "wide", grid=(4, 8))
    told = started_from(tmp_path / "wide", start, model=TINY, image_shape=wide)
    jax.tree.map(np.testing.assert_array_equal, told, params)
    assert resized.shape == (1, 37, 24)
    np.testing.assert_array_equal(resized[:, [0, 1, 9, 28, 36]], table[:, [0, 1, 8, 25, 32]])


def test_every_array_lands_where_the_fresh_one_was(pretrained):
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))

    def place(leaf):
        spec = P(*("fsdp" if size % 8 == 0 else None for size in leaf.shape[-1:]))
        spec = P(*(None,) * (leaf.ndim - 1), *spec)
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    start = jax.tree.map(place, fresh(TINY))
    params = started_from(pretrained, start, model=TINY, image_shape=IMAGE)
    for name, leaf in flat_names(params).items():
        assert leaf.sharding == flat_names(start)[name].sharding, name


def test_from_a_run_of_ours(tmp_path, pretrained):
    """Parameters go straight to their place; averages are preferred where a run kept them."""
    arrays = nested(load_published(pretrained))
    state = {
        "params": jax.tree.map(lambda a: jnp.asarray(a) + 1, arrays),
        "ema": jax.tree.map(jnp.asarray, arrays),
    }
    save_once(tmp_path / "run", state, {})
    start = fresh(TINY)
    expected = started_from(pretrained, start, model=TINY, image_shape=IMAGE)
    params = started_from(tmp_path / "run", start, model=TINY, image_shape=IMAGE)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    last = started_from(
        tmp_path / "run",
        start,
        model=TINY,
        image_shape=IMAGE,
        config=TransferConfig(averaged=False),
    )
    np.testing.assert_array_equal(last["cls"], expected["cls"] + 1)


def test_what_is_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        started_from(tmp_path / "none", fresh(TINY), model=TINY, image_shape=IMAGE)
    with pytest.raises(UserError, match="cannot be opened"):
        started_from(tmp_path / "none.npz", fresh(TINY), model=TINY, image_shape=IMAGE)
