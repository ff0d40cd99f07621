//! Real-time priority for the calling thread, and memory that is not paged out. Both are best effort: what is refused is reported.

#![expect(
    unsafe_code,
    reason = "no safe call sets a thread's scheduler or locks memory"
)]

use std::ptr::NonNull;

/// `SCHED_FIFO` priority: above ordinary real-time users that leave the default of 1, below the kernel's own threads at 50.
const PRIORITY: libc::c_int = 10;
/// Stack that the heartbeat thread may use, locked in advance.
const STACK: usize = 128 * 1024;

/// Puts the calling thread under `SCHED_FIFO`; false if that is not permitted (`CAP_SYS_NICE`, or a container without real-time share).
pub(super) fn make_realtime() -> bool {
    let param = libc::sched_param {
        sched_priority: PRIORITY,
    };
    // SAFETY: thread 0 is the caller; `param` is a live, initialised structure that the call only reads.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param) == 0 }
}

/// Locks the stack below the caller, so that the heartbeat loop never waits for a page; false if that is not permitted.
#[inline(never)]
pub(super) fn lock_stack() -> bool {
    // Touching the array makes the pages exist; they stay locked when this frame is gone and deeper calls use them again.
    #[expect(
        clippy::large_stack_arrays,
        reason = "the stack itself is what is to be locked"
    )]
    let reserve = [0u8; STACK];
    lock(std::hint::black_box(&reserve[..]))
}

/// Keeps the memory of a slice resident; false if that is not permitted. It stays so until it is unmapped.
pub(super) fn lock<T>(memory: &[T]) -> bool {
    let bytes = size_of_val(memory);
    if bytes == 0 {
        return true;
    }
    let start = NonNull::from(memory).cast();
    // SAFETY: the range is a live slice, mapped and ours; locking changes neither contents nor validity.
    unsafe { nix::sys::mman::mlock(start, bytes).is_ok() }
}

/// Keeps tables resident.
pub(super) struct Locked;

impl crate::ownership::table::KeepResident for Locked {
    fn keep<T>(&self, memory: &[T]) {
        // Refusal shows in the gauge of the heartbeat thread, which asks for its stack in the same way.
        let _is_locked = lock(memory);
    }
}
