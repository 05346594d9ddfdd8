//! Settings: gathered from the modules that use them, layered, checked. Holds no default of its
//! own; those are in `config/default.toml`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use config::{Config, Environment, File, FileFormat, ValueKind};
use serde::Deserialize;
use thiserror::Error;

use crate::content::{BucketSettings, Routing};
use crate::files::StorageSettings;
use crate::files::authenticate::MIN_ADMIN_KEY_LEN;
use crate::files::tokens::JwtSettings;
use crate::http::ServerSettings;
use crate::http::limits::LimitSettings;
use crate::mongod::MongodSettings;
use crate::secret::Secret;
use crate::store::DatabaseSettings;
use crate::telemetry::LogSettings;

/// The embedded defaults.
pub const DEFAULTS: &str = include_str!("../config/default.toml");

/// Where the key-encryption keys come from.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySettings {
    /// The keyring itself.
    pub master_key: Secret,
    /// A file with the keyring.
    pub master_key_file: PathBuf,
}

/// Who is known.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthSettings {
    /// The first admin API key.
    pub admin_key: Secret,
    /// Tokens of users.
    pub jwt: JwtSettings,
}

/// Everything that can be set.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml says it")]
pub struct Settings {
    pub data_dir: PathBuf,
    pub server: ServerSettings,
    pub database: DatabaseSettings,
    pub mongod: MongodSettings,
    pub keys: KeySettings,
    pub auth: AuthSettings,
    pub limits: LimitSettings,
    pub storage: StorageSettings,
    pub log: LogSettings,
    pub buckets: BTreeMap<String, BucketSettings>,
}

/// Settings that cannot be used.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// A source cannot be read.
    #[error("the settings cannot be read: {0}")]
    Source(#[from] config::ConfigError),
    /// A key is unknown, missing or of a wrong type.
    #[error("the setting {key} cannot be used: {why}")]
    Key {
        /// The key's path.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// A value is out of range or unsafe.
    #[error("the setting {0}")]
    Value(String),
}

/// The short variables and the keys they set.
const SHORT_VARIABLES: [(&str, &str); 8] = [
    ("GRIDGATE_LISTEN", "server.listen"),
    ("GRIDGATE_DATA_DIR", "data_dir"),
    ("GRIDGATE_MONGODB_URI", "database.uri"),
    ("GRIDGATE_DATABASE", "database.name"),
    ("GRIDGATE_ADMIN_KEY", "auth.admin_key"),
    ("GRIDGATE_MASTER_KEY", "keys.master_key"),
    ("GRIDGATE_MASTER_KEY_FILE", "keys.master_key_file"),
    ("GRIDGATE_PUBLIC_URL", "server.public_url"),
];

/// Where values come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// A file's values have types.
    File,
    /// A variable's are all text, some of it numbers.
    Environment,
}

/// Refuses values of another type than the default's, which `config` would bend into shape: `true` to
/// 1, 1.5 to 2. Keys that have no default are left to the settings' own shape.
fn check_types(path: &str, default: &ValueKind, given: &ValueKind, origin: Origin) -> Result<(), SettingsError> {
    let (wanted, is_right) = match (default, given) {
        (ValueKind::Table(defaults), ValueKind::Table(given)) => {
            for (name, value) in given {
                // A bucket of one's own is like the one that takes anything.
                let default = defaults.get(name).or_else(|| defaults.get("files").filter(|_| path == "buckets"));
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                default.map_or(Ok(()), |default| check_types(&path, &default.kind, &value.kind, origin))?;
            }
            return Ok(());
        }
        (ValueKind::Table(_), _) => ("a table", false),
        (ValueKind::Array(_), given) => ("a list", matches!(given, ValueKind::Array(_))),
        (ValueKind::I64(_), ValueKind::String(number)) if origin == Origin::Environment => {
            ("a whole number", number.parse::<i64>().is_ok())
        }
        (ValueKind::I64(_), given) => ("a whole number", matches!(given, ValueKind::I64(_) | ValueKind::U64(_))),
        (ValueKind::Boolean(_), ValueKind::String(flag)) if origin == Origin::Environment => {
            ("true or false", flag.parse::<bool>().is_ok())
        }
        (ValueKind::Boolean(_), given) => ("true or false", matches!(given, ValueKind::Boolean(_))),
        (ValueKind::String(_), ValueKind::Table(_) | ValueKind::Array(_)) => ("a text", false),
        (ValueKind::String(_), given) => ("a text", matches!(given, ValueKind::String(_))),
        _ => return Ok(()),
    };
    if is_right {
        return Ok(());
    }
    Err(SettingsError::Key { key: path.to_owned(), why: format!("it is not {wanted}") })
}

impl Settings {
    /// Layers defaults, file, environment and flags, and checks the result.
    ///
    /// `flags` are keys with their values.
    ///
    /// # Errors
    /// [`SettingsError`], which names the key.
    pub fn load(file: Option<&Path>, flags: &[(&str, String)]) -> Result<Self, SettingsError> {
        let defaults = Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml)).build()?;
        let mut builder = Config::builder().add_source(defaults.clone());
        if let Some(file) = file {
            let file = Config::builder().add_source(File::from(file).format(FileFormat::Toml)).build()?;
            check_types("", &defaults.cache.kind, &file.cache.kind, Origin::File)?;
            builder = builder.add_source(file);
        }
        let environment = Environment::with_prefix("GRIDGATE").prefix_separator("__").separator("__");
        let environment = Config::builder().add_source(environment).build()?;
        check_types("", &defaults.cache.kind, &environment.cache.kind, Origin::Environment)?;
        builder = builder.add_source(environment);
        for (variable, key) in SHORT_VARIABLES {
            match std::env::var(variable) {
                Ok(value) if value.is_empty() => {
                    return Err(SettingsError::Value(format!(
                        "{variable} is set but empty; unset it or give it a value"
                    )));
                }
                Ok(value) => builder = builder.set_override(key, value)?,
                Err(std::env::VarError::NotPresent) => {}
                Err(std::env::VarError::NotUnicode(_)) => {
                    return Err(SettingsError::Value(format!("{variable} is not UTF-8")));
                }
            }
        }
        for (key, value) in flags {
            builder = builder.set_override(*key, value.clone())?;
        }
        let settings: Self = serde_path_to_error::deserialize(builder.build()?)
            .map_err(|error| SettingsError::Key { key: error.path().to_string(), why: error.inner().to_string() })?;
        settings.check().map_err(SettingsError::Value)?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), String> {
        self.server.check()?;
        self.database.check()?;
        self.mongod.check()?;
        self.storage.check()?;
        self.log.check()?;
        self.auth.jwt.check()?;
        self.limits.check()?;
        Routing::new(self.buckets.clone())?;
        match self.auth.admin_key.reveal() {
            Some(key) if key.len() < MIN_ADMIN_KEY_LEN => {
                Err(format!("auth.admin_key: shorter than {MIN_ADMIN_KEY_LEN} bytes"))
            }
            _ => Ok(()),
        }
    }
}
