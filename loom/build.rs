//! Sets `cfg(loom)` for this package alone, not for what it depends on.

fn main() {
    println!("cargo::rustc-cfg=loom");
}
