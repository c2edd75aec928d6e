//! The command line. It only gathers options; [`app`](crate::app) acts on them.
//!
//! `sidelight serve [FASTLY.TOML] [APP.WASM]` is our own spelling. Viceroy's
//! (`sidelight -v -C FILE --addr HOST:PORT APP.WASM`) is the same without the word. Go's flags with `-wasm` are
//! fastlike's.

mod args;
mod expire;
mod fastlike;
mod kv;
mod probe;
mod purge;
mod push;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use serde_json::json;

#[cfg(target_os = "linux")]
use crate::app::confine;
use crate::app::load::Launch;
use crate::app::verdict::{ServiceStatus, Status};
use crate::app::{self, Exit};
use crate::config::host::Profile;
use crate::config::settings::{LimitSettings, Settings};
use crate::config::{ModuleSource, Targets, host_file, manifest};
use crate::hostcalls;
use crate::runtime::compiler;
use crate::telemetry::{exposition, logs};

use args::Serve;

/// Runs compiled Fastly Compute programs in front of real services.
#[derive(Parser, Debug)]
#[command(name = "sidelight", version, args_conflicts_with_subcommands = true, arg_required_else_help = false)]
#[command(
    after_help = "Exit codes: 0 stopped as asked, 1 internal error, 2 bad arguments, 3 bad manifest, 4 bad module, 5 cannot listen, 6 requests were cut off at shutdown."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Serve a program (what happens without a subcommand, too).
    Serve(Box<Serve>),
    /// Find out everything that serving would, and say it; nothing is served.
    Check(Box<Check>),
    /// Print the JSON Schema of a manifest (fastly.toml) or of the host file (sidelight.toml).
    Schema {
        /// Of which.
        #[arg(value_enum)]
        of: Document,
    },
    /// Read and write KV stores.
    Kv(Box<kv::Kv>),
    /// Forget cached objects: by surrogate key, by address, or all of a service.
    Purge(purge::Purge),
    /// Run a program once, by itself: its arguments follow, its output and exit code are this process's.
    Run(Run),
    /// Publish a program to an OCI registry.
    Push(push::Push),
    /// Ask addresses until each answers as it should.
    Probe(probe::Probe),
    /// Remove a preview environment, a release of the Helm chart, whose time is over.
    Expire(expire::Expire),
    /// Compile programs for the process that starts this.
    #[cfg(target_os = "linux")]
    #[command(hide = true)]
    Compiler,
    /// Compile one program, as that has been told.
    #[cfg(target_os = "linux")]
    #[command(hide = true)]
    Compile {
        /// Which, and how.
        job: String,
    },
    /// Print a completion script for a shell.
    Completions {
        /// Of which.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual page, in roff; with a folder: write those of all subcommands there.
    Man {
        /// Where to.
        #[arg(value_name = "FOLDER")]
        folder: Option<PathBuf>,
    },
    /// Viceroy's: makes a component of a module. There are no components here.
    #[command(hide = true)]
    Adapt {
        /// Whatever follows.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
    /// Print the reference of all metrics, in Markdown.
    Metrics {
        /// What there is to print (nothing else, so far).
        #[arg(long, required = true)]
        docs: bool,
    },
    /// List every call of the Compute ABI and how far this host has it.
    Hostcalls {
        /// How to print it.
        #[arg(long, value_enum, default_value_t = Listing::Table)]
        format: Listing,
    },
}

#[derive(Args, Debug)]
struct Check {
    /// Say it as JSON.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    serve: Serve,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Document {
    Manifest,
    Host,
}

#[derive(Args, Debug)]
struct Run {
    /// The manifest.
    #[arg(short = 'C', long = "config", value_name = "FASTLY.TOML", env = "SIDELIGHT_CONFIG")]
    config: Option<PathBuf>,

    /// Where dynamic backends may point, as in serve.
    #[arg(long, value_name = "RULES", default_value = "any", env = "SIDELIGHT_DYNAMIC_BACKENDS")]
    dynamic_backends: Targets,

    /// More log, on standard error: -v warnings of libraries too, -vv debug, -vvv trace. RUST_LOG wins.
    #[arg(short, long = "verbose", action = clap::ArgAction::Count)]
    verbose: u8,

    /// Folder of compiled modules [default: sidelight in the user's cache folder].
    #[arg(long, value_name = "FOLDER", env = "SIDELIGHT_CACHE_DIR")]
    cache_dir: Option<PathBuf>,

    /// Record where the program spends its CPU time: guest[,FILE[,SAMPLE]] (guest-profile.json, for Firefox's profiler), perfmap
    /// or jitdump.
    #[arg(long, value_name = "KIND", value_parser = |text: &str| Profile::parse(text, true))]
    profile: Option<Profile>,

    /// The program.
    #[arg(value_name = "APP.WASM")]
    program: PathBuf,

    /// Its arguments.
    #[arg(value_name = "ARGS", trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Listing {
    /// Columns for people.
    Table,
    /// Tab-separated: module, name, signature, status, file, note.
    Tsv,
}

/// Reads the arguments and does what they say.
pub fn run() -> ExitCode {
    let args: Vec<String> = std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    if fastlike::is_meant(&args) {
        return like_fastlike(&args);
    }
    let cli = Cli::parse();
    match cli.command {
        Some(Command::Hostcalls { format }) => {
            print_hostcalls(format);
            ExitCode::SUCCESS
        }
        Some(Command::Metrics { .. }) => {
            print(&exposition::reference());
            ExitCode::SUCCESS
        }
        Some(Command::Schema { of }) => {
            let schema = match of {
                Document::Manifest => manifest::schema(),
                Document::Host => host_file::schema(),
            };
            print(&format!("{schema:#}\n"));
            ExitCode::SUCCESS
        }
        Some(Command::Adapt { rest }) => {
            let what = rest.first().map_or("a module", String::as_str);
            end(&Exit::Usage(format!("{what} need not be adapted: modules are run as they are, and components are not run yet")))
        }
        Some(Command::Check(asked)) => check(&asked),
        Some(Command::Kv(asked)) => kv::run(&asked),
        Some(Command::Push(asked)) => push::run(&asked),
        Some(Command::Probe(asked)) => probe::run(&asked),
        Some(Command::Expire(asked)) => expire::run(&asked),
        Some(Command::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "sidelight", &mut script);
            print(&String::from_utf8_lossy(&script));
            ExitCode::SUCCESS
        }
        Some(Command::Man { folder }) => man(folder.as_deref()),
        #[cfg(target_os = "linux")]
        Some(Command::Compiler) => compiler::help(),
        #[cfg(target_os = "linux")]
        Some(Command::Compile { job }) => {
            // Where the kernel has no such thing, a process of its own is what there is.
            drop(confine::confine());
            compiler::compile(&job)
        }
        Some(Command::Purge(asked)) => purge::run(&asked),
        Some(Command::Run(run)) => once(run),
        Some(Command::Serve(asked)) => serve(&asked),
        None => serve(&cli.serve),
    }
}

#[expect(clippy::disallowed_methods, reason = "the command line is where the environment is read")]
fn log_filter() -> Option<String> {
    std::env::var("RUST_LOG").ok()
}

fn end(exit: &Exit) -> ExitCode {
    logs::say(&format!("error: {exit}\n"));
    ExitCode::from(exit.code())
}

fn like_fastlike(args: &[String]) -> ExitCode {
    let asked = match fastlike::parse(args) {
        Ok(asked) => asked,
        Err(exit) => return end(&exit),
    };
    logs::start(asked.verbose, logs::Format::Text, log_filter().as_deref());
    for note in asked.notes {
        tracing::warn!("{note}");
    }
    match app::serve(asked.launch, asked.reload) {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => end(&exit),
    }
}

fn serve(serve: &Serve) -> ExitCode {
    logs::start(serve.verbose, serve.log_format, log_filter().as_deref());
    for note in serve.notes() {
        tracing::warn!("{note}");
    }
    match serve.launch().and_then(|launch| app::serve(launch, !serve.no_watch)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => end(&exit),
    }
}

/// The manual.
fn man(folder: Option<&Path>) -> ExitCode {
    let written = match folder {
        Some(folder) => clap_mangen::generate_to(Cli::command(), folder),
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page).map(|()| print(&String::from_utf8_lossy(&page)))
        }
    };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => end(&Exit::Internal(format!("the manual cannot be written: {error}"))),
    }
}

/// Says what serving would.
fn check(check: &Check) -> ExitCode {
    logs::start(check.serve.verbose, check.serve.log_format, log_filter().or_else(|| Some("warn".to_owned())).as_deref());
    let checked = check.serve.launch().map_err(|exit| (exit, Vec::new())).and_then(|launch| app::check(&launch));
    match checked {
        Ok(status) if check.json => {
            print(&format!("{:#}\n", json!({ "ok": true, "services": status.services })));
            ExitCode::SUCCESS
        }
        Ok(status) => {
            print(&services(&status));
            ExitCode::SUCCESS
        }
        Err((exit, problems)) if check.json => {
            print(&format!("{:#}\n", json!({ "ok": false, "error": exit.to_string(), "problems": problems })));
            ExitCode::from(exit.code())
        }
        Err((exit, _)) => end(&exit),
    }
}

/// A line for each service.
fn services(status: &Status) -> String {
    let line = |service: &ServiceStatus| {
        let hosts = if service.hosts.is_empty() { "every host".to_owned() } else { service.hosts.join(", ") };
        let paths = service.paths.join(", ");
        let space = if paths.is_empty() { "" } else { " " };
        format!("ok: {} serves {hosts}{space}{paths} with {} ({})\n", service.name, service.module, &service.digest[..16])
    };
    let expired = status.expired.iter().map(|(name, at)| format!("expired: {name}, at {at}; it is not served\n"));
    status.services.iter().map(line).chain(expired).collect()
}

/// Runs a program by itself.
fn once(run: Run) -> ExitCode {
    let filter = log_filter().or_else(|| (run.verbose == 0).then(|| "warn".to_owned()));
    logs::start(run.verbose, logs::Format::Text, filter.as_deref());
    // A test suite may take its time.
    const LONG: Duration = Duration::from_secs(24 * 60 * 60);
    let name = run.program.display().to_string();
    let limits = LimitSettings {
        sandboxes: Some(1),
        cpu: Some(LONG),
        cpu_report: Some(LONG),
        wall: Some(LONG),
        memory: Some(4096 << 20),
        ..LimitSettings::default()
    };
    let launch = Launch {
        settings: Settings {
            listen: Some(Vec::new()),
            cache_dir: run.cache_dir.map(Some),
            dynamic_targets: Some(run.dynamic_backends),
            limits,
            profile: run.profile,
            ..Settings::default()
        },
        documents: run.config.into_iter().collect(),
        program: Some(ModuleSource::File(run.program)),
        ..args::machine()
    };
    match app::run(&launch, std::iter::once(name).chain(run.arguments).collect()) {
        Ok(code) => ExitCode::from(code),
        Err(exit) => end(&exit),
    }
}

/// A reader that closes early (head, grep -q) is no failure.
fn print(text: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
}

fn print_hostcalls(format: Listing) {
    use std::fmt::Write as _;
    let mut out = String::new();
    for entry in hostcalls::listing() {
        let signature = if entry.signature.is_empty() { "-" } else { &entry.signature };
        let (status, note) = (entry.support.name(), entry.support.note());
        // Writing to a String cannot fail.
        let _ = match format {
            Listing::Tsv => writeln!(out, "{}\t{}\t{signature}\t{status}\t{}\t{note}", entry.module, entry.name, entry.file),
            Listing::Table => {
                writeln!(out, "{:<26}{:<44}{signature:<16}{status:<13}{}:{}  {note}", entry.module, entry.name, entry.file, entry.line)
            }
        };
    }
    print(&out);
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::config::host::Listen;

    fn parse(args: &[&str]) -> Serve {
        let cli = Cli::try_parse_from(std::iter::once("sidelight").chain(args.iter().copied())).expect("parses");
        match cli.command {
            Some(Command::Serve(serve)) => *serve,
            _ => cli.serve,
        }
    }

    #[test]
    fn the_arguments_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn viceroys_spelling_and_ours_mean_the_same() {
        let theirs = parse(&["-v", "-C", "/a/fastly.toml", "--addr", "127.0.0.1:1", "bin/main.wasm"]);
        let ours = parse(&["serve", "-v", "--addr=127.0.0.1:1", "/a/fastly.toml", "bin/main.wasm"]);
        for serve in [theirs, ours] {
            let launch = serve.launch().expect("both");
            assert_eq!(
                (launch.documents, launch.program),
                (vec!["/a/fastly.toml".into()], Some(ModuleSource::File("bin/main.wasm".into())))
            );
            assert_eq!(launch.settings.listen, Some(vec![Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 1)))]));
            assert_eq!(serve.verbose, 1);
        }
    }

    #[test]
    fn two_programs_are_one_too_many() {
        assert!(matches!(parse(&["serve", "a.wasm", "b.wasm"]).launch(), Err(Exit::Usage(_))));
    }
}
