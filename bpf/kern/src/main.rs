//! The programs that Fairlead loads. Each entry point is one line; what happens to a packet is decided in `fairlead-logic`.
//!
//! `lb_ingress` is attached; it leaves by tail call for the others (`abi::maps::slots`). `decap_ingress` is attached on servers.
#![no_std]
#![no_main]
#![expect(
    internal_features,
    reason = "offsets that are constants must stay constants"
)]
#![feature(asm_experimental_arch, core_intrinsics)]

mod frame;
mod maps;

use aya_ebpf::{
    bindings::{xdp_action::XDP_DROP, xdp_md},
    programs::XdpContext,
};
use fairlead_logic::{decap, icmp, icmp_snat, ingress, l2, node, rare, snat};

use crate::{
    frame::Frame,
    maps::{Kern, work},
};

/// An entry point. A macro, because a decision that is called through a closure or a function value may end up as a subprogram, which shares the
/// stack and hides bounds from the verifier; aya's `xdp` attribute calls the function it is put on, and so may that one.
macro_rules! entry {
    ($name:ident, $run:path) => {
        #[unsafe(no_mangle)]
        #[unsafe(link_section = "xdp")]
        pub extern "C" fn $name(ctx: *mut xdp_md) -> u32 {
            let mut frame = Frame::new(XdpContext::new(ctx));
            let verdict = $run(&mut frame, &Kern);
            frame.finish(verdict)
        }
    };
    ($name:ident, $run:path, work) => {
        #[unsafe(no_mangle)]
        #[unsafe(link_section = "xdp")]
        pub extern "C" fn $name(ctx: *mut xdp_md) -> u32 {
            let mut frame = Frame::new(XdpContext::new(ctx));
            let Some(work) = work() else {
                return XDP_DROP;
            };
            let verdict = $run(&mut frame, &Kern, work);
            frame.finish(verdict)
        }
    };
}

entry!(lb_ingress, ingress::run);
entry!(lb_rare, rare::run, work);
entry!(lb_snat, snat::run, work);
entry!(lb_icmp, icmp::run, work);
entry!(lb_icmp_snat, icmp_snat::run, work);
entry!(lb_node, node::run, work);
entry!(l2_respond, l2::run, work);
entry!(decap_ingress, decap::run);

/// A panic that survives optimisation is an endless loop, which the verifier refuses.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
