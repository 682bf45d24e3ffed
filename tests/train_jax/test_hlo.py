"""Programs are read as the TPU compiler writes them; the texts are shortened from real ones."""

import numpy as np
import pytest

from train_jax import hlo

# A loop of 32 trips around a fusion with a matrix product and an all-reduce over 8 devices.
PROGRAM = """HloModule jit_train_step, is_scheduled=true, entry_computation_layout={(f32[])->f32[]}

%fused_computation.1 (param_0.1: bf16[8,257,1280], param_1.1: bf16[1280,5120,1]) -> bf16[8,257,5120] {
  %param_0.1 = bf16[8,257,1280]{2,1,0:T(8,128)(2,1)S(1)} parameter(0)
  %param_1.1 = bf16[1280,5120,1]{1,0,2:T(8,128)(2,1)} parameter(1)
  ROOT %convolution.9 = bf16[8,257,5120]{2,1,0:T(8,128)(2,1)} convolution(%param_0.1, %param_1.1), window={size=1}, dim_labels=0bf_io0->0bf, backend_config={"window_config":{"estimated_cycles":"7"}}
}

%add.1 (x: bf16[], y: bf16[]) -> bf16[] {
  %x = bf16[] parameter(0)
  %y = bf16[] parameter(1)
  ROOT %add.2 = bf16[] add(%x, %y)
}

%condition (wide.param.1: (s32[], bf16[8,257,1280])) -> pred[] {
  %constant.445 = s32[]{:T(256)} constant(32)
  %wide.param.1 = (s32[]{:T(256)}, bf16[8,257,1280]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %get-tuple-element.15 = s32[]{:T(256)} get-tuple-element(%wide.param.1), index=0
  ROOT %lt.27 = pred[]{:T(1024)} compare(%get-tuple-element.15, %constant.445), direction=LT
}

%body (wide.param.2: (s32[], bf16[8,257,1280])) -> (s32[], bf16[8,257,1280]) {
  %wide.param.2 = (s32[]{:T(256)}, bf16[8,257,1280]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %get-tuple-element.16 = s32[]{:T(256)} get-tuple-element(%wide.param.2), index=0
  %get-tuple-element.17 = bf16[8,257,1280]{2,1,0} get-tuple-element(%wide.param.2), index=1
  %kernel.1 = bf16[1280,5120,1]{1,0,2} broadcast(%get-tuple-element.16), dimensions={}
  %fusion.3 = bf16[8,257,5120]{2,1,0:T(8,128)(2,1)} fusion(%get-tuple-element.17, %kernel.1), kind=kOutput, calls=%fused_computation.1, backend_config={"flag_configs":[],"window_config":{"kernel_window_bounds":[],"estimated_cycles":"1000","iteration_bounds":["1","1"]}}
  %all-reduce.47 = (bf16[1,5120]{1,0:T(8,128)(2,1)}, f32[4]{0}) all-reduce(%slice.1, %slice.2), channel_id=41, replica_groups=REPLICA_GROUPS, use_global_device_ids=true, to_apply=%add.1, backend_config={"barrier_config":{"barrier_type":"CUSTOM","id":"0"}}
  %slice.1 = bf16[1,5120]{1,0} slice(%fusion.3), slice={[0:1], [0:5120]}
  %slice.2 = f32[4]{0} slice(%fusion.3), slice={[0:4]}
  ROOT %tuple.1 = (s32[]{:T(256)}, bf16[8,257,1280]{2,1,0}) tuple(%get-tuple-element.16, %get-tuple-element.17)
}

ENTRY %main.1_spmd (param.1: bf16[8,257,1280]) -> bf16[8,257,1280] {
  %param.1 = bf16[8,257,1280]{2,1,0} parameter(0)
  %constant.1 = s32[]{:T(256)} constant(0)
  %fusion.4 = f32[768]{0:T(1024)} fusion(%param.1), kind=kLoop, calls=%add.1, backend_config={"window_config":{"estimated_cycles":"50"}}
  %tuple.2 = (s32[]{:T(256)}, bf16[8,257,1280]{2,1,0}) tuple(%constant.1, %param.1)
  %while.65 = (s32[]{:T(256)}, bf16[8,257,1280]{2,1,0:T(8,128)(2,1)}) while(%tuple.2), condition=%condition, body=%body, metadata={op_name="jit(train_step)/while"}
  ROOT %get-tuple-element.18 = bf16[8,257,1280]{2,1,0} get-tuple-element(%while.65), index=1
}
"""  # noqa: E501


def program(groups="{{0,1,2,3,4,5,6,7}}"):
    return PROGRAM.replace("REPLICA_GROUPS", groups)


def test_loop_bodies_count_once_a_trip():
    summary = hlo.summarise(program())
    # Inside a fusion nothing counts: the fusion's own estimate is that of the whole.
    assert summary.cycles == 50 + 32 * 1000
    assert summary.flops == 32 * 2 * 8 * 257 * 1280 * 5120
    (exchange,) = summary.collectives
    assert (exchange.kind, exchange.count) == ("all-reduce", 32)
    assert exchange.nbytes == 32 * (5120 * 2 + 4 * 4)
    assert exchange.link_bytes == pytest.approx(2 * 7 / 8 * exchange.nbytes)
    assert (summary.kernels, summary.unknown_loops) == (0, 0)


def test_a_bound_that_is_carried_into_the_loop_is_found():
    text = program().replace(
        "  %constant.445 = s32[]{:T(256)} constant(32)\n",
        "  %constant.445 = bf16[8,257,1280]{2,1,0} get-tuple-element(%wide.param.1), index=1\n",
    )
    text = text.replace(
        "%tuple.2 = (s32[]{:T(256)}, bf16[8,257,1280]{2,1,0}) tuple(%constant.1, %param.1)",
        "%constant.5 = s32[]{:T(256)} constant(5)\n"
        "  %tuple.2 = (s32[], s32[]) tuple(%constant.1, %constant.5)",
    )
    assert hlo.summarise(text).cycles == 50 + 5 * 1000


def test_a_length_that_the_compiler_notes_is_taken():
    text = program().replace("constant(32)", "parameter(1)")
    text = text.replace(
        'metadata={op_name="jit(train_step)/while"}',
        'backend_config={"known_init_step":{"init":"0","step":"1"},"known_trip_count":{"n":"7"}}',
    )
    summary = hlo.summarise(text)
    assert (summary.cycles, summary.unknown_loops) == (50 + 7 * 1000, 0)


@pytest.mark.parametrize(
    "bound",
    ["s32[]{:T(256)} parameter(1)", "u32[]{:T(256)} constant(77)", "s32[3]{0} constant({1,2,3})"],
)
def test_a_loop_whose_length_data_decide_is_one_trip_and_said(bound):
    text = program().replace("s32[]{:T(256)} constant(32)", bound)
    summary = hlo.summarise(text)
    assert (summary.cycles, summary.unknown_loops) == (1050, 1)


@pytest.mark.parametrize(
    ("groups", "mesh", "axes", "size"),
    [
        ("{{0,1,2,3},{4,5,6,7}}", {"data": 2, "fsdp": 4, "tensor": 1}, "fsdp", 4),
        ("{{0,4},{1,5},{2,6},{3,7}}", {"data": 2, "fsdp": 4, "tensor": 1}, "data", 2),
        ("[2,4]<=[8]", {"data": 2, "fsdp": 4, "tensor": 1}, "fsdp", 4),
        ("[4,2]<=[2,4]T(1,0)", {"data": 2, "fsdp": 4, "tensor": 1}, "data", 2),
        ("[1,8]<=[8]", {"data": 2, "fsdp": 2, "tensor": 2}, "data+fsdp+tensor", 8),
        ("mesh['axis_0'=8,'axis_1'=1] {'axis_0'}", {"data": 1, "fsdp": 8, "tensor": 1}, "fsdp", 8),
        ("mesh['a'=2,'b'=4] {'b'}", {"data": 2, "fsdp": 4, "tensor": 1}, "fsdp", 4),
        ("mesh['a'=2,'b'=4] {'a'}", {"data": 2, "fsdp": 4, "tensor": 1}, "data", 2),
        # The second factor of 2 of an axis of 8, which our mesh has as an axis of its own.
        ("mesh['a'=8] {'a':(2)2}", {"data": 2, "fsdp": 2, "tensor": 2}, "fsdp", 2),
    ],
)  # fmt: skip
def test_communication_is_told_by_axis_of_the_mesh(groups, mesh, axes, size):
    (exchange,) = hlo.summarise(program(groups)).collectives
    assert hlo.group_axes(exchange.group, mesh) == axes
    assert len(exchange.group) == size


def test_what_stays_on_a_device_is_no_communication():
    assert hlo.summarise(program("{{0},{1}}")).collectives == ()


@pytest.mark.parametrize(
    ("line", "shapes", "flops"),
    [
        # bnp,pd->bnd; heads as a window over zeros; batch and heads as spatial axes.
        (
            "bf16[64,196,768]{2,1,0} convolution(%a, %b), window={size=1}, dim_labels=0bf_io0->0bf",
            ("bf16[64,196,768]", "bf16[768,768,1]"),
            2 * 64 * 196 * 768 * 768,
        ),
        (
            "bf16[64,197,12,64]{1,3,2,0} convolution(%a, %b), window={size=1x12 pad=0_0x11_11 "
            "rhs_reversal=0x1}, dim_labels=0bf1_i1o0->0b1f",
            ("bf16[64,197,768,1]", "bf16[768,12,64,1]"),
            2 * 64 * 197 * 768 * 768,
        ),
        (
            "f32[64,12,197,197]{2,3,1,0} convolution(%a, %b), window={size=64x12 stride=63x11 "
            "lhs_dilate=64x12}, dim_labels=01bf_01oi->01bf",
            ("bf16[64,12,197,64]", "bf16[64,12,197,64]"),
            2 * 64 * 12 * 197 * 197 * 64,
        ),
        # An image convolution whose padding does not count: 3 taps, 5 places, 13 pairs.
        (
            "f32[2,5,16]{2,1,0} convolution(%a, %b), window={size=3 pad=1_1}, "
            "dim_labels=b0f_0io->b0f",
            ("f32[2,5,8]", "f32[3,8,16]"),
            2 * 13 * 2 * 8 * 16,
        ),
        (
            "f32[4,6]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}",
            ("f32[4,5]", "f32[5,6]"),
            2 * 4 * 5 * 6,
        ),
    ],
)  # fmt: skip
def test_products_are_counted_in_whatever_form(line, shapes, flops):
    text = "\n".join(
        [
            "ENTRY %main (a: f32[]) -> f32[] {",
            f"  %a = {shapes[0]} parameter(0)",
            f"  %b = {shapes[1]} parameter(1)",
            f"  ROOT %product = {line}",
            "}",
        ]
    )
    assert hlo.summarise(text).flops == flops


def test_gathers_are_counted_by_what_is_gathered_and_kernels_are_noticed():
    text = "\n".join(
        [
            "ENTRY %main (a: f32[8]) -> f32[32] {",
            "  %a = f32[8]{0} parameter(0)",
            "  %all-gather-start.1 = (f32[8]{0}, f32[32]{0}) all-gather-start(%a), channel_id=1, "
            "replica_groups=[1,4]<=[4], dimensions={0}",
            "  %all-gather-done.1 = f32[32]{0} all-gather-done(%all-gather-start.1)",
            "  ROOT %k = f32[32]{0} custom-call(%all-gather-done.1), "
            'custom_call_target="tpu_custom_call"',
            "}",
        ]
    )
    summary = hlo.summarise(text)
    (exchange,) = summary.collectives
    assert (exchange.kind, exchange.nbytes, exchange.count) == ("all-gather", 128, 1)
    assert exchange.link_bytes == 96
    assert summary.kernels == 1


def test_pairs_that_meet_are_counted_without_listing_them():
    rng = np.random.default_rng(0)
    for _ in range(300):
        size, kernel, out, stride, lhs, rhs = (int(n) for n in rng.integers(1, 8, 6))
        pad = int(rng.integers(-3, 9))
        outputs, taps = np.arange(out)[:, None], np.arange(kernel)[None]
        place = outputs * stride + taps * rhs - pad
        meets = (place >= 0) & (place <= (size - 1) * lhs) & (place % lhs == 0)
        text = "\n".join(
            [
                "ENTRY %main (a: f32[]) -> f32[] {",
                f"  %a = f32[1,{size},1] parameter(0)",
                f"  %b = f32[{kernel},1,1] parameter(1)",
                f"  ROOT %c = f32[1,{out},1] convolution(%a, %b), window={{size={kernel} "
                f"stride={stride} pad={pad}_0 lhs_dilate={lhs} rhs_dilate={rhs}}}, "
                "dim_labels=b0f_0io->b0f",
                "}",
            ]
        )
        assert hlo.summarise(text).flops == 2 * meets.sum(), text
