//! Who asks, and the one decision whether they may. Knows no header and no query.

use crate::error::{Error, ErrorCode};

/// What a credential allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Reading files of the tenant.
    FilesRead,
    /// Making, changing and deleting files of the tenant.
    FilesWrite,
    /// Seeing what the whole deployment counts.
    AnalyticsRead,
    /// Everything.
    Admin,
}

impl Scope {
    /// The scope of a stored or claimed name; unknown names allow nothing.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "files:read" => Some(Self::FilesRead),
            "files:write" => Some(Self::FilesWrite),
            "analytics:read" => Some(Self::AnalyticsRead),
            "admin" => Some(Self::Admin),
            _ => None,
        }
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// For the audit: the credential's public id.
    pub actor: String,
    /// Whose files it opens; comes from the credential alone.
    pub tenant: String,
    /// What it allows.
    pub scopes: Vec<Scope>,
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// See metadata or content.
    Read,
    /// Make, change or delete.
    Write,
    /// See or change how the tenant is run.
    Administer,
    /// See what is counted.
    Observe,
}

/// Decides.
///
/// # Errors
/// `forbidden` when the credential lacks the scope. That a file is of another tenant is not decided
/// here: such a file is never found.
pub fn permit(principal: &Principal, action: Action) -> Result<(), Error> {
    let (scope, name) = match action {
        Action::Read => (Scope::FilesRead, "files:read"),
        Action::Write => (Scope::FilesWrite, "files:write"),
        Action::Administer => (Scope::Admin, "admin"),
        Action::Observe => (Scope::AnalyticsRead, "analytics:read"),
    };
    if principal.scopes.iter().any(|held| *held == scope || *held == Scope::Admin) {
        return Ok(());
    }
    Err(Error::new(ErrorCode::Forbidden, format!("The credential lacks the scope {name}.")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_allows_its_action_and_no_other() {
        let holder = |scopes: &[Scope]| Principal { actor: "k".into(), tenant: "t".into(), scopes: scopes.to_vec() };
        let may = |scopes, action| permit(&holder(scopes), action).is_ok();
        assert!(may(&[Scope::FilesRead], Action::Read) && !may(&[Scope::FilesRead], Action::Write));
        assert!(may(&[Scope::FilesWrite], Action::Write) && !may(&[Scope::FilesWrite], Action::Read));
        assert!(may(&[Scope::AnalyticsRead], Action::Observe) && !may(&[Scope::FilesRead], Action::Observe));
        assert!(may(&[Scope::Admin], Action::Read) && may(&[Scope::Admin], Action::Write));
        assert!(may(&[Scope::Admin], Action::Administer));
        assert!(!may(&[Scope::FilesRead, Scope::FilesWrite], Action::Administer));
        assert!(!may(&[], Action::Read) && !may(&[], Action::Write));
    }
}
