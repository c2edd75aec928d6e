//! The `sidelight` binary.

fn main() -> std::process::ExitCode {
    sidelight::cli::run()
}
