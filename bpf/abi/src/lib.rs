//! Bytes shared between the kernel programs and user space.
//!
//! Compiled from this one source for the BPF target and for the host. Every layout is `#[repr(C)]`, free of padding by type, and asserted on
//! both targets by `layout!`. No enum, `bool`, `Option` or `usize` crosses the boundary: an unknown value is legal and means "pass up".
//! Start with [`maps`] for who writes and reads what, then [`lb`] for forwarding and [`l2`] for announcing.
#![no_std]
#![forbid(unsafe_code)]

/// Asserts size, alignment and the offset of every field of a layout at compile time, on each target that compiles it.
#[macro_export]
macro_rules! layout {
    ($t:ty: size $size:literal, align $align:literal; $($field:ident $off:literal),+ $(,)?) => {
        const _: () = {
            assert!(core::mem::size_of::<$t>() == $size);
            assert!(core::mem::align_of::<$t>() == $align);
            $(assert!(core::mem::offset_of!($t, $field) == $off);)+
        };
    };
}

pub mod bench;
pub mod flow;
pub mod l2;
pub mod lb;
pub mod maps;
pub mod reasons;
