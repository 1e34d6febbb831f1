//! The shim as a program of its own, for the tests: the product has it inside its one binary.

fn main() -> std::process::ExitCode {
    knarr_runtime::shim_main(std::env::args_os().skip(1))
}
