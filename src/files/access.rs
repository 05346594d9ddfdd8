//! Who asks, and the one decision whether they may. Knows no header and no query.

use crate::error::{Error, ErrorCode};
use crate::store::Id;

/// What a credential allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Reading files of the tenant.
    FilesRead,
    /// Making, changing and deleting files of the tenant.
    FilesWrite,
    /// Handing out links to files of the tenant.
    SharesWrite,
    /// Seeing what the whole deployment counts.
    AnalyticsRead,
    /// Everything.
    Admin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 5] = [Self::FilesRead, Self::FilesWrite, Self::SharesWrite, Self::AnalyticsRead, Self::Admin];

    /// As credentials name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::FilesRead => "files:read",
            Self::FilesWrite => "files:write",
            Self::SharesWrite => "shares:write",
            Self::AnalyticsRead => "analytics:read",
            Self::Admin => "admin",
        }
    }

    /// The scope of a stored or claimed name; unknown names allow nothing.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }
}

/// Who may see a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Access {
    /// Its owner, and administrators of its tenant.
    #[default]
    Private,
    /// Any principal of its tenant.
    Internal,
    /// Anybody its content; any principal of its tenant the rest.
    Public,
}

impl Access {
    /// As clients say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Internal => "internal",
            Self::Public => "public",
        }
    }

    /// The access of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Private, Self::Internal, Self::Public].into_iter().find(|access| access.name() == name)
    }
}

const MAX_TENANT_LEN: usize = 128;
/// The first tenant, whose administrators run the deployment.
pub const DEFAULT_TENANT: &str = "default";

/// Whether a tenant may be called so: 1 to 128 bytes without control characters.
pub fn is_tenant_name(text: &str) -> bool {
    (1..=MAX_TENANT_LEN).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// For the audit, and as owner: the credential's public id.
    pub actor: String,
    /// Whose files it opens; comes from the credential alone. Nobody's if nobody is known.
    pub tenant: String,
    /// What it is to the tenant.
    pub role: Role,
}

/// What a principal is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// One of the tenant's, with what the credential allows.
    Member(Vec<Scope>),
    /// Anybody, without a credential.
    Anonymous,
    /// Whoever holds a link, with what the link allows.
    Link(Link),
}

/// What a link allows, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// Reading the content of this file.
    Download(Id),
    /// Making files on these terms.
    Upload(UploadTerms),
}

/// On what terms a link makes files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadTerms {
    /// Who handed the link out, and gets the files.
    pub owner: String,
    /// Bytes of the largest.
    pub max_size: Option<u64>,
    /// What they are, by their bytes.
    pub content_type: Option<String>,
}

impl UploadTerms {
    /// Who handed the link out, as far as files that it made are concerned.
    pub fn owner_of(&self, holder: &Principal) -> Principal {
        let role = Role::Member(vec![Scope::FilesWrite]);
        Principal { actor: self.owner.clone(), tenant: holder.tenant.clone(), role }
    }
}

impl Principal {
    /// Who sends no credential.
    pub fn anonymous() -> Self {
        Self { actor: "anonymous".to_owned(), tenant: String::new(), role: Role::Anonymous }
    }

    /// To whom belongs what it makes.
    pub fn owner(&self) -> &str {
        match &self.role {
            Role::Link(Link::Upload(terms)) => &terms.owner,
            _ => &self.actor,
        }
    }

    /// On what terms it makes files, where it does so by a link.
    pub fn upload_terms(&self) -> Option<&UploadTerms> {
        match &self.role {
            Role::Link(Link::Upload(terms)) => Some(terms),
            _ => None,
        }
    }

    /// Bytes of the largest file that it may make.
    pub fn max_upload(&self) -> u64 {
        self.upload_terms().and_then(|terms| terms.max_size).unwrap_or(u64::MAX)
    }

    /// Whether everything of the tenant is open to it.
    pub fn is_admin(&self) -> bool {
        matches!(&self.role, Role::Member(scopes) if scopes.contains(&Scope::Admin))
    }
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// See what is known of files.
    Read,
    /// Read content.
    Download,
    /// Make, change or delete.
    Write,
    /// Hand out links, and see and end them.
    Share,
    /// See or change how the tenant is run.
    Administer,
    /// See what is counted.
    Observe,
}

impl Action {
    fn scope(self) -> Scope {
        match self {
            Self::Read | Self::Download => Scope::FilesRead,
            Self::Write => Scope::FilesWrite,
            Self::Share => Scope::SharesWrite,
            Self::Administer => Scope::Admin,
            Self::Observe => Scope::AnalyticsRead,
        }
    }
}

/// What it is asked of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource<'a> {
    /// What is of all tenants: their keys and quotas.
    Deployment,
    /// What the principal's tenant has, before anything is looked up.
    Tenant,
    /// A file that was found, or an upload that becomes one.
    File {
        /// Which.
        id: Id,
        /// Whose it is.
        tenant: &'a str,
        /// Who made it.
        owner: &'a str,
        /// Who may see it.
        access: Access,
    },
}

/// Why somebody may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody is known: a credential may help.
    Unknown,
    /// The credential lacks this scope.
    Lacks(Scope),
    /// They are of another tenant than operators.
    NoOperator,
    /// The link is for something else.
    OtherLink,
    /// They are not to know that it exists.
    Hidden,
}

impl Refusal {
    /// The error, where what is hidden is said not to be found.
    pub fn or_hidden(self, not_found: Error) -> Error {
        match self {
            Self::Unknown => {
                Error::new(ErrorCode::Unauthenticated, "Send one header Authorization: Bearer <API key or token>.")
            }
            Self::Lacks(scope) => {
                Error::new(ErrorCode::Forbidden, format!("The credential lacks the scope {}.", scope.name()))
            }
            Self::NoOperator => {
                let detail = format!("That is for administrators of the tenant {DEFAULT_TENANT:?}.");
                Error::new(ErrorCode::Forbidden, detail)
            }
            Self::OtherLink => Error::new(ErrorCode::Forbidden, "The link is not for this."),
            Self::Hidden => not_found,
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        refusal.or_hidden(Self::file_not_found())
    }
}

/// Decides, by nothing but what it is given.
///
/// # Errors
/// [`Refusal`]: who lacks a scope is told so whatever is asked about; who may not see a file is told no more
/// than if it were not there.
pub fn permit(principal: &Principal, action: Action, resource: Resource<'_>) -> Result<(), Refusal> {
    if let (Action::Download, Resource::File { access: Access::Public, .. }) = (action, resource) {
        return Ok(());
    }
    let scopes = match &principal.role {
        Role::Member(scopes) => scopes,
        Role::Link(link) => return permit_link(link, &principal.tenant, action, resource),
        // Something may be public.
        Role::Anonymous if (action, resource) == (Action::Download, Resource::Tenant) => return Ok(()),
        Role::Anonymous => return Err(Refusal::Unknown),
    };
    let is_admin = principal.is_admin();
    if !is_admin && !scopes.contains(&action.scope()) {
        return Err(Refusal::Lacks(action.scope()));
    }
    match resource {
        Resource::Deployment if principal.tenant != DEFAULT_TENANT => Err(Refusal::NoOperator),
        Resource::Deployment | Resource::Tenant => Ok(()),
        Resource::File { tenant, .. } if tenant != principal.tenant => Err(Refusal::Hidden),
        Resource::File { owner, access: Access::Private, .. } if !is_admin && owner != principal.actor => {
            Err(Refusal::Hidden)
        }
        Resource::File { .. } => Ok(()),
    }
}

fn permit_link(link: &Link, home: &str, action: Action, resource: Resource<'_>) -> Result<(), Refusal> {
    match (link, action, resource) {
        (Link::Download(_), Action::Download, Resource::Tenant) => Ok(()),
        (Link::Upload(_), Action::Write, Resource::Tenant) => Ok(()),
        (Link::Download(its), Action::Download, Resource::File { id, tenant, .. }) if *its == id && tenant == home => {
            Ok(())
        }
        (Link::Download(_), Action::Download, Resource::File { .. }) => Err(Refusal::Hidden),
        _ => Err(Refusal::OtherLink),
    }
}

#[cfg(test)]
mod tests;
