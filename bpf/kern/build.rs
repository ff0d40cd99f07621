//! Link arguments that belong to the programs, whichever toolchain builds them.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Headers are unaligned; without it LLVM reads them byte by byte.
    println!("cargo:rustc-link-arg=--cpu-features=+allows-misaligned-mem-access");
}
