//! A received frame behind `logic::Packet`, and a verdict as XDP understands it.

use core::{arch::asm, intrinsics::is_val_statically_known};

use aya_ebpf::{
    EbpfContext,
    bindings::xdp_action,
    helpers::{bpf_redirect, bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use fairlead_abi::{maps::slots, reasons};
use fairlead_logic::{Maps, Packet, Verdict};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::maps::{Kern, PROGS};

/// Largest offset into a frame that the verifier is asked to follow.
const MAX_OFFSET: usize = 0x3ff;

/// An offset with bounds that the verifier can see. A constant stays one; of others LLVM likes to check one copy and to add another to the
/// packet pointer, so the mask, which changes nothing, is hidden from it.
#[inline(always)]
fn bounded(off: usize) -> Option<usize> {
    if off > MAX_OFFSET {
        return None;
    }
    if is_val_statically_known(off) {
        return Some(off);
    }
    let mut masked = off;
    // SAFETY: one instruction that touches neither memory nor stack.
    unsafe {
        asm!("{0} &= {1}", inout(reg) masked, const MAX_OFFSET, options(pure, nomem, nostack));
    };
    Some(masked)
}

/// A received frame; views die when it is resized, because resizing takes `&mut self`.
pub(crate) struct Frame {
    ctx: XdpContext,
}

impl Frame {
    #[inline(always)]
    pub(crate) fn new(ctx: XdpContext) -> Self {
        Self { ctx }
    }

    /// Carries out a verdict.
    #[inline(always)]
    pub(crate) fn finish(&self, verdict: Verdict) -> u32 {
        match verdict {
            Verdict::Pass => xdp_action::XDP_PASS,
            Verdict::Drop => xdp_action::XDP_DROP,
            Verdict::Tx => xdp_action::XDP_TX,
            Verdict::Redirect(ifindex) => {
                // SAFETY: a helper without pointers; an unknown interface only makes the redirect fail.
                let action = unsafe { bpf_redirect(ifindex, 0) };
                action as u32
            }
            Verdict::Tail(slot) => self.tail(slot),
        }
    }

    /// Constant slots let the kernel turn the call into a direct jump.
    #[inline(always)]
    fn tail(&self, slot: u32) -> u32 {
        match slot {
            slots::RARE => self.jump::<{ slots::RARE }>(),
            slots::SNAT => self.jump::<{ slots::SNAT }>(),
            slots::L2 => self.jump::<{ slots::L2 }>(),
            slots::NODE => self.jump::<{ slots::NODE }>(),
            slots::ICMP_SNAT => self.jump::<{ slots::ICMP_SNAT }>(),
            _ => self.jump::<{ slots::ICMP }>(),
        }
    }

    #[inline(always)]
    fn jump<const SLOT: u32>(&self) -> u32 {
        // SAFETY: nothing here has a destructor that the jump would skip.
        unsafe { PROGS.tail_call(&self.ctx, SLOT) };
        Kern.count(reasons::TAIL_CALL_MISSED, self.len() as u64);
        xdp_action::XDP_DROP
    }
}

impl Packet for Frame {
    #[inline(always)]
    fn view<T: FromBytes + Immutable + KnownLayout + Unaligned>(&self, off: usize) -> Option<&T> {
        let start = self.ctx.data() + bounded(off)?;
        if start + size_of::<T>() > self.ctx.data_end() {
            return None;
        }
        // SAFETY: in bounds: compared against `data_end` just above (the verifier's proof too). Aligned and
        // initialised: `T: Unaligned + FromBytes`. Not stale: resizing takes `&mut self`.
        Some(unsafe { &*(start as *const T) })
    }

    #[inline(always)]
    fn put<T: IntoBytes + Immutable + Unaligned + Copy>(
        &mut self,
        off: usize,
        value: T,
    ) -> Option<()> {
        let start = self.ctx.data() + bounded(off)?;
        if start + size_of::<T>() > self.ctx.data_end() {
            return None;
        }
        // SAFETY: in bounds, as in `view`; aligned: `T: Unaligned`; unique: `&mut self` and no view lives.
        unsafe { *(start as *mut T) = value };
        Some(())
    }

    #[inline(always)]
    fn len(&self) -> usize {
        self.ctx.data_end() - self.ctx.data()
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.ctx.ingress_ifindex() as u32
    }

    #[inline(always)]
    fn grow_head(&mut self, n: i32) -> Option<()> {
        // SAFETY: the context is the one this program was called with.
        let result = unsafe { bpf_xdp_adjust_head(self.ctx.as_ptr().cast(), -n) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn grow_tail(&mut self, n: i32) -> Option<()> {
        // SAFETY: the context is the one this program was called with.
        let result = unsafe { bpf_xdp_adjust_tail(self.ctx.as_ptr().cast(), n) };
        (result == 0).then_some(())
    }
}
