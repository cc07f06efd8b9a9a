//! `peerkit`: run a node, talk to other nodes, share and fetch files, look at the network.

use std::io::{self, Write};
use std::{panic, process};

use anyhow::Context as _;
use peerkit::StoreError;
use tokio::runtime::Runtime;

use crate::args::{Invocation, SubcommandArgs};
use crate::text::Paint;

mod address;
mod api;
mod args;
mod byte_rate;
mod commands;
mod console;
mod demo;
mod environment;
mod event_log;
mod fetch_arguments;
mod fetches;
mod folders;
mod get;
mod held_shares;
mod human;
mod invite;
mod join;
mod json;
mod lock;
mod log;
mod map_file;
mod output;
mod progress;
mod remote;
mod run;
mod secret_input;
mod session;
mod settings;
mod share;
mod shell_words;
mod signals;
mod sim;
mod start;
mod terminal;
mod text;
mod views;

/// Exit status after a command or a fetch failed.
const FAILED: i32 = 1;
/// Exit status after wrong usage.
const USAGE: i32 = 2;

fn main() {
    hide_database_panics();
    let result = match args::parse() {
        Invocation::Program(action) => act(action),
        Invocation::Command(spec, arguments) => complete(remote::run(spec, &arguments)),
    };
    let status = status(&result);
    if let Err(error) = &result
        && status != 0
    {
        // The lines of the log are written before the error.
        log::finish();
        let paint = Paint::on(&io::stderr());
        let _ = writeln!(io::stderr(), "{}", human::error(paint, error));
        if let Some(advice) = advice(error) {
            let _ = writeln!(io::stderr(), "{advice}");
        }
    }
    log::finish();
    // Ends the process, since nothing else can end a thread that waits for standard input.
    process::exit(status);
}

/// Returns the exit status.
fn status(result: &anyhow::Result<bool>) -> i32 {
    match result {
        Ok(true) => 0,
        // The reader has closed the output, as `head` does.
        Err(error) if is_broken_pipe(error) => 0,
        Err(error) if error.is::<UsageError>() => USAGE,
        _ if signals::was_work_interrupted() => signals::INTERRUPTED,
        _ => FAILED,
    }
}

/// Returns advice about an error of the state folder.
fn advice(error: &anyhow::Error) -> Option<&'static str> {
    match error.downcast_ref::<peerkit::Error>()? {
        peerkit::Error::Store(StoreError::Damaged { .. }) => Some(
            "The file has the shares, known peers and unfinished fetches of the node, but not its \
             identity.\n\
             To move the file aside and start with a new one, add --repair to the same command.",
        ),
        peerkit::Error::Store(StoreError::NewerSchema { .. }) => Some(
            "Use the newer peerkit, or another state folder (--state DIR). A copy of the state from\n\
             before the update is beside it, as state.redb.before-...",
        ),
        peerkit::Error::Store(StoreError::NotMigrated { .. }) => {
            Some("The state is copied before it is changed. Make room on the disk for the copy.")
        }
        _ => None,
    }
}

/// Hides panics of the database on a damaged file. The library catches them and returns an error,
/// which is printed instead.
fn hide_database_panics() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let file = info.location().map_or("", |location| location.file());
        // On every machine the path of the crate's sources contains this.
        if file.contains("/redb-") || file.contains("\\redb-") {
            tracing::debug!("the database gave up: {info}");
        } else {
            usual(info);
        }
    }));
}

/// The error of wrong usage, which ends the program with status 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UsageError(String);

/// Returns an error of wrong usage.
fn usage(error: impl Into<String>) -> anyhow::Error {
    UsageError(error.into()).into()
}

/// Carries out a subcommand. Returns false if a part of it failed and this has already been printed.
fn act(action: SubcommandArgs) -> anyhow::Result<bool> {
    match action {
        SubcommandArgs::Run(args) => complete(run::run(args)),
        SubcommandArgs::Demo(args) => complete(demo::demo(args)),
        SubcommandArgs::Share(args) => complete(share::share(args)),
        SubcommandArgs::Get(args) => complete(get::get(args)),
        SubcommandArgs::Sim(args) => sim::sim(&args),
        SubcommandArgs::Id(args) => {
            let key = folders::state(args.state.as_deref())?.join("key");
            let key = peerkit::load_or_create_key(&key)?;
            print(format!("{}\n", key.id()).as_bytes())
        }
        SubcommandArgs::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut args::program(), "peerkit", &mut script);
            print(&script)
        }
        SubcommandArgs::Version => {
            print(format!("peerkit {}\n", env!("CARGO_PKG_VERSION")).as_bytes())
        }
        SubcommandArgs::Man { command } => print(&manual_page(command.as_deref())?),
    }
}

/// Runs `action` to its end. Threads that still wait for a disk or a pipe after that do not delay the
/// end of the program.
fn complete(action: impl Future<Output = anyhow::Result<bool>>) -> anyhow::Result<bool> {
    let runtime = Runtime::new().context("could not start the threads of the node")?;
    let result = runtime.block_on(action);
    // A blocking thread may wait for a pipe that no program opens.
    runtime.shutdown_background();
    result
}

/// Returns the manual page of the program, or of a subcommand.
fn manual_page(command: Option<&str>) -> anyhow::Result<Vec<u8>> {
    let mut program = args::program();
    // Without this the subcommands do not know their full names, such as `peerkit run`.
    program.build();
    let page = match command {
        None => program,
        Some(name) => {
            let named = program.find_subcommand(name).cloned();
            named.ok_or_else(|| {
                let names = program.get_subcommands().map(|command| command.get_name());
                let names = names.collect::<Vec<_>>().join(", ");
                usage(format!("there is no manual page for `{name}`: the pages are {names}"))
            })?
        }
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text)?;
    Ok(text)
}

fn print(bytes: &[u8]) -> anyhow::Result<bool> {
    // `print!` would panic if the reader has closed the pipe.
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    written.context("could not write to standard output").map(|()| true)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let mut causes = error.chain();
    causes.any(|cause| {
        let error = cause.downcast_ref::<io::Error>();
        error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}
