//! The commands `backup` and `restore`: where to, how far it is, and what came of it.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use crate::app::{App, StartError};
use crate::backup::manifest::Manifest;
use crate::backup::restore::restore;
use crate::backup::run::backup;
use crate::backup::verify::{RestoreReport, verify};
use crate::backup::{Place, Progress};
use crate::config::Settings;

/// What `backup` takes.
#[derive(Debug, Clone, Args)]
pub(super) struct BackupArguments {
    /// The folder to make.
    #[arg(long, value_name = "DIR", required_unless_present = "tar", conflicts_with = "tar")]
    output: Option<PathBuf>,
    /// The tar file to make, or - for stdout.
    #[arg(long, value_name = "FILE")]
    tar: Option<PathBuf>,
    /// Print the manifest as JSON.
    #[arg(long)]
    json: bool,
}

/// What `restore` takes.
#[derive(Debug, Clone, Args)]
pub(super) struct RestoreArguments {
    /// The folder of a backup.
    #[arg(long, value_name = "DIR", required_unless_present = "tar", conflicts_with = "tar")]
    input: Option<PathBuf>,
    /// The tar file of a backup, or - for stdin.
    #[arg(long, value_name = "FILE")]
    tar: Option<PathBuf>,
    /// Read every byte that was restored and compare it with its SHA-256.
    #[arg(long)]
    verify_content: bool,
    /// Print the whole report as JSON.
    #[arg(long)]
    json: bool,
}

fn place(folder: Option<&PathBuf>, tar: Option<&PathBuf>) -> Place {
    match (folder, tar) {
        (Some(folder), _) => Place::Directory(folder.clone()),
        (None, Some(file)) if file.as_os_str() != "-" => Place::Archive(file.clone()),
        (None, _) => Place::Stream,
    }
}

/// A bar on stderr, where that is a terminal.
fn progress_bar(doing: &'static str) -> Result<ProgressBar, StartError> {
    let bar = ProgressBar::no_length().with_message(doing);
    bar.set_style(ProgressStyle::with_template("{msg} {wide_bar} {bytes} of {total_bytes} {bytes_per_sec} {eta}")?);
    Ok(bar)
}

fn show(bar: &ProgressBar, progress: Progress) {
    if let Some(total) = progress.total {
        bar.set_length(total.max(progress.done));
    }
    bar.set_position(progress.done);
}

pub(super) async fn run_backup(app: &App, asked: &BackupArguments) -> Result<ExitCode, StartError> {
    let place = place(asked.output.as_ref(), asked.tar.as_ref());
    if place == Place::Stream && std::io::stdout().is_terminal() {
        return Err("--tar -: stdout is a terminal".into());
    }
    let bar = progress_bar("backup")?;
    let outcome = backup(&app.files, &place, &|progress| show(&bar, progress)).await;
    bar.finish_and_clear();
    let told = tell_manifest(&outcome?, asked.json)?;
    // Where the tar goes nothing else may go.
    if place == Place::Stream {
        eprintln!("{told}")
    } else {
        println!("{told}")
    }
    Ok(ExitCode::SUCCESS)
}

fn tell_manifest(manifest: &Manifest, as_json: bool) -> Result<String, StartError> {
    if as_json {
        return Ok(serde_json::to_string(manifest)?);
    }
    let left_out = match manifest.left_out.as_slice() {
        [] => String::new(),
        names => format!("; left out: {}", names.join(", ")),
    };
    let keys: Vec<&str> = manifest.kids.iter().map(String::as_str).collect();
    let needs = if keys.is_empty() { "none".to_owned() } else { keys.join(", ") };
    Ok(format!(
        "{} documents, {} bytes of {:?} at {}{left_out}\nmaster keys its files need, which are not in it: {needs}",
        manifest.documents, manifest.bytes, manifest.database, manifest.created_at
    ))
}

pub(super) async fn run_restore(settings: &Settings, asked: &RestoreArguments) -> Result<ExitCode, StartError> {
    let place = place(asked.input.as_ref(), asked.tar.as_ref());
    let lease = Duration::from_secs(settings.storage.lease_secs);
    let bar = progress_bar("restore")?;
    let filled = App::fill(settings, async |store, ring| {
        restore(store, ring, lease, &place, &|progress| show(&bar, progress)).await
    });
    let filled = filled.await;
    bar.finish_and_clear();
    let (app, manifest) = filled?;
    let report = verify(&app.files, &manifest, asked.verify_content).await;
    app.close().await?;
    let report = report?;
    if asked.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print_report(&report);
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_report(report: &RestoreReport) {
    println!(
        "{} documents, {} bytes of {:?} at {}",
        report.documents, report.bytes, report.database, report.created_at
    );
    let fsck = &report.fsck;
    let kinds = [("missing", &fsck.missing), ("mismatched", &fsck.mismatched), ("orphans", &fsck.orphans)];
    for (kind, findings) in kinds {
        findings.items.iter().for_each(|found| println!("{kind}: {} {} {}", found.place, found.id, found.what));
    }
    if let Some(content) = &report.content {
        content.items.iter().for_each(|(file, what)| println!("damaged: {file} {what}"));
        println!("{} files, {} bytes read", content.files, content.bytes);
    }
    println!("{}", if report.ok { "everything is as it was" } else { "the restored store needs attention" });
}
