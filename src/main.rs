//! The `sidelight` binary.

/// Guests and connections allocate on one thread and free on another all the time, which is what this
/// allocator is good at; `docs/performance.md` has the comparison.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    sidelight::cli::run()
}
