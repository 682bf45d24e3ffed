"""Published files: every layout read, written back to the bit, bad ones refused in a sentence."""

import io
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published import load_published, open_published

from train_jax.errors import UserError
from vit_jax.npz import open_npz, write_npz
from vit_jax.weights import POSITION_TABLE, save_published

TINY = ["tiny_token", "tiny_gap_rep", "tiny_hybrid", "ft_tiny.pretrained"]
BLOCK = "Transformer/encoderblock"


def raw(path):
    """The arrays of a file as numpy reads them."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype, name
        assert one[name].tobytes() == other[name].tobytes(), name
        assert one[name].shape == other[name].shape, name


def linen(arrays):
    """The same arrays under today's names."""
    table = (("Attention_1", "Attention_0"), ("LayerNorm_2", "LayerNorm_1"))

    def rename(name):
        for old, new in (*table, ("MlpBlock_3", "MlpBlock_0")):
            name = name.replace(old, new)
        return name

    return {rename(name): array for name, array in arrays.items()}


@pytest.fixture
def tiny(data_dir):
    return raw(data_dir / "vit" / "tiny_token.npz")


@pytest.fixture
def write(tmp_path):
    def write(arrays, name="file.npz"):
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    return write


@pytest.mark.parametrize("case", TINY)
def test_layers_are_stacked_under_our_names(data_dir, case):
    path = data_dir / "vit" / f"{case}.npz"
    ours, published = load_published(path), raw(path)
    assert ours[f"{BLOCK}/MlpBlock_0/Dense_0/kernel"].shape == (2, 24, 48)
    for layer in range(2):
        name = f"{BLOCK}_{layer}/MultiHeadDotProductAttention_1/query/kernel"
        stack = ours[f"{BLOCK}/MultiHeadDotProductAttention_0/query/kernel"]
        np.testing.assert_array_equal(stack[layer], published[name])
        norm = ours[f"{BLOCK}/LayerNorm_1/scale"][layer]
        np.testing.assert_array_equal(norm, published[f"{BLOCK}_{layer}/LayerNorm_2/scale"])
    np.testing.assert_array_equal(ours["head/kernel"], published["head/kernel"])
    assert sum(a.size for a in ours.values()) == sum(a.size for a in published.values())


@pytest.mark.parametrize("case", TINY)
def test_the_original_form_is_written_back_to_the_bit(data_dir, tmp_path, case):
    path = data_dir / "vit" / f"{case}.npz"
    save_published(tmp_path / "again.npz", load_published(path))
    same(raw(tmp_path / "again.npz"), raw(path))


@pytest.mark.parametrize("names", ["original", "linen"])
@pytest.mark.parametrize("layers", ["separate", "stacked"])
@pytest.mark.parametrize("layout", ["", "opt/target", "params", "params/img"])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_every_form_round_trips(data_dir, tmp_path, names, layers, layout, dtype):
    source = load_published(data_dir / "vit" / "tiny_hybrid.npz")
    params = {name: array.astype(dtype) for name, array in source.items()}
    path = tmp_path / "file.npz"
    save_published(path, params, names=names, layers=layers, layout=layout)
    same(load_published(path), params)


def test_nested_device_arrays_can_be_saved(data_dir, tmp_path):
    flat = load_published(data_dir / "vit" / "tiny_token.npz")
    nested = {}
    for name, array in flat.items():
        *parents, leaf = name.split("/")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = jnp.asarray(array)
    save_published(tmp_path / "file.npz", nested)
    same(load_published(tmp_path / "file.npz"), flat)


def test_equal_parameters_give_equal_bytes(data_dir, tmp_path):
    params = load_published(data_dir / "vit" / "tiny_token.npz")
    save_published(tmp_path / "a.npz", params)
    save_published(tmp_path / "b.npz", params)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize("prefix", ["", "opt/target/", "params/", "params/img/", "img/"])
@pytest.mark.parametrize("generation", [dict, linen])
def test_both_generations_are_read_from_every_layout(tiny, write, data_dir, prefix, generation):
    arrays = {prefix + name: array for name, array in generation(tiny).items()}
    ours = load_published(write(arrays))
    same(ours, load_published(data_dir / "vit" / "tiny_token.npz"))


def test_optimizer_state_is_never_read(tiny, write):
    arrays = {f"opt/target/{name}": array for name, array in tiny.items()}
    arrays["opt/state/step"] = np.int64(7)
    arrays["opt/state/param_states/head/kernel/m"] = np.zeros((1000, 1000), np.float32)
    path = write(arrays)
    # A moment with damaged bytes goes unnoticed, because nobody looks.
    content = bytearray(path.read_bytes())
    content[content.index(b"opt/state/param_states/head/kernel/m.npy") + 2_000_000] ^= 0xFF
    path.write_bytes(bytes(content))
    weights = open_published(path)
    assert weights.ignored == 2
    assert sum(array.size for array in dict(weights).values()) == sum(a.size for a in tiny.values())


def test_a_tower_is_chosen_by_argument_or_by_name(tiny, write, data_dir):
    other = {name: array + 1 for name, array in tiny.items()}
    arrays = {f"params/img/{name}": array for name, array in tiny.items()}
    arrays |= {f"params/second/{name}": array for name, array in other.items()}
    arrays |= {"params/t": np.float32(10), "params/txt/Encoder/kernel": np.zeros((2, 2))}
    path = write(arrays)
    expected = load_published(data_dir / "vit" / "tiny_token.npz")
    same(load_published(path), expected)
    same(load_published(path, subtree="img"), expected)
    for second in (load_published(path, subtree="second"), load_published(f"{path}:second")):
        np.testing.assert_array_equal(second["cls"], expected["cls"] + 1)
    with pytest.raises(UserError, match="no subtree 'image'; it has img, second, t, txt"):
        load_published(path, subtree="image")


def test_bfloat16_is_recognised_in_two_untyped_bytes(tiny, write):
    low = {name: array.astype(jnp.bfloat16) for name, array in tiny.items()}
    path = write({name: array.view("V2") for name, array in low.items()})
    assert raw(path)["cls"].dtype == np.dtype("V2")
    weights = open_published(path)
    assert {shape.dtype for shape in weights.shapes.values()} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_array_equal(weights["head/kernel"], low["head/kernel"])


def test_group_norm_arrays_lose_their_unit_axes(data_dir):
    path = data_dir / "vit" / "tiny_hybrid.npz"
    assert raw(path)["gn_root/scale"].shape == (1, 1, 1, 32)
    weights = open_published(path)
    assert weights.shapes["gn_root/scale"].shape == weights["gn_root/scale"].shape == (32,)
    assert weights["block2/unit2/gn3/bias"].shape == (256,)
    assert weights["block1/unit1/conv_proj/kernel"].shape == (1, 1, 32, 128)


def test_a_table_without_a_class_row_gets_one_of_zeros(tiny, write):
    """There the class token had no position: a row of zeros leaves the forward pass as it was."""
    table = tiny.pop(POSITION_TABLE)[:, 1:]
    weights = open_published(write(linen(tiny) | {"pos_embedding": table}))
    assert weights.shapes[POSITION_TABLE].shape == (1, 17, 24)
    np.testing.assert_array_equal(weights[POSITION_TABLE][:, 1:], table)
    np.testing.assert_array_equal(weights[POSITION_TABLE][:, 0], np.zeros((1, 24)))


def test_without_a_class_token_the_table_is_left_alone(tiny, write):
    table = tiny.pop(POSITION_TABLE)[:, 1:]
    del tiny["cls"]
    weights = open_published(write(linen(tiny) | {"pos_embedding": table}))
    np.testing.assert_array_equal(weights[POSITION_TABLE], table)


def test_attention_pooling_heads_are_read(tiny, write, tmp_path):
    head = {
        name.replace(f"{BLOCK}_0", "MAPHead_0"): array
        for name, array in linen(tiny).items()
        if name.startswith(f"{BLOCK}_0/") and "LayerNorm_1" not in name
    }
    head["MAPHead_0/probe"] = np.ones((1, 1, 24), np.float32)
    del tiny["cls"]
    ours = load_published(write(linen(tiny) | head))
    for name, array in head.items():
        np.testing.assert_array_equal(ours[name], array)
    for names in ("original", "linen"):
        save_published(tmp_path / f"{names}.npz", ours, names=names)
        same(load_published(tmp_path / f"{names}.npz"), ours)


def test_shapes_are_known_before_anything_is_read(data_dir):
    weights = open_published(data_dir / "vit" / "tiny_token.npz")
    assert len(weights) == len(weights.shapes) == 24
    for name, array in weights.items():
        assert (array.shape, array.dtype) == (
            weights.shapes[name].shape,
            weights.shapes[name].dtype,
        )


class TestBadFiles:
    """Each gets one sentence with the file's name in it."""

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
    def test_truncated(self, data_dir, tmp_path, share):
        content = (data_dir / "vit" / "tiny_token.npz").read_bytes()
        path = tmp_path / "cut.npz"
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(UserError, match=r"cut\.npz is truncated"):
            load_published(path)

    def test_damaged(self, data_dir, tmp_path):
        content = bytearray((data_dir / "vit" / "tiny_token.npz").read_bytes())
        content[content.index(b"head/kernel.npy") + 200] ^= 0xFF
        path = tmp_path / "bad.npz"
        path.write_bytes(bytes(content))
        with pytest.raises(UserError, match=r"bad\.npz is damaged"):
            load_published(path)

    def test_other_containers(self, tmp_path):
        array = io.BytesIO()
        np.save(array, np.zeros(3))
        files = {
            "single array": array.getvalue(),
            "not an .npz": pickle.dumps({"a": 1}),
            "empty": b"",
        }
        for reason, content in files.items():
            path = tmp_path / "file.npz"
            path.write_bytes(content)
            with pytest.raises(UserError, match=reason):
                load_published(path)

    def test_absent_or_directory(self, tmp_path):
        for path in (tmp_path / "none.npz", tmp_path):
            with pytest.raises(UserError, match="cannot be opened"):
                load_published(path)

    def test_pickled_objects_are_not_loaded(self, tiny, tmp_path):
        tiny["head/kernel"] = np.array([{"a": 1}], dtype=object)
        np.savez(tmp_path / "file.npz", allow_pickle=True, **tiny)
        with pytest.raises(UserError, match=r"pickled object \(head/kernel\)"):
            load_published(tmp_path / "file.npz")

    def test_foreign_names_are_listed(self, tiny, write):
        with pytest.raises(UserError, match=r"not a Vision Transformer's .*holds stem/kernel"):
            load_published(write(tiny | {"stem/kernel": np.zeros((2, 2), np.float32)}))
        mixer = {"MixerBlock_0/LayerNorm_0/scale": np.zeros(2, np.float32)}
        with pytest.raises(UserError, match="MLP-Mixer"):
            load_published(write(mixer, "mixer.npz"))
        with pytest.raises(UserError, match="a0, a1, a2, a3, a4 and 3 more"):
            load_published(write({f"a{i}": np.zeros(1) for i in range(8)}, "many.npz"))

    def test_integers_are_not_weights(self, tiny, write):
        with pytest.raises(UserError, match="holds cls"):
            load_published(write(tiny | {"cls": np.zeros((1, 1, 24), np.int32)}))

    def test_a_missing_layer_is_named(self, tiny, write):
        del tiny[f"{BLOCK}_0/MlpBlock_3/Dense_0/bias"]
        with pytest.raises(
            UserError, match="2 layers but lacks MlpBlock_0/Dense_0/bias of layer 0"
        ):
            load_published(write(tiny))

    def test_layers_of_different_shape(self, tiny, write):
        name = f"{BLOCK}_0/MlpBlock_3/Dense_0/bias"
        with pytest.raises(UserError, match="differ in shape"):
            load_published(write(tiny | {name: np.zeros(7, np.float32)}))

    @pytest.mark.parametrize("name", ["cls", "embedding/kernel", "head/kernel", POSITION_TABLE])
    def test_arrays_of_another_rank(self, tiny, write, name):
        with pytest.raises(UserError, match=rf"{name} of shape \(7,\)"):
            load_published(write(tiny | {name: np.zeros(7, np.float32)}))

    def test_two_formats_in_one_file(self, tiny, write):
        table = tiny[POSITION_TABLE]
        with pytest.raises(UserError, match="under two names"):
            load_published(write(tiny | {"pos_embedding": table}))
        norm = {f"{BLOCK}_0/LayerNorm_1/scale": np.ones(24, np.float32)}
        with pytest.raises(UserError, match="under two names"):
            load_published(write(tiny | norm, "names.npz"))
        stack = {f"{BLOCK}/LayerNorm_0/scale": np.ones((2, 24), np.float32)}
        with pytest.raises(UserError, match="under two names"):
            load_published(write(tiny | stack, "layers.npz"))

    def test_no_layers(self, write):
        arrays = {"embedding/kernel": np.zeros((4, 4, 3, 8), np.float32)}
        with pytest.raises(UserError, match="no embedding or no layers"):
            load_published(write(arrays))


def test_nothing_is_overwritten(data_dir, tmp_path):
    params = load_published(data_dir / "vit" / "tiny_token.npz")
    path = tmp_path / "file.npz"
    path.write_text("precious")
    with pytest.raises(UserError, match="exists already"):
        save_published(path, params)
    assert path.read_text() == "precious"


def test_foreign_parameters_are_not_written(tmp_path):
    with pytest.raises(UserError, match="no place for other/kernel"):
        save_published(tmp_path / "file.npz", {"other": {"kernel": np.zeros(2, np.float32)}})
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written(data_dir, tmp_path):
    params = load_published(data_dir / "vit" / "tiny_token.npz")
    with pytest.raises(UserError, match=r"file\.npz cannot be written: No such file or directory"):
        save_published(tmp_path / "none" / "file.npz", params)


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def arrays():
        yield "a", np.zeros(3, np.float32)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_npz(tmp_path / "file.npz", arrays())
    assert not list(tmp_path.iterdir())


def test_the_container_keeps_every_float_type(tmp_path):
    arrays = {
        str(np.dtype(t)): np.arange(3).astype(t) for t in (np.float16, np.float64, jnp.bfloat16)
    }
    write_npz(tmp_path / "file.npz", arrays.items())
    file = open_npz(tmp_path / "file.npz")
    same(dict(zip(arrays, file.read(arrays), strict=True)), arrays)
    assert file.shapes["bfloat16"] == jax.ShapeDtypeStruct((3,), jnp.bfloat16)
