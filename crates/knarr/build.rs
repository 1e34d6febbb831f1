//! Links the binary. Functions that several crates made alike are kept once.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
}
