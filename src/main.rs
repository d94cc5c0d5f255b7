//! The binary: see the library for everything.
#![forbid(unsafe_code)]

#[tokio::main]
async fn main() -> std::process::ExitCode {
    rollcall::command_line::run().await
}
