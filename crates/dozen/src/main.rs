//! dozen: the twelve-factor platform in one binary, eight roles.
//!
//! The six internal roles are recognised before anything else starts: a jail must stay single-threaded, a router wants its own runtimes, a
//! hook is git's, a session sshd's, and two are asked when one binary gives way to another.

#![forbid(unsafe_code)]

mod api;
mod cli;
mod client;
mod house;
mod printer;
mod programs;
mod remote;
mod running;
mod settings;

use printer::Printer;
use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args_os().nth(1).as_deref().and_then(std::ffi::OsStr::to_str) {
        Some("__jail") => exit(dozen_jail::enter()),
        Some("__hook") => exit(dozen_engine::codebase::hook::run(std::env::args_os().skip(2))),
        Some(cli::server::UPGRADE) => exit(cli::server::trial(std::env::args_os().skip(2))),
        Some(cli::server::PROBE) => exit(cli::server::probe(std::env::args_os().skip(2))),
        Some(dozen_engine::codebase::ssh::ROLE) => exit(cli::session::main(std::env::args_os().skip(2))),
        Some("__router") => dozen_engine::port::router::main(),
        _ => person(),
    }
}

/// The role that a person calls.
fn person() -> ExitCode {
    // Before anything else is opened.
    let given = dozen_jail::given();
    dozen_engine::port::install_tls();
    settings::trace();
    let command = match cli::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(e) => {
            let code = e.exit_code();
            if code != 0 && std::env::args_os().any(|a| a == "--json") {
                let text = e.render().to_string();
                let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
                let hint = text.lines().find_map(|l| l.trim_start().strip_prefix("tip: ")).map(str::to_owned);
                Printer::for_json().failure(message, hint, Vec::new());
            }
            // Help and version go to standard output, mistakes to standard error; clap knows which, and a closed pipe is no failure.
            let _ = e.print();
            return exit(code);
        }
    };
    let settings = match settings::Settings::resolve(&command.common, &command.command.place()) {
        Ok(settings) => settings::Settings { given: std::sync::Arc::new(given), ..settings },
        Err(e) => {
            (if command.common.json { Printer::for_json() } else { Printer::plain() }).error(&e);
            return exit(cli::exit_code_of(&e));
        }
    };
    let printer = std::sync::Arc::new(settings.printer());
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            printer.error(&anyhow::Error::new(e).context("cannot start the runtime"));
            return exit(2);
        }
    };
    let done = runtime.block_on(async {
        let done = cli::run(command, &settings, &printer).await;
        dozen_engine::processes::stock::end().await;
        done
    });
    let mut code = match done {
        Ok(code) => code,
        Err(e) => {
            printer.error(&e);
            cli::exit_code_of(&e)
        }
    };
    if let Some(e) = printer.take_failure() {
        printer.note(&format!(" !     cannot write to standard output: {e}"));
        code = code.max(1);
    }
    // A thread that still waits for standard input must not hold the exit up.
    runtime.shutdown_background();
    exit(code)
}

fn exit(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1))
}
