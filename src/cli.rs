//! The command line: one function a command, each over [`App`] or a running server.

mod backup;
mod bar;
mod keys;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::allocator;
use crate::app::{self, App, StartError};
use crate::config::Settings;
use crate::files::access::DEFAULT_TENANT;
use crate::jobs::progress::Progress;
use crate::jobs::{fsck, rekey, scrub, sweep};
use crate::telemetry;

/// File storage over MongoDB GridFS.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    /// A settings file over the defaults.
    #[arg(long, env = "GRIDGATE_CONFIG", global = true)]
    config: Option<PathBuf>,
    /// Address and port to listen on; port 0 picks one.
    #[arg(long, global = true)]
    listen: Option<String>,
    /// Where the embedded mongod, its credentials and generated keys live.
    #[arg(long, global = true)]
    data_dir: Option<String>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Serve the API (the default).
    Serve,
    /// Make the database's collections and indexes.
    InitDb,
    /// Check the settings and say nothing when they are sound.
    CheckConfig,
    /// Prove that registry, blobs, segments, files and chunks belong together; exit 1 if not.
    Fsck {
        /// Print the whole report as JSON.
        #[arg(long)]
        json: bool,
        /// Condemn what provably nothing names; the sweep removes it after the quarantine.
        #[arg(long)]
        repair: bool,
    },
    /// Read everything that is stored and verify it; exit 1 if something is damaged.
    Scrub {
        /// Print the whole report as JSON.
        #[arg(long)]
        json: bool,
        /// MiB of stored bytes a second; the setting's otherwise.
        #[arg(long, value_name = "MIB_PER_SEC", value_parser = clap::value_parser!(u64).range(1..=10_240))]
        rate: Option<u64>,
        /// Only the content of this bucket.
        #[arg(long)]
        bucket: Option<String>,
    },
    /// Make files of what other programs stored in a GridFS bucket, without copying bytes.
    Adopt {
        /// The bucket's name, such as fs.
        #[arg(long)]
        bucket: String,
        /// Whose files they become.
        #[arg(long, default_value = DEFAULT_TENANT)]
        tenant: String,
    },
    /// Expire, condemn and reap once, and print what was done.
    Sweep,
    /// Wrap every data key anew under the first key of the keyring; exit 1 while another is in use.
    Rekey {
        /// Only count what each key wraps.
        #[arg(long)]
        status: bool,
    },
    /// Write everything but the key-encryption keys into a folder or a tar stream, while gateways serve.
    Backup(backup::BackupArguments),
    /// Restore a backup into an empty database, and check it; exit 1 on any difference.
    Restore(backup::RestoreArguments),
    /// Make, list and revoke API keys.
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Ask a running server whether it is ready.
    Healthcheck,
}

/// Threads for encoding and decoding: more than there are cores only cost memory.
const BLOCKING_THREADS: usize = 32;

/// Threads for everything that waits: half the cores. Encoding has threads of its own and the database needs some, too;
/// a thread more for little to do is woken up in vain for much of it (decision 0033).
fn async_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}

/// Runs the command line.
pub fn run() -> ExitCode {
    allocator::keep_memory();
    let cli = Cli::parse();
    match run_command(&cli) {
        Ok(code) => code,
        Err(error) => {
            eprint!("gridgate: {error}");
            let mut cause = error.source();
            while let Some(found) = cause {
                eprint!(": {found}");
                cause = found.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

fn run_command(cli: &Cli) -> Result<ExitCode, StartError> {
    let is_kept = keep_memory_out_of_core_dumps();
    let flags = [("server.listen", &cli.listen), ("data_dir", &cli.data_dir)];
    let flags: Vec<_> = flags.into_iter().filter_map(|(key, value)| Some((key, value.clone()?))).collect();
    let settings = Settings::load(cli.config.as_deref(), &flags)?;
    telemetry::start(&settings.log);
    if let Err(error) = is_kept {
        tracing::warn!(%error, "a core dump would hold memory, and so keys");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(async_threads())
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(async {
        match cli.command.clone().unwrap_or(Command::Serve) {
            Command::Serve => app::run(&settings).await.map(|()| ExitCode::SUCCESS),
            Command::InitDb => with_app(&settings, async |_| Ok(ExitCode::SUCCESS)).await,
            Command::CheckConfig => Ok(ExitCode::SUCCESS),
            Command::Fsck { json, repair } => {
                let mode = if repair { fsck::Mode::Repair } else { fsck::Mode::Check };
                with_app(&settings, async |app| run_fsck(app, mode, json).await).await
            }
            Command::Scrub { json, rate, bucket } => {
                let mib_per_sec = rate.unwrap_or(settings.storage.scrub_mib_per_sec);
                let wanted = scrub::Scrub { bucket, mib_per_sec, every: Duration::ZERO };
                with_app(&settings, async |app| run_scrub(app, &wanted, json).await).await
            }
            Command::Adopt { bucket, tenant } => {
                with_app(&settings, async |app| run_adopt(app, &bucket, &tenant).await).await
            }
            Command::Sweep => with_app(&settings, run_sweep).await,
            Command::Rekey { status: true } => with_app(&settings, run_rekey_status).await,
            Command::Rekey { status: false } => with_app(&settings, run_rekey).await,
            Command::Backup(asked) => with_app(&settings, async |app| backup::run_backup(app, &asked).await).await,
            Command::Restore(asked) => backup::run_restore(&settings, &asked).await,
            Command::Keys(command) => with_app(&settings, async |app| keys::run(app, command).await).await,
            Command::Healthcheck => app::healthcheck(&settings.server).await.map(|()| ExitCode::SUCCESS),
        }
    });
    // Blocking work that a cut request left behind is not waited for.
    runtime.shutdown_background();
    outcome
}

/// Keys lie in memory. Linux dumps the mappings that this filter names (core(5)): none.
fn keep_memory_out_of_core_dumps() -> std::io::Result<()> {
    std::fs::write("/proc/self/coredump_filter", "0")
}

async fn with_app(
    settings: &Settings,
    act: impl AsyncFnOnce(&App) -> Result<ExitCode, StartError>,
) -> Result<ExitCode, StartError> {
    let app = App::join(settings).await?;
    let outcome = act(&app).await;
    app.close().await?;
    outcome
}

async fn run_fsck(app: &App, mode: fsck::Mode, as_json: bool) -> Result<ExitCode, StartError> {
    let progress = Progress::default();
    let report = bar::draw(&progress, bar::Unit::Documents, fsck::run(&app.files, mode, &progress)).await?;
    if as_json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        for (kind, findings) in report.kinds() {
            for finding in &findings.items {
                println!("{kind}: {} {} {}", finding.place, finding.id, finding.what);
            }
        }
        let (checked, repaired) = (&report.checked, &report.repaired);
        if report.awaiting_sweep > 0 {
            println!("{} left to the sweep that is under way", report.awaiting_sweep);
        }
        println!("{} files, {} segments, {} chunks checked", checked.files, checked.segments, checked.chunks);
        if mode == fsck::Mode::Repair {
            let [blobs, segments] = [repaired.blobs, repaired.segments];
            let [grid_files, chunks] = [repaired.grid_files, repaired.chunks];
            println!("condemned: {blobs} blobs, {segments} segments, {grid_files} files, chunks of {chunks} files");
        }
        println!("{}", if report.ok { "nothing is wrong" } else { "the store needs attention" });
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run_scrub(app: &App, wanted: &scrub::Scrub, as_json: bool) -> Result<ExitCode, StartError> {
    let progress = Progress::default();
    let outcome = bar::draw(&progress, bar::Unit::Bytes, scrub::scrub(&app.files, wanted, &progress)).await?;
    let report = outcome.ok_or("another scrub is under way, or one was cut within the last minute")?;
    if as_json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        for damage in &report.damages {
            println!("damaged: {} {} {}", damage.file, damage.place, damage.what);
        }
        println!("{} contents, {} bytes verified", report.blobs, report.bytes);
        println!("{} under keys of clients, {} under keys that are not here", report.skipped, report.keyless);
        println!("{}", if report.ok { "nothing is damaged" } else { "restore what is damaged" });
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run_adopt(app: &App, bucket: &str, tenant: &str) -> Result<ExitCode, StartError> {
    let report = app.files.adopt(bucket, tenant).await?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(if report.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run_sweep(app: &App) -> Result<ExitCode, StartError> {
    let report = sweep::sweep(&app.files).await?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(ExitCode::SUCCESS)
}

async fn run_rekey(app: &App) -> Result<ExitCode, StartError> {
    let progress = Progress::default();
    let rekeying = rekey::rekey(&app.files, |done, all| progress.show(done, all));
    let report = bar::draw(&progress, bar::Unit::Documents, rekeying).await?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(if report.is_done() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run_rekey_status(app: &App) -> Result<ExitCode, StartError> {
    println!("{}", serde_json::to_string(&rekey::key_uses(&app.files).await?)?);
    Ok(ExitCode::SUCCESS)
}
