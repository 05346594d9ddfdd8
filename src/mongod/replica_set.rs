//! Makes a mongod that listens usable: replica set, primary, user; and shuts it down by command.
//!
//! Every step may have been done before, or been cut off before: the set is brought to the wanted state from
//! whatever state it is in. It starts no process and writes no file.

use std::time::Duration;

use mongodb::Client;
use mongodb::bson::{Document, doc};
use mongodb::error::{Error, ErrorKind};
use mongodb::options::{ClientOptions, Credential, ServerAddress};
use zeroize::Zeroizing;

use super::MongodError;
use super::layout::Credentials;

/// The name of the replica set.
pub(super) const NAME: &str = "gridgate";

const POLL: Duration = Duration::from_millis(25);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const SHUT_DOWN_LIMIT: Duration = Duration::from_secs(10);

/// Codes of MongoDB's error list.
const UNAUTHORIZED: i32 = 13;
const ALREADY_INITIALIZED: i32 = 23;
const NOT_YET_INITIALIZED: i32 = 94;
const CONFIGURATION_IN_PROGRESS: i32 = 109;
const USER_EXISTS: i32 = 51_003;

/// Makes the mongod on `port` the writable primary of its set, with our user as its one user.
///
/// It waits for the primary, and for an answer where the connection breaks, without a limit of its own.
///
/// # Errors
/// [`MongodError::Command`] naming the step that failed; [`MongodError::WrongCredentials`] when the database
/// has users and ours is not one of them.
///
/// # Cancel safety
/// Safe: called again, it goes on where it was cut off.
pub(super) async fn complete(port: u16, credentials: &Credentials) -> Result<(), MongodError> {
    let host = format!("127.0.0.1:{port}");
    if let Some(user) = log_in(port, credentials).await? {
        let done = async {
            join(&user, &host).await?;
            wait_until_primary(&user).await
        }
        .await;
        user.shutdown().immediate(true).await;
        return done;
    }
    let nobody = connect(port, None)?;
    let done = initiate(&nobody, &host, credentials).await;
    nobody.shutdown().immediate(true).await;
    done?;
    let user = log_in(port, credentials).await?.ok_or(MongodError::WrongCredentials)?;
    user.shutdown().immediate(true).await;
    Ok(())
}

/// Initiates the set and creates the user, as far as that was not done.
///
/// MongoDB's localhost exception: while there is no user, this much is allowed without one.
async fn initiate(nobody: &Client, host: &str, credentials: &Credentials) -> Result<(), MongodError> {
    let config = doc! { "_id": NAME, "members": [{ "_id": 0, "host": host }] };
    match insist(nobody, doc! { "replSetInitiate": config }).await {
        Ok(_) => {}
        Err(e) if code(&e) == Some(ALREADY_INITIALIZED) => join(nobody, host).await?,
        // There are users, so there is a set; whether ours is one of them is for the caller to find out.
        Err(e) if code(&e) == Some(UNAUTHORIZED) => return Ok(()),
        Err(e) => return Err(MongodError::command("initiate the replica set", e)),
    }
    wait_until_primary(nobody).await?;
    let create = doc! {
        "createUser": &credentials.user,
        "pwd": &credentials.password,
        "roles": ["root"],
    };
    match insist(nobody, create).await {
        Ok(_) => Ok(()),
        Err(e) if matches!(code(&e), Some(USER_EXISTS | UNAUTHORIZED)) => Ok(()),
        Err(e) => Err(MongodError::command("create the user", e)),
    }
}

/// Makes the set know its one member by its present address.
async fn join(client: &Client, host: &str) -> Result<(), MongodError> {
    let failed = |e| MongodError::command("give the replica set its new port", e);
    // Forced, since a member that does not find itself in the set cannot be its primary.
    let config = doc! { "_id": NAME, "version": 1, "members": [{ "_id": 0, "host": host }] };
    let reconfigure = doc! { "replSetReconfig": config, "force": true };
    loop {
        let known = insist(client, doc! { "replSetGetConfig": 1 }).await;
        let done = match known {
            Ok(answer) if only_host(&answer) == Some(host) => return Ok(()),
            // Without a user it may not be looked at, but replaced: by the same one, at worst.
            Err(e) if code(&e) != Some(UNAUTHORIZED) => Err(e),
            _ => insist(client, reconfigure.clone()).await,
        };
        match done {
            Ok(_) => return Ok(()),
            // It listens before it has read its configuration.
            Err(e) if matches!(code(&e), Some(NOT_YET_INITIALIZED | CONFIGURATION_IN_PROGRESS)) => {
                tokio::time::sleep(POLL).await;
            }
            Err(e) => return Err(failed(e)),
        }
    }
}

/// The address of the one member, in an answer to `replSetGetConfig`.
fn only_host(answer: &Document) -> Option<&str> {
    let members = answer.get_document("config").ok()?.get_array("members").ok()?;
    match members.as_slice() {
        [member] => member.as_document()?.get_str("host").ok(),
        _ => None,
    }
}

/// Returns once `client`'s mongod takes writes.
async fn wait_until_primary(client: &Client) -> Result<(), MongodError> {
    loop {
        let hello = insist(client, doc! { "hello": 1 })
            .await
            .map_err(|e| MongodError::command("ask whether it is the primary", e))?;
        if hello.get_bool("isWritablePrimary").unwrap_or(false) {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Asks the mongod on `port` to shut down in order. Whether it does is for the caller to watch.
///
/// # Cancel safety
/// Safe: the mongod may or may not have been told.
pub(super) async fn shut_down(port: u16, credentials: &Credentials) {
    let Ok(user) = connect(port, Some(credentials)) else {
        return;
    };
    let command = doc! { "shutdown": 1, "force": true, "timeoutSecs": 0 };
    match tokio::time::timeout(SHUT_DOWN_LIMIT, run(&user, command)).await {
        // It answers by closing the connection.
        Ok(Err(e)) if !matches!(*e.kind, ErrorKind::Io(_)) => {
            tracing::debug!(port, error = %e, "mongod did not take the shutdown command");
        }
        Ok(_) => {}
        Err(_) => tracing::debug!(port, "mongod did not answer the shutdown command"),
    }
    user.shutdown().immediate(true).await;
}

/// The connection string of the mongod on `port`; it holds the password.
pub(super) fn uri(port: u16, credentials: &Credentials) -> Zeroizing<String> {
    // Both are of the URL-safe base64 alphabet, so nothing needs escaping.
    let Credentials { user, password } = credentials;
    Zeroizing::new(format!("mongodb://{user}:{password}@127.0.0.1:{port}/?directConnection=true&authSource=admin"))
}

fn connect(port: u16, credentials: Option<&Credentials>) -> Result<Client, MongodError> {
    let address = ServerAddress::Tcp { host: "127.0.0.1".to_owned(), port: Some(port) };
    let mut options = ClientOptions::builder()
        .hosts(vec![address])
        .direct_connection(true)
        .app_name("gridgate setup".to_owned())
        .connect_timeout(CONNECT_LIMIT)
        .server_selection_timeout(CONNECT_LIMIT)
        .build();
    options.credential = credentials.map(|c| {
        Credential::builder().username(c.user.clone()).password(c.password.clone()).source("admin".to_owned()).build()
    });
    Client::with_options(options).map_err(|e| MongodError::command("connect", e))
}

async fn run(client: &Client, command: Document) -> Result<Document, Error> {
    client.database("admin").run_command(command).await
}

/// Runs a command until it is answered: a mongod closes its connections when its role changes.
async fn insist(client: &Client, command: Document) -> Result<Document, Error> {
    loop {
        match run(client, command.clone()).await {
            Err(e) if is_unanswered(&e) => tokio::time::sleep(POLL).await,
            answer => return answer,
        }
    }
}

fn is_unanswered(error: &Error) -> bool {
    matches!(
        *error.kind,
        ErrorKind::Io(_) | ErrorKind::ServerSelection { .. } | ErrorKind::ConnectionPoolCleared { .. }
    )
}

/// A client of the mongod on `port` with our credentials, or nothing if it refuses them.
pub(super) async fn log_in(port: u16, credentials: &Credentials) -> Result<Option<Client>, MongodError> {
    loop {
        // A new client each time: the driver holds a refusal against the server for a while.
        let user = connect(port, Some(credentials))?;
        let answer = run(&user, doc! { "ping": 1 }).await;
        let Err(error) = answer else {
            return Ok(Some(user));
        };
        user.shutdown().immediate(true).await;
        match *error.kind {
            ErrorKind::Authentication { .. } => return Ok(None),
            _ if is_unanswered(&error) => tokio::time::sleep(POLL).await,
            _ => return Err(MongodError::command("log in", error)),
        }
    }
}

/// The code of an error which the mongod answered with.
fn code(error: &Error) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Command(e) => Some(e.code),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_host_is_read_from_a_configuration() {
        let answer = |hosts: &[&str]| {
            let members: Vec<Document> = hosts.iter().map(|host| doc! { "host": *host }).collect();
            doc! { "config": { "members": members } }
        };
        assert_eq!(only_host(&answer(&["a:1"])), Some("a:1"));
        assert_eq!(only_host(&answer(&["a:1", "b:2"])), None);
        assert_eq!(only_host(&doc! {}), None);
    }

    #[test]
    fn the_uri_is_complete() {
        let credentials = Credentials { user: "u".to_owned(), password: "p-_".to_owned() };
        let wanted = "mongodb://u:p-_@127.0.0.1:27017/?directConnection=true&authSource=admin";
        assert_eq!(*uri(27_017, &credentials), wanted);
    }
}
