//! `gridgate keys`: API keys from the command line, for whoever has the database.

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;

use crate::app::{App, StartError};
use crate::files::access::{DEFAULT_TENANT, Principal, Role, Scope, is_tenant_name};
use crate::files::api_keys::{ApiKeyRequest, ApiKeyView, MAX_LIFE};

/// Keys of one look.
const PAGE: i64 = 200;

#[derive(Debug, Clone, Subcommand)]
pub(super) enum KeysCommand {
    /// Make a key and print it, this once, as JSON.
    Create {
        /// Whose files it opens.
        #[arg(long, default_value = DEFAULT_TENANT, value_parser = tenant)]
        tenant: String,
        /// What it allows: files:read, files:write, shares:write, analytics:read, admin.
        #[arg(long = "scope", required = true, value_parser = scope)]
        scopes: Vec<Scope>,
        /// What it is for.
        #[arg(long, default_value = "")]
        name: String,
        /// Seconds it is valid; for ever if not said.
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=MAX_LIFE.as_secs()))]
        expires_in: Option<u64>,
    },
    /// Print every key, without itself, as a line of JSON.
    List,
    /// Revoke a key; every gateway refuses it within a second.
    Revoke {
        /// The key's id: what is between gg_ and the second _.
        id: String,
    },
}

fn tenant(text: &str) -> Result<String, &'static str> {
    is_tenant_name(text)
        .then(|| text.to_owned())
        .ok_or("a tenant is a text of 1 to 128 bytes without control characters")
}

fn scope(text: &str) -> Result<Scope, String> {
    let names = || Scope::ALL.map(Scope::name).join(", ");
    Scope::from_name(text).ok_or_else(|| format!("not one of {}", names()))
}

pub(super) async fn run(app: &App, command: KeysCommand) -> Result<ExitCode, StartError> {
    let tenant = DEFAULT_TENANT.to_owned();
    let operator = Principal { actor: "operator".to_owned(), tenant, role: Role::Member(vec![Scope::Admin]) };
    match command {
        KeysCommand::Create { tenant, scopes, name, expires_in } => {
            let life = expires_in.map(Duration::from_secs);
            let request = ApiKeyRequest { tenant, scopes, name, life, idempotency_key: None, request_id: None };
            let made = app.files.create_api_key(&operator, request).await?;
            println!("{}", serde_json::to_string(&made.view())?);
        }
        KeysCommand::List => {
            let mut after = None;
            loop {
                let keys = app.files.list_api_keys(&operator, after.as_deref(), PAGE).await?;
                for key in &keys {
                    println!("{}", serde_json::to_string(&ApiKeyView::from(key))?);
                }
                match keys.last() {
                    Some(last) => after = Some(last.id.clone()),
                    None => break,
                }
            }
        }
        KeysCommand::Revoke { id } => app.files.revoke_api_key(&operator, &id, None).await?,
    }
    Ok(ExitCode::SUCCESS)
}
