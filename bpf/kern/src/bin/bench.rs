//! The benchmark's object: generator, floor, bare head move, bare XDP_TX. Never shipped; protocol in `abi::bench`.
//!
//! Its maps are its own, also those that have the names of the real ones: user space fills them alike.
#![no_std]
#![no_main]
#![expect(
    internal_features,
    reason = "offsets that are constants must stay constants"
)]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(
    dead_code,
    reason = "the modules are those of the real object, of which this needs a part"
)]

#[path = "../frame.rs"]
mod frame;
#[path = "../maps.rs"]
mod maps;

use aya_ebpf::{
    bindings::{
        BPF_F_MMAPABLE,
        xdp_action::{XDP_DROP, XDP_TX},
        xdp_md,
    },
    btf_maps::{Array, ProgramArray},
    macros::btf_map,
    programs::XdpContext,
};
use fairlead_abi::bench::{BenchFlow, BenchState, N_BENCH_FLOWS};
use fairlead_logic::{
    Verdict,
    floor::{self, Bench},
};

use crate::{frame::Frame, maps::Kern};

#[btf_map]
static BENCH_FLOWS: Array<BenchFlow, { N_BENCH_FLOWS as usize }, { BPF_F_MMAPABLE as usize }> =
    Array::new();
#[btf_map]
static BENCH_STATE: Array<BenchState, 1, { BPF_F_MMAPABLE as usize }> = Array::new();
#[btf_map]
static BENCH_PROGS: ProgramArray<1> = ProgramArray::new();

struct Maps;

impl Bench for Maps {
    #[inline(always)]
    fn state(&self) -> Option<BenchState> {
        BENCH_STATE.get(0).copied()
    }

    #[inline(always)]
    fn set_state(&self, state: &BenchState) {
        if let Some(slot) = BENCH_STATE.get_ptr_mut(0) {
            // SAFETY: from a successful look-up; user space writes only between runs.
            unsafe { *slot = *state };
        }
    }

    #[inline(always)]
    fn flow(&self, index: u64) -> Option<&BenchFlow> {
        BENCH_FLOWS.get(index as u32)
    }
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "xdp")]
pub extern "C" fn bench_gen(ctx: *mut xdp_md) -> u32 {
    let ctx = XdpContext::new(ctx);
    let mut frame = Frame::new(XdpContext::new(ctx.ctx));
    let verdict = floor::generate(&mut frame, &Maps);
    if verdict == Verdict::Tail(0) {
        // SAFETY: nothing here has a destructor that the jump would skip.
        unsafe { BENCH_PROGS.tail_call(&ctx, 0) };
    }
    XDP_DROP
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "xdp")]
pub extern "C" fn bench_floor(ctx: *mut xdp_md) -> u32 {
    let mut frame = Frame::new(XdpContext::new(ctx));
    let verdict = floor::run(&mut frame, &Kern);
    frame.finish(verdict)
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "xdp")]
pub extern "C" fn bench_head(ctx: *mut xdp_md) -> u32 {
    let mut frame = Frame::new(XdpContext::new(ctx));
    let verdict = floor::head(&mut frame);
    frame.finish(verdict)
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "xdp")]
pub extern "C" fn bench_tx(_ctx: *mut xdp_md) -> u32 {
    XDP_TX
}

/// A panic that survives optimisation is an endless loop, which the verifier refuses.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
