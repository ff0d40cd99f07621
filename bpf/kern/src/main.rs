//! The programs that Fairlead loads. Each entry point is one line; what happens to a packet is decided in `fairlead-logic`.
//!
//! `lb_ingress` is attached; it leaves by tail call for the others (`abi::maps::slots`). `decap_ingress` is attached on servers.
#![no_std]
#![no_main]

mod frame;
mod maps;

use aya_ebpf::{macros::xdp, programs::XdpContext};
use fairlead_logic::{ingress, l2, rare};

use crate::{frame::Frame, maps::Kern};

#[xdp]
pub fn lb_ingress(ctx: XdpContext) -> u32 {
    Frame::new(ctx).run(|frame| ingress::run(frame, &Kern))
}

#[xdp]
pub fn lb_rare(ctx: XdpContext) -> u32 {
    Frame::new(ctx).run(|frame| rare::run(frame, &Kern))
}

#[xdp]
pub fn l2_respond(ctx: XdpContext) -> u32 {
    Frame::new(ctx).run(|frame| l2::run(frame, &Kern))
}

/// A panic that survives optimisation is an endless loop, which the verifier refuses.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
